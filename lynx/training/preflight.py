"""Before a run: what its data would ask of the backbone and of the disk, without any weights."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lynx.adapters.format import Adapter
from lynx.backbones import Backbone
from lynx.backbones.estimate import estimate
from lynx.backbones.loading import read_words
from lynx.backbones.quantization import dtype_of, pick_device, pick_precision
from lynx.config import TuneConfig
from lynx.datasets.base import Example
from lynx.datasets.checking import Check, Summary, find_damaged, summarize
from lynx.errors import DataError, MediaError
from lynx.modalities.video import Video
from lynx.model import Lynx
from lynx.training.packing import Packer
from lynx.training.questions import (
    TrainingClip,
    needs_new_sense,
    refuse_unknown_words,
    training_clip,
)
from lynx.types import VIDEO, sample_times

MINUTE = 60.0
"""Seconds that a recording is taken to last where that is not known."""
SHAPES = ((64, 64), (128, 512), (1024, 1024))
"""(height, width) of frames that are tried: a family that keeps the video's shape has more tokens of some."""
WORDS = 20
"""Unknown words that are listed, at most."""


@dataclass(frozen=True)
class Preflight:
    """What is known before the first step.

    problems: for which the run would end at once or learn something else; none: it is ready. notes: what a
    user should know and nothing is wrong with. longest: tokens of the longest prompt with its answer, of
    `context`. memory: bytes of a conversation with these senses; training takes more. disk: bytes of the
    streams that stage 3 keeps. steps: of a process; 0 where that is not known.
    """

    data: Summary
    problems: tuple[str, ...]
    longest: int
    context: int
    memory: int
    disk: int
    held_out: int = 0
    steps: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"ready": not self.problems, **asdict(self)}


def preflight(
    source: str | Path,
    examples: Sequence[Example],
    senses: Sequence[str],
    *,
    adapters: Mapping[str, Adapter] | None = None,
    held_out: Sequence[Example] = (),
    frames: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    asks: bool = True,
    allow_unknown_words: bool = False,
    config: TuneConfig | None = None,
    val_share: float = 0.0,
    progress: bool = True,
) -> Preflight:
    """Look at a run's data before it begins; recordings are opened, nothing is encoded.

    source: the backbone. senses: those that are trained, or () for guidance. adapters: of these senses how
    they are drawn and pooled, where that is not lynx's default. held_out: clips that are asked and not
    trained on. asks: whether questions are trained on, as in stage 3; then config and val_share say for how
    many steps.
    Raises: BackboneError: a backbone that cannot be read.
    """
    backbone = read_words(source)
    model = Lynx(backbone)
    for sense in senses:
        model.add_adapter((adapters or {}).get(sense) or Adapter(sense, sense))
    needed = (VIDEO, *senses) if asks or not senses else tuple(senses)
    every = [*examples, *held_out]
    check = find_damaged(every, needed, progress)
    summary = summarize(examples, check)
    if not asks:
        summary = replace(summary, elsewhere=0)  # no question is asked
    problems = [f"damaged: {each}" for each in summary.damaged]
    for sense in senses or (VIDEO,):
        if not summary.media.get(sense):
            problems.append(f"no example has {sense!r}")
    longest, disk, steps, aside = 0, 0, 0, 0
    notes: tuple[str, ...] = ()
    if asks:
        sizes = _Sizes(model, needed, frames or backbone.default_frames, check)
        disk = sizes.kept(every) * _itemsize(backbone, precision, device) * backbone.token_width
        clips = [training_clip(example, senses, str(place)) for place, example in enumerate(every)]
        there = [clip for clip in clips if clip is not None]
        longest = max((sizes.longest(clip, every[int(clip.key)]) for clip in there), default=0)
        problems += _wrong_questions(backbone, there, senses, allow_unknown_words)
        notes += _unknown_in_questions(backbone, there)
        trained = [clip for clip in there if int(clip.key) < len(examples)]
        recordings, others = ({_recording(e) for e in part} for part in (examples, held_out))
        if val_share and (aside := max(1, round(val_share * len(recordings)))) >= len(recordings):
            text = f"val_share is {val_share:g}, of {len(recordings)} recordings"
            problems.append(f"{text}: none would be left to train on")
        if seen := len(recordings & others):
            notes += (f"{seen} of {len(others)} held-out recordings are trained on, too",)
        left = len(trained) - round(len(trained) * aside / len(recordings))
        steps = _steps(config, left) if config else 0
        if longest >= backbone.context:
            problems.append(f"the longest prompt has {longest} tokens, {source} takes {backbone.context}")
    return Preflight(
        data=summary,
        problems=tuple(problems),
        longest=longest,
        context=backbone.context,
        memory=estimate(source, frames=frames, senses=senses, precision=precision, device=device).total,
        disk=disk,
        held_out=len(held_out) + aside,
        steps=steps,
        notes=notes,
    )


def _recording(example: Example) -> str:
    """What tells an example's media from others, as far as is known without reading them."""
    media = sorted(example.media.items()) if isinstance(example.media, dict) else example.id
    return example.key or repr(media)


class _Sizes:
    """Tokens of examples' streams, known from lengths and shapes alone."""

    def __init__(self, model: Lynx, senses: Sequence[str], frames: int, check: Check) -> None:
        self.model, self.senses, self.frames, self.check = model, senses, frames, check
        # whether the tokens of a video depend on its frames' shape
        self._own_shape = len({model.backbone.tokens(frames, shape) for shape in SHAPES}) > 1
        self.packer = Packer(model.backbone)
        self._shapes: dict[str, tuple[int, int] | None] = {}

    def of(self, place: int, example: Example) -> tuple[int, dict[str, int]]:
        """How many moments of an example are looked at, and the tokens of each of its senses."""
        try:
            moments = example.moments.count(self.check.lasts.get(place, MINUTE), self.frames)
        except MediaError:  # it ends before its part, which is a problem of its own
            moments = self.frames
        there = [sense for sense in self.senses if sense in set(example.media)]
        return moments, {sense: self._tokens(sense, example, moments) for sense in there}

    def _tokens(self, sense: str, example: Example, moments: int) -> int:
        if not isinstance(example.media, dict):  # another mapping renders on access
            return self.model.tokens(sense, moments)
        source = example.media[sense]
        if sense == VIDEO:
            return self.model.tokens(sense, moments, self._shape(source) if self._own_shape else None)
        try:
            pictures = self.model.modality(sense).pictures(source)
        except MediaError:
            pictures = 1
        return self.model.tokens(sense, moments, pictures=pictures)

    def _shape(self, source: Any) -> tuple[int, int] | None:
        """(height, width) of a video's frames; None where they cannot be read."""
        if (known := repr(source)) not in self._shapes:
            try:
                self._shapes[known] = Video().size(source)
            except (MediaError, OSError):
                self._shapes[known] = None
        return self._shapes[known]

    def kept(self, examples: Sequence[Example]) -> int:
        """Tokens of all streams that are kept: rows about the same moments of the same media share them."""
        found: dict[str, int] = {}
        for place, example in enumerate(examples):
            name = repr((_recording(example), example.moments))
            if name not in found:
                found[name] = sum(self.of(place, example)[1].values())
        return sum(found.values())

    def longest(self, clip: TrainingClip, example: Example) -> int:
        """Tokens of the longest prompt about a clip, with its answer; clip.key: the example's place."""
        backbone = self.model.backbone
        moments, tokens = self.of(int(clip.key), example)
        media = sum(tokens[sense] for sense in clip.senses)
        if VIDEO in clip.senses:
            lasts = self.check.lasts.get(int(clip.key), MINUTE)
            media += backbone.captions(sample_times(lasts, moments))
        asked = map(self.packer.ask, clip.turns)
        return media + max(len(each.prompt) + len(each.answer) for each in asked)


def _steps(config: TuneConfig, clips: int) -> int:
    if config.steps is not None:
        return config.steps
    return math.ceil(config.epochs * clips / (config.batch_size * config.accumulate))


def _itemsize(backbone: Backbone, precision: str, device: str) -> int:
    """Bytes of a number of a stream, in the precision that the run will have."""
    config = backbone.model.config
    picked = pick_precision(precision, config, str(backbone.source))
    return dtype_of(picked, config, pick_device(device)).itemsize


def _wrong_questions(
    backbone: Backbone, clips: Sequence[TrainingClip], senses: Sequence[str], allow_unknown_words: bool
) -> list[str]:
    """What is wrong with the questions of clips that are trained on."""
    problems = []
    if not any(needs_new_sense(turn, senses) for clip in clips for turn in clip.turns):
        problems.append(f"no question needs {' or '.join(senses)}, with its media there")
    try:
        if not allow_unknown_words:
            refuse_unknown_words(backbone, clips)
    except DataError as error:
        problems.append(str(error))
    return problems


def _unknown_in_questions(backbone: Backbone, clips: Sequence[TrainingClip]) -> tuple[str, ...]:
    """A note on words of the questions that a closed vocabulary does not have; none where there are none."""
    turns = [turn for clip in clips for turn in clip.turns]
    lacking = Counter(word for turn in turns for word in backbone.unknown_words(turn.question))
    if not lacking:
        return ()
    listed = ", ".join(f"{word} ({count})" for word, count in lacking.most_common(WORDS))
    more = f" and {len(lacking) - WORDS} more" if len(lacking) > WORDS else ""
    text = f"{backbone.source} was never taught {len(lacking)} of the questions' words: {listed}{more}"
    return (f"{text}; it reads them letter by letter, so that what they mean has to be learned here",)
