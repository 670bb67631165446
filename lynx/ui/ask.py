"""The endpoint `/ask`: the kind of each value, checked before anything is made of it, and the answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr
from gradio.data_classes import FileData
from gradio_client.utils import is_http_url_like

from lynx.config import short_repr
from lynx.errors import LynxError, MediaError
from lynx.types import is_number
from lynx.ui.engine import Engine
from lynx.ui.types import Clip, Request, Setup, depth_settings, moments_of
from lynx.ui.uploads import Uploads, further_views
from lynx.ui.views import sentence


@dataclass(frozen=True)
class Kind:
    """A kind of value that a client sends: what it is for people, and whether a value is one."""

    expected: str
    fits: Callable[[Any], bool]


def _is_file(value: Any) -> bool:
    # as Gradio reads it, which does not say to the client why it could not, and would download an address
    try:
        FileData.model_validate(value, context={"validate_meta": True})
    except ValueError:
        return False
    return isinstance(value, dict) and bool(value["path"]) and not is_http_url_like(value["path"])


def _is_text(value: Any) -> bool:
    """Whether this is a text without half of a character, which JSON can send and nothing can be made of."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


FILE = Kind("an uploaded file", _is_file)
FILES = Kind("a list of uploaded files", _all(_is_file))
TEXT = Kind("a text", _is_text)
NAMES = Kind('a list of names such as ["video", "audio"]', _all(_is_text))
NUMBER = Kind("a number", is_number)
SECONDS = Kind('seconds, or a text such as "1:30"', lambda value: is_number(value) or _is_text(value))
TAKES: Mapping[str, Kind] = {
    **{"video": FILE, "audio": FILE, "question": TEXT, "senses": NAMES, "depth": FILES, "views": FILES},
    "offsets": Kind('a text of seconds such as "0, 0.4"', SECONDS.fits),
    **{"start": SECONDS, "end": SECONDS, "fps": NUMBER, "max_frames": NUMBER},
    "track": Kind("the whole number of a track", lambda value: is_number(value) and value == int(value)),
    "unit": Kind('meters, or a text such as "tum"', SECONDS.fits),
    "up": TEXT,
}
"""What the endpoint takes, in the order of the arguments of `Ask.ask`; None stands for a value not given."""


def check(values: Sequence[Any]) -> None:
    """Raises: gr.Error: a value of another kind, no question, or more values than the endpoint takes."""
    try:
        if len(values) > len(TAKES):
            raise LynxError(f"{len(values)} values were given: expected at most {len(TAKES)}")
        for (name, kind), value in zip(TAKES.items(), values, strict=False):
            if value is not None and not kind.fits(value):
                raise LynxError(f"{name} is {short_repr(value)}: expected {kind.expected}")
        given = dict(zip(TAKES, values, strict=False))
        if not (given.get("question") or "").strip():
            raise LynxError("the question is missing: give a text, such as 'What sound do you hear?'")
        if given.get("senses") == []:
            raise LynxError("senses is an empty list: name one or more, or leave it out for all of the clip")
    except LynxError as error:
        raise gr.Error(sentence(error), print_exception=False) from error


class Ask:
    """The endpoint's function.

    generate: `Engine.answer`, or that on a GPU. forget: deletes what the request of that name has left.
    """

    def __init__(
        self, engine: Engine, setup: Setup, uploads: Uploads, generate: Callable[[Request], Any],
        forget: Callable[[str], None],
    ) -> None:
        self.engine, self.setup, self.uploads = engine, setup, uploads
        self.generate, self.forget = generate, forget

    def ask(
        self, video: str | None, audio: str | None, question: str, senses: list[str] | None,
        depth: list[str] | None = None, views: list[str] | None = None, offsets: str | None = None,
        start: str | None = None, end: str | None = None, fps: float | None = None,
        max_frames: float | None = None, track: float | None = None, unit: str | None = None,
        up: str | None = None,
    ) -> str:
        """Answer one question about a video, a sound file, depth, further views, or several of them.

        senses: names such as ["video", "audio"]; all that the clip has where none are given. A sense that is
        named and cannot be used is an error.
        depth: PNGs with their text files, a .zip of them, a .npy stack, a video, a mesh or a point cloud.
        views: further clips. offsets: when each begins, in seconds of the video, such as "0, 0.4".
        start, end: the part that is looked at, in seconds, or as "1:30"; all where they are not given.
        fps: so many moments a second, at most max_frames. track: index of the sound track in its file.
        unit: meters of one step of depth, or "tum", "d405", "l515". up: the axis of a mesh that points up.
        """
        key, setup = uuid4().hex, self.engine.models.without_broken(self.setup)[0]
        try:
            recording = self.uploads.depth(depth or (), key)
            moments = moments_of(start, end, fps, max_frames)
            heard = None if track is None else int(track)
            around, known = further_views(views or (), offsets), depth_settings(unit, up)
            clip = Clip(video, audio, recording, around, moments, heard, *known)
            if any(not Path(path).exists() for path in clip.paths):
                raise MediaError("a file that was given is no longer kept here: upload it again")
            if not clip.paths:
                raise MediaError("there is nothing to ask about: give a video, audio, depth or views")
            clip.check()
            request = Request(key, setup, clip, (), question=question.strip(), strict=bool(senses))
            request = replace(request, senses=self.engine.usable(request, senses))
            *_, reply = self.generate(request)
        except LynxError as error:
            raise gr.Error(sentence(error), print_exception=False) from error
        finally:
            self.forget(key)
        return reply.answer
