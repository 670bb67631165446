"""Writing an adapter: its LoRAs, its description, its card; read back and compared."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lynx.adapters.format import (
    CONFIG,
    FORMAT,
    PARTS,
    PEFT_CONFIG,
    TYPE_EMBEDDING,
    TYPE_EMBEDDING_FILE,
    WEIGHTS,
    Adapter,
    _finite,
)
from lynx.adapters.lora import lora_config
from lynx.adapters.model_card import model_card
from lynx.adapters.registry import AdaptedBackbone
from lynx.backbones import Backbone
from lynx.errors import AdapterError


def save_adapter(
    model: "AdaptedBackbone",
    name: str,
    folder: str | Path,
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Write a registered adapter with the LoRAs it has; other files in the folder stay.

    training, metrics: replace what the adapter says of itself. Every tensor is read back and compared.
    Raises: AdapterError where the adapter has no LoRA, or the files do not hold what was written.
    """
    folder, adapter, backbone = Path(folder), model.adapter(name), model.backbone
    parts = model.parts(adapter.name)
    if not parts:
        raise AdapterError(f"the adapter {name!r} has no LoRA yet: train one before saving")
    for part in PARTS:
        for file in (PEFT_CONFIG, WEIGHTS) if part not in parts else ():
            (folder / part / file).unlink(missing_ok=True)
    for part in parts:
        _save_part(model, adapter.name, part, folder / part)
    (folder / TYPE_EMBEDDING_FILE).unlink(missing_ok=True)
    if (embedding := model.type_embedding(adapter.name)) is not None:
        _save_tensors({TYPE_EMBEDDING: embedding}, folder / TYPE_EMBEDDING_FILE)
    values = asdict(adapter) | {"backbone": describe_backbone(backbone)}
    if training is not None:
        values["training"] = dict(training)
    if metrics is not None:
        values["metrics"] = dict(metrics)
    values = {key: _finite(value) for key, value in values.items() if value is not None}
    _write(folder / "README.md", model_card(Adapter(**values), f"adapters/{adapter.name}"))
    _write(folder / CONFIG, json.dumps({"format": FORMAT, **values}, indent=2) + "\n")
    return folder


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """What an adapter remembers of the backbone it was trained on."""
    return {
        "family": backbone.family,
        "source": _public_name(backbone),
        "revision": backbone.revision,
        "fingerprint": backbone.fingerprint(),
    }


def _public_name(backbone: Backbone) -> str:
    """The backbone's name or Hub id; of a folder its last part, since paths are nobody else's."""
    return Path(backbone.source).name if Path(backbone.source).is_dir() else backbone.source


def _save_part(model: "AdaptedBackbone", name: str, part: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lora, backbone = model.lora_name(name, part), model.backbone
    targets = backbone.vision_targets if part == "vision" else backbone.llm_targets
    config = lora_config(targets, model.lora.settings[lora])
    config.base_model_name_or_path, config.inference_mode = _public_name(backbone), True
    config.save_pretrained(str(folder))
    _save_tensors(model.lora.tensors(lora), folder / WEIGHTS)


def _save_tensors(weights: Mapping[str, Tensor], path: Path) -> None:
    tensors = {key: weight.detach().cpu().contiguous() for key, weight in weights.items()}
    partial = path.with_name(path.name + ".part")
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, path)
    written = load_file(path)
    if written.keys() != tensors.keys() or any(not written[key].equal(tensors[key]) for key in tensors):
        raise AdapterError(f"{path} does not hold what was written: is the disk full?")


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
