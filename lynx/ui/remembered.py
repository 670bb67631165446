"""What survives a reload of the page: the conversation, the clip and the settings of a visitor.

The server keeps them for those who may come back, under a secret that only that visitor's tab knows. So a
browser never names a file. Where the server has forgotten, the text of the conversation comes from the tab's
own record, which anybody may have written: its kinds are checked, it is short, and it names no file either.
"""

import json
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from lynx.types import is_number
from lynx.ui import views
from lynx.ui.transcript import turn_record
from lynx.ui.types import Chat, ChatTurn, Clip, Reply, Setup

VISITORS_KEPT = 256
"""Maximum visitors of whom something is kept, open pages included."""
LONGEST, MOST_TURNS, MOST_NAMES = 200_000, 100, 32
"""Letters of a record, its turns, and the names in one list of it."""
TEXT, NAME = 20_000, 256  # letters


@dataclass(frozen=True)
class Kept:
    """A visitor's conversation, and the values of `MediaPanel.inputs` without it."""

    chat: Chat
    media: tuple[Any, ...] = ()


class KeptVisitors:
    """What is kept, by secret. Several threads use it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # the one used last at the end
        self._lock = Lock()

    def keep(self, kept: Kept) -> None:
        """Keep this under the chat's secret."""
        with self._lock:
            self._kept[kept.chat.secret] = kept
            self._kept.move_to_end(kept.chat.secret)
            while len(self._kept) > VISITORS_KEPT:
                self._kept.popitem(last=False)

    def find(self, secret: str) -> Kept | None:
        """What was kept under a secret; None if it was nobody's, or is gone."""
        with self._lock:
            return self._kept.get(secret)

    def forget(self, conversation: str) -> None:
        """Drop what is kept of a conversation."""
        with self._lock:
            for secret in [each for each, kept in self._kept.items() if kept.chat.key == conversation]:
                del self._kept[secret]


def new_secret() -> str:
    """A secret that nobody guesses."""
    return secrets.token_urlsafe(24)


def record_of(chat: Chat) -> str:
    """What the tab remembers, as JSON; of a long conversation its last turns."""
    turns = []
    for turn in chat.turns[-MOST_TURNS:]:
        told = turn_record(turn)
        kept = {key: told[key] for key in ("question", "answer", "stopped", "senses", "clip")}
        turns.append(kept | {"setup": _setup_record(turn.setup)})
    while turns and sum(len(json.dumps(turn)) for turn in turns) > LONGEST // 2:
        del turns[0]
    return json.dumps({"secret": chat.secret, "setup": _setup_record(chat.setup), "turns": turns})


def _setup_record(setup: Setup) -> dict[str, Any]:
    """A setup by the names that its visitor gave it."""
    return {"backbone": setup.backbone, "precision": setup.precision, "adapters": list(setup.adapters)}


@dataclass(frozen=True)
class Record:
    """A tab's record, as far as it could be read."""

    secret: str
    setup: Setup
    turns: tuple[ChatTurn, ...]


def read_record(text: Any) -> Record | None:
    """What a browser sent; None where it is no record. Nothing of it is used as a path."""
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST:
        return None
    try:
        told = json.loads(text)
        if len(told["turns"]) > MOST_TURNS or not isinstance(told["turns"], list):
            return None
        turns = tuple(_turn(each) for each in told["turns"])
        return Record(_text(told["secret"], NAME), _setup(told["setup"]), turns)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _turn(told: Any) -> ChatTurn:
    used = {}
    labels = {}
    for name, sense in list(told["senses"].items())[:MOST_NAMES]:
        frames, seconds = sense["frames"], sense["seconds"]
        if not (is_number(frames) and is_number(seconds)):
            raise ValueError("no numbers")
        used[_text(name, NAME)] = (int(frames), float(seconds))
        labels[name] = _text(sense["label"], NAME)
    answer, stopped = _text(told["answer"], TEXT), told["stopped"] is True
    chips = views.chips(Reply(answer, used), labels, stopped)
    # names alone, which no file of the server has: nothing is read by them
    names = [Path(name).name for name in _texts(told["clip"]["files"])]
    clip = Clip(names[0] if names else None, views=tuple((name, 0.0) for name in names[1:]))
    setup, question = _setup(told["setup"]), _text(told["question"], TEXT)
    return ChatTurn(question, answer, setup, clip, chips, used=used, labels=labels, stopped=stopped)


def _setup(told: Any) -> Setup:
    names = _text(told["backbone"], NAME), _text(told["precision"], NAME)
    return Setup(*names, tuple(_texts(told["adapters"])))


def _texts(told: Any) -> list[str]:
    if not isinstance(told, list) or len(told) > MOST_NAMES:
        raise ValueError("no list of names")
    return [_text(each, NAME) for each in told]


def _text(told: Any, longest: int) -> str:
    if not isinstance(told, str) or len(told) > longest or any("\ud800" <= each <= "\udfff" for each in told):
        raise ValueError("no text")
    return told
