"""What a backbone will need, before anything is decoded, downloaded or loaded: tokens and bytes.

Shapes are read off the model on the meta device. Weights, adapters and KV cache follow from them; activations
are the larger of two peaks, one pass of the vision tower and the LLM's reading of the prompt, in the tensors
that are alive there at once; or the drawing of a sense, where that is more. The total is within 15 % of
measured peaks of small checkpoints, from 4 to 64 frames in every precision (tests/backbones).
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lynx.backbones import CATALOG, Backbone, skeleton
from lynx.backbones.quantization import QUANTISED, check_device, dtype_of, pick_device, pick_precision
from lynx.media.thumbnails import THUMBNAIL_PIXELS
from lynx.modalities.audio import COLUMNS_AT_ONCE, AudioRendering
from lynx.types import VIDEO

TEXT = 256
"""Tokens of a question, its template and an answer."""
BLOCK = 64
"""Weights that share one float32 scale in nf4."""
CODES = 16
"""Values of nf4, in a float32 table of each layer."""


@dataclass(frozen=True)
class Estimate:
    """What one conversation needs; sizes in bytes."""

    backbone: str
    precision: str
    device: str
    frames: int
    tokens: dict[str, int]  # per sense
    captions: int  # tokens between the frames
    context: int  # tokens that the LLM takes
    media_context: int  # of these, what the senses may take
    weights: int
    adapters: int
    kv_cache: int
    activations: int
    available: int | None  # on the device now; None where that is not known

    @property
    def total(self) -> int:
        """Everything at its peak."""
        return self.weights + self.adapters + self.kv_cache + self.activations

    @property
    def media(self) -> int:
        """Tokens of all senses, with the words between them."""
        return sum(self.tokens.values()) + self.captions

    @property
    def fits(self) -> bool | None:
        """Whether the device has that much and the LLM takes that many tokens; None: not known."""
        if self.media > self.media_context:
            return False
        return None if self.available is None else self.total <= self.available

    @property
    def sentence(self) -> str:
        """All of it for people, in one sentence."""
        what = f"{self.frames} frames of {', '.join(self.tokens)} are {self.media:,} tokens"
        need = f"{self.backbone} in {self.precision} needs about {self.total / 1e9:.2g} GB"
        if self.media > self.media_context:
            return f"{what}, and {self.backbone} takes {self.context:,}: use fewer frames"
        if self.available is None:
            return f"{what}; {need} on {self.device}"
        there = f"of {self.available / 1e9:.2g} GB that are free on {self.device}"
        return f"{what}; {need} {there}: it {'fits' if self.fits else 'does not fit'}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        more = {"total": self.total, "fits": self.fits, "sentence": self.sentence}
        return {**asdict(self), **more}


def estimate(
    source: str | Path,
    *,
    frames: int | None = None,
    senses: Sequence[str] = (),
    precision: str = "auto",
    device: str = "auto",
    size: tuple[int, int] | None = None,
    rank: int = 64,
    seconds: float = 60.0,
) -> Estimate:
    """What one conversation about a video and further senses needs.

    source: as `lynx.load` takes it. senses: those beside the video, each with an adapter of that rank.
    size: (height, width) of the video's frames, which matters where they keep their shape. seconds: of the
    clip, which matters to the drawing of a sense.
    Raises: BackboneError: not a known backbone, or a precision that the device cannot do.
    """
    target = pick_device(device)
    backbone = skeleton(source)
    precision = pick_precision(precision, backbone.model.config, str(source))
    check_device(precision, target)
    kind = dtype_of(precision, backbone.model.config, target)
    frames = frames or backbone.default_frames
    tokens = {VIDEO: backbone.tokens(frames, size)} | {sense: backbone.tokens(frames) for sense in senses}
    shapes = [
        shape
        for part in ("vision", "llm")
        for shape in backbone.lora_shapes(part, rank).values()
    ]
    captions = backbone.captions(frames)
    length = sum(tokens.values()) + captions + TEXT
    costs = Costs(backbone, precision, kind, adapted=bool(senses))
    on_host = target.type == "cpu"  # elsewhere pictures are drawn and kept in another memory
    return Estimate(
        backbone=str(source),
        precision=precision if precision != "auto" else {torch.float32: "fp32"}.get(kind, "bf16"),
        device=str(target),
        frames=frames,
        tokens=tokens,
        captions=captions,
        context=backbone.context,
        media_context=backbone.media_context,
        weights=sum(costs.weights()),
        adapters=len(senses) * costs.lora_bytes * sum(map(math.prod, shapes)),
        kv_cache=costs.kv_cache(length),
        activations=sum(tokens.values()) * costs.width * kind.itemsize
        + (costs.pictures(frames, size, len(senses), seconds) if on_host else 0)
        + max(
            costs.prefill(length),
            costs.vision(frames, size),
            costs.vision(frames, adapted=True) if senses else 0,
            costs.drawing(seconds) if senses and on_host else 0,
        ),
        available=free_bytes(target),
    )


def describe(name: str) -> dict[str, Any]:
    """A catalog row with what its geometry says: tokens a frame, gigabytes a precision, LoRA targets."""
    row, backbone = CATALOG[name], skeleton(name)
    cpu = torch.device("cpu")
    precisions = {kind: dtype_of(kind, backbone.model.config, cpu) for kind in ("fp32", "bf16")}
    precisions |= dict.fromkeys(QUANTISED, torch.bfloat16)
    return {
        "hub_id": row.source,
        "revision": row.revision or "the newest",
        "family": row.family,
        "licence": row.licence,
        "tokens_a_frame": (backbone.tokens(4) - backbone.tokens(2)) / 2,
        "weights_gb": {
            kind: round(sum(Costs(backbone, kind, dtype, False).weights()) / 1e9, 2)
            for kind, dtype in precisions.items()
        },
        "lora_targets": {"vision": backbone.vision_targets, "llm": backbone.llm_targets},
        "note": row.note,
    }


class Costs:
    """Bytes that a backbone on the meta device would take in a precision."""

    def __init__(self, backbone: Backbone, precision: str, kind: torch.dtype, adapted: bool) -> None:
        self.backbone, self.precision, self.kind, self.adapted = backbone, precision, kind, adapted
        self.text = backbone.text_sizes(backbone.model.config)
        self.width = self.text.hidden
        self.lora_bytes = 4 if precision in QUANTISED else kind.itemsize

    def weights(self) -> Iterator[int]:
        """Of every tensor of the model, shared ones once."""
        seen: set[int] = set()
        for name, module in self.backbone.model.named_modules():
            quantised = self.precision in QUANTISED and re.fullmatch(self.backbone.llm_targets, name)
            for key, weight in module.named_parameters(recurse=False):
                if id(weight) not in seen:
                    seen.add(id(weight))
                    packed = quantised and key == "weight"
                    yield self._packed(weight) if packed else weight.numel() * self.kind.itemsize

    def _packed(self, weight: torch.Tensor) -> int:
        if self.precision == "int8":
            return weight.numel() + 4 * weight.shape[0]  # a float32 scale a row
        return weight.numel() // 2 + 4 * math.ceil(weight.numel() / BLOCK) + 4 * CODES

    def kv_cache(self, length: int) -> int:
        """Keys and values of that many tokens in every layer."""
        row = 2 * self.text.kv_heads * self.text.head_dim * self.kind.itemsize
        return self.text.layers * row * length

    def prefill(self, length: int) -> int:
        """The most that is alive in a layer of the LLM while it reads the prompt, the embeddings included."""
        inner = self.text.inner
        row = (
            self._row(self.width, inner, gated=True, adapted=self.adapted)
            + 2 * self.width * self.kind.itemsize
        )
        multiplied = length * (row - inner * self.kind.itemsize) + self._unpacked()
        return int(max(length * row, multiplied))  # weights are unpacked before the last result is there

    def vision(self, frames: int, size: tuple[int, int] | None = None, adapted: bool = False) -> int:
        """The most that is alive in one pass of the tower, with the clip's pixels; size: as in `tokens`."""
        tower = self.backbone.vision_sizes(self.backbone.model.config)
        pixels = self.backbone.frame_pixels(size)
        steps = math.ceil(min(frames, self.backbone.frames_per_pass) / tower.frames_per_patch)
        rows = steps * pixels / tower.patch**2
        layer = self._row(tower.hidden, tower.inner, tower.gated, adapted)
        projector = 2 * (tower.hidden + self.width) * self.kind.itemsize
        return int(rows * max(layer, projector) + frames * 3 * pixels * self.kind.itemsize)

    def pictures(self, frames: int, size: tuple[int, int] | None, senses: int, seconds: float) -> int:
        """The uint8 frames of the video and of senses that are kept to be shown."""
        sound = AudioRendering()
        shown = min(math.prod(size), THUMBNAIL_PIXELS) if size else THUMBNAIL_PIXELS
        return 3 * int(frames * shown + senses * sound.n_mels * seconds / sound.hop_s)

    def drawing(self, seconds: float) -> int:
        """The most that is alive while a spectrogram is made; senses that are drawn from video need less."""
        sound = AudioRendering()
        columns = min(seconds / sound.hop_s, COLUMNS_AT_ONCE)
        window = sound.window_s * sound.sample_rate
        column = 4 * (window + sound.n_fft) + 8 * (sound.n_fft / 2 + 1)  # windowed, padded, transformed
        return int(columns * column + 4 * seconds * sound.sample_rate)

    def _row(self, hidden: int, inner: int, gated: bool, adapted: bool) -> int:
        """Bytes a token takes in a feed-forward layer: its input twice, and what lies between its linears."""
        between = (3 if gated else 2) + (1 if adapted else 0)
        return (2 * hidden + between * inner) * self.kind.itemsize

    def _unpacked(self) -> int:
        """A quantised layer's weights as they are multiplied with."""
        if self.precision not in QUANTISED:
            return 0
        return int(self.width * self.text.inner * self.kind.itemsize)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a device has left now; of the machine's memory at most what this process may use."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [value for value in (_meminfo(), cgroup_left()) if value is not None]
    if found:
        return min(found)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not a POSIX system
        return None


def _meminfo() -> int | None:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", path.read_text())
    return int(found[1]) * 1024 if found else None


def cgroup_left(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of the container leaves; page cache counts as free, since it gives way."""
    limit, used = root / "memory.max", root / "memory.current"
    if not limit.is_file() or not used.is_file() or (most := limit.read_text().strip()) == "max":
        return None
    stat = root / "memory.stat"
    cache = re.search(r"^inactive_file (\d+)$", stat.read_text(), re.M) if stat.is_file() else None
    return max(0, int(most) - int(used.read_text()) + (int(cache[1]) if cache else 0))
