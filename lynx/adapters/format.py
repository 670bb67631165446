"""An adapter on disk, and how it is read.

    lynx_config.json              name, modality, rendering, backbone, training, metrics: an `Adapter`
    README.md                     the model card
    vision/  llm/                 two plain PEFT folders; one of them may be absent
    type_embedding.safetensors    where it was tuned with one
    familiar_tokens.safetensors   what its clips in training looked like: `lynx.backbones.familiarity`
    tuned_on.safetensors          which recordings these were: `lynx.adapters.tuned_on`

Reading is strict. All of an adapter is checked against the backbone before anything of the model is touched:
exact names and shapes, the projector it was trained on, no pickles, no path out of its folder.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from lynx import compat, hub, modalities
from lynx.adapters.lora_options import PEFT_CONFIG, check_targets, parse_settings
from lynx.adapters.shipped import CONFIG, local_adapter, shipped
from lynx.adapters.tuned_on import HELD_OUT, TRAINED, TUNED_ON_FILE, TunedOn
from lynx.backbones import Backbone
from lynx.backbones.familiarity import COUNT, DIRECTIONS, FAMILIAR_FILE, LIMIT, FamiliarTokens
from lynx.config import LIMITS, LoraSettings, TokenPooling, read_json_object, short_repr
from lynx.errors import AdapterError, DataError
from lynx.types import PLACEMENTS

FORMAT = 3  # 2 brought type embeddings, 3 the number of frames
WEIGHTS = "adapter_model.safetensors"
MAX_FRAMES = 100_000
"""Maximum moments of a clip that an adapter may say it was trained with."""
PARTS = ("vision", "llm")
TYPE_EMBEDDING = "type_embedding"  # the name of its tensor (D,)
TYPE_EMBEDDING_FILE = f"{TYPE_EMBEDDING}.safetensors"
_PEFT_FILES = tuple(f"{part}/{file}" for part in PARTS for file in (PEFT_CONFIG, WEIGHTS))
CURVE = "curve.png"
CURVES = {stage: f"training/{stage}/{CURVE}" for stage in ("align", "tune")}
"""The picture of each stage's run, which the card shows."""
FILES = (CONFIG, "README.md", TYPE_EMBEDDING_FILE, FAMILIAR_FILE, TUNED_ON_FILE, *_PEFT_FILES)
FILES += tuple(CURVES.values())
"""Every file that an adapter may have."""
NEW = ".new"
"""Subfolder of an adapter: a complete newer one that an interrupted save has not moved into place yet."""
POOLINGS = get_args(TokenPooling)

LFS_POINTER = b"version https://git-lfs"
"""How a file begins that stands for one that Git LFS has not fetched."""
PRECISIONS = ("F64", "F32", "F16", "BF16")
"""Kinds of numbers that weights may be stored as, in the words of safetensors."""
DIGESTS = ("I64",)
"""The kind of the digests of recordings."""

_MATRIX = re.compile(r"\.lora_([AB])\.weight$")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


@dataclass(frozen=True)
class Adapter:
    """One modality on one backbone: what `lynx_config.json` says."""

    name: str
    modality: str
    rendering: Mapping[str, Any] = field(default_factory=dict)
    token_pooling: str = "none"  # one of POOLINGS, see `TuneConfig`
    placement: str = "continue"  # in families with positions in time and space: see PLACEMENTS
    frames: int | None = None  # moments of a clip in training, where that is known
    backbone: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            name = short_repr(self.name)
            raise AdapterError(f"{name} cannot name an adapter: letters, digits, - and _ only")
        for key, known in (("token_pooling", POOLINGS), ("placement", PLACEMENTS)):
            if (value := getattr(self, key)) not in known:
                raise AdapterError(f"{key} {short_repr(value)}: expected one of {', '.join(known)}")
        if self.frames is not None and (type(self.frames) is not int or not 0 < self.frames <= MAX_FRAMES):
            raise AdapterError(f"frames is {short_repr(self.frames)}: expected 1 to {MAX_FRAMES:,} moments")

    @property
    def words(self) -> frozenset[str]:
        """Words that a backbone of closed vocabulary lacks, and that this adapter's tuning taught."""
        tuned = self.training.get("tune")
        words = tuned.get("words") if isinstance(tuned, Mapping) else None
        return frozenset(map(str, words)) if isinstance(words, list) else frozenset()


@dataclass(frozen=True)
class AdapterFiles:
    """The checked content of an adapter's folder: settings and tensors of each part, under PEFT's names."""

    adapter: Adapter
    parts: dict[str, tuple[LoraSettings, dict[str, Tensor]]]
    type_embedding: Tensor | None = None  # (D,)
    familiar: FamiliarTokens | None = None
    tuned_on: TunedOn | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Which of "vision", "llm" and "type_embedding" it has."""
        return (*self.parts, *([TYPE_EMBEDDING] if self.type_embedding is not None else []))


def resolve_adapter(source: str | Path) -> Path:
    """The folder of an adapter: a path that exists, the name of one that comes with lynx, else a Hub id
    ("owner/name", "owner/name@revision").

    Only JSON, safetensors, the card and its pictures are downloaded. Raises: AdapterError.
    """
    if (folder := local_adapter(source)) is not None:
        return folder
    try:
        return fetch_adapter(str(source)).folder
    except AdapterError as error:
        name = Path(source).name
        also = f"; the one that comes with lynx is named {name!r}" if shipped(name) else ""
        raise AdapterError(f"there is no folder {str(source)!r} here, and {error}{also}") from error


def current_folder(folder: str | Path) -> Path:
    """The folder with an adapter's files: its own, or the NEW subfolder."""
    new = Path(folder) / NEW
    return new if os.path.isdir(new) else Path(folder)  # which is False where nobody may look


def fetch_adapter(source: str, revision: str | None = None, max_bytes: int | None = None) -> hub.Snapshot:
    """Download an adapter from the Hub to the local cache, pinned to a commit; weights are not read yet.

    max_bytes: of all its files together. Raises: AdapterError: unavailable, larger than that, or the
    repository holds a pickle or no adapter.
    """
    if hub.parse_id(source) is None:
        raise AdapterError(f"no adapter at {source!r}: expected a folder with {CONFIG}, or a Hub id")
    snapshot = hub.download(source, FILES, revision, max_bytes)
    for name in snapshot.files:
        _refuse_pickle(f"{snapshot.repo}/{name}")
        if name.startswith("/") or ".." in name.split("/"):
            raise AdapterError(f"{snapshot.repo} has a file {name!r}, which leads out of its folder")
    inspect_adapter(snapshot.folder)
    return snapshot


def inspect_adapter(folder: Path) -> Adapter:
    """Read and check an adapter's folder as far as is possible without a backbone.

    Raises: AdapterError: unsafe, incomplete, unreadable, or of a newer format.
    """
    _refuse_unsafe(folder)
    adapter, folder = read_adapter_config(folder), current_folder(folder)
    for part, settings in _settings(folder).items():
        _check_ranks(folder / part / WEIGHTS, settings.rank)
        _check_targets(folder / part)
    for file in (TYPE_EMBEDDING_FILE, FAMILIAR_FILE):
        if os.path.lexists(folder / file):
            _read_shapes(folder / file)
    _read_tuned_on(folder / TUNED_ON_FILE)
    return adapter


def read_adapter(folder: Path, backbone: Backbone) -> AdapterFiles:
    """Read an adapter and check it against the backbone. Raises: AdapterError naming what does not fit."""
    adapter, folder = inspect_adapter(folder), current_folder(folder)
    check_backbone(adapter, backbone)
    parts = {}
    for part, settings in _settings(folder).items():
        shapes = backbone.lora_shapes(part, settings.rank)
        parts[part] = (settings, _read_tensors(folder / part / WEIGHTS, shapes))
    embedding, path = None, folder / TYPE_EMBEDDING_FILE
    if os.path.lexists(path):
        embedding = _read_tensors(path, {TYPE_EMBEDDING: (backbone.width,)})[TYPE_EMBEDDING]
    familiar = _read_familiar(folder / FAMILIAR_FILE, backbone.token_width)
    return AdapterFiles(adapter, parts, embedding, familiar, _read_tuned_on(folder / TUNED_ON_FILE))


def _read_familiar(path: Path, width: int) -> FamiliarTokens | None:
    if not os.path.lexists(path):
        return None
    count, *_ = (*_read_shapes(path).get(DIRECTIONS, ()), COUNT)
    tensors = _read_tensors(path, {DIRECTIONS: (max(1, min(count, COUNT)), width), LIMIT: (1,)})
    return FamiliarTokens(tensors[DIRECTIONS].float(), float(tensors[LIMIT]))


def _read_tuned_on(path: Path) -> TunedOn | None:
    if not os.path.lexists(path):
        return None
    shapes = _read_shapes(path, DIGESTS)
    if shapes.keys() != {TRAINED, HELD_OUT} or any(len(shape) != 1 for shape in shapes.values()):
        raise AdapterError(f"{path} has {shapes}, expected two lists of digests, {TRAINED} and {HELD_OUT}")
    return TunedOn(**{name: frozenset(digests.tolist()) for name, digests in load_file(path).items()})


def _settings(folder: Path) -> dict[str, LoraSettings]:
    """The parts that a folder has, and how large each LoRA is."""
    try:
        parts = [part for part in PARTS if (folder / part).is_dir() and any((folder / part).iterdir())]
    except OSError as error:
        raise AdapterError(f"cannot read {folder}: {error}") from error
    if not parts:
        raise AdapterError(f"{folder} holds no weights: expected a folder vision/, llm/ or both")
    folders = {part: folder / part for part in parts}
    return {part: parse_settings(read_json_object(f / PEFT_CONFIG), f) for part, f in folders.items()}


def read_adapter_config(folder: str | Path) -> Adapter:
    """The adapter that a folder describes. Raises: AdapterError: none, unreadable, or of a newer format."""
    path = current_folder(folder) / CONFIG
    content = read_json_object(path)
    number = content.pop("format", None)
    if type(number) is not int or number < 1:
        raise AdapterError(f"{path} has no format number: it is not an adapter of lynx")
    if number > FORMAT:
        raise AdapterError(f"{path} is of format {number}, this lynx reads up to {FORMAT}: update lynx")
    hints, needed = get_type_hints(Adapter), ("name", "modality", "backbone")
    if content.keys() - hints.keys() or not set(needed) <= content.keys():
        has, needs, known = (", ".join(names) for names in (sorted(content), needed, sorted(hints)))
        raise AdapterError(f"{path} has {has}; needed: {needs}; known: {known}")
    kinds: dict[Any, tuple[type, str]] = {str: (str, "a text"), int | None: (int, "a number")}
    for key, value in content.items():
        expected, kind = kinds.get(hints[key], (dict, "an object"))
        if not isinstance(value, expected):
            raise AdapterError(f"{path}: {key} is {short_repr(value)}, expected {kind}")
    try:
        adapter = Adapter(**content)
        modalities.get(adapter.modality).from_dict(dict(adapter.rendering))
    except (AdapterError, DataError) as error:
        raise AdapterError(f"{path}: {error}") from error
    for key in ("family", "source", "revision"):
        value = adapter.backbone.get(key)
        if value is not None and not (isinstance(value, str) and value.isprintable()):
            raise AdapterError(f"{path}: backbone.{key} is {short_repr(value)}, expected a name")
    _check_metrics(adapter.metrics, "metrics", path)
    return adapter


def _check_metrics(metrics: Mapping[str, Any], place: str, path: Path) -> None:
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            _check_metrics(value, f"{place}.{key}", path)
        elif value is not None and not isinstance(value, str | int | float):
            expected = "a number, a text, or an object of them"
            raise AdapterError(f"{path}: {place}.{key} is {short_repr(value)}, expected {expected}")


def check_backbone(adapter: Adapter, backbone: Backbone) -> None:
    """Raises: AdapterError where an adapter was trained on another backbone than this one."""
    wanted = adapter.backbone
    if wanted.get("family") != backbone.family:
        raise AdapterError(
            f"the adapter {adapter.name!r} is for the family {wanted.get('family')!r}, "
            f"{backbone.source!r} is of {backbone.family!r}"
        )
    found = wanted.get("fingerprint")
    theirs = found if isinstance(found, dict) else {}
    different = [
        f"{key} is {theirs.get(key, 'not given')} instead of {value}"
        for key, value in backbone.fingerprint().items()
        if theirs.get(key) != value
    ]
    if different:
        raise AdapterError(
            f"the adapter {adapter.name!r} was trained on {wanted.get('source')!r}, "
            f"not on {backbone.source!r}: {', '.join(different)}"
        )


def _refuse_pickle(path: str | Path) -> None:
    if Path(path).suffix in _PICKLES:
        raise AdapterError(f"{path} is a pickle, which can run code: an adapter is safetensors and JSON")


def _refuse_unsafe(folder: Path) -> None:
    try:
        root = folder.resolve()
        found = {path: path.resolve() for path in islice(folder.rglob("*"), LIMITS.max_files + 1)}
    except (OSError, RuntimeError) as error:  # a link to itself, or no right to look
        raise AdapterError(f"cannot read {folder}: {error}") from error
    if len(found) > LIMITS.max_files:
        raise AdapterError(f"{folder} holds more than {LIMITS.say('max_files')}: it is not an adapter's")
    roots = [root, *compat.cache_blobs(root)]
    for path, target in found.items():
        _refuse_pickle(path)
        if not any(target.is_relative_to(allowed) for allowed in roots):
            raise AdapterError(f"{path} leads out of the adapter's folder, to {target}")


def _read_shapes(path: Path, kinds: tuple[str, ...] = PRECISIONS) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file's tensors, from its header alone; all are of these kinds of numbers."""
    if not os.path.isfile(path):
        raise AdapterError(f"{path} is missing, or no plain file: the adapter is incomplete")
    try:
        with path.open("rb") as start:  # the header is read as a whole, before anything of it is checked
            head = start.read(len(LFS_POINTER))
        if head == LFS_POINTER:
            raise AdapterError(f"{path} is a pointer of Git LFS, not the weights: run `git lfs pull` there")
        header = int.from_bytes(head[:8], "little")
        if header > LIMITS.max_weights_header_bytes:
            most = LIMITS.say("max_weights_header_bytes")
            raise AdapterError(f"{path} has a header of {header:,} bytes: at most {most} are read")
        shapes = {}
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118
                part = file.get_slice(key)
                if (kind := part.get_dtype()) not in kinds:
                    words = {"I": "int", "U": "uint", "F": "float", "C": "complex"}
                    kind = words.get(kind[0], kind[0]) + kind[1:]
                    raise AdapterError(
                        f"{path} holds values that are no numbers lynx computes with, in {short_repr(key)} "
                        f"({kind}): expected float16, bfloat16, float32 or float64"
                    )
                shapes[key] = tuple(part.get_shape())
            return shapes
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"cannot read {path}: {error}") from error


def _check_ranks(path: Path, rank: int) -> None:
    """Whether a LoRA's file is of this rank, as far as is known without the backbone."""
    shapes = _read_shapes(path)
    if not shapes:
        raise AdapterError(f"{path} holds no tensors: the adapter is incomplete")
    wrong = []
    for key, shape in shapes.items():
        matrix = _MATRIX.search(key)
        if matrix is None or len(shape) != 2:
            raise AdapterError(f"{path} holds {short_repr(key)} {shape}, which is no matrix of a LoRA")
        if shape[0 if matrix[1] == "A" else 1] != rank:
            wrong.append(f"{short_repr(key)} {shape}")
    if wrong:
        raise AdapterError(
            f"{path} does not fit its {PEFT_CONFIG}, which says rank {rank}: {len(wrong)} shapes differ, "
            f"such as {wrong[0]}"
        )


def _check_targets(folder: Path) -> None:
    """Whether PEFT would use all weights of a part, whose names `_check_ranks` has seen."""
    names = sorted({_MATRIX.sub("", key) for key in _read_shapes(folder / WEIGHTS)})
    modules = [(name.removeprefix(compat.PEFT_PREFIX),) for name in names]
    check_targets(read_json_object(folder / PEFT_CONFIG).get("target_modules"), modules, folder)


def _read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    found = _read_shapes(path)
    missing, unexpected = sorted(shapes.keys() - found.keys()), sorted(found.keys() - shapes.keys())
    misfit = f"{path} does not fit the backbone"
    if missing or unexpected:
        raise AdapterError(
            f"{misfit}: {len(missing)} tensors are missing {missing[:2]}, "
            f"{len(unexpected)} are not expected {unexpected[:2]}"
        )
    wrong = [f"{key} {found[key]} instead of {shapes[key]}" for key in shapes if found[key] != shapes[key]]
    if wrong:
        raise AdapterError(f"{misfit}: {len(wrong)} shapes differ, such as {wrong[0]}")
    tensors: dict[str, Tensor] = load_file(path)
    check_numbers(tensors, path)
    return tensors


def check_numbers(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises: AdapterError where a weight is not of finite floating-point numbers."""
    for key, tensor in tensors.items():
        # kinds first: some of 8 bits cannot be compared with infinity
        if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16) or not bool(
            tensor.isfinite().all()
        ):
            raise AdapterError(f"{path} holds values that are no numbers, in {key} ({tensor.dtype})")
