"""Where the tokens of a clip lie: among the vocabulary, and among tokens of ordinary videos.

The paper's claim is that a Video LLM's tokens fill a region of their own in its embedding space, far from
its words, and that an aligned sense lies there too. Here are the figures of one clip, with its senses as they
are and with their vision LoRAs off ("not aligned"), and the directions of the tokens on a map of two axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lynx.backbones import Backbone
from lynx.datasets.sources import open_data
from lynx.session import Session
from lynx.streams.encoder import StreamEncoder, join, pool
from lynx.training.guidance import Guidance
from lynx.training.losses import statistics_loss
from lynx.types import VIDEO, Frames, Stream, sample_times
from lynx.visualization.interface_map import REFERENCE, VOCABULARY, Figures, Group, InterfaceMap

POINTS = 256
"""Maximum tokens of a group that are drawn and determine the axes, so that groups have equal weight."""
ROWS = 4096
"""Maximum number of tokens normalized at once: bounds the memory that a large vocabulary takes."""
WORLD_CLIPS = 16
"""Clips of the miniature world that are the reference of the backbone trained on it."""


@dataclass(frozen=True)
class Reference:
    """Interface tokens (n, R) of ordinary videos, and a label for them."""

    tokens: Tensor
    label: str


class _Tokens:
    """Tokens (n, R) that become a `Group`, with their mean direction and their mean length.

    Both are of their first D numbers, which words have too: see `Stream`.
    """

    def __init__(self, sense: str, label: str, tokens: Tensor, width: int, aligned: bool = True) -> None:
        self.sense, self.label, self.aligned, self.tokens = sense, label, aligned, tokens
        self.shown = tokens[:, :width]
        self.mean, self.norm = torch.zeros(width, dtype=torch.float64), 0.0
        for rows in self.shown.split(ROWS):
            part = rows.float()
            self.norm += float(part.norm(dim=1).double().sum()) / len(tokens)
            self.mean += F.normalize(part, dim=1).double().sum(0).cpu() / len(tokens)

    def distance(self, other: "_Tokens") -> float:
        """Mean cosine distance over all pairs: 1 - the product of the mean directions, without any pair.

        To itself: over the pairs of two different tokens.
        """
        distance = float(1 - self.mean @ other.mean)
        n = len(self.tokens)
        return distance * n / max(1, n - 1) if self is other else distance

    def sample(self) -> Tensor:
        """Up to POINTS of them, evenly chosen, as directions: (m, D) float64 on the CPU."""
        index = torch.linspace(0, len(self.shown) - 1, min(len(self.shown), POINTS)).round().long()
        return F.normalize(self.shown[index.to(self.shown.device)].cpu().double(), dim=1)


def measure_interface(
    session: Session, reference: Reference | None = None, guidance: Guidance | None = None
) -> InterfaceMap:
    """Compare the tokens of a session's senses, aligned and not, with each other and with the vocabulary.

    reference: by default clips of the miniature world for the backbone trained on it, else the clip's own
    video. guidance: replaces the reference in L_stat, since its mean and variance were the target of
    alignment. The clip is encoded if it is not yet, and read once more for each sense that was aligned.
    Raises: LynxError: media that cannot be read, a guidance of another backbone.
    """
    model = session.model
    if guidance is not None:
        guidance.check(model.backbone)
    if reference is None and model.backbone.words is not None:
        frames = _world_frames()
        stream = model.stream(VIDEO, frames, frames.times)  # cached by the model, as a clip's is
        reference = Reference(_on_frames(stream), f"{WORLD_CLIPS} other videos")
    kinds = _kinds(session, reference)
    named = {kind.sense: kind for kind in kinds if kind.aligned}
    words, video = named[VOCABULARY], named.get(VIDEO)
    near = named.get(REFERENCE, video)
    goal = None  # mean and variance (D,) that L_stat compares with
    if guidance is not None:
        goal = guidance.token_mean, guidance.token_var
    elif near is not None:
        tokens = near.tokens.float().cpu()
        goal = tokens.mean(0), tokens.var(0, correction=0)
    points, explained = principal_axes([kind.sample() for kind in kinds])
    groups = []
    for kind, where in zip(kinds, points, strict=True):
        spread = kind.distance(kind)
        # Words are not meant to have the statistics of videos.
        statistics = float(statistics_loss(kind.tokens.cpu(), *goal)) if goal and kind is not words else None
        figures = Figures(
            tokens=len(kind.tokens), norm=kind.norm, to_itself=spread, to_vocabulary=kind.distance(words),
            to_reference=kind.distance(near) if near else None,
            to_video=kind.distance(video) if video else None,
            gap=kind.distance(near) - (spread + near.distance(near)) / 2 if near else None,
            statistics=statistics,
        )
        groups.append(Group(kind.sense, kind.label, kind.aligned, where, figures))
    label = reference.label if reference is not None else "this clip's own video" if video else None
    return InterfaceMap(tuple(groups), label, explained)


@lru_cache(maxsize=1)
def _world_frames() -> Frames:
    """The frames of clips of the miniature world, one after the other, drawn in memory."""
    clips = open_data("world", split="validation", n=WORLD_CLIPS, senses=(VIDEO,))
    videos = [media for clip in clips if isinstance(media := clip.media[VIDEO], Frames)]
    pixels = torch.cat([frames.pixels for frames in videos])
    duration = sum(frames.duration for frames in videos)
    return Frames(pixels, sample_times(duration, len(pixels)), duration)


def _kinds(session: Session, reference: Reference | None) -> list[_Tokens]:
    """The vocabulary, the reference, then each sense, before its alignment and after it."""
    model, backbone = session.model, session.model.backbone
    width = backbone.width
    kinds = [_Tokens(VOCABULARY, "words", vocabulary(backbone), width)]
    if reference is not None:
        kinds.append(_Tokens(REFERENCE, reference.label, reference.tokens, width))
    for sense, stream in session.encode().items():
        if not session.senses[sense]:
            continue
        modality = model.modality(sense)
        label = modality.label if sense == modality.name else f"{modality.label} ({sense})"
        if sense != VIDEO and "vision" in model.parts(model.adapter(sense).name):
            plain = unaligned(model, sense, session.media[sense], session.plan.times)
            kinds.append(_Tokens(sense, f"{label}, not aligned", _on_frames(plain), width, aligned=False))
        kinds.append(_Tokens(sense, label, _on_frames(stream), width))
    return kinds


def vocabulary(backbone: Backbone) -> Tensor:
    """The input embeddings (n, D) of all that the tokenizer knows, or of the words the backbone was taught.

    Embeddings that were never trained all point one way: they would make the vocabulary look compact.
    """
    embeddings: Tensor = backbone.model.get_input_embeddings().weight.detach()
    if backbone.words is None:
        return embeddings[: len(backbone.tokenizer)]
    ids = backbone.tokenizer(sorted(backbone.words), add_special_tokens=False)["input_ids"]
    return embeddings[sorted({token for word in ids for token in word})]


@torch.no_grad()
def unaligned(model: StreamEncoder, sense: str, source: Any, times: Tensor) -> Stream:
    """The stream that a sense would have at `times` (T,) seconds without its vision LoRA."""
    backbone, size = model.backbone, model.backbone.frames_per_pass
    frames = model.modality(sense).render(source, times)
    with model.sensing(VIDEO):
        parts = [backbone.encode(backbone.pixels(part)) for part in frames.pixels.split(size)]
    tokens, layout = join(parts, size)
    seconds, duration = layout.seconds(frames.times), frames.duration
    stream = Stream(sense, tokens, seconds, layout.cell, layout.grid, frames, duration=duration)
    return pool(stream, model.adapter(sense).token_pooling)


def _on_frames(stream: Stream) -> Tensor:
    """The tokens (n, R) of a stream without its newlines."""
    return stream.tokens[~stream.times.isnan().to(stream.tokens.device)]


def principal_axes(groups: Sequence[Tensor]) -> tuple[list[Tensor], tuple[float, float]]:
    """The two axes along which all groups' points (m, D) together vary most: each group's (m, 2), shares.

    The sign of an axis is such that the first group's point farthest out on it is on the negative side.
    """
    points = torch.cat(list(groups))
    points = points - points.mean(0)
    values, vectors = torch.linalg.eigh(points @ points.T)  # as many rows as points: D may be thousands
    values, vectors = values.clamp(min=0).flip(0), vectors.flip(1)
    flat = vectors[:, :2] * values[:2].sqrt()  # (all points, 2)
    first = flat[: len(groups[0])]
    far = first.gather(0, first.abs().argmax(0, keepdim=True))
    flat = torch.where(far > 0, -flat, flat)
    shares = values[:2] / values.sum().clamp(min=1e-12)
    return list(flat.split([len(group) for group in groups])), (float(shares[0]), float(shares[1]))
