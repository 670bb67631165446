"""Stage 1, interface guidance: what a frozen encoder's attention and its tokens look like on video.

Of each layer l the mean key K_v(l) and the mean value V_v(l) over frames, kept per head and position, and of
the projected tokens mu_v and var_v, mean and biased variance per channel (arXiv 2606.00508). Nothing is
trained. Means are running means in float32 (tokens: float64), so they stay exact over any number of frames,
and two guidances merge by their counts.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from lynx import modalities
from lynx.adapters.saving import describe_backbone
from lynx.backbones import Backbone
from lynx.backbones.attention import recording
from lynx.config import GuideConfig
from lynx.datasets.base import Example
from lynx.datasets.reading import Drawing, clip_reader
from lynx.errors import DataError, writing
from lynx.model import Lynx
from lynx.training.processes import Processes
from lynx.types import VIDEO, TokenLayout

logger = logging.getLogger(__name__)

FORMAT = "lynx-guidance-1"
AHEAD = 4
"""Clips that are drawn ahead."""


@dataclass(frozen=True)
class Guidance:
    """Stage 1's statistics. `frames` and `tokens` say over how many they were taken.

    keys, values: one a layer, (W, H, n, d) float32: heads H, positions n, width of a head d. W is the number
    of windows of a frame: where a layer attends within windows (Qwen2.5-VL), a position is one of a window,
    and each window has a mean of its own; 1 elsewhere.
    token_mean, token_var: (D,) float32, variance biased.
    backbone: what they were taken from, as adapters describe it.
    stat_newline: whether the moments count a newline token a clip; then alignment counts it, too.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    token_mean: Tensor
    token_var: Tensor
    frames: int
    tokens: int
    backbone: Mapping[str, Any]
    stat_newline: bool = False

    def merge(self, other: "Guidance") -> "Guidance":
        """The guidance of both sets of frames together.

        Raises: DataError: of different backbones, or only one counts newlines.
        """
        if self.backbone.get("fingerprint") != other.backbone.get("fingerprint"):
            raise DataError(
                f"guidance of {self.backbone.get('source')!r} and of {other.backbone.get('source')!r} "
                "cannot be merged: they are of different backbones"
            )
        if self.stat_newline != other.stat_newline:
            raise DataError("only one of the guidances was taken with stat_newline: take both alike")
        frames = self.frames + other.frames
        keys, values = (
            tuple(torch.lerp(a, b, other.frames / frames) for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in ((self.keys, other.keys), (self.values, other.values))
        )
        mean, deviations, count = _merge_moments(
            (self.token_mean.double(), self.token_var.double() * self.tokens, self.tokens),
            (other.token_mean.double(), other.token_var.double() * other.tokens, other.tokens),
        )
        var = (deviations / count).float()
        return Guidance(keys, values, mean.float(), var, frames, count, self.backbone, self.stat_newline)

    def together(self, processes: Processes) -> "Guidance":
        """The guidance of all processes' frames, of which this is one's share."""
        counts = processes.gather((self.frames, self.tokens))
        frames, tokens = (sum(each) for each in zip(*counts, strict=True))

        def mean(own: Tensor, share: float) -> Tensor:
            return processes.sum(own.double() * share)

        share = self.frames / frames
        keys, values = (
            tuple(mean(each, share).float() for each in kind) for kind in (self.keys, self.values)
        )
        share = self.tokens / tokens
        token_mean = mean(self.token_mean, share)
        apart = (self.token_mean - token_mean).square()  # how far this share's mean is from that of all
        var = mean(self.token_var + apart, share).float()
        return replace(
            self, keys=keys, values=values, token_mean=token_mean.float(), token_var=var,
            frames=frames, tokens=tokens,
        )  # fmt: skip

    def check(self, backbone: Backbone) -> None:
        """Raises: DataError where these statistics are not of this backbone."""
        mine, theirs = self.backbone.get("fingerprint"), backbone.fingerprint()
        if mine != theirs:
            raise DataError(
                f"the guidance was taken from {self.backbone.get('source')!r} ({mine}), "
                f"not from {backbone.source!r} ({theirs}): run `lynx guide` with this backbone"
            )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file: keys and values in float16, moments in float32.

        Raises: DataError: a mean that float16 cannot hold.
        """
        path = Path(path)
        tensors = {"token_mean": self.token_mean, "token_var": self.token_var}
        for kind, layers in (("key", self.keys), ("value", self.values)):
            for layer, mean in enumerate(layers):
                if not mean.abs().max() <= torch.finfo(torch.float16).max:  # also of nan
                    raise DataError(f"the mean {kind} of layer {layer} is not finite in float16")
                tensors[f"{kind}.{layer:03d}"] = mean.half()
        counts = {"frames": self.frames, "tokens": self.tokens, "backbone": dict(self.backbone)}
        counts |= {"stat_newline": True} if self.stat_newline else {}
        partial = path.with_name(path.name + ".part")
        tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        with writing(path, DataError, (SafetensorError,)):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, partial, metadata={"format": FORMAT, "lynx": json.dumps(counts)})
            partial.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Guidance":
        """Read what `save` wrote. Raises: DataError: not such a file."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise DataError(f"{path} is no guidance (format {metadata.get('format')!r})")
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise DataError(f"cannot read the guidance {path}: {error}; `lynx guide` writes one") from error
        layers = sorted(name for name in tensors if name.startswith("key."))
        try:
            keys = tuple(tensors[name] for name in layers)
            values = tuple(tensors[name.replace("key", "value")] for name in layers)
            counts = json.loads(metadata["lynx"])
            return cls(keys, values, tensors["token_mean"], tensors["token_var"], **counts)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{path} is no whole guidance: {error!r}; `lynx guide` writes one") from error


Moments = tuple[Tensor, Tensor, int]
"""Mean (D,), sum of squared deviations from it (D,), and the number of tokens they are of."""


def _merge_moments(a: Moments, b: Moments) -> Moments:
    """The moments of two sets together (Chan, Golub and LeVeque, 1979): no sum of squares that cancels."""
    count = a[2] + b[2]
    delta = b[0] - a[0]
    return a[0] + delta * (b[2] / count), a[1] + b[1] + delta**2 * (a[2] * b[2] / count), count


def counted_tokens(tokens: Tensor, layout: TokenLayout, newlines: int = 0) -> Tensor:
    """The tokens of frames among tokens (n, D), and so many of the newline token that ends a clip.

    A newline shows nothing; the released code counts one a clip all the same (`stat_newline`).
    Raises: DataError: newlines are asked for, and this backbone has none.
    """
    on_frames = (layout.frame >= 0).to(tokens.device)
    if not newlines:
        return tokens[on_frames]
    if bool(on_frames.all()):
        raise DataError("stat_newline: the clips of this backbone end in no newline token; leave it out")
    return torch.cat([tokens[on_frames], tokens[~on_frames][-1:].expand(newlines, -1)])


class Accumulator:
    """Gathers a `Guidance`: `add_attention` from the attention layers, `add_tokens` from the projector."""

    def __init__(self, windows: Sequence[int]) -> None:
        """windows: into how many each layer divides a frame."""
        self.windows = windows
        self._means: list[tuple[Tensor, Tensor, int] | None] = [None] * len(windows)
        self._moments: Moments | None = None

    def add_attention(
        self, layer: int, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, output: Tensor
    ) -> None:
        """Take in one call of one layer: key, value (B * W, H, n, d), B frames of W windows."""
        frames = len(key) // self.windows[layer]
        new_keys, new_values = (
            tensor.detach().unflatten(0, (frames, -1)).sum(0, dtype=torch.float32) for tensor in (key, value)
        )  # (W, H, n, d) each, the sum over frames
        old = self._means[layer]
        if old is None:
            self._means[layer] = (new_keys / frames, new_values / frames, frames)
            return
        keys, values, seen = old
        if keys.shape != new_keys.shape:
            raise DataError(
                f"layer {layer} saw keys {tuple(new_keys.shape)} after {tuple(keys.shape)}: "
                "all frames must have one resolution"
            )
        # A running mean, in place: sums over many thousand frames would outgrow float32's digits.
        count = seen + frames
        keys += (new_keys - keys * frames) / count
        values += (new_values - values * frames) / count
        self._means[layer] = (keys, values, count)

    def add_tokens(self, tokens: Tensor) -> None:
        """Take in projected tokens (n, D)."""
        tokens = tokens.detach().double()
        mean = tokens.mean(0)  # (D,)
        new = (mean, (tokens - mean).square().sum(0), len(tokens))
        self._moments = new if self._moments is None else _merge_moments(self._moments, new)

    def result(self, backbone: Mapping[str, Any]) -> Guidance:
        """The guidance gathered so far. Raises DataError where a layer saw nothing."""
        means = [mean for mean in self._means if mean is not None]
        if self._moments is None or len(means) < len(self._means):
            raise DataError("no frames went through the encoder: there is nothing to take guidance from")
        mean, deviations, tokens = self._moments
        keys, values = tuple(k.cpu() for k, _, _ in means), tuple(v.cpu() for _, v, _ in means)
        var = (deviations / tokens).float()
        return Guidance(keys, values, mean.float().cpu(), var.cpu(), means[0][2], tokens, backbone)


@torch.no_grad()
def guide(
    model: Lynx,
    examples: Sequence[Example],
    config: GuideConfig | None = None,
    progress: bool = True,
    *,
    workers: int | None = None,
) -> Guidance:
    """The guidance of a backbone over the video of `examples`, through the encoder without any LoRA.

    Processes that were launched together take a share of the clips each, and all return the same.
    workers: see `clip_reader`; no result depends on them.
    Raises: DataError: there are no clips, or fewer than processes.
    """
    config, processes = config or GuideConfig(), Processes(model.backbone.device)
    if len(examples) < processes.count and processes.count > 1:
        raise DataError(f"{len(examples)} clips are too few for {processes.count} processes: start fewer")
    mine = processes.share(range(len(examples)))
    backbone, video = model.backbone, modalities.get(VIDEO)()
    layers = range(len(backbone.vision_attention_modules()))
    accumulator = Accumulator([backbone.windows(layer) for layer in layers])

    def encode(frames: Sequence[Tensor], clips: int = 0) -> None:
        tokens, layout = backbone.encode(torch.cat(list(frames)))  # (n, D)
        accumulator.add_tokens(counted_tokens(tokens, layout, clips if config.stat_newline else 0))

    # Frames are collected across clips, so that short clips fill a batch too; batches are even, since some
    # families merge two frames into a token.
    size = config.batch_size + config.batch_size % 2
    waiting: list[Tensor] = []
    moments, count = config.frames or backbone.default_frames, len(mine)
    drawings = (Drawing({VIDEO: video}, examples[i], moments) for i in mine)
    with (
        model.sensing(VIDEO),
        recording(backbone, vision=accumulator.add_attention),
        clip_reader(workers, examples, count, backbone.device, processes.count) as reader,
    ):
        drawn = reader.read(drawings, AHEAD)
        for clip in tqdm(drawn, "guide", count, unit="clip", disable=None if progress else True):
            # The one resolution of all pseudo-frames, not the video's own: a mean needs equal positions.
            waiting += backbone.pixels(clip[VIDEO].pixels).split(1)
            while len(waiting) > size:
                encode(waiting[:size])
                del waiting[:size]
        if waiting:
            encode(waiting, clips=len(mine))
    guidance = replace(accumulator.result(describe_backbone(backbone)), stat_newline=config.stat_newline)
    guidance = guidance.together(processes) if processes.count > 1 else guidance
    logger.info("guidance over %d frames, %d tokens", guidance.frames, guidance.tokens)
    return guidance
