"""The endpoints `/ask` and `/stream`: one question and its answer, for programs."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr

from lynx.errors import LynxError, MediaError
from lynx.ui.endpoint_fields import ANY_WAY, PARAMETERS, TAKES, pairs
from lynx.ui.engine import Engine
from lynx.ui.transcript import turn_record
from lynx.ui.types import ChatTurn, Clip, Reply, Request, Setup, depth_settings, moments_of
from lynx.ui.uploads import Uploads, further_views
from lynx.ui.views import sentence


class Ask:
    """The endpoints' functions.

    generate: `Engine.answer`, explain: `Engine.answer_and_explain`, or those on a GPU. forget: deletes what
    the request of that name has left.
    """

    def __init__(
        self, engine: Engine, setup: Setup, uploads: Uploads, generate: Callable[[Request], Any],
        explain: Callable[[Request], Any], forget: Callable[[str], None],
    ) -> None:
        self.engine, self.setup, self.uploads = engine, setup, uploads
        self.generate, self.explain, self.forget = generate, explain, forget

    def ask(self, *values: Any, **named: Any) -> str:
        """The whole answer; `_describe` gives it its parameters and its text."""
        *_, last = self.stream(*values, **named)
        return last

    def stream(self, *values: Any, **named: Any) -> Iterator[str]:
        """The answer so far, as it is written."""
        given = PARAMETERS.bind(*values, **named)
        given.apply_defaults()
        yield from self._answers(given.arguments)

    def _answers(self, given: Mapping[str, Any]) -> Iterator[str]:
        key, setup = uuid4().hex, self.engine.models.without_broken(self.setup)[0]
        try:
            request = self._request(key, setup, given)
            explained, said = bool(given["evidence"]), ""
            for piece in (self.explain if explained else self.generate)(request):
                if isinstance(piece, str):
                    said += piece
                    yield said
                elif isinstance(piece, Reply):
                    reply = piece
                else:
                    reply.evidence.join(piece)
            yield self._as_json(request, reply) if explained else reply.answer
        except LynxError as error:
            raise gr.Error(sentence(error), print_exception=False) from error
        finally:
            self.forget(key)

    def _request(self, key: str, setup: Setup, given: Mapping[str, Any]) -> Request:
        """The request that a client's values stand for. Raises: LynxError: there is no such clip or sense."""
        names = ("start", "end", "fps", "max_frames")
        recording = self.uploads.depth(given["depth"] or (), key)
        moments = moments_of(*(given[name] for name in names))
        heard = None if given["track"] is None else int(given["track"])
        around = further_views(given["views"] or (), given["offsets"])
        known = depth_settings(given["unit"], given["up"])
        clip = Clip(given["video"], given["audio"], recording, around, moments, heard, *known)
        if any(not Path(path).exists() for path in clip.paths):
            raise MediaError("a file that was given is no longer kept here: upload it again")
        if not clip.paths:
            raise MediaError("there is nothing to ask about: give a video, audio, depth or views")
        clip.check()
        request = Request(
            key, setup, clip, (), pairs(given["history"] or []), given["question"].strip(),
            strict=bool(given["senses"]), temperature=given["temperature"] or 0.0,
            max_new_tokens=int(given["max_new_tokens"] or Request.max_new_tokens),
        )  # fmt: skip
        senses = self.engine.usable(request, given["senses"], given["adapters"])
        return replace(request, senses=senses)

    def _as_json(self, request: Request, reply: Reply) -> str:
        labels = {sense.name: sense.label for sense in self.engine.models.senses(request.setup)}
        turn = ChatTurn(
            request.question, reply.answer, request.setup, request.clip, notes=reply.notes,
            evidence=reply.evidence, used=reply.used, part=reply.part, labels=labels,
        )  # fmt: skip
        return json.dumps(turn_record(turn), ensure_ascii=False, allow_nan=False)


def _describe(function: Callable[..., Any], purpose: str, returns: str) -> None:
    """Give an endpoint's function its parameters and its text, which Gradio shows, and tells to models."""
    own = inspect.Parameter("self", ANY_WAY)
    function.__signature__ = PARAMETERS.replace(parameters=[own, *PARAMETERS.parameters.values()])
    told = "\n".join(f"    {name}: {taken.told}" for name, taken in TAKES.items())
    function.__doc__ = f"{purpose}\n\nArgs:\n{told}\n\nReturns:\n    {returns}"


PURPOSE = "Answer one question about a video, a sound file, depth, further views, or several of them."
_describe(Ask.ask, PURPOSE, "the answer; with evidence a JSON text")
_describe(
    Ask.stream, f"{PURPOSE} The answer comes as it is written.",
    "each time all that was said so far, at last what /ask returns",
)  # fmt: skip
