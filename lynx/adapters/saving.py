"""Writing an adapter: its LoRAs, its description, its card.

A folder of several files cannot be replaced in one step, so a save goes through three: all of the adapter is
written to `.partial` and read back; `.partial` is renamed to `.new`, and from here on the new adapter is the
one that is read (`current_folder`); its files are put in their place and `.new` goes. A process that is
killed, or a disk that fills up, at any moment leaves the old adapter or the new one, whole.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lynx.adapters.format import (
    CONFIG,
    CURVES,
    FILES,
    FORMAT,
    NEW,
    TYPE_EMBEDDING,
    TYPE_EMBEDDING_FILE,
    WEIGHTS,
    Adapter,
    read_adapter_config,
)
from lynx.adapters.lora import lora_config
from lynx.adapters.model_card import model_card
from lynx.adapters.registry import AdaptedBackbone
from lynx.adapters.tuned_on import TUNED_ON_FILE
from lynx.backbones import Backbone
from lynx.backbones.familiarity import FAMILIAR_FILE
from lynx.errors import AdapterError

PARTIAL = ".partial"
"""Subfolder of an adapter: files that are being written or deleted."""


def save_adapter(
    model: AdaptedBackbone,
    name: str,
    folder: str | Path,
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    run: Path | None = None,
) -> Path:
    """Write a registered adapter with the LoRAs it has; other files in the folder stay.

    training, metrics: replace those of the adapter's description. run: folder of a run whose curve the card
    shows, if not `folder`. Every tensor is read back and compared.
    Raises: AdapterError where the adapter has no LoRA, or it cannot be written; then the folder holds the
    adapter that it held before, or the new one.
    """
    folder, adapter, backbone = Path(folder), model.adapter(name), model.backbone
    if not model.parts(adapter.name):
        raise AdapterError(f"the adapter {name!r} has no LoRA yet: train one before saving")
    values = asdict(adapter) | {"backbone": describe_backbone(backbone)}
    values |= {"training": adapter.training if training is None else dict(training)}
    values |= {"metrics": adapter.metrics if metrics is None else dict(metrics)}
    values = {key: _json_value(value) for key, value in values.items() if value is not None}
    partial = folder / PARTIAL
    try:
        curves = _curves(values["training"], folder, run or folder)
        finish_saving(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            for part in model.parts(adapter.name):
                lora = model.lora_name(adapter.name, part)
                targets = backbone.vision_targets if part == "vision" else backbone.llm_targets
                config = lora_config(targets, model.lora.settings[lora])
                config.base_model_name_or_path, config.inference_mode = _public_name(backbone), True
                config.save_pretrained(str(partial / part))
                _write_tensors(model.lora.tensors(lora), partial / part / WEIGHTS)
            if (embedding := model.type_embedding(adapter.name)) is not None:
                _write_tensors({TYPE_EMBEDDING: embedding}, partial / TYPE_EMBEDDING_FILE)
            if (familiar := model.familiar(adapter.name)) is not None:
                familiar.save(partial / FAMILIAR_FILE)
            if (tuned_on := model.tuned_on.get(adapter.name)) is not None:
                tuned_on.save(partial / TUNED_ON_FILE)
            for place, picture in curves.items():
                (partial / place).parent.mkdir(parents=True)
                (partial / place).write_bytes(picture)
            card = model_card(Adapter(**values), _place(folder, adapter.name), list(curves))
            (partial / "README.md").write_text(card, encoding="utf-8")
            text = json.dumps({"format": FORMAT, **values}, indent=2) + "\n"
            (partial / CONFIG).write_text(text, encoding="utf-8")
            os.rename(partial, folder / NEW)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        finish_saving(folder)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"cannot write the adapter to {folder}: {error}") from error
    return folder


def save_metrics(folder: Path, name: str, figures: Mapping[str, Any]) -> None:
    """Put figures under a name into the description of a folder's adapter and into its card, in place of what
    stood under it. Raises: AdapterError: there is no adapter, or it cannot be written."""
    try:
        finish_saving(folder)
        adapter = read_adapter_config(folder)
        shown = {name: _json_value(figures)}
        adapter = replace(adapter, metrics={k: v for k, v in adapter.metrics.items() if k != name} | shown)
        curves = [place for place in CURVES.values() if (folder / place).is_file()]
        texts = {
            CONFIG: json.dumps({"format": FORMAT, **asdict(adapter)}, indent=2) + "\n",
            "README.md": model_card(adapter, _place(folder, adapter.name), curves),
        }
        halves = {folder / name: folder / f".{name}.half" for name in texts}
        try:
            for half, text in zip(halves.values(), texts.values(), strict=True):
                half.write_text(text, encoding="utf-8")
            for place, half in halves.items():
                os.replace(half, place)
        finally:
            for half in halves.values():
                half.unlink(missing_ok=True)
    except OSError as error:
        raise AdapterError(f"cannot write the figures to {folder}: {error}") from error


def _place(folder: Path, name: str) -> str:
    """The folder for the code of a card: as it was given, or without the path of this machine."""
    return f"adapters/{name}" if folder.is_absolute() else folder.as_posix()


def _curves(stages: Mapping[str, Any], *roots: Path) -> dict[str, bytes]:
    """The pictures of an adapter's stages, by their places in its folder; the last root counts most."""
    places = {root / name: name for root in roots for stage, name in CURVES.items() if stage in stages}
    return {name: path.read_bytes() for path, name in places.items() if path.is_file()}


def finish_saving(folder: Path) -> None:
    """Replace the adapter in `folder` by the complete new one in its NEW subfolder.

    The last step of every save; the next save completes an interrupted one. Raises: OSError.
    """
    new = folder / NEW
    if not new.is_dir():
        return
    for name in FILES:
        file, place = new / name, folder / name
        if not file.is_file():
            place.unlink(missing_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        link = place.with_name(place.name + ".part")
        link.unlink(missing_ok=True)
        try:
            os.link(file, link)  # no bytes are written: it works on a full disk, too
        except OSError:  # a file system without links
            shutil.copyfile(file, link)
        os.replace(link, place)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    os.rename(new, folder / PARTIAL)  # in one step, whereas removing it takes several
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """The description of a backbone that adapters and guidance store."""
    return {
        "family": backbone.family,
        "source": _public_name(backbone),
        "revision": backbone.revision,
        "fingerprint": backbone.fingerprint(),
    }


def _public_name(backbone: Backbone) -> str:
    """The backbone's name or Hub id; of a local folder only its name, not its path."""
    return Path(backbone.source).name if Path(backbone.source).is_dir() else backbone.source


def _write_tensors(weights: Mapping[str, Tensor], path: Path) -> None:
    tensors = {key: weight.detach().cpu().contiguous() for key, weight in weights.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    written = load_file(path)
    if written.keys() != tensors.keys() or any(not written[key].equal(tensors[key]) for key in tensors):
        raise AdapterError(f"{path} does not hold what was written: is the disk full?")


def _json_value(value: Any) -> Any:
    """The same value with null for every number that JSON does not have, such as the mean of nothing."""
    if isinstance(value, Mapping):
        return {key: _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
