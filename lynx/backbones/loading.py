"""From a name, a path or a Hub id to a frozen `Backbone`: safetensors and JSON only, no code."""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from lynx.attention import ATTENTION
from lynx.backbones.base import Backbone, Preprocessing
from lynx.backbones.catalog import CATALOG, EMBEDDED
from lynx.backbones.internvl import InternVL
from lynx.backbones.llava_onevision import LlavaOnevision
from lynx.backbones.precision import (
    QUANTISED,
    check_device,
    check_quantised,
    dtype_of,
    pick_device,
    pick_precision,
    quantisation,
    ready_for_cpu,
)
from lynx.backbones.qwen2_5_vl import Qwen25VL
from lynx.config import LoraSettings
from lynx.errors import BackboneError
from lynx.lora import LoraBank

logger = logging.getLogger(__name__)

FAMILIES: dict[str, type[Backbone]] = {
    family.family: family for family in (LlavaOnevision, Qwen25VL, InternVL)
}

_HINTS = {
    "internvl_chat": "this is InternVL's original layout, which needs code of its own, and code from the Hub "
    "is never run: transformers-native repositories end in -hf or -HF",
    "llava": "of LLaVA-OneVision take the transformers-native repositories, llava-hf/llava-onevision-*",
    "qwen3_vl": "its encoder also adds to the LLM's first layers, beside the tokens: see docs/backbones.md",
}
"""What to say about families that users of the known ones come across."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """Where a backbone is: a folder or a Hub id, with what its catalog row adds."""

    name: str  # as the user gave it
    location: str
    revision: str | None = None
    default_frames: int | None = None
    note: str = ""


def parse_source(source: str | Path) -> Source:
    """A catalog name or a Hub id, with an optional "@revision"; "lynx-tiny"; a folder that exists.

    Raises: BackboneError naming the known models for anything else.
    """
    name = str(source)
    if name == EMBEDDED:
        return Source(name, str(Path(__file__).parents[1] / "assets" / EMBEDDED))
    repo, _, revision = name.partition("@")
    if repo in CATALOG:
        row = CATALOG[repo]
        return Source(name, row.source, revision or row.revision, row.default_frames, row.note)
    if Path(name).is_dir():
        return Source(name, name)
    if _HUB_ID.fullmatch(repo) and not name.startswith("."):
        return Source(name, repo, revision or None)
    known = ", ".join([EMBEDDED, *CATALOG])
    raise BackboneError(
        f"no backbone {name!r}: expected one of {known}, a folder of a checkpoint, or a Hub id"
    )


def _read_json(source: Source, filename: str) -> dict[str, Any] | None:
    path = _find(source, filename)
    if path is None:
        return None
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else None


def _find(source: Source, filename: str) -> str | None:
    found = cached_file(
        source.location,
        filename,
        revision=source.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return str(found) if found is not None else None


def read_config(source: Source) -> PreTrainedConfig:
    """The checkpoint's configuration, of a family that lynx knows.

    Raises: BackboneError: nothing there, unreadable, or an unknown family.
    """
    kind = (_read_json(source, "config.json") or {}).get("model_type")  # one that needs code is not read
    try:
        if kind is None or kind in FAMILIES:
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                source.location, revision=source.revision, trust_remote_code=False
            )
            kind = config.model_type
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackboneError(f"cannot read the configuration of {source.name!r}: {reason}") from error
    if kind not in FAMILIES:
        more = [text for text in (_HINTS.get(str(kind)), source.note) if text]
        raise BackboneError(
            f"{source.name!r} is a {kind!r} model; the families lynx knows: {', '.join(FAMILIES)}. "
            + " ".join(f"{text[:1].upper()}{text[1:]}." for text in more)
        )
    return config


def read_preprocessing(source: Source) -> Preprocessing:
    """Size, mean and standard deviation from the checkpoint's JSON, in the order in which transformers looks.

    Raises: BackboneError where no file says them: class defaults are another model's.
    """
    processor = _read_json(source, "processor_config.json") or {}
    values = (
        processor.get("video_processor")
        or _read_json(source, "video_preprocessor_config.json")
        or _read_json(source, "preprocessor_config.json")
        or processor.get("image_processor")
        or {}
    )
    try:
        mean, std = tuple(values["image_mean"]), tuple(values["image_std"])
        size = values.get("size") or {}
        least, most = (
            values.get(old, size.get(new))
            for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
        )
        if least is not None and most is not None:
            return Preprocessing(mean, std, pixels=(int(least), int(most)))
        return Preprocessing(mean, std, size=(int(size["height"]), int(size["width"])))
    except (KeyError, TypeError) as error:
        raise BackboneError(
            f"{source.name!r} has no preprocessor JSON with size (height and width, or the least "
            "and the most pixels), image_mean and image_std"
        ) from error


def read_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer, with the chat template of the whole model rather than that of its LLM."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise BackboneError(f"cannot read the tokenizer of {source.name!r}: {error}") from error
    template = (_read_json(source, "chat_template.json") or {}).get("chat_template")
    jinja = _find(source, "chat_template.jinja")
    if jinja is not None:
        template = Path(jinja).read_text(encoding="utf-8")
    if template is not None:
        tokenizer.chat_template = template
    if tokenizer.chat_template is None:
        raise BackboneError(
            f"{source.name!r} has no chat template (chat_template.jinja or chat_template.json)"
        )
    return tokenizer


def _read_model(
    source: Source, config: PreTrainedConfig, precision: str, device: torch.device
) -> PreTrainedModel:
    family, quantised = FAMILIES[config.model_type], precision in QUANTISED
    dtype = dtype_of(precision, config, device)
    options: dict[str, Any] = {"device_map": {"": device}} if quantised else {}
    if quantised and getattr(config, "quantization_config", None) is None:
        # Given to a checkpoint that has its own, even as None, it would replace it.
        options["quantization_config"] = quantisation(precision, family.unquantised, dtype)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source.location,
            revision=source.revision,
            dtype=dtype,
            attn_implementation={"vision_config": ATTENTION, "text_config": ATTENTION},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise BackboneError(f"cannot load {source.name!r} in {precision}: {error}") from error
    model: PreTrainedModel = loaded[0]
    _check_keys(source, loaded[1])
    if quantised:
        check_quantised(model, precision, family.llm_targets, source.name)
        ready_for_cpu(model)
        return model
    return model.to(device)  # type: ignore[arg-type]


def _check_keys(source: Source, info: dict[str, Any]) -> None:
    """Whether the weights were all there; what the model has no place for is said."""
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise BackboneError(
            f"the weights of {source.name!r} lack {len(info['missing_keys'])} tensors, such as {missing}"
        )
    if info["unexpected_keys"]:
        logger.warning(
            "%s holds tensors its model has no place for: %s", source.name, info["unexpected_keys"]
        )


def load_backbone(source: str | Path = EMBEDDED, precision: str = "auto", device: str = "auto") -> Backbone:
    """Load and freeze a backbone.

    source: a catalog name, "lynx-tiny", a folder, or a Hub id ("owner/name", "owner/name@revision").
    precision: auto | fp32 | bf16 | int8 | nf4; auto is fp32 on a CPU and the checkpoint's own elsewhere.
    device: auto | cpu | cuda | cuda:1 ...

    Raises: BackboneError: unknown, of another family, incomplete, or not loadable here as asked.
    """
    where = parse_source(source)
    target = pick_device(device)
    config = read_config(where)
    precision = pick_precision(precision, config, where.name)
    check_device(precision, target)
    preprocessing = read_preprocessing(where)
    tokenizer = read_tokenizer(where)
    model = _read_model(where, config, precision, target)
    extra = _read_json(where, "lynx_tiny.json") or {}
    words = extra.get("words")
    return FAMILIES[config.model_type](
        model,
        tokenizer,
        preprocessing,
        source=where.name if where.name == EMBEDDED else where.location,
        revision=where.revision or getattr(model.config, "_commit_hash", None),
        default_frames=where.default_frames or int(extra.get("frames", 16)),
        words=frozenset(words) if words is not None else None,
        note=str(extra.get("note", where.note)),
    )


def skeleton(name: str | Path) -> Backbone:
    """A backbone on the meta device: its modules, shapes and sizes, without weights and without a tokenizer.

    name: a catalog name (no download), or anything `load_backbone` takes (its JSON files are read, not its
    weights). Raises: BackboneError as `load_backbone` does.
    """
    row = CATALOG.get(str(name))
    where = parse_source(name)
    if row is not None:
        config = AutoConfig.for_model(row.family, **row.geometry)
        preprocessing = Preprocessing((), (), row.size, row.pixels)
    else:
        config, preprocessing = read_config(where), read_preprocessing(where)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    extra = {} if row is not None else _read_json(where, "lynx_tiny.json") or {}
    return FAMILIES[config.model_type](
        model,
        None,  # type: ignore[arg-type]  # sizes are all that is asked of it
        preprocessing,
        source=where.name,
        default_frames=where.default_frames or int(extra.get("frames", 16)),
        note=where.note,
    )


def count_parameters(name: str, rank: int = 64) -> dict[str, int]:
    """Parameters that one modality adds to a backbone, counted from tensors on the meta device.

    name: as for `skeleton`. Returns {"vision", "llm", "total"}: the LoRA of the vision tower, that of the
    LLM, their sum.
    """
    backbone = skeleton(name)
    with torch.device("meta"):
        loras = LoraBank(backbone.model)
        for part, targets in (("vision", backbone.vision_targets), ("llm", backbone.llm_targets)):
            loras.add(part, targets, LoraSettings(rank, alpha=rank, dropout=0.0))
    counts = {part: sum(t.numel() for t in loras.tensors(part).values()) for part in ("vision", "llm")}
    return {**counts, "total": sum(counts.values())}
