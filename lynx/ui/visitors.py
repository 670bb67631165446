"""What visitors send, and the files they have: Gradio's server with checks, and folders that are cleaned up.

All temporary files of the app lie in one folder, Gradio's uploads and its copies of pictures and films
included, which is deleted when the process ends. A visitor's files go some time after the page was closed,
unless another visitor has the same ones: Gradio names a file by its content.
"""

import asyncio
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import RLock, Timer
from typing import Any
from urllib.parse import unquote

import gradio as gr
from gradio.exceptions import InvalidPathError
from starlette.responses import PlainTextResponse

from lynx import compat
from lynx.config import LIMITS, amount
from lynx.ui.host_policy import HostPolicy, conceal

logger = logging.getLogger(__name__)

NOT_TAKEN = "What was sent is not what this field takes: see 'Use via API' for what it does."
NOT_UPLOADED = "A file was named that was not uploaded here: upload the file itself."
NOT_KEPT = "A file was not uploaded here, or is no longer kept: upload it again."
FAILED = "The app failed at this; its log says why. Try something else, or tell the owner."
MCP_BYTES = 2**20
"""Of a call to the MCP server, which may hold a file as text: large ones are uploaded."""
TOO_LONG = "A call may have {}: upload files, and name them by the addresses that the upload gives."
LONGEST = 400
"""Letters of a message to a visitor, who may have sent a long text."""
Check = Callable[[list[Any]], None]


@cache
def workspace() -> tempfile.TemporaryDirectory:
    """The one folder of all temporary files of this process, deleted when it ends."""
    folder = tempfile.TemporaryDirectory(
        prefix="lynx-", dir=compat.gradio_folder_of_owner(), ignore_cleanup_errors=True
    )
    compat.keep_gradio_files_in(Path(folder.name, "gradio"))
    return folder


def own_folder(name: str) -> tempfile.TemporaryDirectory:
    """A folder in the workspace that is deleted with its owner."""
    return tempfile.TemporaryDirectory(prefix=f"{name}-", dir=workspace().name, ignore_cleanup_errors=True)


def occupied() -> int:
    """Bytes of all files in the workspace."""
    sizes = 0
    for folder, _, names in os.walk(workspace().name):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                sizes += os.lstat(os.path.join(folder, name)).st_size
    return sizes


class Visitors:
    """The files of each visitor in Gradio's folder, and the timers of those who left.

    A visitor is named by the first session of Gradio's: each load of the page is another one. forget: called
    with a visitor who is gone. protected: files that stay, as the page's own. Several threads use it.
    """

    def __init__(self, forget: Callable[[str], None], protected: Callable[[], set[str]] = set) -> None:
        self.forget, self.protected = forget, protected
        self._files: dict[str, dict[str, int]] = {}  # bytes by path, the one used last at the end
        self._leaving: dict[str, Timer] = {}
        self._open: Counter[str] = Counter()  # pages of each visitor
        self._names: dict[str, str] = {}  # of the visitor, by later sessions
        self._lock = RLock()

    def came(self, session: str) -> None:
        """A page is open, again or for the first time."""
        with self._lock:
            visitor = self._names.get(session, session)
            self._open[visitor] += 1
            self._stay(visitor)

    def _stay(self, visitor: str) -> None:
        if timer := self._leaving.pop(visitor, None):
            timer.cancel()

    def returned(self, session: str, visitor: str) -> None:
        """A new session is a visitor who has proved to be one of before, as after a reload."""
        with self._lock:
            if session == visitor or session in self._names:
                return
            self._names[session] = visitor
            self._open[visitor] += self._open.pop(session, 0)
            self._stay(session)
            self._stay(visitor)
            if files := self._files.pop(session, None):
                self._files.setdefault(visitor, {}).update(files)
            if not self._open[visitor]:  # its connection is on its way, or never comes
                self._begin_to_leave(visitor)

    def left(self, session: str) -> None:
        """A page was closed, or lost its connection: the visitor may come back."""
        with self._lock:
            visitor = self._names.get(session, session)
            self._open[visitor] -= 1
            if self._open[visitor] <= 0:
                del self._open[visitor]
                self._begin_to_leave(visitor)

    def _begin_to_leave(self, visitor: str) -> None:
        self._stay(visitor)
        timer = Timer(LIMITS.max_away_seconds, self._over, (visitor,))
        timer.daemon = True
        self._leaving[visitor] = timer
        timer.start()

    def _over(self, visitor: str) -> None:
        with self._lock:
            if self._open.get(visitor):  # came back at the last moment
                return
            self._leaving.pop(visitor, None)
            self.drop(visitor, list(self._files.get(visitor, ())))
            self._files.pop(visitor, None)
            for session in [each for each, name in self._names.items() if name == visitor]:
                del self._names[session]
        self.forget(visitor)

    def note(self, session: str, paths: Iterable[str]) -> None:
        """A visitor has these files; the oldest others go where all together are too many bytes."""
        root, paths = compat.gradio_folder(), list(paths)
        with self._lock:
            visitor = self._names.get(session, session)
            mine = self._files.setdefault(visitor, {})
            for path in paths:
                if Path(root) in Path(path).parents:
                    with suppress(OSError):
                        size = os.path.getsize(path)
                        mine.pop(path, None)
                        mine[path] = size
            for path in [each for each in mine if each not in paths]:
                if sum(mine.values()) <= LIMITS.max_visitor_bytes:
                    break
                self.drop(visitor, [path])
            if not mine:
                del self._files[visitor]

    def drop(self, session: str, paths: Iterable[str]) -> None:
        """Delete files of a visitor that no other has."""
        with self._lock:
            mine = self._files.get(self._names.get(session, session), {})
            gone = {path for path in paths if mine.pop(path, None) is not None}
            for path in gone.difference(self.protected(), *self._files.values()):
                with suppress(OSError):
                    os.remove(path)
                    os.rmdir(os.path.dirname(path))  # Gradio gives each file a folder


def uploaded(path: str) -> str:
    """The path of an upload that is named by this server's address of it; any other path as it is."""
    address = re.fullmatch(r"https?://[^/\s]+/(?:[^?#]*/)?gradio_api/file=(.+)", path, re.IGNORECASE)
    return unquote(address[1]) if address else path


def with_paths(value: Any) -> Any:
    """What Gradio is sent, with the paths of uploads in place of their addresses: nothing is fetched."""
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and (plain := uploaded(path)) != path:
            return {**value, "path": plain, "url": None}
        return {key: with_paths(each) for key, each in value.items()}
    return [with_paths(each) for each in value] if isinstance(value, list) else value


def files_of(value: Any) -> Iterator[str]:
    """The paths of all files in what Gradio sends or is sent."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if isinstance(path := value.get("path"), str):
                yield path
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value


class App(compat.lenient(gr.Blocks)):  # type: ignore[misc]
    """Gradio's server, which checks the files that are sent, and answers every failure with a sentence."""

    def attend(self, visitors: Visitors, policy: HostPolicy, checks: Mapping[str, Check]) -> None:
        """Start to keep account.

        visitors: who has which files. policy: whether strangers come. checks: by the names of endpoints, what
        looks at the values as they were sent, before components make something else of them, such as a text
        of a number; it raises `gradio.Error`.
        """
        self.visitors, self.policy, self.checks = visitors, policy, checks
        visitors.protected = lambda: {
            path for block in self.blocks.values() for path in getattr(block, "keep_in_cache", ())
        }

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        """As Gradio's, and by the endpoint's own check."""
        super().validate_inputs(block_fn, inputs)
        if (check := self.checks.get(block_fn.api_name)) is not None:
            check(inputs)

    async def process_api(
        self, block_fn: Any, inputs: list[Any], state: Any = None, request: Any = None, iterator: Any = None,
        session_hash: str | None = None, **more: Any,
    ) -> dict[str, Any]:
        """As Gradio's; files are noted, and those sent to `/ask` deleted when it has answered."""
        if not iterator:
            inputs = with_paths(inputs)
        visitor, sent = session_hash or "", [] if iterator else list(files_of(inputs))
        known = {"state": state, "request": request, "iterator": iterator, "session_hash": session_hash}
        for path in sent:
            self._check(path)
        self.visitors.note(visitor, sent)
        try:
            result: dict[str, Any] = await super().process_api(block_fn, inputs, **known, **more)
        except gr.Error as error:
            raise gr.Error(self._told(error.message), print_exception=False) from error
        except Exception as error:  # whatever a stranger's request, or a fault of the app, may raise
            logger.exception("a request failed")
            raise gr.Error(FAILED, print_exception=False) from error
        finally:
            if getattr(block_fn, "api_visibility", "") == "public":
                self.visitors.drop(visitor, sent)
        self.visitors.note(visitor, files_of(result["data"]))
        return result

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> Any:
        """As Gradio's, which raises all kinds of errors for what no page sends."""
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except gr.Error:
            raise
        except (InvalidPathError, OSError) as error:
            raise gr.Error(NOT_KEPT, print_exception=False) from error
        except Exception as error:
            logger.info("a request was refused: %s", error)
            raise gr.Error(NOT_TAKEN, print_exception=False) from error

    def _check(self, path: str) -> None:
        """Raises: gr.Error for a file that was not uploaded, or is gone; nothing outside is looked at."""
        if re.match(r"https?:", path, re.IGNORECASE) and not self.policy.hosted:
            return  # Gradio fetches it, from public addresses alone
        root = compat.gradio_folder()
        plain = "\0" not in path and ".." not in Path(path).parts and Path(root) in Path(path).parents
        if not plain or Path(os.path.realpath(root)) not in Path(os.path.realpath(path)).parents:
            raise gr.Error(NOT_UPLOADED, print_exception=False)
        if not os.path.isfile(path):
            raise gr.Error(NOT_KEPT, print_exception=False)

    def _told(self, message: str) -> str:
        text = conceal(message) if self.policy.hosted else message
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


class Doorkeeper:
    """Sees requests before Gradio: uploads need room, addresses are not fetched, an open page is here."""

    def __init__(self, app: Any, visitors: Visitors) -> None:
        self.app, self.visitors = app, visitors

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve, or refuse, one request of ASGI."""
        path = scope.get("path", "")
        if scope["type"] == "http":
            # Gradio would fetch any public address, and cut any video that is sent as a recording of the page
            if re.search(r"/(file|proxy)=\s*https?:|/process_recording", path, re.IGNORECASE):
                await PlainTextResponse("That is not offered here.", 403)(scope, receive, send)
                return
            mcp, posted = "/gradio_api/mcp" in path, scope["method"] == "POST"
            sent = dict(scope["headers"]).get(b"content-length", b"")
            coming = int(sent) if sent.isdigit() else 0
            if mcp and posted and not 0 < coming <= MCP_BYTES:
                said = TOO_LONG.format(f"{amount(MCP_BYTES, 'bytes')} and says how many it has")
                await PlainTextResponse(said, 413)(scope, receive, send)
                return
            if posted and (mcp or path.rstrip("/").endswith("/upload")):
                used = await asyncio.to_thread(occupied)
                if used + coming > LIMITS.max_shelf_bytes:
                    said = (
                        f"There is no room for {amount(coming, 'bytes')} now: the files of all visitors have "
                        f"{LIMITS.say('max_shelf_bytes')}. Try again in a few minutes, or with less."
                    )
                    await PlainTextResponse(said, 507)(scope, receive, send)
                    return
            if match := re.search(r"/heartbeat/([^/]+)/?$", path):  # open as long as the page is
                self.visitors.came(match[1])
                try:
                    await self.app(scope, receive, send)
                finally:
                    self.visitors.left(match[1])
                return
        await self.app(scope, receive, send)
