"""Before a run: what its data would ask of the backbone and of the disk, without any weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lynx.backbones.estimate import estimate
from lynx.backbones.loading import read_words
from lynx.datasets.base import Example
from lynx.datasets.checking import Summary, find_damaged, summarize
from lynx.errors import DataError
from lynx.training.questions import needs_new_sense, refuse_unknown_words, training_clip
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
    problems = [f"damaged: {each}" for each in summary.damaged]
    for sense in senses or (VIDEO,):
        if not summary.media.get(sense):
            problems.append(f"no example has {sense!r}")
    tokens = {sense: backbone.tokens(frames) for sense in needed}
    captions = backbone.captions(sample_times(60.0, frames))  # of a minute: minutes take the same
    longest = 0
    if asks:
        found = (training_clip(example, senses, example.id) for example in examples)
        clips = [clip for clip in found if clip is not None]
        if not any(needs_new_sense(turn, senses) for clip in clips for turn in clip.turns):
            problems.append(f"no question needs {' or '.join(senses)}, with its media there")
        if not allow_unknown_words:
            try:
                refuse_unknown_words(backbone, clips)
            except DataError as error:
                problems.append(str(error))
        for clip in clips:
            media = sum(tokens[sense] for sense in clip.senses)
            media += captions if VIDEO in clip.senses else 0
            for turn in clip.turns:
                prompt = backbone.prompt_ids([{"role": "user", "content": turn.question}], with_media=True)
                longest = max(longest, media + len(prompt) + len(backbone.answer_ids(turn.answer)))
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


def _kept(examples: Sequence[Example], tokens: Mapping[str, int], bytes_a_token: int) -> int:
    """Bytes of the streams of all examples in fp32, each medium once for an example."""
    return sum(tokens.get(sense, 0) * bytes_a_token for example in examples for sense in example.media)
