"""Before a run: what its data would ask of the backbone and of the disk, without any weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lynx.backbones import Backbone
from lynx.backbones.estimate import estimate
from lynx.backbones.loading import read_words
from lynx.datasets.base import Example
from lynx.datasets.checking import Summary, find_damaged, summarize
from lynx.errors import DataError
from lynx.training.questions import (
    TrainingClip,
    needs_new_sense,
    refuse_unknown_words,
    training_clip,
)
from lynx.types import VIDEO, sample_times


@dataclass(frozen=True)
class Preflight:
    """What is known before the first step.

    problems: for which the run would end at once or learn something else; none: it is ready. longest: tokens
    of the longest prompt with its answer, of `context`. memory: bytes of a conversation with these senses;
    training takes more. disk: bytes of the streams that stage 3 keeps.
    """

    data: Summary
    problems: tuple[str, ...]
    longest: int
    context: int
    memory: int
    disk: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"ready": not self.problems, **asdict(self)}


def preflight(
    source: str | Path,
    examples: Sequence[Example],
    senses: Sequence[str],
    *,
    frames: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    asks: bool = True,
    allow_unknown_words: bool = False,
    progress: bool = True,
) -> Preflight:
    """Look at a run's data before it begins; recordings are opened, nothing is encoded.

    source: the backbone. senses: those that are trained, or () for guidance. asks: whether questions are
    trained on, as in stage 3. Raises: BackboneError: a backbone that cannot be read.
    """
    backbone = read_words(source)
    frames = frames or backbone.default_frames
    needed = (VIDEO, *senses) if asks or not senses else tuple(senses)
    check = find_damaged(examples, needed, progress)
    summary = summarize(examples, check)
    if not asks:
        summary = replace(summary, elsewhere=0)  # no question is asked
    problems = [f"damaged: {each}" for each in summary.damaged]
    for sense in senses or (VIDEO,):
        if not summary.media.get(sense):
            problems.append(f"no example has {sense!r}")
    tokens = {sense: backbone.tokens(frames) for sense in needed}
    longest = 0
    if asks:
        found = (training_clip(example, senses, example.id) for example in examples)
        clips = [clip for clip in found if clip is not None]
        longest = _longest(backbone, clips, tokens, frames)
        problems += _wrong_questions(backbone, clips, senses, allow_unknown_words)
        if longest >= backbone.context:
            problems.append(f"the longest prompt has {longest} tokens, {source} takes {backbone.context}")
    return Preflight(
        data=summary,
        problems=tuple(problems),
        longest=longest,
        context=backbone.context,
        memory=estimate(source, frames=frames, senses=senses, precision=precision, device=device).total,
        disk=_kept(examples, tokens, backbone.token_width * 4) if asks else 0,
    )


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


def _longest(
    backbone: Backbone, clips: Sequence[TrainingClip], tokens: Mapping[str, int], frames: int
) -> int:
    """Tokens of the longest prompt with its answer; captions are those of a minute."""
    captions, longest = backbone.captions(sample_times(60.0, frames)), 0
    for clip in clips:
        media = sum(tokens[sense] for sense in clip.senses)
        media += captions if VIDEO in clip.senses else 0
        for turn in clip.turns:
            prompt = backbone.prompt_ids([{"role": "user", "content": turn.question}], with_media=True)
            longest = max(longest, media + len(prompt) + len(backbone.answer_ids(turn.answer)))
    return longest


def _kept(examples: Sequence[Example], tokens: Mapping[str, int], bytes_a_token: int) -> int:
    """Bytes of the streams of all examples in fp32, each medium once for an example."""
    return sum(tokens.get(sense, 0) * bytes_a_token for example in examples for sense in example.media)
