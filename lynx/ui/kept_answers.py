"""The last answers of each conversation, with all that it takes to explain them, and files made of them."""

import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from lynx.ui.types import GivenAnswer, Setup
from lynx.ui.visitors import own_folder

if TYPE_CHECKING:
    from lynx.evidence.evidence import Evidence

ANSWERS_KEPT = 4
"""Maximum answers of one conversation; others are made again from their clip and their tokens."""
CONVERSATIONS_KEPT = 8
"""Maximum conversations of which files are kept: each was downloaded as soon as it was written."""


class KeptAnswers:
    """Evidence by its answer. Several threads use it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[GivenAnswer, Evidence] = OrderedDict()  # the one used last at the end
        self._lock = threading.Lock()

    def get(self, given: GivenAnswer) -> "Evidence | None":
        """The evidence of an answer, if it is still here."""
        with self._lock:
            if given in self._kept:
                self._kept.move_to_end(given)
            return self._kept.get(given)

    def keep(self, given: GivenAnswer, evidence: "Evidence") -> None:
        """Keep it, in place of the one of this conversation that was not used for longest."""
        with self._lock:
            self._kept[given] = evidence
            self._kept.move_to_end(given)
            mine = [each for each in self._kept if each.request.conversation == given.request.conversation]
            for each in mine[:-ANSWERS_KEPT]:
                del self._kept[each]

    def forget(self, conversation: str) -> None:
        """Drop a conversation's answers."""
        self._drop([given for given in list(self._kept) if given.request.conversation == conversation])

    def forget_model(self, setup: Setup) -> None:
        """Drop the answers that hold a model."""
        self._drop([given for given in list(self._kept) if given.request.setup == setup])

    def _drop(self, gone: list[GivenAnswer]) -> None:
        with self._lock:
            for given in gone:
                self._kept.pop(given, None)


class Downloads:
    """A folder for each conversation that has files, deleted with it: the page has copied them by then."""

    def __init__(self) -> None:
        self._root = own_folder("saved")
        self._folders: OrderedDict[str, tempfile.TemporaryDirectory] = OrderedDict()
        self._lock = threading.Lock()

    def path(self, conversation: str, name: str) -> Path:
        """Where a file of this conversation is written; there is one of each name."""
        with self._lock:
            if conversation not in self._folders:
                folder = tempfile.TemporaryDirectory(dir=self._root.name, ignore_cleanup_errors=True)
                self._folders[conversation] = folder
            self._folders.move_to_end(conversation)
            while len(self._folders) > CONVERSATIONS_KEPT:
                self._folders.popitem(last=False)[1].cleanup()
            return Path(self._folders[conversation].name, name)

    def forget(self, conversation: str) -> None:
        """Delete a conversation's files."""
        with self._lock:
            folder = self._folders.pop(conversation, None)
        if folder is not None:
            folder.cleanup()
