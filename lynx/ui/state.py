"""What a visitor's page remembers between clicks."""

from dataclasses import dataclass

from lynx.ui.engine import VIDEO, Clip, Findings, Setup


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
    """A conversation: its key, the model with its senses' words, the turns, the last answer's evidence."""

    key: str
    setup: Setup
    labels: tuple[tuple[str, str], ...] = ((VIDEO, "picture"),)
    turns: tuple[Turn, ...] = ()
    findings: Findings | None = None

    @property
    def words(self) -> dict[str, str]:
        """The senses by name, each with its word for people."""
        return dict(self.labels)

    def about(self, clip: Clip) -> tuple[tuple[str, str], ...]:
        """The questions and answers at the end that were about this clip, with this model."""
        kept: list[tuple[str, str]] = []
        for turn in reversed(self.turns):
            if (turn.setup, turn.clip) != (self.setup, clip):
                break
            kept.append((turn.question, turn.answer))
        return tuple(reversed(kept))
