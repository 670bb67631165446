"""Measures a sense or a backbone on clips never seen in training: H.264 and AAC, read as a user's."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lynx.errors import DataError
from lynx.evaluation.batch_answers import answer_alone, answer_batch
from lynx.evaluation.metrics import Scores, score
from lynx.model import Lynx
from lynx.training.processes import Processes
from lynx.types import VIDEO, Prompt
from lynx.world.balanced_sampling import Question, sample_balanced, split_evenly, subsample, types_for
from lynx.world.dataset import RENDERERS
from lynx.world.files import default_cache, sense_path, stream_clips

SPLIT = "test"
MEASURED = tuple(sense for sense in RENDERERS if sense != VIDEO)
"""The senses with files: the clip itself, or files beside it."""
BATCH = 12
"""Questions answered in one batch."""
Progress = Callable[[int, int], None]
"""Called with the numbers of clips done and of all clips."""
Senses = tuple[str, ...]
Answers = dict[Question, str]


@dataclass(frozen=True)
class Cells:
    """Number of questions of each type in each cell of the results."""

    needed: Mapping[str, int]  # they need the sense, alone or with video
    both: Mapping[str, int]  # they need the sense and video
    seen: Mapping[str, int]  # they need video alone

    @classmethod
    def of(cls, modality: str, n: int) -> "Cells":
        """`n` questions a cell, shared evenly among its types."""
        senses = (VIDEO, modality)
        wanted = ((senses, (modality,)), (senses, senses), ((VIDEO,), (VIDEO,)))
        return cls(*(split_evenly(n, types_for(has, needs)) for has, needs in wanted))

    @property
    def together(self) -> dict[str, int]:
        """Questions of each type that all cells can be taken from."""
        cells = (self.needed, self.both, self.seen)
        return {name: max(cell.get(name, 0) for cell in cells) for every in cells for name in every}


@dataclass(frozen=True)
class AllAnswers:
    """The answers by the senses that were `given`, their adapters on, and under two more conditions.

    withheld: by a sense whose adapter was on while only the video was given. stock: about video alone, one
    question at a time through transformers' own `generate`, all adapters off: the stock model, bit for bit.
    """

    given: dict[Senses, Answers] = field(default_factory=lambda: defaultdict(dict))
    withheld: dict[str, Answers] = field(default_factory=lambda: defaultdict(dict))
    stock: Answers = field(default_factory=dict)

    def together(self, processes: Processes) -> "AllAnswers":
        """Those of all processes."""
        everything = AllAnswers()
        for given, withheld, stock in processes.gather((dict(self.given), dict(self.withheld), self.stock)):
            for senses, answers in given.items():
                everything.given[senses].update(answers)
            for sense, answers in withheld.items():
                everything.withheld[sense].update(answers)
            everything.stock.update(stock)
        return everything


def evaluate(
    model: Lynx, modality: str, n: int = 1000, seed: int = 0, progress: Progress | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure a modality: `n` questions in every cell, accuracies 0..1, answers balanced within each type.

    `with`: questions that need the modality (some need video too), video and modality given, adapter on;
    `without`: the same on video alone, adapters off; `withheld`: on video alone, adapter on, so that the
    words are known and the sense is missing; `both_senses`: questions that need video and modality, in a cell
    of their own (None if there are none); `video_only_on`, `_off`: questions on video, likewise;
    `video_only_stock`: the same one by one, see `AllAnswers.stock`; `chance`: the best guess from the picture
    alone (`balanced_sampling.py`).

    Raises: DataError if the world asks nothing about the modality; AdapterError if the model has none for it.
    """
    cells = Cells.of(modality, n)
    if not cells.needed or modality not in MEASURED:
        raise DataError(f"the world's clips are evaluated for {', '.join(MEASURED)}, not for {modality!r}")
    model.adapter(modality)
    questions = sample_balanced(cells.together, SPLIT, seed)
    conditions = dict.fromkeys(questions, ((VIDEO, modality), (VIDEO,)))
    answers = collect_answers(model, (modality,), conditions, seed, progress, cache)
    return {"modality": modality, "n": n, "seed": seed, **summarize(modality, cells, questions, answers)}


def evaluate_backbone(
    model: Lynx, n: int = 5000, seed: int = 0, progress: Progress | None = None, cache: Path | None = None
) -> dict[str, Any]:
    """Measure a backbone on video alone, adapters off: `n` questions, evenly of every type."""
    questions = sample_balanced(split_evenly(n, types_for((VIDEO,), (VIDEO,))), SPLIT, seed)
    conditions = dict.fromkeys(questions, [(VIDEO,)])
    answers = collect_answers(model, (), conditions, seed, progress, cache, stock=False)
    scores = score_questions(questions, answers.given[VIDEO,])
    return {"backbone": str(model.backbone.source), "seed": seed, **scores.to_dict()}


def collect_answers(
    model: Lynx, senses: Sequence[str], conditions: Mapping[Question, Collection[Senses]], seed: int,
    progress: Progress | None = None, cache: Path | None = None, stock: bool = True,
) -> AllAnswers:
    """Ask each question under each of its sets of senses, with the adapters of these alone on; one that needs
    a single new sense also without that sense, its adapter on.

    stock: ask about video through stock `generate` too. Each clip is read and encoded once; questions under
    the same condition are answered side by side. Processes that were launched together take a share of the
    clips each, and all return the same.
    """
    answers, processes = AllAnswers(), Processes(model.backbone.device)
    waiting: dict[tuple[Senses, Senses], dict[Question, Prompt]] = defaultdict(dict)  # by senses and adapters

    def fill(given: Senses, on: Senses) -> None:
        prompts = waiting.pop((given, on))
        with model.using(*on):
            indices = [question.index for question in prompts]
            said = answer_batch(model.backbone, list(prompts.values()), indices)
        column = answers.given[given] if given == on else answers.withheld[on[-1]]
        column.update(zip(prompts, said, strict=True))

    groups: dict[int, list[Question]] = defaultdict(list)
    for question in conditions:
        groups[question.index].append(question)
    mine = processes.share(sorted(groups))
    # The next clips are drawn while one is being asked about.
    clips = stream_clips(SPLIT, seed, mine, cache or default_cache(), senses=senses)
    for number, (index, clip) in enumerate(clips, 1):
        media: dict[str, Any] = {VIDEO: clip, **{sense: sense_path(clip, sense) for sense in senses}}
        streams = model.chat(**media).encode()
        for question in groups[index]:
            message = {"role": "user", "content": question.turn.question}
            added = [sense for sense in question.turn.senses if sense != VIDEO]
            withheld = [((VIDEO,), (VIDEO, *added))] if len(added) == 1 else []
            for given, on in [*((given, given) for given in conditions[question]), *withheld]:
                used = [streams[sense] for sense in given]
                waiting[given, on][question] = model.backbone.compose([message], used)
            if stock and not added:
                with model.using():
                    prompt = model.backbone.compose([message], [streams[VIDEO]])
                    answers.stock[question] = answer_alone(model.backbone, prompt)
        for key in [key for key, prompts in waiting.items() if len(prompts) >= BATCH]:
            fill(*key)
        if progress:
            progress(number, len(mine))
    for key in list(waiting):
        fill(*key)
    return answers.together(processes)


def summarize(
    modality: str, cells: Cells, questions: Sequence[Question], answers: AllAnswers
) -> dict[str, Any]:
    """The figures of `evaluate` from all questions and their answers."""
    on, off = answers.given[VIDEO, modality], answers.given[VIDEO,]
    withheld, stock = answers.withheld[modality], answers.stock
    needed, both, seen = (subsample(questions, cell) for cell in (cells.needed, cells.both, cells.seen))
    columns = {"with": on, "without": off, "withheld": withheld, "stock": stock}
    return {
        "with": accuracy(needed, on),
        "without": accuracy(needed, off),
        "withheld": accuracy(needed, withheld),
        "chance": score_questions(needed, on).overall.chance,
        "both_senses": accuracy(both, on) if both else None,
        "video_only_on": accuracy(seen, on),
        "video_only_off": accuracy(seen, off),
        "video_only_stock": accuracy(seen, stock),
        "by_type": by_type(questions, columns),
    }


def accuracy(questions: Sequence[Question], answers: Answers) -> float:
    """The share of the questions that are answered right, 0..1."""
    return score_questions(questions, answers).overall.accuracy


def score_questions(questions: Sequence[Question], answers: Answers) -> Scores:
    """The scores of answers to all of the questions."""
    turns = [question.turn for question in questions]
    given = [answers[question] for question in questions]
    guesses = [question.guess for question in questions]
    return score(given, [turn.answer for turn in turns], [turn.type for turn in turns], guesses)


def by_type(questions: Sequence[Question], columns: Mapping[str, Answers]) -> dict[str, dict[str, Any]]:
    """Every type: its senses, questions and chance, and the accuracy in each column that answered it."""
    table: dict[str, dict[str, Any]] = {}
    for question in questions:
        table.setdefault(question.turn.type, {"senses": list(question.turn.senses)})
    for name, answers in columns.items():
        answered = [question for question in questions if question in answers]
        for kind, mine in score_questions(answered, answers).by_type.items():
            table[kind] |= {"n": mine.n, "chance": mine.chance, name: mine.accuracy}
    return table
