"""What a type of question is."""

from dataclasses import dataclass

from lynx.world.instances import Instances

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class QuestionType:
    """A kind of question. `by` says how shapes are referred to: never by what is being asked for."""

    name: str
    senses: tuple[str, ...]
    answers: tuple[str, ...]
    phrasings: tuple[str, ...]
    candidates: Instances
    by: tuple[str, ...] = ("shape", "color", "both")
