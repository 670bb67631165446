"""Examples for training and evaluation: each is one clip's media with questions about them."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lynx.types import MediaSource, Moments

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Of options, in their order."""
METRICS = ("exact", "contains", "options", "rouge_l", "cider")
"""What a question can ask to be scored by."""


@dataclass(frozen=True)
class Turn:
    """A question with its answer; `senses` are those that an answer needs, () = not known."""

    question: str
    answer: str  # with options, in which the answer is one of them: its letter
    type: str = ""
    senses: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()  # all that are right, `answer` among them; () where it is the only one
    options: tuple[str, ...] = ()  # their texts: A, B, ...; or a closed set of answers
    metric: str = ""  # one of METRICS; "": the right option where there are some, else exact match
    id: str = ""  # of the question, where its data set names it
    groups: tuple[tuple[str, str], ...] = ()  # more that scores are split by: ("duration", "short")
    before: tuple[tuple[str, str], ...] = ()  # questions and answers of the conversation that it follows

    @property
    def references(self) -> tuple[str, ...]:
        """All answers that are right."""
        return self.answers or (self.answer,)

    @property
    def messages(self) -> list[dict[str, str]]:
        """What is said up to the question: the conversation with its given answers, and the question."""
        told = []
        for question, answer in self.before:
            told.append({"role": "user", "content": question})
            told.append({"role": "assistant", "content": answer})
        return [*told, {"role": "user", "content": self.question}]

    def following(self, turns: "Iterable[Turn]") -> "Turn":
        """The turn behind others, with their true answers."""
        return replace(self, before=tuple((turn.question, turn.answer) for turn in turns))


@dataclass(frozen=True)
class Prompt:
    """How a question is asked: a template with {question} and {options}, and that of one option's line.

    system: the system message, "" where there is none.
    """

    template: str = "{question}"
    option: str = "{letter}. {text}"
    system: str = ""

    def ask(self, turn: Turn) -> Turn:
        """The turn, its question as it is put to a model."""
        named = zip(LETTERS, turn.options, strict=False)
        options = "\n".join(self.option.format(letter=letter, text=text) for letter, text in named)
        return replace(turn, question=self.template.format(question=turn.question, options=options))


@dataclass(frozen=True)
class Example:
    """One clip: a medium for each sense, and the questions about it.

    `media` may render on access. `key` identifies the content of the media, so that encoded streams are found
    without rendering; if it is "" the bytes are hashed. `moments`: the part that the example is about, and
    how many moments of it are looked at, where that is not left to the stage.
    """

    id: str
    media: Mapping[str, MediaSource]
    turns: tuple[Turn, ...] = ()
    key: str = ""
    moments: Moments = Moments()


@dataclass(frozen=True)
class Wanted:
    """Which examples of a source are wanted."""

    split: str = "train"
    seed: int = 0
    n: int | None = None  # maximum number, drawn by `seed`
    senses: tuple[str, ...] | None = None  # only examples with all of these media, and no others of theirs
    focus: tuple[str, ...] = ()  # only examples with a question of one of these types
    types: tuple[str, ...] = ()  # no questions of other types
    held_out: tuple[str, ...] = ()  # groups (folds, speakers) that make "test" and that "train" leaves out
    missing: bool = False  # also examples whose files are missing, which `lynx.datasets.checking` finds

    def draw(self, examples: Sequence[Example]) -> list[Example]:
        """Filter a source's examples by `focus`, `n` and `types`, in this order."""
        kept = list(examples)
        if self.focus:
            kept = [each for each in kept if any(turn.type in self.focus for turn in each.turns)]
        if self.n is not None and self.n < len(kept):
            kept = random.Random(self.seed).sample(kept, self.n)
        if self.types:
            asked = [tuple(turn for turn in each.turns if turn.type in self.types) for each in kept]
            kept = [replace(each, turns=turns) for each, turns in zip(kept, asked, strict=True) if turns]
        return kept
