"""From a name, a path or a Hub id to a frozen `Backbone`: safetensors and JSON only, no code.

A Hub id is downloaded to a folder of the cache at one commit, and read like any other folder.
"""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from lynx import compat, hub
from lynx.backbones.attention import ATTENTION
from lynx.backbones.base import Backbone
from lynx.backbones.catalog import CATALOG, EMBEDDED, FAMILIES
from lynx.backbones.familiarity import FAMILIAR_FILE, FamiliarTokens
from lynx.backbones.memory import explain_out_of_memory, is_out_of_memory
from lynx.backbones.quantization import (
    QUANTIZED,
    check_device,
    check_quantized,
    dtype_of,
    pick_device,
    pick_precision,
    quantization_config,
)
from lynx.backbones.sizes import Preprocessing
from lynx.config import Extensions
from lynx.errors import AdapterError, BackboneError

logger = logging.getLogger(__name__)

extensions = Extensions(
    "lynx.backbones", FAMILIES, Backbone, ("family", "vision_targets", "output_projection", "unquantized")
)
_PROCESSORS = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
_DESCRIPTION = ("config.json", *_PROCESSORS, "lynx_tiny.json")
"""Files from which sizes, tokens and memory are read."""
_REFUSALS = (
    OSError, ImportError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    hub.InvalidField,
)  # fmt: skip
"""What stock code raises of values that it does not expect."""
_CHECKPOINT = ("*.json", "*.jinja", "*.txt", "*.model", "model*.safetensors", FAMILIAR_FILE)


def get_family(kind: str, name: str = "", note: str = "") -> type[Backbone]:
    """The family of that `model_type`.

    Raises: BackboneError with what is known of `kind` and of the checkpoint `name` (`note`).
    """
    family: type[Backbone] | None = extensions.find(kind)
    if family is not None:
        return family
    known: dict[str, type[Backbone]] = extensions.all()
    hints = [each.relatives[kind] for each in known.values() if kind in each.relatives]
    more = [text for text in (*hints, note, extensions.problem(kind)) if text]
    about = " ".join(f"{text[:1].upper()}{text[1:].removesuffix('.')}." for text in more)
    what = f"{name!r} is a {kind!r} model" if name else f"no family {kind!r}"
    raise BackboneError(f"{what}; the families lynx knows: {', '.join(known)}. {about}")


@dataclass(frozen=True)
class CheckpointSource:
    """A backbone's source: a folder or a Hub id, with the values of its catalog row."""

    name: str  # as the user gave it
    location: str  # once fetched, a folder
    revision: str | None = None  # once fetched, a commit
    default_frames: int | None = None
    note: str = ""  # said where its family is unknown


def parse_source(source: str | Path) -> CheckpointSource:
    """A catalog name or a Hub id, with an optional "@revision"; "lynx-tiny"; a folder that exists.

    Raises: BackboneError naming the known models for anything else.
    """
    name = str(source)
    if name == EMBEDDED:
        return CheckpointSource(name, str(Path(__file__).parents[1] / "assets" / EMBEDDED))
    repo, _, revision = name.partition("@")
    if repo in CATALOG:
        row = CATALOG[repo]
        return CheckpointSource(name, row.source, revision or row.revision, row.default_frames, row.note)
    if Path(name).is_dir():
        return CheckpointSource(name, name)
    if hub.parse_id(name):
        return CheckpointSource(name, repo, revision or None)
    known = ", ".join([EMBEDDED, *CATALOG])
    raise BackboneError(f"no backbone {name!r}: expected one of {known}, a checkpoint's folder, or a Hub id")


def fetch(source: CheckpointSource, names: Sequence[str] = _DESCRIPTION) -> CheckpointSource:
    """The source as a folder; of a Hub id those files are downloaded, at its revision's current commit.

    names: patterns. Offline, or while the Hub cannot be reached, what the cache holds is used.
    Raises: BackboneError: no such repository or revision, private, or unavailable.
    """
    if Path(source.location).is_dir():
        return source
    try:
        found = hub.download(source.location, names, source.revision)
    except AdapterError as error:
        raise BackboneError(f"no backbone {source.name!r}: {error}") from error
    if not found.folder.is_dir():
        raise BackboneError(f"no backbone {source.name!r}: the repository has no {names[0]}")
    return replace(source, location=str(found.folder), revision=found.commit)


def _read_json(source: CheckpointSource, filename: str) -> dict[str, Any]:
    """The content of a file; empty where there is none."""
    path = Path(source.location, filename)
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"cannot read {filename} of {source.name!r}: {error}") from error
    return content if isinstance(content, dict) else {}


@contextmanager
def _explain(problem: str) -> Iterator[None]:
    """Inside the `with`, whatever stock code says of a checkpoint that it cannot take is a BackboneError.

    problem: what could not be done, in words.
    """
    try:
        yield
    except SafetensorError as error:
        advice = "a file of its weights is damaged or cut off, copy or download it again"
        raise BackboneError(f"{problem}: {advice} ({error})") from error
    except _REFUSALS as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise BackboneError(f"{problem}: {reason}") from error


def read_config(source: CheckpointSource) -> PreTrainedConfig:
    """The checkpoint's configuration, of a family that lynx knows.

    Raises: BackboneError: nothing there, unreadable, or an unknown family.
    """
    source = fetch(source)
    kind = _read_json(source, "config.json").get("model_type")
    if kind is None:
        raise BackboneError(f"{source.name!r} has no configuration: expected config.json with a model_type")
    get_family(str(kind), source.name, source.note)
    with _explain(f"cannot read the configuration of {source.name!r}"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(source.location, trust_remote_code=False)
    return config


def read_preprocessing(source: CheckpointSource) -> Preprocessing:
    """Size, mean and standard deviation from the checkpoint's JSON, in the order in which transformers looks.

    Raises: BackboneError where no file has them: class defaults are another model's.
    """
    processor, video, image = (_read_json(source, name) for name in _PROCESSORS)
    values = processor.get("video_processor") or video or image or processor.get("image_processor") or {}
    try:
        mean, std = _three(values["image_mean"]), _three(values["image_std"], above=0)
        size = values.get("size") or {}
        if square := values.get("max_image_size"):  # resized twice: to a longer side, then to a square
            first = size or values["video_sampling"]["video_size"]
            side, longer = _count(square["longest_edge"]), _count(first["longest_edge"])
            return Preprocessing(mean, std, size=(side, side), longer_side=longer)
        least = values.get("min_pixels", size.get("shortest_edge"))
        most = values.get("max_pixels", size.get("longest_edge"))
        if least is not None and most is not None:
            capped, tokens = bool(values.get("cap_pixels_per_frame")), values.get("max_video_tokens")
            limits = (_count(least), _count(most))
            return Preprocessing(mean, std, pixels=limits, capped=capped, video_tokens=tokens)
        return Preprocessing(mean, std, size=(_count(size["height"]), _count(size["width"])))
    except (KeyError, TypeError, ValueError) as error:
        raise BackboneError(
            f"{source.name!r} has no preprocessor JSON with size (height and width, or the least and the "
            f"most pixels), image_mean and image_std: {type(error).__name__} {error}"
        ) from error


def _count(value: Any) -> int:
    """A whole number, 1 or more. Raises: TypeError, ValueError: it is something else."""
    if not (number := int(value)) >= 1:
        raise ValueError(f"{value} is below 1")
    return number


def _three(values: Sequence[float], above: float = -math.inf) -> tuple[float, ...]:
    """A number for each channel. Raises: TypeError, ValueError: they are something else."""
    numbers = tuple(map(float, values))
    if len(numbers) != 3 or not all(above < number < math.inf for number in numbers):
        raise ValueError(f"{values} is not three numbers above {above:g}")
    return numbers


def _read_model(
    source: CheckpointSource, config: PreTrainedConfig, precision: str, device: torch.device
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of tensors in its files that it has no place for."""
    family, quantized = get_family(config.model_type), precision in QUANTIZED
    dtype = dtype_of(precision, config, device)
    options: dict[str, Any] = {"device_map": {"": device}} if quantized else {}
    if quantized and getattr(config, "quantization_config", None) is None:
        # Given to a checkpoint that has its own, even as None, it would replace it.
        options["quantization_config"] = quantization_config(precision, family.unquantized, dtype)
    if not any(Path(source.location).glob("model*.safetensors")):
        raise BackboneError(
            f"cannot load {source.name!r}: it has no model.safetensors, nor shards of it; weights in other "
            "formats, such as pytorch_model.bin, are not read: save them as safetensors with transformers"
        )
    with _explain(f"cannot load {source.name!r} in {precision}"):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source.location,
            dtype=dtype,
            attn_implementation={"vision_config": ATTENTION, "text_config": ATTENTION},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which are refused here, by name
            **options,
        )
    model: PreTrainedModel = loaded[0]
    if mismatched := sorted(loaded[1]["mismatched_keys"]):
        name, found, expected = mismatched[0]
        raise BackboneError(
            f"the weights of {source.name!r} are of another model than its config.json: {len(mismatched)} "
            f"tensors have another shape, such as {name}: {tuple(found)}, expected {tuple(expected)}"
        )
    if missing := sorted(loaded[1]["missing_keys"]):
        some = ", ".join(missing[:3])
        raise BackboneError(f"the weights of {source.name!r} lack {len(missing)} tensors, such as {some}")
    if unexpected := sorted(loaded[1]["unexpected_keys"]):
        logger.warning("%s holds tensors its model has no place for: %s", source.name, unexpected)
    if quantized:
        check_quantized(model, precision, family.llm_targets, source.name)
        compat.keep_nf4_layout(model)
        return model, unexpected
    return model.to(device), unexpected  # type: ignore[arg-type]


def load_backbone(source: str | Path = EMBEDDED, precision: str = "auto", device: str = "auto") -> Backbone:
    """Load and freeze a backbone.

    source: a catalog name, "lynx-tiny", a folder, or a Hub id ("owner/name", "owner/name@revision").
    precision: auto | fp32 | bf16 | int8 | nf4; auto is fp32 for a checkpoint that is saved in fp32,
    and on a CPU without instructions for bf16 (`lynx env` says which it has); bf16 otherwise.
    device: auto | cpu | cuda | cuda:1 ...

    Raises: BackboneError: unknown, of another family, incomplete, or not loadable here as asked.
    """
    asked, target = parse_source(source), pick_device(device)
    where = fetch(asked)  # the configuration alone: refused models download no weights
    config = read_config(where)
    precision = pick_precision(precision, config, where.name)
    check_device(precision, target)
    preprocessing = read_preprocessing(where)
    where = fetch(replace(asked, revision=where.revision), _CHECKPOINT)
    tokenizer = _read_tokenizer(where)
    with explain_out_of_memory():
        model, unexpected = _read_model(where, config, precision, target)
    extra = _read_json(where, "lynx_tiny.json")
    family = get_family(config.model_type)
    backbone = family(
        model,
        tokenizer,
        preprocessing,
        source=asked.name if asked.name == EMBEDDED else asked.location,
        revision=where.revision,
        default_frames=where.default_frames or int(extra.get("frames", family.usual_frames)),
        words=frozenset(extra["words"]) if extra.get("words") is not None else None,
        unexpected=unexpected,
    )
    backbone.familiar = _read_familiar(where, backbone.token_width)
    _check_template(backbone)
    return backbone


def _read_tokenizer(where: CheckpointSource) -> Any:
    """The tokenizer in a checkpoint's folder, with the template of the whole model.

    Raises: BackboneError: there is none, or no template.
    """
    with _explain(f"cannot read the tokenizer of {where.name!r}"):
        tokenizer = AutoTokenizer.from_pretrained(where.location, trust_remote_code=False)
    # The template of the whole model wins over that of its LLM.
    jinja = Path(where.location, "chat_template.jinja")
    template = _read_json(where, "chat_template.json").get("chat_template")
    template = jinja.read_text(encoding="utf-8") if jinja.is_file() else template
    tokenizer.chat_template = template if template is not None else tokenizer.chat_template
    if tokenizer.chat_template is None:
        wanted = "chat_template.jinja or chat_template.json"
        raise BackboneError(f"{where.name!r} has no chat template ({wanted})")
    return tokenizer


def read_words(source: str | Path) -> Backbone:
    """A `skeleton` that has its tokenizer and knows its words: for prompts without weights.

    Of a Hub id its JSON files are downloaded. Raises: BackboneError as `load_backbone` does.
    """
    patterns = tuple(pattern for pattern in _CHECKPOINT if not pattern.endswith(".safetensors"))
    where = fetch(parse_source(source), patterns)
    backbone, extra = skeleton(source), _read_json(where, "lynx_tiny.json")
    backbone.tokenizer = _read_tokenizer(where)
    backbone.words = frozenset(extra["words"]) if extra.get("words") is not None else None
    return backbone


def _check_template(backbone: Backbone) -> None:
    """Raises: BackboneError: the chat template does not put a video where the media belong."""
    try:
        backbone.prompt_ids([{"role": "user", "content": "?"}], with_media=True)
    except BackboneError as error:
        name = backbone.tokenizer.convert_ids_to_tokens(backbone.marker)
        if "stands for the media" not in str(error):
            raise
        raise BackboneError(
            f"the chat template of {backbone.source} does not write {name!r} where a message has a video: "
            "expected the template of the whole model (chat_template.jinja or chat_template.json)"
        ) from error


def stock_processor(backbone: Backbone) -> Any:
    """The processor of transformers that belongs to a loaded backbone's checkpoint.

    Raises whatever transformers raises where it, torchvision or a file that it needs is missing.
    """
    where = replace(parse_source(backbone.source), revision=backbone.revision)
    folder = fetch(where, _CHECKPOINT).location
    return AutoProcessor.from_pretrained(folder, trust_remote_code=False)


def _read_familiar(where: CheckpointSource, width: int) -> FamiliarTokens | None:
    path = Path(where.location, FAMILIAR_FILE)
    if not path.is_file():
        return None
    try:
        familiar = FamiliarTokens.load(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise BackboneError(f"cannot read {path}: {error}") from error
    if familiar.directions.shape[1] != width:
        has = familiar.directions.shape[1]
        raise BackboneError(f"{path} is of another backbone: its directions have {has} numbers, not {width}")
    return familiar


def skeleton(name: str | Path) -> Backbone:
    """A backbone on the meta device: its modules, shapes and sizes, without weights and without a tokenizer.

    name: a catalog name (no download), or anything `load_backbone` takes (its JSON files are read, not its
    weights). Raises: BackboneError as `load_backbone` does.
    """
    where = parse_source(name)
    extra: dict[str, Any] = {}
    if row := CATALOG.get(where.name.partition("@")[0]):
        config = AutoConfig.for_model(row.family, **row.geometry)
        preprocessing = Preprocessing((), (), row.size, row.pixels)
    else:
        where = fetch(where)
        config, preprocessing = read_config(where), read_preprocessing(where)
        extra = _read_json(where, "lynx_tiny.json")
    with _explain(f"cannot make a model by the configuration of {where.name!r}"), torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    family = get_family(config.model_type)
    return family(
        model,
        None,  # type: ignore[arg-type]  # sizes are all that is asked of it
        preprocessing,
        source=where.name,
        revision=where.revision,
        default_frames=where.default_frames or int(extra.get("frames", family.usual_frames)),
    )
