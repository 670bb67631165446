"""What a type of question is."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lynx.world.questions.instances import Instances
from lynx.world.scene.scene import Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class QuestionType:
    """A kind of question. `by` says how shapes are referred to: never by what is being asked for.

    shown: the answers that the picture leaves open to who lacks the other senses, one for each shape that may
    be meant; None if the picture says nothing about the answer.
    """

    name: str
    senses: tuple[str, ...]
    answers: tuple[str, ...]
    phrasings: tuple[str, ...]
    candidates: Instances
    by: tuple[str, ...] = ("shape", "color", "both")
    shown: Callable[[Scene], Sequence[str]] | None = None

    def guess(self, scene: Scene) -> float | None:
        """How often the best guess of who only sees the picture is right, 0..1; None: as a constant."""
        if self.shown is None:
            return None
        open_answers = self.shown(scene)
        return Counter(open_answers).most_common(1)[0][1] / len(open_answers)
