"""Nobody may fill the queue for the others."""

import threading

import gradio as gr
import httpx
import pytest
from starlette.middleware import Middleware

from lynx.config import LIMITS
from lynx.ui.waiting_limit import WaitingLimit

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'", "ignore:The copy keyword")


@pytest.fixture
def slow_page():
    """The address of a page, behind a proxy, whose one event ends when the test does."""
    end = threading.Event()
    with gr.Blocks() as blocks:
        gr.Button().click(lambda: end.wait(60) and None, concurrency_limit=1, api_name="wait")
    middleware = [Middleware(WaitingLimit, blocks, behind_proxy=True)]
    blocks.queue().launch(
        prevent_thread_lock=True, quiet=True, ssr_mode=False, app_kwargs={"middleware": middleware}
    )
    yield blocks.local_url.rstrip("/")
    end.set()
    blocks.close()


def join(url, visitor, **more):
    headers = {"x-forwarded-for": f"{visitor}, 10.0.0.1"}
    data = {"data": [], "fn_index": 0, "session_hash": f"{visitor} {len(more)}", **more}
    return httpx.post(f"{url}/gradio_api/queue/join", json=data, headers=headers, timeout=30)


def test_one_visitors_flood_is_refused_and_others_are_not(slow_page):
    answers = [join(slow_page, "1.1.1.1", event_data=i) for i in range(LIMITS.max_waiting + 4)]
    codes = [answer.status_code for answer in answers]
    # the first is worked on and waits no more
    assert codes.count(200) in (LIMITS.max_waiting, LIMITS.max_waiting + 1) and codes[-1] == 429
    assert f"{LIMITS.max_waiting} requests waiting" in answers[-1].json()["error"]
    assert join(slow_page, "2.2.2.2").status_code == 200
    called = httpx.post(
        f"{slow_page}/gradio_api/call/wait", json={"data": []}, headers={"x-forwarded-for": "1.1.1.1"}
    )
    assert called.status_code == 429, "the other way into the queue"
    read = httpx.get(f"{slow_page}/config", headers={"x-forwarded-for": "1.1.1.1"})
    assert read.status_code == 200, "the page itself"
