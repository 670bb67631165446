"""Settings of the stages, and two tools for all rooms: reading untrusted JSON, and entry points.

The configs are frozen dataclasses whose fields are also the options of the command line: the help of a field
lies in its `metadata["help"]`. Defaults are the paper's, or the released code's where the two differ.

`read_json_object` and `Extensions` stand here since rooms that may not import one another use them: hub and
adapters read JSON; modalities, backbones and evaluation can be extended. This module is below all of them and
does not import torch.
"""

import dataclasses
import json
import logging
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lynx.errors import AdapterError, DataError

logger = logging.getLogger(__name__)

LayerReduction = Literal["mean", "sum"]
QuerySubset = Literal["even", "all"]
TokenPooling = Literal["none", "space", "halves", "bands", "moments"]
ReplayFrom = Literal["auto", "data", "self"]
Placement = Literal["continue", "parallel", "share"]
Checkpointing = Literal["off", "non-reentrant"]


def option(default: Any, help: str, low: float = 0, high: float = math.inf) -> Any:
    """One field of a config: its default, the sentence that `--help` shows, and the range of a number."""
    return field(default=default, metadata={"help": help, "range": (low, high)})


@dataclass(frozen=True)
class LoraSettings:
    """Size of one LoRA; its update is scaled by `alpha / rank`."""

    rank: int
    alpha: float
    dropout: float


class Config:
    """Base of all configs: values become JSON, and wrong ones are refused with the field's name."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for spec in dataclasses.fields(self):  # type: ignore[arg-type]
            value, hint = getattr(self, spec.name), hints[spec.name]
            low, high = spec.metadata["range"]
            if get_origin(hint) is Literal:
                if value not in get_args(hint):
                    choices = " or ".join(get_args(hint))
                    raise DataError(f"{spec.name} is {value!r}; it can be {choices}")
            elif hint is not bool and value is not None and not low <= value <= high:
                limit = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
                raise DataError(f"{spec.name} is {value!r}; it must be {limit}")


@dataclass(frozen=True)
class GuideConfig(Config):
    """Stage 1: statistics of the token interface over reference videos; nothing is trained."""

    frames: int | None = option(None, "frames of a clip; the backbone's own number if not given", low=1)
    batch_size: int = option(32, "frames in one forward pass of the encoder", low=1)
    stat_newline: bool = option(False, "count each clip's newline token in L_stat, as the released code does")


@dataclass(frozen=True)
class TrainConfig(Config):
    """Options of both stages 2 and 3: length, learning rate, LoRA, checkpoints."""

    lr: float = option(5e-4, "peak learning rate of AdamW")
    epochs: float = option(1.0, "passes over the data; fractions are allowed")
    steps: int | None = option(None, "optimizer steps, instead of epochs")
    batch_size: int = option(8, "examples in one forward pass of one process", low=1)
    accumulate: int = option(1, "forward passes whose gradients make one step", low=1)
    warmup: float = option(0.03, "share of the steps in which lr rises linearly, to fall as a cosine", high=1)
    weight_decay: float = option(0.0, "weight decay of AdamW")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm; 0 leaves them as they are")
    rank: int = option(64, "rank of the LoRA that is trained", low=1)
    alpha: float = option(128.0, "its scale is alpha / rank")
    dropout: float = option(0.05, "dropout before its first matrix", high=1)
    frames: int | None = option(None, "frames of a clip; the backbone's own number if not given", low=1)
    seed: int = option(0, "fixes the order of the data, the first weights and the dropout", low=-math.inf)
    checkpointing: Checkpointing = option("off", "non-reentrant: less memory, activations are computed twice")
    save_every: int = option(100, "steps between checkpoints; 0 keeps none")
    resume: bool = option(True, "go on from the checkpoint in the output folder if there is one")

    def __post_init__(self) -> None:
        if self.checkpointing == "reentrant":
            raise DataError(
                "checkpointing is 'reentrant', which gives silently wrong gradients when attention is "
                "recorded or adapters are switched; use 'non-reentrant'"
            )
        super().__post_init__()

    @property
    def lora(self) -> LoraSettings:
        """The LoRA this stage trains."""
        return LoraSettings(self.rank, self.alpha, self.dropout)


@dataclass(frozen=True)
class AlignConfig(TrainConfig):
    """Stage 2: train the vision LoRA of one modality so that its pseudo-frames land on the interface."""

    epochs: float = option(2.0, "passes over the data; fractions are allowed")
    batch_size: int = option(32, "pseudo-frames in one forward pass of one process", low=1)
    beta: float = option(0.01, "weight of the statistics loss")
    attention_weight: float = option(1.0, "weight of the attention loss; 0 leaves it out, for an ablation")
    layer_reduction: LayerReduction = option(
        "mean", "how the attention loss joins the layers: mean (released code) or sum (paper)"
    )
    query_subset: QuerySubset = option(
        "even", "queries compared: those at even rows and columns (released code) or all (paper)"
    )


@dataclass(frozen=True)
class TuneConfig(TrainConfig):
    """Stage 3: train the LLM LoRA on questions and answers; the vision LoRA stays as it is."""

    lr: float = option(1e-4, "peak learning rate of AdamW")
    batch_size: int = option(4, "clips in one forward pass of one process; each with its questions", low=1)
    alpha: float = option(16.0, "its scale is alpha / rank")
    token_pooling: TokenPooling = option(
        "none",
        "modality tokens the LLM gets: all (none), their mean over space, one a pseudo-frame (space), of "
        "every grid cell the means over the earlier and the later half of the clip (halves), the same of "
        "every row of cells (bands), or the mean over the pictures of a moment, if it has several (moments)",
    )
    placement: Placement = option(
        "continue",
        "positions of the modality's tokens: behind all that is before them, right behind the video whatever "
        "other sense is there too, or (in a family with positions in time and space) at its own moments",
    )
    type_embedding: bool = option(
        False,
        "learn a vector for each sense, added to its tokens, so that the LLM can tell the senses apart; a "
        "warm start continues an existing one",
    )
    warm_start: bool = option(
        False, "go on from the adapter's own LLM LoRA (of several adapters: their sum), not from a fresh one"
    )


@dataclass(frozen=True)
class Sampling(Config):
    """Stage 3: which senses of a clip a step shows, and which of its questions it asks."""

    replay: float = option(0.5, "share of questions that need no new sense, so that old skills stay", high=1)
    replay_from: ReplayFrom = option(
        "auto",
        "where they are from: the data, or general questions that the backbone answers itself before it is "
        "tuned (self); auto: self where the data has none",
    )
    questions: int | None = option(None, "most questions of a clip in one step; all if not given", low=1)
    drop_modality: float = option(0.0, "share of the clips shown without the modality", high=1)
    drop_video: float = option(
        0.0, "share of the clips shown without video, and asked what the modality alone can answer", high=1
    )
    together: float = option(
        0.5, "of several modalities: share of the batches that show two or more; the others show one", high=1
    )
    conversation: float = option(
        0.25, "share of the batches in which a clip's questions follow one another, as in a chat", high=1
    )


def short_repr(value: object) -> str:
    """The repr of a value for an error message, cut after 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def limit(default: int, unit: str, help: str, low: int = 1) -> Any:
    """One field of `Limits`: its default, its unit, and the sentence that docs/hosting.md shows."""
    return field(default=default, metadata={"unit": unit, "help": help, "low": low})


@dataclass(frozen=True)
class Limits:
    """The most that is read of a recording, an upload or an adapter; what is above is refused.

    The owner of a server sets a field by the environment variable of its name: LYNX_MAX_SECONDS=600. Bytes
    may end in k, M or G, powers of 1024: LYNX_MAX_UNPACKED_BYTES=4G.
    """

    max_side: int = limit(8192, "pixels", "width and height of a picture or depth map")
    max_pixels: int = limit(2**24, "pixels", "a depth map, whose numbers take 8 bytes a pixel for a while")
    max_map_bytes: int = limit(512 * 2**20, "bytes", "file of a depth map, and the array in an .npz")
    max_pictures: int = limit(5_000_000, "pictures", "a video without an index: 46 hours at 30 a second")
    max_seconds: int = limit(7200, "seconds", "sound, with the gaps in its timestamps: 0.5 GB at 16 kHz")
    max_channels: int = limit(64, "channels", "a sound track; FFmpeg's resampler takes no more")
    max_maps: int = limit(10_000_000, "maps", "a depth video: 28 hours at 100 a second")
    max_mesh_bytes: int = limit(256 * 2**20, "bytes", "file of a mesh or point cloud")
    max_faces: int = limit(4_000_000, "faces", "a mesh, every instance of a part counted")
    max_points: int = limit(12_000_000, "points", "a mesh or point cloud; a face may have its own")
    max_parts: int = limit(4096, "parts", "meshes and nodes of a scene")
    max_accessors: int = limit(65_536, "accessors", "arrays that a .glb or .gltf describes")
    max_solids: int = limit(1024, "solids", "a text .stl")
    max_scene_bytes: int = limit(8 * 2**20, "bytes", "JSON of a .glb or .gltf")
    max_header_bytes: int = limit(64 * 2**10, "bytes", "header of a .ply or .pcd")
    max_text_bytes: int = limit(128 * 2**20, "bytes", "a mesh or point cloud written as text")
    max_text_lines: int = limit(4_000_000, "lines", "such a text")
    max_text_words: int = limit(20_000_000, "words", "such a text")
    max_times_bytes: int = limit(4 * 2**20, "bytes", "times.txt beside depth maps: 200,000 maps or more")
    max_upload_bytes: int = limit(600 * 2**20, "bytes", "one uploaded file")
    max_waiting: int = limit(16, "requests", "what one visitor of the app may have waiting")
    max_answer_tokens: int = limit(512, "tokens", "an answer of a hosted app")
    max_files: int = limit(20_000, "files", "an adapter's folder, a .zip, or an upload of several files")
    max_folders: int = limit(32, "folders", "around a file in a .zip")
    max_name: int = limit(1024, "characters", "a name in a .zip, its folders included")
    max_entry_list_bytes: int = limit(8 * 2**20, "bytes", "list of entries of a .zip")
    max_unpacked_bytes: int = limit(2 * 2**30, "bytes", "what one upload holds when it is unpacked")
    max_shelf_bytes: int = limit(8 * 2**30, "bytes", "unpacked uploads of all visitors together")
    max_visitor_bytes: int = limit(2 * 2**30, "bytes", "what one visitor's uploads, unpacked, and films take")
    max_away_seconds: int = limit(600, "seconds", "a visitor who left may come back to the uploads", 0)
    max_adapter_bytes: int = limit(2**30, "bytes", "an adapter that a hosted app takes from the Hub")
    max_line_bytes: int = limit(16 * 2**20, "bytes", "a line of a data set in JSON lines")
    max_weights_header_bytes: int = limit(16 * 2**20, "bytes", "list of tensors in a file of weights")
    max_json_bytes: int = limit(2**20, "bytes", "a JSON file of an adapter")
    max_json_depth: int = limit(32, "levels", "lists and objects inside one another in JSON")
    max_json_name: int = limit(200, "printable characters", "a key in JSON")
    max_film_seconds: int = limit(600, "seconds", "a film of an answer")
    max_workers: int = limit(2, "processes", "readers of meshes and rare codecs; 0: the app itself", 0)
    max_worker_bytes: int = limit(3 * 2**30, "bytes", "memory that such a reader may take")
    max_reading_seconds: int = limit(60, "seconds", "time that such a reader may take for one thing")

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "Limits":
        """The limits that environment variables set. Raises: DataError: no number, or below the least."""
        found = {spec.name: variables.get(cls.variable(spec.name)) for spec in dataclasses.fields(cls)}
        return cls(**{name: cls._parsed(name, text) for name, text in found.items() if text is not None})

    @staticmethod
    def variable(name: str) -> str:
        """The environment variable that sets a field."""
        return f"LYNX_{name.upper()}"

    @classmethod
    def _parsed(cls, name: str, text: str) -> int:
        spec = cls.__dataclass_fields__[name]
        match = re.fullmatch(r"([0-9]{1,15})([kKMG]?)", text.strip().replace("_", ""))
        value = int(match[1]) * 1024 ** " kMG".index(match[2].replace("K", "k") or " ") if match else -1
        low, unit = spec.metadata["low"], spec.metadata["unit"]
        if value < low:
            said = f"expected a whole number of {unit}, at least {low}, such as {spec.default}"
            raise DataError(f"{cls.variable(name)} is {short_repr(text)}; {said}")
        return value

    def say(self, name: str) -> str:
        """A limit for an error message, with the variable that sets it: "2 GB (LYNX_MAX_UNPACKED_BYTES)"."""
        return f"{amount(getattr(self, name), self.unit(name))} ({self.variable(name)})"

    @classmethod
    def unit(cls, name: str) -> str:
        """What a field counts."""
        return str(cls.__dataclass_fields__[name].metadata["unit"])


def amount(value: int, unit: str) -> str:
    """A number with its unit, as people read it: "2 GB", "2 h", "4,000,000 faces"."""
    if unit == "bytes":
        power = next((power for power in (3, 2, 1) if value >= 1024**power), 0)
        return f"{value / 1024**power:.4g} {('bytes', 'kB', 'MB', 'GB')[power]}"
    if unit == "seconds":
        return f"{value / 3600:.4g} h" if value >= 3600 else f"{value:,} s"
    return f"{value:,} {unit}"


LIMITS = Limits.of(os.environ)
"""Those of this process. Environment variables are read here, since every room below has limits to keep."""


def limits_table() -> str:
    """The table of docs/hosting.md: variable, default, what has no more than that."""
    usual, rows = Limits(), ["| variable | default | limits |", "|---|---|---|"]
    for spec in dataclasses.fields(Limits):
        default = amount(getattr(usual, spec.name), Limits.unit(spec.name))
        rows.append(f"| `{Limits.variable(spec.name)}` | {default} | {spec.metadata['help']} |")
    return "\n".join(rows)


JSON_MAX_INTEGER = 2**63
"""Integers from here on overflow in arithmetic with floats and tensors."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that cannot be displayed: control characters and halves of UTF-16 pairs."""


def read_json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds: finite numbers, printable names, as LIMITS say.

    Raises: AdapterError: missing, not a plain file, too large, not JSON, or beyond those limits.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
            raise AdapterError(f"{path} is not a plain file: expected JSON")
        if status.st_size > LIMITS.max_json_bytes:
            most = LIMITS.say("max_json_bytes")
            raise AdapterError(f"{path} has {status.st_size:,} bytes: at most {most} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        problem = f"{path.parent} has no {path.name}: it is not an adapter, or incomplete"
        raise AdapterError(problem) from error
    except RecursionError as error:
        raise AdapterError(f"{path} is nested deeper than {LIMITS.say('max_json_depth')}") from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path} holds a {type(content).__name__}, expected an object")
    _check_json(content, path)
    return content


def _check_json(content: dict[str, Any], path: Path) -> None:
    """Raises: AdapterError for valid JSON that no adapter may contain."""
    left: list[tuple[str, Any, int]] = [("", content, 1)]  # a stack, since recursion has its own limit
    while left:
        place, value, depth = left.pop()
        if depth > LIMITS.max_json_depth:
            raise AdapterError(f"{path} is nested deeper than {LIMITS.say('max_json_depth')}")
        if isinstance(value, dict):
            for name, inner in value.items():
                if not name.isprintable() or len(name) > LIMITS.max_json_name:
                    limit = f"at most {LIMITS.say('max_json_name')} are read"
                    raise AdapterError(f"{path} has the name {short_repr(name)}: {limit}")
                left.append((f"{place}.{name}" if place else name, inner, depth + 1))
        elif isinstance(value, list):
            left += [(place, inner, depth + 1) for inner in value]
        elif isinstance(value, str) and _CONTROL.search(value):
            raise AdapterError(f"{path}: {place} is {short_repr(value)}, which has control characters")
        elif isinstance(value, float) and not math.isfinite(value):
            raise AdapterError(f"{path}: {place} is {value}, expected a finite number")
        elif isinstance(value, int) and abs(value) >= JSON_MAX_INTEGER:
            raise AdapterError(f"{path}: {place} is {short_repr(value)}, expected a number below 2^63")


@dataclass(frozen=True)
class Extension:
    """An entry point of another installed package; with a `problem` it is left out."""

    name: str
    package: str
    version: str
    path: str  # where its code is: "lynx_thermal:Thermal"
    value: Any = None
    problem: str = ""

    def __str__(self) -> str:
        where = f"{self.name!r} of the package {self.package} {self.version} ({self.path})"
        return f"{where} is left out: {self.problem}" if self.problem else where


class Extensions:
    """Built-in items by name, and those that other installed packages add by entry points.

    Another package is imported only when a name is asked for that is not built in, or when all are listed.

    group: of the entry points, "lynx.modalities". kind: base class of all items. attributes: required of
    each; the first is its name.
    """

    def __init__(
        self, group: str, built_in: Mapping[str, Any], kind: type, attributes: tuple[str, ...]
    ) -> None:
        self.group, self.built_in, self.kind, self.attributes = group, built_in, kind, attributes
        self._loaded: dict[str, list[Extension]] = {}

    @cached_property
    def _entry_points(self) -> tuple[Any, ...]:
        from importlib.metadata import entry_points  # takes 20 ms, and most runs need none

        return tuple(entry_points(group=self.group))

    def find(self, name: str) -> Any | None:
        """The item of that name, built in or added; None if there is none, or it was left out."""
        if name in self.built_in:
            return self.built_in[name]
        return next((each.value for each in self._named(name) if not each.problem), None)

    def problem(self, name: str) -> str:
        """A sentence on why the item of that name was left out; "" if there is none."""
        return next((f"{each}." for each in self._named(name) if each.problem), "")

    def all(self) -> dict[str, Any]:
        """All items by name, built-in ones first."""
        return {**self.built_in, **{each.name: each.value for each in self.added() if not each.problem}}

    def added(self) -> list[Extension]:
        """Everything from other packages, including what is left out."""
        names = dict.fromkeys(entry.name for entry in self._entry_points)
        return [each for name in names for each in self._named(name)]

    def _named(self, name: str) -> list[Extension]:
        """All entry points of that name, imported once; of several packages the first by name is used."""
        if name not in self._loaded:
            entries = [entry for entry in self._entry_points if entry.name == name]
            found: list[Extension] = []
            for entry in sorted(entries, key=lambda each: (each.dist.name, each.value)):
                taken_by = next((each.package for each in found if not each.problem), "")
                found.append(self._load(entry, taken_by))
            self._loaded[name] = found
        return self._loaded[name]

    def _load(self, entry: Any, taken_by: str) -> Extension:
        """Import what an entry point names and check it. taken_by: the package that has the name already."""
        value, problem = None, ""
        if entry.name in self.built_in:
            problem = f"{entry.name!r} is the name of a built-in one"
        elif taken_by:
            problem = f"{taken_by} brings one of the same name"
        else:
            try:
                value = entry.load()
                problem = self._check(entry.name, value)
            except Exception as error:  # code of another package can raise anything, and must stop nothing
                problem = f"{type(error).__name__}: {error}"
        value, problem = None if problem else value, " ".join(problem.split())
        extension = Extension(entry.name, entry.dist.name, entry.dist.version, entry.value, value, problem)
        if problem:
            logger.warning("%s", extension)
        return extension

    def _check(self, name: str, value: Any) -> str:
        """Why a value cannot be used; "" where it can."""
        is_wanted = isinstance(value, type) and issubclass(value, self.kind)
        if self.kind is not object and not is_wanted:
            return f"expected a subclass of {self.kind.__name__}, found {short_repr(value)}"
        if missing := [each for each in self.attributes if not hasattr(value, each)]:
            return f"it does not say its {', '.join(missing)}"
        if methods := sorted(getattr(value, "__abstractmethods__", ())):
            return f"it lacks {', '.join(methods)}"
        own = getattr(value, self.attributes[0])
        if own != name or not name.isidentifier():
            return f"its {self.attributes[0]} is {own!r}, expected {name!r} and an identifier"
        return ""
