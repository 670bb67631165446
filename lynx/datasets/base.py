"""What training and measuring look at: examples, each one clip's media with questions about them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lynx.modalities.base import Source


@dataclass(frozen=True)
class Turn:
    """A question with its answer; `senses` are those that an answer needs, () = not known."""

    question: str
    answer: str
    type: str = ""
    senses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """One clip: a medium for each sense, and the questions about it.

    `media` may render on access. `key` names the content of the media where the source vouches for it, so
    that encoded streams are found again without rendering; where it is "" the bytes are hashed.
    """

    id: str
    media: "Mapping[str, Source]"
    turns: tuple[Turn, ...] = ()
    key: str = ""


@dataclass(frozen=True)
class Wanted:
    """Which examples of a source are wanted.

    n: at most so many, drawn by `seed`; None: all of them.
    senses: only examples that have all of these media, and no other media of them; None: any.
    focus: only examples with a question of one of these types.
    types: no questions of other types.
    held_out: groups (folds, speakers) of which the split "test" consists and which "train" leaves out.
    """

    split: str = "train"
    seed: int = 0
    n: int | None = None
    senses: tuple[str, ...] | None = None
    focus: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()

    def draw(self, examples: Sequence[Example]) -> list[Example]:
        """Those of a source's examples that fit `focus`, `n` and `types`, in this order."""
        kept = list(examples)
        if self.focus:
            kept = [each for each in kept if any(turn.type in self.focus for turn in each.turns)]
        if self.n is not None and self.n < len(kept):
            kept = random.Random(self.seed).sample(kept, self.n)
        if self.types:
            asked = [tuple(turn for turn in each.turns if turn.type in self.types) for each in kept]
            kept = [replace(each, turns=turns) for each, turns in zip(kept, asked, strict=True) if turns]
        return kept
