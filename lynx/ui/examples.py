"""What the checkout offers to begin with: example clips with questions, and adapters of a backbone.

Read as JSON without the library's heavy parts, so that the page is up at once.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from lynx.ui.engine import AUDIO, VIDEO

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[
    2
]  # the checkout; in an installed package there is nothing there, and nothing is offered
QUESTIONS_SHOWN = 5


@dataclass(frozen=True)
class Example:
    """A clip of the miniature world and questions that it answers."""

    clip: Path
    questions: tuple[str, ...]


def find_examples(root: Path = ROOT / "examples") -> list[Example]:
    """Every folder with the qa.json of `lynx world render`; one that cannot be read is said in the log."""
    found = []
    for path in sorted(root.glob("*/qa.json")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            clip = path.parent / told["media"][VIDEO]
            questions = [(turn["question"], tuple(turn["senses"])) for turn in told["questions"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is not an example: %s", path, error)
            continue
        if clip.is_file():
            found.append(Example(clip, pick(questions)))
    return found


def pick(questions: list[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """A few questions that sound alone, picture alone and both together answer."""
    wanted = [(AUDIO,), (AUDIO,), (AUDIO, VIDEO), (VIDEO,), (VIDEO,)]
    chosen: list[str] = []
    for senses in wanted:
        new = [q for q, needs in questions if tuple(sorted(needs)) == senses and q not in chosen]
        chosen += new[:1]
    return tuple(chosen[:QUESTIONS_SHOWN])


def adapter_folders(root: Path = ROOT / "adapters") -> tuple[str, ...]:
    """Folders of all adapters of the checkout, whether they can be used or not."""
    return tuple(_shown(path.parent) for path in sorted(root.glob("*/lynx_config.json")))


def find_adapters(backbone: str, root: Path = ROOT / "adapters") -> tuple[str, ...]:
    """Folders of the adapters that were trained on this backbone."""
    found = []
    for path in sorted(root.glob("*/lynx_config.json")):
        try:
            trained_on = json.loads(path.read_text(encoding="utf-8"))["backbone"]["source"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is not an adapter: %s", path, error)
            continue
        if trained_on == backbone:
            found.append(_shown(path.parent))
    return tuple(found)


def _shown(folder: Path) -> str:
    """A folder's path as a person would write it: from the working directory where it lies below it."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
