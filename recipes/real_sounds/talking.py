"""What people say when they ask about a sound, and stage 3's last phase, which teaches it as a conversation.

The first phases ask one question of a clip, in a few exact phrasings. People leave the question mark out, use
words that `lynx-tiny` was never taught (it spells them letter by letter), and ask again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import torch

from lynx.datasets.base import Example, Turn
from lynx.datasets.clips import naming
from lynx.model import Lynx
from lynx.training.tuning_loss import Batch
from recipes.real_sounds.data import ANIMAL, ANIMALS, AUDIO, CLASSES, DIGIT, DIGITS, SOUND
from recipes.real_sounds.training import RegularizedLoss

Item = TypeVar("Item")

NAME = (
    "what am I listening to ?",
    "what are we listening to ?",
    "what is that noise ?",
    "what's that noise ?",
    "what's that sound ?",
    "which noise is it ?",
    "what is making that noise ?",
    "what makes this sound ?",
    "what do I hear ?",
    "what do we hear here ?",
    "what could this be ?",
    "what is that ?",
    "what's this ?",
    "name the sound.",
    "tell me what you hear.",
    "tell me what it is.",
    "can you tell me what sound this is ?",
    "please identify the noise.",
    "describe the sound.",
    "do you know this sound ?",
    "and what is it ?",
    "so what do you hear ?",
)
"""Ways to ask what is heard, beside those that the first phases teach."""
WHICH_ANIMAL = ("which animal makes the sound ?", "what kind of animal is that ?", "name the animal.")
NUMBER = (
    "what number is it ?",
    "what digit was that ?",
    "which number did you hear ?",
    "what number is said ?",
    "what's the number ?",
    "name the number.",
    "tell me the number.",
    "which number is being spoken ?",
    "what is being said ?",
    "what does he say ?",
    "what did she say ?",
    "please tell me the digit.",
)
WHETHER = (
    "do you hear the {} ?",
    "do you hear a {} ?",
    "can you hear a {} ?",
    "is it a {} ?",
    "is it the {} ?",
    "is that a {} ?",
    "was that a {} ?",
    "is it the sound of the {} ?",
    "is that the sound of a {} ?",
    "does it sound like a {} ?",
    "is there a {} ?",
    "a {} ?",
)
WHETHER_NUMBER = (
    "is it {} ?",
    "is it the number {} ?",
    "do you hear {} ?",
    "was that {} ?",
    "is the number {} ?",
    "does the voice say {} ?",
)
UNSEEN = (
    "what am i hearing ?",
    "what was that sound ?",
    "what kind of noise is this ?",
    "any idea what this sound is ?",
    "say what you hear.",
    "guess the sound.",
    "what is the noise in the recording ?",
    "hello, what do you hear ?",
)
UNSEEN_NUMBER = (
    "what number was that ?",
    "say the number.",
    "which digit is being said ?",
    "can you tell me the number ?",
    "hello, which number do you hear ?",
    "what was said ?",
)
UNSEEN_WHETHER = ("is this a {} ?", "could it be a {} ?", "was it the {} ?", "do we hear a {} here ?")
UNSEEN_WHETHER_NUMBER = ("is this {} ?", "could it be {} ?", "was it a {} ?", "did they say {} ?")
"""Ways to ask that nothing is trained on: how well people are understood is measured with them."""
AGAIN = 0.3
"""Share of the later questions of a conversation that ask for the same as an earlier one, word for word."""


def as_people_ask(examples: Sequence[Example]) -> list[Example]:
    """The same recordings, with all that people ask about them in place of their few exact questions."""
    return [replace(each, turns=_turns(each.turns[0].type, each.turns[0].answer)) for each in examples]


@cache
def _turns(kind: str, name: str) -> tuple[Turn, ...]:
    """All questions about a recording of this name, "sound" or "digit"; the same object for equal names."""
    is_sound = kind == "sound"
    found = _typed((*SOUND, *NAME), name, "sound")  # which does not say that it is about a number
    if is_sound and name in ANIMALS:
        found += _typed((*ANIMAL, *WHICH_ANIMAL), name, "animal")
    if not is_sound:
        found += _typed((*DIGIT, *NUMBER), name, "digit")
    for other in sorted(set(CLASSES.values())) if is_sound else DIGITS:
        phrasings = [each.format(other) for each in (WHETHER if is_sound else WHETHER_NUMBER)]
        found += _typed(phrasings, "yes" if other == name else "no", "heard")
    return tuple(found)


def _typed(phrasings: Sequence[str], answer: str, kind: str) -> list[Turn]:
    """A question for each phrasing, with its mark at the end and without."""
    return [Turn(typed, answer, kind, (AUDIO,)) for each in phrasings for typed in (each, _bare(each))]


def _bare(phrasing: str) -> str:
    return phrasing.rstrip(" ?.")


class ConversationLoss(RegularizedLoss):
    """The loss of the phase: every clip is asked a few questions, of each type as often as of any other.

    Of a type every answer comes as often. They stand side by side, or follow one another as in a chat, where
    some are asked again.
    """

    SIDE_BY_SIDE, CONVERSATION = 2, 4
    """Questions of a clip."""

    def choose(self, indices: Sequence[int]) -> Batch:
        """As in `TuningLoss`, with the questions drawn as above."""
        batch = super().choose(indices)
        count = self.CONVERSATION if batch.conversation else self.SIDE_BY_SIDE
        turns = [draw(self.clips[index].turns, count, batch.conversation) for index in indices]
        return batch._replace(turns=turns)


def draw(turns: Sequence[Turn], count: int, conversation: bool) -> list[Turn]:
    """So many of a clip's questions, by torch's generator; in a conversation some come again."""
    kinds: dict[str, dict[str, list[Turn]]] = {}
    for turn in turns:
        kinds.setdefault(turn.type, {}).setdefault(turn.answer, []).append(turn)
    drawn: list[Turn] = []
    while len(drawn) < count:
        if conversation and drawn and float(torch.rand(())) < AGAIN:
            drawn.append(_one(drawn))
        else:
            by_answer = _one(list(kinds.values()))
            drawn.append(_one(_one(list(by_answer.values()))))
    return drawn


def _one(items: Sequence[Item]) -> Item:
    return items[int(torch.randint(len(items), ()))]


def understood(
    model: Lynx, examples: Sequence[Example], progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Shares of right answers when the recordings are asked about as people do.

    taught, bare: the first phases' phrasings, with their mark and without. unseen: ways that nothing was
    trained on. second, third: the same question again in the same chat. whether: is it this, or another;
    bare_whether: without the mark; and of these two together, the share whose answer is neither yes nor no.
    """
    right: dict[str, list[bool]] = {}
    for number, example in enumerate(examples):
        name, is_sound = example.turns[0].answer, example.turns[0].type == "sound"
        media: dict[str, Any] = dict(example.media)
        with naming(example):
            chat = model.chat(**media)
        asked = (SOUND if is_sound else DIGIT)[number % len(SOUND)]
        for key in ("taught", "second", "third"):
            right.setdefault(key, []).append(chat.ask(asked) == name)
        unseen = UNSEEN if is_sound else UNSEEN_NUMBER
        for key, question in (("bare", _bare(asked)), ("unseen", unseen[number % len(unseen)])):
            chat.clear()
            right.setdefault(key, []).append(chat.ask(question) == name)
        names = sorted(set(CLASSES.values())) if is_sound else list(DIGITS)
        others = [each for each in names if each != name]
        whether = UNSEEN_WHETHER if is_sound else UNSEEN_WHETHER_NUMBER
        for said, truth in ((name, "yes"), (others[number % len(others)], "no")):
            question = whether[number % len(whether)].format(said)
            for key, typed in (("whether", question), ("bare_whether", _bare(question))):
                chat.clear()
                answer = chat.ask(typed)
                right.setdefault(key, []).append(answer == truth)
                right.setdefault("neither", []).append(answer not in ("yes", "no"))
        if progress:
            progress(number + 1, len(examples))
    return {"n": len(examples)} | {key: round(sum(each) / len(each), 4) for key, each in right.items()}
