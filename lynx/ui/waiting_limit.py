"""A limit on what one visitor may have waiting in the queue, so that nobody is held up by another's flood.

Gradio's own `max_size` counts all visitors together: whoever fills the queue shuts the others out.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lynx.compat import waiting_requests
from lynx.config import LIMITS

TOO_MANY = (
    "You have {} requests waiting, the most that one visitor may: wait until one of them is answered, "
    "then try again."
)


class WaitingLimit:
    """ASGI middleware: refuses what would join the queue (429) while so much of that visitor waits in it.

    blocks: the page. behind_proxy: whether a proxy that can be trusted, as that of a Space, names visitors.
    """

    def __init__(self, app: ASGIApp, blocks: Any, behind_proxy: bool = False) -> None:
        self.app, self.blocks, self.behind_proxy = app, blocks, behind_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and scope["method"] == "POST" and self._joins(scope["path"]):
            mine = self._address(Request(scope))
            waiting = sum(self._address(each) == mine for each in waiting_requests(self.blocks))
            if waiting >= LIMITS.max_waiting:
                said = TOO_MANY.format(waiting)
                await JSONResponse({"detail": said, "error": said}, 429)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _address(self, request: Request) -> str:
        named = request.headers.get("x-forwarded-for", "") if self.behind_proxy else ""
        return named.split(",")[0].strip() or (request.client.host if request.client else "")

    @staticmethod
    def _joins(path: str) -> bool:
        return path.endswith("/queue/join") or "/call/" in path
