"""Answers to the requests of lmms-eval, by the evaluation that `lynx eval` has: greedy, side by side.

Several processes (`accelerate launch -m lmms_eval ...`) have a model each and answer their shares, which
lmms-eval deals out and gathers.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from lynx.datasets.base import Example, Turn
from lynx.errors import DataError, LynxError, MediaError
from lynx.evaluation.predictions import PredictionFile
from lynx.evaluation.runner import Asked, Question, Senses, Setting, answer
from lynx.lmms.documents import Document, of_messages, of_visuals
from lynx.lmms.options import Generation, ModelOptions
from lynx.model import load
from lynx.types import VIDEO, Frames, MediaSource

logger = logging.getLogger(__name__)

BATCHES = 4
"""Number of batches whose documents are read together: those that share a clip compute it once."""
TAKES = ("video", "audio")
"""Kinds of files that a document can have."""


class LynxModel(ABC):
    """What lmms-eval asks of a model, but for its base class; subclasses read the two kinds of requests.

    options: the keywords that lmms-eval makes of `--model_args`, `--batch_size` and `--device`.
    Raises: LynxError: an option, a sense or an adapter that cannot be used.
    """

    task_dict: dict[str, Any]
    """The rows of each task by split, which lmms-eval sets."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = ModelOptions.of(options)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        device = self.options.device
        if self._world_size > 1 and device in ("auto", "cuda"):
            device = str(self.accelerator.device)  # of this process alone
        self.model = load(self.options.backbone, self.options.adapter, self.options.precision, device)
        self.senses: Senses = self.options.senses or (VIDEO, *self.model.adapters)
        for sense in self.senses:
            if (takes := self.model.modality(sense).takes) not in TAKES:
                raise DataError(
                    f"{sense} is read from {takes}, and lmms-eval gives videos, pictures and sounds: name "
                    "the senses that it has, senses=video+audio"
                )
        self._left_out: dict[str, set[str]] = defaultdict(set)  # of each sense the documents

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.backbone.device

    @abstractmethod
    def read(self, args: tuple[Any, ...]) -> tuple[Document, Generation]:
        """What a request of the kind `generate_until` shows and asks, by its `args`."""

    def row(self, number: int, task: str, split: str) -> Any:
        """A row of a task's data."""
        return self.task_dict[task][split][number]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers, in the order of the requests.

        Raises: LynxError, naming the document: it cannot be read, or asks for what lynx cannot do. An answer
        that could not be made is never an empty one, which some tasks leave out of their mean.
        """
        said: list[str] = []
        size = BATCHES * self.options.batch_size
        with tqdm(total=len(requests), desc="lynx", unit="answer", disable=self._rank > 0) as bar:
            for first in range(0, len(requests), size):
                part = requests[first : first + size]
                said += self._answers(part)
                bar.update(len(part))
        self._tell_left_out()
        return said

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Raises: LynxError: lmms-eval 0.7.3 makes a text of each pair that is returned, then fails on it."""
        raise LynxError(
            "lmms-eval 0.7.3 fails on tasks that compare likelihoods (loglikelihood, multiple_choice) with "
            "any model: take a task that generates, or lynx eval --choose likelihood"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raises: LynxError: lynx looks at one clip, before the first question."""
        raise LynxError("lynx does not answer tasks in several rounds (generate_until_multi_round)")

    def _answers(self, requests: Sequence[Any]) -> list[str]:
        """Those of a few requests, whose documents are in memory together."""
        names, documents, wanted = [], [], []
        for request in requests:
            names.append(_name(request.args))
            try:
                document, generation = self.read(request.args)
            except LynxError as error:
                raise type(error)(f"{names[-1]}: {error}") from error
            documents.append(document)
            wanted.append(generation)
        alike: dict[tuple[str, int], list[int]] = defaultdict(list)
        for number, document in enumerate(documents):
            alike[document.system, wanted[number].max_new_tokens].append(number)
        said: dict[int, str] = {}
        for (system, limit), numbers in alike.items():
            setting = Setting(system, max_new_tokens=limit, batch_size=self.options.batch_size)
            asked = self._asked({number: (names[number], documents[number]) for number in numbers})
            file = PredictionFile(None, {})
            answer(self.model, asked, self.senses, lambda given: {"": (given, given)}, file, setting)
            said |= {int(id): each.answered.prediction for (id, _), each in file.done.items()}
        return [generation.cut(said[number]) for number, generation in enumerate(wanted)]

    def _asked(self, documents: dict[int, tuple[str, Document]]) -> Asked:
        """The clips of documents, each with the questions about it, whose ids are the documents' numbers."""
        clips: dict[Any, tuple[Example, list[Question]]] = {}
        for number, (name, document) in documents.items():
            if document.clip not in clips:
                clips[document.clip] = self._example(name, document), []
            turn = Turn(document.question, "")
            clips[document.clip][1].append(Question(str(number), turn, document.before))
        return list(clips.values())

    def _example(self, name: str, document: Document) -> Example:
        """A document's clip, with the media of the senses that it has."""
        frames = self.options.frames
        if isinstance(document.video, Frames):  # each picture is shown once
            frames = min(len(document.video), frames or self.model.backbone.default_frames)
        media: dict[str, MediaSource] = {}
        for sense in self.senses:
            if (source := self._source(name, document, sense)) is not None:
                media[sense] = source
        return Example(name, media, moments=replace(document.moments, frames=frames))

    def _source(self, name: str, document: Document, sense: str) -> MediaSource | None:
        """What a sense is read from; None where it is left out.

        Raises: DataError: the document has no such medium, and `allow_missing` is off.
        """
        modality = self.model.modality(sense)
        source, missing = document.source(modality.takes), ""
        if isinstance(source, str) and not os.path.exists(source):
            raise DataError(f"{name}: {source} does not exist")
        if source is None:
            missing = f"it has no {modality.label}"
        elif self.options.allow_missing and sense != VIDEO:
            try:
                modality.check(source)
            except MediaError as error:
                missing = str(error)
        if not missing:
            return source
        if not self.options.allow_missing:
            raise DataError(
                f"{name}: {missing}; leave the sense {sense} out (senses=...), or answer such documents "
                "without it (allow_missing=True)"
            )
        logger.info("%s is answered without %s: %s", name, sense, missing)
        self._left_out[sense].add(name)
        return None

    def _tell_left_out(self) -> None:
        for sense, names in self._left_out.items():
            logger.warning("%s was left out of %d clips that do not have it", sense, len(names))
        self._left_out.clear()


class SimpleModel(LynxModel):
    """Requests that give a text and a function that gets what is shown from the row."""

    def read(self, args: tuple[Any, ...]) -> tuple[Document, Generation]:
        """The document and how it is answered."""
        text, wanted, visuals, *where = args
        return of_visuals(text, visuals(self.row(*where))), Generation.of(wanted)


class ChatModel(LynxModel):
    """Requests that give a function which makes messages of the row."""

    def read(self, args: tuple[Any, ...]) -> tuple[Document, Generation]:
        """The document and how it is answered."""
        _, messages, wanted, *where = args
        return of_messages(messages(self.row(*where))), Generation.of(wanted)


def _name(args: tuple[Any, ...]) -> str:
    """A document by its task and number, which end all requests."""
    *_, number, task, _ = args
    return f"{task} {number}"
