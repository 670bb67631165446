"""Tokens and bytes of a conversation, estimated before anything is decoded, downloaded or loaded.

Shapes are read off the model on the meta device. Weights, adapters and KV caches follow from them.
Activations are the largest of three peaks: one pass of the vision tower, the LLM's reading of the prompt (in
the tensors that are alive there at once), the drawing of a sense. What stays between answers is counted
beside them: streams, and the KV caches of the conversation without each sense. The total is within 15 % of
measured peaks of small checkpoints, 4 to 64 frames in every precision (tests/backbones/test_estimate.py).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lynx import modalities
from lynx.backbones import CATALOG, Backbone, skeleton
from lynx.backbones.kv_cache import MAX_BYTES
from lynx.backbones.memory import free_bytes, gradient_bytes
from lynx.backbones.quantization import QUANTIZED, check_device, dtype_of, pick_device, pick_precision
from lynx.config import Checkpointing
from lynx.errors import DataError
from lynx.media.thumbnails import THUMBNAIL_PIXELS
from lynx.types import VIDEO, sample_times

TEXT_TOKENS = 256
"""Tokens allowed for a question, its template and an answer."""
NF4_BLOCK = 64
"""Weights that share one float32 scale in nf4."""
NF4_CODES = 16
"""Values that an nf4 weight can have, in a float32 table of each layer."""


@dataclass(frozen=True)
class Estimate:
    """An estimate for one conversation; sizes in bytes."""

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
    kv_cache: int  # of the answer that is computed
    activations: int
    kept: int  # streams with their pictures, and the KV caches of other choices of senses
    available: int | None  # on the device now; None where that is not known

    @property
    def total(self) -> int:
        """Bytes of everything at its peak."""
        return self.weights + self.adapters + self.kv_cache + self.activations + self.kept

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
        """The estimate as a sentence."""
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
        return {**asdict(self), "total": self.total, "fits": self.fits, "sentence": self.sentence}


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
    """Estimate tokens and bytes of a conversation about a video and further senses.

    source: as `lynx.load` takes it. senses: those beside the video, each with an adapter of that rank.
    size: (height, width) of the video's frames, which matters where they keep their shape. seconds: of the
    clip, which matters to the drawing of a sense.
    Raises: BackboneError: not a known backbone, or a precision that the device cannot do.
    """
    target = pick_device(device)
    backbone = skeleton(source)
    precision = pick_precision(precision, backbone.model.config, str(source))
    check_device(precision, target)
    dtype = dtype_of(precision, backbone.model.config, target)
    frames = frames or backbone.default_frames
    tokens = {VIDEO: backbone.tokens(frames, size)} | {sense: backbone.tokens(frames) for sense in senses}
    captions = backbone.captions(sample_times(seconds, frames))
    length = sum(tokens.values()) + captions + TEXT_TOKENS

    costs = Costs(backbone, precision, dtype, adapted=bool(senses))
    shapes = [shape for part in ("vision", "llm") for shape in backbone.lora_shapes(part, rank).values()]
    peaks = [costs.prefill(length, media=sum(tokens.values())), costs.vision(frames, size)]
    streams = sum(tokens.values()) * backbone.token_width * dtype.itemsize
    copied = 0  # LLM LoRAs that are on together, or are in another precision than the LLM
    if len(senses) > 1 or (senses and costs.lora_bytes > dtype.itemsize):
        llm = sum(map(math.prod, backbone.lora_shapes("llm", rank).values()))
        copied = len(senses) * llm * dtype.itemsize
    if senses:
        peaks.append(costs.vision(frames, adapted=True))
    if target.type == "cpu":  # on a GPU, pictures are drawn and kept in the CPU's memory
        shown = min(math.prod(size), THUMBNAIL_PIXELS) if size else THUMBNAIL_PIXELS
        streams += 3 * frames * shown
        for sense in senses:
            try:
                kinds = [modalities.get(sense)]
            except DataError:  # an adapter's name; not read here, so assume the costliest modality
                kinds = list(modalities.REGISTRY.values())
            peaks += [kind.drawing_bytes(seconds) for kind in kinds]
            streams += max(kind.picture_bytes(frames, seconds) for kind in kinds)
    # Each sense may have been switched off before: the cache of the rest is kept while this one is filled.
    others = sum(costs.kv_cache(length - tokens[sense]) for sense in senses)
    return Estimate(
        backbone=str(source),
        precision=precision if precision != "auto" else {torch.float32: "fp32"}.get(dtype, "bf16"),
        device=str(target),
        frames=frames,
        tokens=tokens,
        captions=captions,
        context=backbone.context,
        media_context=backbone.media_context,
        weights=costs.weights(),
        adapters=len(senses) * costs.lora_bytes * sum(map(math.prod, shapes)),
        kv_cache=costs.kv_cache(length),
        activations=max(peaks),
        kept=streams + copied + min(others, MAX_BYTES),
        available=free_bytes(target),
    )


def describe(name: str) -> dict[str, Any]:
    """A catalog row with what its geometry says: tokens a frame, gigabytes a precision, LoRA targets."""
    row, backbone = CATALOG[name], skeleton(name)
    cpu = torch.device("cpu")
    precisions = {name: dtype_of(name, backbone.model.config, cpu) for name in ("fp32", "bf16")}
    precisions |= dict.fromkeys(QUANTIZED, torch.bfloat16)
    return {
        "hub_id": row.source,
        "revision": row.revision or "the newest",
        "family": row.family,
        "license": row.license,
        "tokens_a_frame": (backbone.tokens(4) - backbone.tokens(2)) / 2,
        "weights_gb": {
            name: round(Costs(backbone, name, dtype, False).weights() / 1e9, 2)
            for name, dtype in precisions.items()
        },
        "lora_targets": {"vision": backbone.vision_targets, "llm": backbone.llm_targets},
        "note": row.note,
    }


class Costs:
    """Bytes that a backbone on the meta device would take in a precision."""

    def __init__(self, backbone: Backbone, precision: str, dtype: torch.dtype, adapted: bool) -> None:
        self.backbone, self.precision, self.adapted = backbone, precision, adapted
        self.text = backbone.text_sizes(backbone.model.config)
        self.width, self.itemsize = self.text.hidden, dtype.itemsize
        self.lora_bytes = 4 if precision in QUANTIZED else dtype.itemsize  # of a weight

    def weights(self) -> int:
        """Bytes of all tensors of the model, shared ones once."""
        total = 0
        for name, weight in self.backbone.model.named_parameters():
            module, _, key = name.rpartition(".")
            count, linear = weight.numel(), re.fullmatch(self.backbone.llm_targets, module)
            if self.precision not in QUANTIZED or not linear or key != "weight":
                total += count * self.itemsize
            elif self.precision == "int8":
                total += count + 4 * weight.shape[0]  # a float32 scale a row
            else:
                total += count // 2 + 4 * math.ceil(count / NF4_BLOCK) + 4 * NF4_CODES
        return total

    def kv_cache(self, length: int) -> int:
        """Keys and values of that many tokens in every layer."""
        return self.text.layers * 2 * self.text.kv_heads * self.text.head_dim * self.itemsize * length

    def prefill(self, length: int, media: int) -> int:
        """Peak bytes in a layer of the LLM while it reads the prompt, the embeddings included.

        media: how many of the prompt's tokens are a sense's.
        """
        inner = self.text.inner * self.itemsize
        row = self._row(self.width, self.text.inner, True, self.adapted) + 2 * self.width * self.itemsize
        # A quantized layer's weights are unpacked to be multiplied with, before the last result is there.
        unpacked = self.width * inner if self.precision in QUANTIZED else 0
        # What is given beside embeddings (Qwen3-VL): in the prompt's rows, taken apart, as stock joins it.
        wide = self.backbone.token_width
        beside = (length * (wide - self.width) + 2 * media * wide) * self.itemsize if wide > self.width else 0
        return max(length * row, length * (row - inner) + unpacked) + beside

    def vision(self, frames: int, size: tuple[int, int] | None = None, adapted: bool = False) -> int:
        """Peak bytes of one pass of the tower, with the clip's pixels; size: as in `tokens`."""
        tower = self.backbone.vision_sizes(self.backbone.model.config)
        pixels = self.backbone.frame_pixels(size, frames)
        steps = math.ceil(min(frames, self.backbone.frames_per_pass) / tower.frames_per_patch)
        rows = steps * pixels / tower.patch**2
        layer = self._row(tower.hidden, tower.inner, tower.gated, adapted)
        projector = 2 * (tower.hidden + self.width) * self.itemsize
        return int(rows * max(layer, projector) + frames * 3 * pixels * self.itemsize)

    def _row(self, hidden: int, inner: int, gated: bool, adapted: bool) -> int:
        """Bytes of a token in a feed-forward layer: its input twice, and the activations inside."""
        return (2 * hidden + (2 + gated + adapted) * inner) * self.itemsize


@dataclass(frozen=True)
class TuningEstimate:
    """Bytes that stage 3 takes of each card, for one clip in a forward pass."""

    tokens: int  # of the clip's streams and questions
    weights: int  # frozen ones; where processes divide them, a card's part and two layers that are gathered
    lora: int  # the LLM LoRA with its gradients, copies in fp32 and AdamW's two moments; the vision LoRA
    activations: int

    @property
    def total(self) -> int:
        """Bytes of everything at its peak."""
        return self.weights + self.lora + self.activations


def estimate_tuning(
    source: str | Path,
    *,
    frames: int | None = None,
    senses: int = 1,
    precision: str = "bf16",
    checkpointing: Checkpointing = "non-reentrant",
    rank: int = 64,
    processes: int = 1,
) -> TuningEstimate:
    """Estimate what tuning an LLM LoRA takes of each of `processes` cards that divide the LLM.

    Of the three runs that were measured on a GPU it gives 16.0 GB for 16.0, 80.6 for 72.8, 71.3 for 63.4.
    senses: how many are given beside the video. Raises: BackboneError: as `estimate`. DataError: a quantized
    LLM, which cannot be divided.
    """
    if processes > 1 and precision in QUANTIZED:
        raise DataError(f"an LLM in {precision} cannot be divided among processes, one in bf16 can")
    backbone = skeleton(source)
    dtype = dtype_of(precision, backbone.model.config, torch.device("cuda"))
    backbone.model.to(dtype)
    frames = frames or backbone.default_frames
    costs = Costs(backbone, precision, dtype, adapted=True)
    tokens = (1 + senses) * backbone.tokens(frames) + TEXT_TOKENS
    tokens += backbone.captions(sample_times(60.0, frames))
    shapes = backbone.lora_shapes("llm", rank)
    trained = sum(map(math.prod, shapes.values()))
    vision = sum(map(math.prod, backbone.lora_shapes("vision", rank).values()))
    size = costs.lora_bytes
    kept = trained * (2 * size + 8 + (4 if size < 4 else 0)) + senses * vision * size
    # beside what any gradient keeps: the input of each LoRA, which dropout made another tensor, and its mask
    inputs = sum(shape[1] for name, shape in shapes.items() if ".lora_A." in name)
    inputs *= dtype.itemsize + 1
    if checkpointing != "off":  # of one layer at a time
        inputs //= costs.text.layers
    mask = tokens**2 * (1 + dtype.itemsize)  # which question sees what, and what the product adds of it
    activations = gradient_bytes(backbone, tokens, checkpointing) + tokens * inputs + mask
    weights = costs.weights()
    if processes > 1:
        decoder: Any = backbone.model.get_decoder()
        layers = sum(weight.numel() for weight in decoder.layers.parameters()) * dtype.itemsize
        weights += 2 * layers // costs.text.layers - layers * (processes - 1) // processes
    return TuningEstimate(tokens, weights, kept, activations)
