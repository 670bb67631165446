"""Asks a model the questions of a data set and scores the answers: the benchmarks, and one's own data.

A clip is read and encoded once for all its questions; questions are answered side by side, greedily
(`batch_answers`).
"""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lynx.config import short_repr
from lynx.datasets.base import LETTERS, Example, Turn
from lynx.datasets.clips import naming
from lynx.datasets.jsonl import paths_of
from lynx.datasets.public import missing_files
from lynx.errors import DataError, MediaError
from lynx.evaluation.batch_answers import answer_batch, likeliest
from lynx.evaluation.predictions import Prediction, PredictionFile
from lynx.evaluation.scorers import Answered
from lynx.evaluation.tuned_on import tuning_role
from lynx.model import Lynx
from lynx.streams.key import sense_digest
from lynx.types import VIDEO, Prompt, Stream

Progress = Callable[[int, int], None]
"""Called with the numbers of clips done and of all clips that are left to this process."""
Senses = tuple[str, ...]
INTERNAL = ("weights", "asked", "rows")
"""Settings that are no part of a report."""
NO_QUESTIONS = "the data have no questions; expected turns with a question and an answer"
SHOWN = 10
"""Maximum missing files that are named."""


@dataclass(frozen=True)
class Question:
    """A question about a clip."""

    id: str
    turn: Turn

    def messages(self, system: str = "") -> list[dict[str, str]]:
        """What the model is told."""
        return [*([{"role": "system", "content": system}] if system else []), *self.turn.messages]


Asked = list[tuple[Example, list[Question]]]
"""The clips with the questions that are asked about each."""


def questions_of(examples: Iterable[Example], dialog: bool = False) -> Asked:
    """The questions of all clips; dialog: the last turn of each, behind the others.

    Raises: DataError: two questions have one id.
    """
    found: Asked = []
    ids: Counter[str] = Counter()
    for number, example in enumerate(examples):
        turns = example.turns
        whole = [
            Question(turn.id or f"{number}-{i}", turn.following(turns[:i]) if dialog else turn)
            for i, turn in enumerate(turns)
        ]
        found.append((example, whole[-1:] if dialog else whole))
        ids.update(question.id for question in found[-1][1])
    if several := [id for id, count in ids.items() if count > 1]:
        raise DataError(
            f"{ids[several[0]]} questions have the id {short_repr(several[0])}: each needs its own"
        )
    return [(example, mine) for example, mine in found if mine]


def draw(asked: Asked, n: int | None, seed: int) -> Asked:
    """`n` of the questions, drawn by `seed`; their clips stay in order."""
    ids = [question.id for _, mine in asked for question in mine]
    if n is None or n >= len(ids):
        return asked
    kept = set(random.Random(seed).sample(ids, n))
    drawn = [(example, [each for each in mine if each.id in kept]) for example, mine in asked]
    return [(example, mine) for example, mine in drawn if mine]


def digest_of(asked: Asked) -> str:
    """32 hex digits of the questions and what is right: a run goes on only with the same."""
    digest = hashlib.blake2b(digest_size=16)
    for example, mine in asked:
        digest.update(repr((example.id, example.moments, mine)).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Setting:
    """How questions are asked, and what is kept of the answers."""

    system: str = ""
    frames: int | None = None  # moments of a clip; None: as the adapter was trained, or the backbone's own
    max_new_tokens: int = 16
    batch_size: int = 8
    choose: str = "answer"  # or "likelihood": the likeliest letter of the options, nothing is written
    allow_missing: bool = False
    """Whether a medium that cannot be read is no error: questions are answered without an added sense, and
    are wrong where none is left."""


Conditions = Callable[[Senses], dict[str, tuple[Senses, Senses]]]
"""From the senses that a clip has: of each condition those given, and those whose adapters are on."""


class _Batches:
    """Questions that wait until as many as are answered side by side have come together."""

    def __init__(self, model: Lynx, file: PredictionFile, setting: Setting) -> None:
        self.model, self.file, self.setting = model, file, setting
        # by the senses whose adapters are on: the row, its prompt and the number of its clip
        self.waiting: dict[Senses, list[tuple[Prediction, Prompt, int]]] = defaultdict(list)

    def add(self, on: Senses, row: Prediction, prompt: Prompt, clip: int) -> None:
        """A question joins the others under the same adapters; they are answered if they are enough."""
        self.waiting[on].append((row, prompt, clip))
        if len(self.waiting[on]) >= self.setting.batch_size:
            self._answer(on)

    def finish(self) -> None:
        """Answer all that still wait."""
        for on in list(self.waiting):
            self._answer(on)

    def _answer(self, on: Senses) -> None:
        rows, prompts, clips = zip(*self.waiting.pop(on), strict=True)
        backbone = self.model.backbone
        with self.model.using(*on):
            if self.setting.choose == "likelihood":
                letters = (LETTERS[: len(row.answered.options)] for row in rows)
                said = [likeliest(backbone, *each) for each in zip(prompts, letters, strict=True)]
            else:
                said = answer_batch(backbone, prompts, clips, self.setting.max_new_tokens)
        self.file.add(row.saying(text) for row, text in zip(rows, said, strict=True))


def answer(
    model: Lynx,
    asked: Asked,
    senses: Senses,
    conditions: Conditions,
    file: PredictionFile,
    setting: Setting,
    progress: Progress | None = None,
) -> list[tuple[str, str]]:
    """Ask every question under every condition, unless `file` has its answer; returns their keys, in order.

    Each of the file's processes asks about a share of the clips that are left; all learn all answers.
    senses: of the media those that are used. Files that are missing are found before the first question.
    Raises: MediaError, naming the example: a medium cannot be read, and `setting.allow_missing` is off.
    """
    if (missing := missing_files([example for example, _ in asked])) and not setting.allow_missing:
        more = f", and {len(missing) - 1} more files" if len(missing) > 1 else ""
        raise DataError(
            f"{missing[0]} does not exist{more}: --allow-missing goes on, and counts their questions as wrong"
        )
    keys: list[tuple[str, str]] = []
    to_do: list[tuple[Example, Senses, list[tuple[Question, str]]]] = []
    for example, mine in asked:
        present = tuple(sense for sense in senses if sense in example.media)
        under = conditions(present)
        pairs = [(question, name) for question in mine for name in under]
        keys += [(question.id, name) for question, name in pairs]
        if new := [(question, name) for question, name in pairs if (question.id, name) not in file.done]:
            to_do.append((example, present, new))
    batches, share = _Batches(model, file, setting), file.processes.share(to_do)
    for number, (example, present, new) in enumerate(share, 1):
        role = tuning_role(model, example, senses)
        left = [(question, _unanswered(question, example, name, role)) for question, name in new]
        clip = _encoded(model, example, present, setting)
        if clip.error:
            file.add(row.failing(clip.error) for _, row in left)
        under = conditions(tuple(clip.streams))
        for question, row in left if not clip.error else ():
            given, on = under[row.condition]
            used = [clip.streams[sense] for sense in given]
            prompt = model.backbone.compose(question.messages(setting.system), used)
            batches.add(on, replace(row, notes=clip.notes, left_out=clip.left_out), prompt, number)
        if progress:
            progress(number, len(share))
    batches.finish()
    file.exchange()
    return keys


def _unanswered(question: Question, example: Example, condition: str, role: str) -> Prediction:
    turn = question.turn
    answered = Answered(
        question.id, "", turn.references, turn.options, turn.type, turn.groups, turn.metric,
        clip=example.id, tuned_on=role,
    )  # fmt: skip
    return Prediction(answered, turn.question, condition)


@dataclass(frozen=True)
class _Clip:
    """The streams of a clip, what a user should know of them, and senses that could not be read; error: why
    there are none.
    """

    streams: Mapping[str, Stream]
    notes: tuple[str, ...] = ()
    left_out: Senses = ()
    error: str = ""


def _encoded(model: Lynx, example: Example, senses: Senses, setting: Setting) -> _Clip:
    """A clip encoded; with `setting.allow_missing` without the added senses that cannot be read."""
    moments = example.moments
    if setting.frames is not None:
        moments = replace(moments, frames=setting.frames, fps=None, max_frames=None)

    def encode(chosen: Senses) -> _Clip:
        media: dict[str, Any] = {sense: example.media[sense] for sense in chosen}
        with naming(example):
            chat = model.chat(**media, **asdict(moments))
            streams = chat.encode()
            return _Clip({sense: streams[sense] for sense in chosen}, chat.plan.notes)

    def problem(chosen: Senses) -> str:
        try:
            encode(chosen)
        except MediaError as error:
            return str(error)
        return ""

    try:
        return encode(senses)
    except MediaError as error:
        if not setting.allow_missing:
            raise
        first = str(error)
    base = tuple(sense for sense in senses if sense == VIDEO)
    if base and (unseen := problem(base)):
        return _Clip({}, error=unseen)
    lost = {sense: why for sense in senses if sense != VIDEO and (why := problem((*base, sense)))}
    if not (kept := tuple(sense for sense in senses if sense not in lost)):
        return _Clip({}, error=first)
    clip = encode(kept)
    return replace(clip, notes=(*clip.notes, *lost.values()), left_out=tuple(lost))


def senses_of(model: Lynx, without: Sequence[str] = ()) -> Senses:
    """The video and what the model has adapters for, without some. Raises: DataError: no such sense."""
    known = tuple(dict.fromkeys((VIDEO, *(adapter.modality for adapter in model.adapters.values()))))
    if unknown := [sense for sense in without if sense not in known]:
        raise DataError(f"there is no {unknown[0]!r} to leave out; the model has {', '.join(known)}")
    if not (left := tuple(sense for sense in known if sense not in without)):
        raise DataError("no sense is left to ask about")
    return left


def identity(model: Lynx, senses: Senses) -> dict[str, Any]:
    """What of a model its answers depend on, as JSON values."""
    return {
        "backbone": str(model.backbone.source),
        "precision": str(model.backbone.dtype).removeprefix("torch."),
        "senses": list(senses),
        "weights": [sense_digest(model, sense).hexdigest() for sense in senses]
        + [digest.hex() for digest in model.llm_identity(*senses)],
    }


def check(examples: Sequence[Example], asked: Asked, system: str = "") -> dict[str, Any]:
    """What a data set has, without a model: questions by type, media found and missing, the first prompt."""
    if not asked:
        raise DataError(NO_QUESTIONS)
    missing = missing_files(examples)
    every = {path for each in examples for source in each.media.values() for path in paths_of(source)}
    kinds = Counter(question.turn.type for _, mine in asked for question in mine)
    first = asked[0][1][0]
    return {
        "clips": len(asked),
        "questions": sum(kinds.values()),
        "by_type": dict(sorted(kinds.items())),
        "media": {"present": len(every) - len(missing), "missing": len(missing)},
        "missing": [str(path) for path in missing[:SHOWN]],
        "first_prompt": first.messages(system),
        "first_answers": list(first.turn.references),
    }


def left_out(predictions: Iterable[Prediction]) -> dict[str, int]:
    """Of each sense how many questions were answered without it, since their clips could not be read so."""
    return dict(Counter(sense for each in predictions for sense in each.left_out))
