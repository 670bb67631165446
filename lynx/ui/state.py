"""What a visitor's page remembers between clicks."""

from dataclasses import dataclass

from lynx.ui.values import PICTURE, Clip, Findings, Sense, Setup


@dataclass(frozen=True)
class Turn:
    """A question and its answer as shown, with the model and the clip they were about."""

    question: str
    answer: str
    setup: Setup
    clip: Clip
    chips: str = ""


@dataclass(frozen=True)
class Chat:
    """A conversation: its key, the model with its senses, the turns, the last answer's evidence."""

    key: str
    setup: Setup
    senses: tuple[Sense, ...] = (PICTURE,)
    turns: tuple[Turn, ...] = ()
    findings: Findings | None = None

    @property
    def words(self) -> dict[str, str]:
        """The senses by name, each with its word for people."""
        return {sense.name: sense.label for sense in self.senses}

    @property
    def places(self) -> set[str]:
        """The kinds of files that its senses take."""
        return {sense.takes for sense in self.senses}

    def about(self, clip: Clip) -> tuple[tuple[str, str], ...]:
        """The questions and answers at the end that were about this clip, with this model."""
        kept: list[tuple[str, str]] = []
        for turn in reversed(self.turns):
            if (turn.setup, turn.clip) != (self.setup, clip):
                break
            kept.append((turn.question, turn.answer))
        return tuple(reversed(kept))
