"""Examples of the checkout: clips with questions, and adapters of a backbone.

Read as JSON without the library's heavy parts, so that the page is up at once.
"""

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lynx.adapters.shipped import FOLDER
from lynx.config import read_json_object
from lynx.errors import AdapterError
from lynx.types import VIDEO

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
"""The checkout; an installed package has none, and offers no examples."""
QUESTIONS_SHOWN = 6
WORLD_TITLE = "Miniature world"
Question = tuple[str, tuple[str, ...]]  # what is asked, and the modalities that an answer needs


@dataclass(frozen=True)
class ExampleClip:
    """A recording to try: a file or folder for each modality, and questions that they answer.

    caption: what it shows, in a few words. title: of the row that it stands in. adapter: the one that comes
    with lynx and was trained on such recordings; None: those that the app begins with. credit: who made it.
    """

    media: Mapping[str, Path]
    questions: tuple[Question, ...] = ()
    caption: str = ""
    title: str = WORLD_TITLE
    adapter: str | None = None
    credit: str = ""

    @property
    def clip(self) -> Path | None:
        """The video, where there is one."""
        return self.media.get(VIDEO)

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return next(iter(self.media.values())).parent


def find_examples(root: Path = ROOT / "examples") -> list[ExampleClip]:
    """What every folder with a qa.json holds; those that cannot be read are logged.

    `lynx world render` writes the qa.json of one clip. That of several has "clips", with what is said of all
    of them beside it. What was recorded comes last.
    """
    found = []
    for path in root.glob("*/qa.json"):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            examples = [_example(path.parent, told | clip) for clip in told.get("clips", [{}])]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.warning("%s is not an example: %s", path, error)
            continue
        found += [example for example in examples if example is not None]
    return sorted(found, key=lambda example: (example.title != WORLD_TITLE, example.title, example.folder))


def _example(folder: Path, told: Mapping[str, Any]) -> ExampleClip | None:
    """An example from its description; None where the files it begins with are gone."""
    media = {modality: folder / name for modality, name in told["media"].items()}
    there = {modality: medium for modality, medium in media.items() if medium.exists()}
    if not media or next(iter(media)) not in there:
        return None
    questions = tuple((as_written(turn["question"]), tuple(turn["senses"])) for turn in told["questions"])
    texts = {name: str(told[name]) for name in ("caption", "title", "adapter", "credit") if name in told}
    return ExampleClip(there, questions, **texts)


def as_written(question: str) -> str:
    """A question of the miniature world, "what is it ?", as people write it: "What is it?"."""
    text = re.sub(r"\s+([?,.!])", r"\1", question.strip())
    return text[:1].upper() + text[1:] + ("?" if text[-1:].isalnum() else "")


def suggested_questions(questions: Sequence[Question], modalities: Collection[str]) -> tuple[str, ...]:
    """At most QUESTIONS_SHOWN that these modalities answer, of each in turn; the picture's come last."""
    by_need: dict[tuple[str, ...], list[str]] = {}
    for question, needs in questions:
        if set(needs) <= set(modalities) and question not in chain(*by_need.values()):
            by_need.setdefault(tuple(sorted(needs)), []).append(question)
    order = sorted(by_need, key=lambda needs: (needs == (VIDEO,), len(needs)))
    rounds = chain(*zip_longest(*(by_need[needs] for needs in order)))
    chosen = list(filter(None, rounds))[:QUESTIONS_SHOWN]
    return tuple(question for needs in order for question in by_need[needs] if question in chosen)


def adapter_folders(root: Path = FOLDER) -> tuple[str, ...]:
    """All adapter folders, broken ones included; relative to the working directory where it is above."""
    here, folders = Path.cwd(), sorted(path.parent for path in root.glob("*/lynx_config.json"))
    return tuple(str(path.relative_to(here) if path.is_relative_to(here) else path) for path in folders)


def find_adapters(backbone: str, root: Path = FOLDER) -> tuple[str, ...]:
    """Folders of the checkout's adapters that `fitting` chooses."""
    return fitting(backbone, adapter_folders(root))


def fitting(backbone: str, folders: Sequence[str]) -> tuple[str, ...]:
    """Those adapters that were trained on this backbone: of each modality the first that is whole.

    Two that hear the same recording were not trained to be on together; others can be chosen instead.
    """
    found: dict[str, list[str]] = {}
    for folder in folders:
        path = Path(folder, "lynx_config.json")
        try:
            config = read_json_object(path)
        except AdapterError as error:
            logger.warning("%s", error)
            continue
        trained_on, modality = config.get("backbone"), config.get("modality")
        if not (isinstance(trained_on, dict) and isinstance(modality, str)):
            logger.warning("%s names no backbone and modality: it is not an adapter", path)
        elif trained_on.get("source") == backbone:
            found.setdefault(modality, []).append(folder)
    return tuple(next(filter(_has_weights, each), each[0]) for each in found.values())


def _has_weights(folder: str) -> bool:
    """Whether an adapter's parts can be read as files; what they hold is checked when they are loaded."""
    parts = [part for part in (Path(folder, "vision"), Path(folder, "llm")) if part.is_dir()]
    try:
        for part in parts:
            read_json_object(part / "adapter_config.json")
            with safe_open(part / "adapter_model.safetensors", "pt"):  # whose header says how long it is
                pass
    except (AdapterError, SafetensorError, OSError):
        return False
    return bool(parts)
