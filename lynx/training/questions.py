"""Which clips of a data set stage 3 trains on, and which of their senses and questions a step draws."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from lynx.adapters.tuned_on import TunedOn
from lynx.backbones import Backbone
from lynx.config import Sampling
from lynx.datasets.base import Example, Turn
from lynx.datasets.clips import content_key, recording_key
from lynx.errors import DataError
from lynx.streams.key import recording_digests
from lynx.training.options import Validation
from lynx.training.own_answers import OWN
from lynx.training.processes import Processes
from lynx.types import VIDEO

logger = logging.getLogger(__name__)
OFTEN = 16
"""Questions and answers that teach a word, which a closed vocabulary lacks: in fewer it is only met."""


@dataclass(frozen=True)
class TrainingClip:
    """A clip to train on: its content key, its senses, and the questions that they can answer.

    recording: the key of its media, of which other clips may be other moments. files: digests of what they
    are read from, which clips of other senses may share.
    """

    key: str
    senses: tuple[str, ...]
    turns: tuple[Turn, ...]
    recording: str = ""
    files: frozenset[int] = frozenset()


def training_clip(example: Example, modalities: Sequence[str], key: str) -> TrainingClip | None:
    """An example as a clip to train these senses on; None where its media answer none of its questions."""
    there = set(example.media)  # `in` would make a lazy mapping render
    senses = tuple(sense for sense in (VIDEO, *modalities) if sense in there)
    # Where no new sense is there, a question that does not say what it needs is about what is.
    unsaid = () if not there.isdisjoint(modalities) else senses
    named = (turn if turn.senses else replace(turn, senses=unsaid) for turn in example.turns if senses)
    turns = tuple(turn for turn in named if set(turn.senses) <= set(senses))
    return TrainingClip(key, senses, turns) if turns else None


def needs_new_sense(turn: Turn, modalities: Sequence[str]) -> bool:
    """Whether a question needs a sense that is being trained; one without `senses` does, unless the backbone
    has answered it itself."""
    unsaid = not turn.senses and turn.type != OWN
    return unsaid or not set(modalities).isdisjoint(turn.senses)


def sample_sense_count(modalities: Sequence[str], sampling: Sampling) -> int:
    """How many new senses the clips of a batch show: one, or with chance `sampling.together` two or more.

    The same for all clips of a batch, so that their rows have similar lengths, with little padding.
    """
    several = float(torch.rand(())) < sampling.together
    return int(torch.randint(2, len(modalities) + 1, ())) if several and len(modalities) > 1 else 1


def sample_questions(
    clip: TrainingClip, modalities: Sequence[str], sampling: Sampling, sense_count: int = 1
) -> tuple[tuple[str, ...], list[Turn]]:
    """The senses that a clip shows, `sense_count` of the new ones, and the questions it is asked.

    Drawn by torch's generator. A share `sampling.replay` of the questions needs no new sense, if the clip has
    that many; in all they are at most `sampling.questions`.
    """
    shown = shuffled([sense for sense in clip.senses if sense in modalities])[:sense_count]
    without_video = bool(shown) and float(torch.rand(())) < sampling.drop_video
    turns = [turn for turn in shuffled(clip.turns) if set(turn.senses) <= {VIDEO, *shown}]
    if without_video and (alone := [turn for turn in turns if VIDEO not in turn.senses]):
        return tuple(sense for sense in clip.senses if sense in shown), alone[: sampling.questions]
    new = [turn for turn in turns if needs_new_sense(turn, modalities)]
    old = [turn for turn in turns if not needs_new_sense(turn, modalities)]
    if old and VIDEO in clip.senses and float(torch.rand(())) < sampling.drop_modality:
        shown, new = [], []
    most = sampling.questions or len(new) + len(old)
    if new:
        share = sampling.replay
        # old / (old + new) = share; a clip with fewer old questions still asks its new ones
        wanted = len(old) if share == 1 else round(len(new) * share / (1 - share))
        old = old[: min(wanted, round(most * share))]
        new = [] if share == 1 else new[: most - len(old)]
    senses = tuple(sense for sense in clip.senses if sense not in modalities or sense in shown)
    return senses, [*new, *old[:most]]


def shuffled(items: Sequence[Any]) -> list[Any]:
    """The items in an order drawn by torch's generator."""
    return [items[i] for i in torch.randperm(len(items)).tolist()]


@dataclass
class TrainingData:
    """The clips to train on, those held out, and the examples of both, in this order."""

    clips: list[TrainingClip]
    held_out: list[TrainingClip]
    examples: list[Example]

    @property
    def keys(self) -> list[str]:
        """The content keys of the examples."""
        return [clip.key for clip in (*self.clips, *self.held_out)]

    @property
    def tuned_on(self) -> TunedOn:
        """The recordings of both, for whoever evaluates what comes of them."""
        parts = ((file for clip in clips for file in clip.files) for clips in (self.clips, self.held_out))
        return TunedOn(*map(frozenset, parts))


def training_data(
    examples: Sequence[Example],
    modalities: Sequence[str],
    validation: Validation,
    held_out: Sequence[Example] = (),
    seed: int = 0,
    progress: bool = True,
) -> TrainingData:
    """The clips that have something to ask: of `examples` all but the share that is held out, and those of
    `held_out`. Raises: DataError: no question needs one of the senses, in either part."""
    clips, kept = training_clips(examples, modalities, progress)
    away = hold_out([clip.recording for clip in clips], validation.val_share, seed)
    train = [i for i, clip in enumerate(clips) if clip.recording not in away]
    aside = [i for i, clip in enumerate(clips) if clip.recording in away]
    others, kept_of_others = training_clips(held_out, modalities, progress) if held_out else ([], [])
    data = TrainingData(
        [clips[i] for i in train],
        [*(clips[i] for i in aside), *others],
        [*(examples[kept[i]] for i in (*train, *aside)), *(held_out[i] for i in kept_of_others)],
    )
    for part, name in ((data.clips, "to train on"), (data.held_out, "that are held out")):
        there = any(needs_new_sense(turn, modalities) for clip in part for turn in clip.turns)
        if part and not there:
            needed = f"needs {' or '.join(map(repr, modalities))} and its media"
            raise DataError(f"none of the {len(part)} clips {name} has a question that {needed}")
    trained = {clip.recording for clip in data.clips}
    if seen := sum(clip.recording in trained for clip in data.held_out):
        logger.warning("%d of %d held-out clips are trained on, too", seen, len(data.held_out))
    return data


def hold_out(recordings: Sequence[str], share: float, seed: int) -> set[str]:
    """A share of the recordings, at least one where it is above 0, whatever their order.

    Raises: DataError: none is left.
    """
    there = sorted(set(recordings), key=lambda key: hashlib.blake2b(f"{seed} {key}".encode()).digest())
    count = max(1, round(share * len(there))) if share else 0
    if share and count >= len(there):
        raise DataError(f"val_share is {share:g}, of {len(there)} recordings: none would be left to train on")
    return set(there[:count])


def training_clips(
    examples: Sequence[Example], modalities: Sequence[str], progress: bool
) -> tuple[list[TrainingClip], list[int]]:
    """The clips that have something to ask, and the indices of their examples."""
    clips, kept = [], []
    for i, recording in enumerate(_recording_keys(examples, progress)):
        example = examples[i]
        if clip := training_clip(example, modalities, content_key(example, recording)):
            files = recording_digests(example.media, example.key)
            clips.append(replace(clip, recording=recording, files=files))
            kept.append(i)
    if not any(needs_new_sense(turn, modalities) for clip in clips for turn in clip.turns):
        needed = f"needs {' or '.join(map(repr, modalities))} and its media"
        raise DataError(f"none of the {len(examples)} examples has a question that {needed}")
    return clips, kept


def taught_words(backbone: Backbone, clips: Sequence[TrainingClip]) -> list[str]:
    """The words that a closed vocabulary lacks, and that these clips' questions and answers teach."""
    turns = [f"{turn.question} {turn.answer}" for clip in clips for turn in clip.turns]
    count = Counter(word for turn in turns for word in backbone.unknown_words(turn))
    return sorted(word for word, times in count.items() if times >= OFTEN)


def _recording_keys(examples: Sequence[Example], progress: bool) -> list[str]:
    """The key of each example's media, all of whose bytes are read: by each process of a share of them."""
    processes, silent = Processes(), None if progress else True
    mine = tqdm(processes.share(range(len(examples))), desc="read", unit="clip", disable=silent)
    shares = processes.gather([recording_key(examples[i]) for i in mine])
    return [shares[i % processes.count][i // processes.count] for i in range(len(examples))]


def refuse_unknown_words(backbone: Backbone, clips: Sequence[TrainingClip]) -> None:
    """Raises: DataError: a closed vocabulary lacks words of the answers, so that others would be learned."""
    lacking: dict[str, int] = {}
    for word in (w for clip in clips for turn in clip.turns for w in backbone.unknown_words(turn.answer)):
        lacking[word] = lacking.get(word, 0) + 1
    if lacking:
        often = sorted(lacking, key=lambda word: -lacking[word])
        listed = ", ".join(f"{word} ({lacking[word]})" for word in often[:20])
        more = f" and {len(often) - 20} more" if len(often) > 20 else ""
        raise DataError(
            f"{backbone.source} has a closed vocabulary, which lacks {len(lacking)} of the answers' words: "
            f"{listed}{more}. Take a backbone with an open one, other words, or --allow-unknown-words"
        )
