"""The app in a real browser, as a person uses it: the server in a process of its own, Chromium before it."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from checkpoints import llava_onevision

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "bell" / "clip.mp4"
START_S, PATIENCE_MS = 120, 60_000  # a crowded machine needs longer than a person would wait
# Chromium asks no server of its own for anything
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def served(command: list[str]) -> Iterator[str]:
    """The app's address, once its page is there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + START_S
        while not reachable(url):
            if server.poll() is not None:
                pytest.fail(f"the app ended: {server.stderr.read()}")
            assert time.monotonic() < deadline, f"no page after {START_S} s"
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def app() -> Iterator[str]:
    """The app as `make app` starts it."""
    with served([sys.executable, "app.py"]) as url:
        yield url


@pytest.fixture(scope="module")
def browser(chromium: str):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1500})
    page.set_default_timeout(PATIENCE_MS)
    yield page
    page.close()


def ask(page, question: str) -> None:
    page.locator("#question textarea").fill(question)
    page.locator("#send").click()


def last_answer(page):
    return page.locator("#chat .bot").last


def wait_for_answer(page) -> str:
    """The text of the last answer when it is complete: its chips are there."""
    chips = last_answer(page).locator(".chips")
    chips.wait_for()
    return last_answer(page).inner_text()


def test_an_example_is_answered_with_its_evidence(app, page):
    from playwright.sync_api import expect

    page.goto(app)
    expect(page.locator("#hint")).to_contain_text("miniature world")
    page.locator("#examples video, #examples tr, #examples button").first.click()
    page.locator("#seen img").first.wait_for()
    ask(page, "what sound do you hear ?")
    answer = wait_for_answer(page)
    assert "bell" in answer.split("\n")[0]
    assert re.search(r"sound · \d+ frames · 4\.0 s", answer), "the chips say what was used"

    page.locator("#evidence").wait_for()
    expect(page.locator("#shares")).to_contain_text("sound")
    expect(page.locator("#shares")).to_contain_text("picture")
    page.locator("#rests-on img").first.wait_for()

    page.locator("#compare").click()
    expect(page.locator("#comparison")).to_contain_text("without sound")


def test_an_uploaded_clip_is_seen_and_answered(app, page):
    page.goto(app)
    page.locator("#video input[type=file]").set_input_files(EXAMPLE)
    page.locator("#seen img").first.wait_for()
    ask(page, "what sound do you hear ?")
    assert "bell" in wait_for_answer(page).split("\n")[0]


def test_a_file_that_is_no_clip_gets_a_sentence_and_the_conversation_survives(app, page, tmp_path):
    from playwright.sync_api import expect

    page.goto(app)
    page.locator("#video input[type=file]").set_input_files(EXAMPLE)
    page.locator("#seen img").first.wait_for()
    ask(page, "how many shapes are there ?")
    before = wait_for_answer(page)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(EXAMPLE.read_bytes()[:2000])
    page.locator("#video button[aria-label='Clear'], #video button[aria-label='Remove']").first.click()
    page.locator("#video input[type=file]").set_input_files(broken)
    expect(page.locator("#notice, .toast-body").first).to_be_visible()
    assert last_answer(page).inner_text() == before


def test_stop_ends_an_answer_and_keeps_what_was_said(browser, page, tmp_path):
    from playwright.sync_api import expect

    slow = str(llava_onevision(tmp_path, hidden=512, layers=16))
    start = (
        "import os; from lynx.ui import launch; from lynx.ui.engine import Setup; "
        f"launch(port=int(os.environ['GRADIO_SERVER_PORT']), setup=Setup({slow!r}))"
    )
    with served([sys.executable, "-c", start]) as url:
        page.goto(url)
        page.locator("#video input[type=file]").set_input_files(EXAMPLE)
        page.locator("#seen img").first.wait_for()
        ask(page, "what happens ?")
        page.locator("#stop").click()
        wait_for_answer(page)
        expect(last_answer(page)).to_contain_text("stopped")
        expect(page.locator("#send")).to_be_visible()
