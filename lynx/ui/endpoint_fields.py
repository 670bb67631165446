"""What the endpoints `/ask` and `/stream` take: each value is checked before anything is made of it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from gradio_client.utils import is_http_url_like

from lynx.compat import as_endpoint_field, leave_no_stray_file
from lynx.config import short_repr
from lynx.errors import LynxError
from lynx.types import is_number
from lynx.ui.types import HOTTEST, Request
from lynx.ui.views import sentence
from lynx.ui.visitors import uploaded

ANY_WAY = inspect.Parameter.POSITIONAL_OR_KEYWORD
MOST_LETTERS = 100_000
"""Of a question and its history: far more than any model reads, and few enough to be counted at once."""


@dataclass(frozen=True)
class Kind:
    """A kind of value that a client sends: what it is for people, and whether a value is one.

    component: makes the hidden component that stands for it. schema: of JSON, where the component's is vague.
    """

    expected: str
    fits: Callable[[Any], bool]
    component: Callable[..., Any] = gr.Textbox
    schema: Mapping[str, Any] = field(default_factory=dict)


def _is_file(value: Any) -> bool:
    # as Gradio reads it, which does not say to the client why it could not, and would download an address
    try:
        FileData.model_validate(value, context={"validate_meta": True})
    except ValueError:
        return False
    # an address of an upload is that of a file here, and no other is fetched
    return isinstance(value, dict) and bool(value["path"]) and not is_http_url_like(uploaded(value["path"]))


def _is_text(value: Any) -> bool:
    """Whether this is a text without half of a character, which JSON can send and nothing can be made of."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_whole(value: Any) -> bool:
    return is_number(value) and value == int(value)


def _is_pair(value: Any) -> bool:
    return _all(_is_text)(value) and len(value) == 2


def _is_message(value: Any) -> bool:
    right = isinstance(value, dict) and set(value) == {"role", "content"}
    return right and all(map(_is_text, value.values()))


def _are_messages(value: Any) -> bool:
    """Whether these are messages, a question and its answer in turn."""
    roles = [each["role"] for each in value] if _all(_is_message)(value) else [None]
    return roles == ["user", "assistant"] * (len(roles) // 2)


def pairs(history: list[Any]) -> tuple[tuple[str, str], ...]:
    """A history, as pairs or as messages, as questions with their answers."""
    said = [each["content"] for each in history] if history and isinstance(history[0], dict) else None
    if said is not None:
        return tuple(zip(said[::2], said[1::2], strict=True))
    return tuple((question, answer) for question, answer in history)


def _file(**options: Any) -> Any:
    return leave_no_stray_file(gr.File(**options))


def _files(**options: Any) -> Any:
    return leave_no_stray_file(gr.File(file_count="multiple", **options))


def _uploaded(name: str) -> dict[str, Any]:
    return {"path": name, "url": name, "meta": {"_type": "gradio.FileData"}, "orig_name": name}


FILE = Kind("an uploaded file", _is_file, _file)
FILES = Kind("a list of uploaded files", _all(_is_file), _files)
TEXT = Kind("a text", _is_text)
TEXTS = {"type": "array", "items": {"type": "string"}}
NAMES = Kind('a list of names such as ["video", "audio"]', _all(_is_text), gr.JSON, TEXTS)
ADAPTERS = Kind('a list of names such as ["audio"]', _all(_is_text), gr.JSON, TEXTS)
RATE = Kind("a number above 0", lambda value: is_number(value) and value > 0, gr.Number)
WHOLE = Kind("a whole number, 1 or more", lambda value: _is_whole(value) and value >= 1, gr.Number)
SECONDS = Kind('seconds, or a text such as "1:30"', lambda value: is_number(value) or _is_text(value))
OFFSETS = Kind('a text of seconds such as "0, 0.4"', SECONDS.fits)
TRACK = Kind("the whole number of a track", _is_whole, gr.Number)
UNIT = Kind('meters, or a text such as "tum"', SECONDS.fits)
HISTORY = Kind(
    'a list of questions with their answers, [["What is it?", "a ball"]], or of messages, user and assistant',
    lambda value: _all(_is_pair)(value) or _are_messages(value),
    gr.JSON,
    {"type": "array", "items": {}},
)
TEMPERATURE = Kind(
    f"a number from 0 to {HOTTEST}", lambda value: is_number(value) and 0 <= value <= HOTTEST, gr.Number
)
SWITCH = Kind("true or false", lambda value: isinstance(value, bool), gr.Checkbox)


@dataclass(frozen=True)
class Taken:
    """A parameter of an endpoint: its kind, an example, and what it is for people and for models."""

    kind: Kind
    example: Any
    told: str


TAKES: Mapping[str, Taken] = {
    "video": Taken(FILE, _uploaded("clip.mp4"), "the clip; its sound is heard too"),
    "audio": Taken(FILE, _uploaded("sound.wav"), "a sound file in place of the video's own sound"),
    "question": Taken(TEXT, "What sound do you hear?", "what is asked"),
    "senses": Taken(
        NAMES, ["video", "audio"], "those to use, an error where one cannot be; all where none are given"
    ),
    "depth": Taken(
        FILES, [_uploaded("depth.zip")],
        "PNGs with their text files, a .zip of them, a .npy stack, a video or a mesh",
    ),
    "views": Taken(FILES, [_uploaded("left.mp4")], "further clips of the same scene"),
    "offsets": Taken(OFFSETS, "0.4", "when each view begins, in seconds of the video, with commas"),
    "start": Taken(SECONDS, "12.5", "where the part begins that is looked at, in seconds"),
    "end": Taken(SECONDS, "1:30", "where it ends"),
    "fps": Taken(RATE, 2, "so many moments a second are looked at"),
    "max_frames": Taken(WHOLE, 64, "and at most so many"),
    "track": Taken(TRACK, 1, "index of the sound track in its file"),
    "unit": Taken(UNIT, "tum", "meters of one step of depth, or a known sensor (tum, d405, l515)"),
    "up": Taken(TEXT, "-y", "the axis of a mesh that points up"),
    "history": Taken(HISTORY, [["What is it?", "a ball"]], "earlier questions and answers, or messages"),
    "adapters": Taken(
        ADAPTERS, ["audio"], "of those loaded the ones that may be on; an empty list for the picture alone"
    ),
    "temperature": Taken(TEMPERATURE, 0.7, "0 takes the likeliest word each time; above it words are drawn"),
    "max_new_tokens": Taken(
        WHOLE, 64, f"where the answer ends at the latest; {Request.max_new_tokens} where not given"
    ),
    "evidence": Taken(
        SWITCH, True, "true for a JSON text with the answer and how many nats of it rest on each sense"
    ),
}  # fmt: skip
"""What the endpoints take, in the order of their arguments; None stands for a value not given."""
REQUIRED = ("video", "question")
"""Their sample values are shown on the page *Use via API*; others are left out of what it shows to copy."""
PARAMETERS = inspect.Signature(
    [
        # Gradio takes for required what has another default than None
        inspect.Parameter(name, ANY_WAY, default="" if name in REQUIRED else None)
        for name in TAKES
    ]
)


def endpoint_fields() -> list[Any]:
    """Hidden components for all that an endpoint takes: they check that a file is an upload."""
    found = []
    for name, taken in TAKES.items():
        told = f"{taken.told[:1].upper()}{taken.told[1:]}."
        hidden = taken.kind.component(visible=False, label=name)
        found.append(as_endpoint_field(hidden, taken.example, told, taken.kind.schema))
    return found


def check(values: Sequence[Any]) -> None:
    """Raises: gr.Error: a value of another kind, no question, or more values than the endpoint takes."""
    try:
        if len(values) > len(TAKES):
            raise LynxError(f"{len(values)} values were given: expected at most {len(TAKES)}")
        for (name, taken), value in zip(TAKES.items(), values, strict=False):
            if value is not None and not taken.kind.fits(value):
                raise LynxError(f"{name} is {short_repr(value)}: expected {taken.kind.expected}")
        given = dict(zip(TAKES, values, strict=False))
        if not (given.get("question") or "").strip():
            raise LynxError("the question is missing: give a text, such as 'What sound do you hear?'")
        if given.get("senses") == []:
            raise LynxError("senses is an empty list: name one or more, or leave it out for all of the clip")
        before = pairs(given.get("history") or [])
        if sum(map(len, (given["question"], *chain(*before)))) > MOST_LETTERS:
            raise LynxError(f"question and history have more than {MOST_LETTERS:,} letters: shorten them")
        if not all(question.strip() for question, _ in before):
            raise LynxError("history holds an empty question: give each question with its answer")
    except LynxError as error:
        raise gr.Error(sentence(error), print_exception=False) from error
