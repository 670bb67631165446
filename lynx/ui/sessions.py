"""The conversations that the app keeps between clicks: encoded media, and answers that can be stopped."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lynx.errors import MediaError
from lynx.streams.budget import same_file
from lynx.types import VIDEO, FileSource, MediaSource, Recording
from lynx.ui.models import ModelCache
from lynx.ui.types import AUDIO, Clip, Request, Setup

if TYPE_CHECKING:
    from lynx.model import Lynx
    from lynx.session import Session
    from lynx.types import Frames

SESSIONS_KEPT = 4
"""Maximum sessions of all visitors together."""

Key = tuple[str, Setup, Clip]


class SessionCache:
    """The last sessions by conversation, model and clip. on_gone: called with conversations without any."""

    def __init__(self, models: ModelCache, on_gone: Callable[[str], None]) -> None:
        self.models, self.on_gone = models, on_gone
        models.on_evicted.append(self.forget_model)
        self._sessions: OrderedDict[Key, Session] = OrderedDict()
        self._stops: dict[str, threading.Event] = {}  # of the conversations that are being answered

    def open(self, request: Request) -> "tuple[Session, tuple[str, ...]]":
        """The session of this conversation about this clip, switched as asked, and notes on its media."""
        model = self.models.get(request.setup)
        media, notes = self.media(request)
        on = [sense for sense in request.senses if sense in media]
        key = (request.conversation, request.setup, request.clip)
        session = self._sessions.get(key)
        if session is None or session.model is not model or not set(on) <= set(session.media):
            session = self._sessions[key] = self._make(model, media, on, request)
        self._sessions.move_to_end(key)
        self._drop(list(self._sessions)[:-SESSIONS_KEPT])
        session.senses = {sense: sense in on for sense in session.media}
        session.history = []
        for question, answer in request.history:
            session.history.append({"role": "user", "content": question})
            session.history.append({"role": "assistant", "content": answer})
        return session, notes

    def alone(self, request: Request) -> "Session":
        """A session like the conversation's, which is left as it is and may be answering meanwhile."""
        media, _ = self.media(request)
        on = [sense for sense in request.senses if sense in media]
        session = self._make(self.models.get(request.setup), media, on, request)
        session.senses = {sense: sense in on for sense in session.media}
        return session

    @staticmethod
    def _make(
        model: "Lynx", media: dict[str, MediaSource], on: Sequence[str], request: Request
    ) -> "Session":
        from lynx.session import Session

        try:
            return Session(model, media, request.clip.moments)
        except MediaError:  # a bad file of a sense that is off is ignored
            if len(on) == len(media):
                raise
            return Session(model, {sense: media[sense] for sense in on}, request.clip.moments)

    def media(self, request: Request) -> tuple[dict[str, MediaSource], tuple[str, ...]]:
        """The source of each sense, on or off. A track the video lacks is a note, a bad file an error."""
        from lynx.media.container import probe

        clip, media, notes = request.clip, {}, []
        clip.check()
        for sense in self.models.senses(request.setup):
            source = clip.source(sense.takes)
            if isinstance(source, FileSource) and sense.takes == AUDIO and not probe(source).audio:
                if sense.name in request.senses:
                    name = Recording.of(source).path.name
                    notes.append(f"{name!r} has no audio track, so there is no {sense.label}.")
            elif source is not None:
                media[sense.name] = source
        if not media:
            given = repr(clip.files)
            raise MediaError(f"No sense of this model reads {given}: load an adapter, or give a video.")
        return media, tuple(notes)

    def frames(
        self, session: "Session", request: Request, encode: bool = True
    ) -> "tuple[dict[str, Frames], tuple[str, ...]]":
        """Frames of each sense that is on, and notes; with `encode` its tokens are made, too.

        A sense that finds nothing in the video, such as fast motion in four frames a second, is switched off
        with a note. Raises MediaError for the video, for a file given for it alone, and in a strict request.
        """
        frames, notes = {}, []
        for sense in [sense for sense, on in session.senses.items() if on]:
            try:
                if encode:  # one by one, to know which one fails
                    session.senses = {each: each == sense for each in session.media}
                    frames[sense] = session.encode()[sense].frames
                else:
                    modality = session.model.modality(sense)
                    frames[sense] = modality.render(session.media[sense], session.plan.times)
            except MediaError as error:
                own = same_file(session.media[sense], request.clip.video)  # only the video was given for it
                if request.strict or sense == VIDEO or not own:
                    raise
                label = next(each.label for each in self.models.senses(request.setup) if each.name == sense)
                notes.append(f"There is no {label}: {error}")
        session.senses = {sense: sense in frames for sense in session.media}
        if encode:  # once more: little memory may have cost half of the moments meanwhile
            streams = session.encode()
            frames = {sense: streams[sense].frames for sense in frames}
        return frames, tuple(notes)

    def forget(self, conversation: str) -> None:
        """Drop a conversation's sessions."""
        self._drop([key for key in self._sessions if key[0] == conversation])

    def forget_model(self, setup: Setup) -> None:
        """Drop the sessions that hold a model."""
        self._drop([key for key in self._sessions if key[1] == setup])

    def _drop(self, keys: list[Key]) -> None:
        for key in keys:
            del self._sessions[key]
        for conversation in {key[0] for key in keys} - {key[0] for key in self._sessions}:
            self.on_gone(conversation)

    @contextmanager
    def answering(self, conversation: str) -> Iterator[threading.Event]:
        """Inside the `with`, `stop` sets the event; an earlier stop does not count."""
        stop = self._stops[conversation] = threading.Event()
        try:
            yield stop
        finally:
            if self._stops.get(conversation) is stop:  # else it is being answered again
                del self._stops[conversation]

    def stop(self, conversation: str) -> None:
        """End the answer that this conversation is being given, at its next token."""
        if (stop := self._stops.get(conversation)) is not None:
            stop.set()
        for key, session in list(self._sessions.items()):
            if key[0] == conversation:
                session.stop()

    def stop_all(self) -> None:
        """End every answer that is being given."""
        for conversation in {*self._stops, *(key[0] for key in list(self._sessions))}:
            self.stop(conversation)

    def stopped(self, conversation: str) -> bool:
        """Whether the answer that this conversation is being given was stopped."""
        return (stop := self._stops.get(conversation)) is not None and stop.is_set()
