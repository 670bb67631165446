"""The page in real Chromium, offline: what a person does, in the order they do it."""

import base64
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lynx.media.writer import write_video
from lynx.types import Waveform

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "lynx" / "assets" / "lynx-tiny" / "model.safetensors"
ADAPTER = ROOT / "adapters" / "audio" / "lynx_config.json"
PATIENCE = 90_000  # milliseconds; the machines that run this share their cores


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def open_page(browser):
    """A function that opens an address in a fresh tab; at the end: no page error, no request elsewhere.

    unfold: whether what is recorded beside the video is unfolded at once.
    """
    opened = []

    def visit(url, unfold=False, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        trouble, hosts = [], set()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: hosts.add(re.split(r"[/:]+", request.url)[1]))
        opened.append((context, trouble, hosts))
        page.goto(url)
        page.wait_for_selector("#senses input >> nth=1")  # the model has been loaded, with its added sense
        if unfold:
            page.click("#more .label-wrap")
        return page

    yield visit
    for context, trouble, hosts in opened:
        context.close()
        assert not trouble
        assert {host for host in hosts if "." in host} == {"127.0.0.1"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files to upload."""
    folder = tmp_path_factory.mktemp("files")
    pixels = torch.zeros(16, 3, 120, 160, dtype=torch.uint8)
    pixels[:8, 0], pixels[8:, 2] = 200, 200
    tone = torch.sin(torch.arange(64000) / 16000 * 2 * torch.pi * 440) * 0.5
    write_video(folder / "own.mp4", pixels, 4, Waveform(tone, 16000))
    write_video(folder / "mute.mp4", pixels, 4)
    with av.open(str(folder / "own.mp4")) as source, av.open(str(folder / "two.mkv"), "w") as target:
        copies = [target.add_stream_from_template(source.streams[index]) for index in (0, 1, 1)]
        copies[1].disposition, copies[2].disposition = 0, av.stream.Disposition.default
        for packet in source.demux():
            data, first = bytes(packet), packet.stream.index == 0
            for copy in (copies[:1] if first else copies[1:]) if packet.dts is not None else []:
                again = av.Packet(data)
                again.pts, again.dts, again.time_base = packet.pts, packet.dts, packet.time_base
                again.is_keyframe, again.stream = packet.is_keyframe, copy
                target.mux(again)
    with av.open(str(folder / "own.ts"), "w") as target:  # whose name and codec Chromium does not know
        stream = target.add_stream("mpeg2video", rate=25, width=160, height=120, pix_fmt="yuv420p")
        for picture in pixels.repeat_interleave(6, 0).permute(0, 2, 3, 1).contiguous().numpy():
            target.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        target.mux(stream.encode())
    with av.open(str(folder / "sound.mkv"), "w") as target:
        stream = target.add_stream("pcm_s16le", rate=16000, layout="mono")
        heard = av.AudioFrame.from_ndarray((tone[None].numpy() * 32767).astype(np.int16), layout="mono")
        heard.sample_rate = 16000
        target.mux([*stream.encode(heard), *stream.encode()])
    (folder / "text.mp4").write_text("not a film\n" * 99)
    (folder / "torn.zip").write_bytes(b"PK\x03\x04 and no more")
    (folder / "depth").mkdir()
    for i in range(4):
        metres = np.full((60, 80), 900 + 900 * i, dtype=np.uint16)
        Image.fromarray(metres).save(folder / "depth" / f"{i}.png")
    np.savetxt(folder / "times.txt", np.arange(4.0))
    return folder


@pytest.fixture(scope="module")
def nonsense(tmp_path_factory, files):
    """The address of a page whose model is random and never stops talking by itself."""
    import checkpoints

    import lynx
    from lynx.adapters.format import Adapter
    from lynx.adapters.saving import save_adapter
    from lynx.config import LoraSettings
    from lynx.ui import launch
    from lynx.ui.engine import Engine
    from lynx.ui.examples import ExampleClip
    from lynx.ui.types import Setup

    folder = tmp_path_factory.mktemp("nonsense")
    model = lynx.load(checkpoints.llava_onevision(folder / "backbone"))
    senses = ("audio", "depth", "multi_view")
    for sense in senses:
        model.add_adapter(Adapter(sense, sense))
        for part in ("vision", "llm"):
            model.add_lora(sense, part, LoraSettings(4, 8.0, 0.0))
        save_adapter(model, sense, folder / sense)
    setup = Setup(str(folder / "backbone"), adapters=tuple(str(folder / sense) for sense in senses))
    media = {"video": "own.mp4", "audio": "own.mp4", "depth": "depth", "multi_view": "mute.mp4"}
    asked = (
        ("what do you hear ?", ("audio",)),
        ("what is near ?", ("depth",)),
        ("what flashes ?", ("high_fps",)),
    )
    examples = [ExampleClip({sense: files / name for sense, name in media.items()}, asked)]
    engine = Engine(max_new_tokens=1000)
    blocks = launch(port=None, setup=setup, examples=examples, engine=engine, block=False)
    yield blocks.local_url
    blocks.close()
    engine.close()


def upload(page, path):
    """Put a file on the desk, in place of what is there."""
    if page.locator("#video button[aria-label=Clear]").count():
        page.click("#video button[aria-label=Clear]")
    with page.expect_file_chooser() as chooser:
        page.click("#video button.upload-container, #video button[aria-dropeffect]")
    chooser.value.set_files(str(path))


def ask_and_stop(page, question):
    """Ask, and press Stop as soon as it is there."""
    page.fill("#question textarea", question)
    page.click("#send")
    page.click("#stop")
    page.wait_for_selector("#send")


def test_a_visit_with_a_model_that_has_to_be_stopped(nonsense, open_page, files):
    page = open_page(nonsense)
    page.click("#examples .gallery-item")
    page.wait_for_selector("#seen-picture img")
    assert "of 2,048 tokens" in page.inner_text("#budget")

    ask_and_stop(page, "what do you hear ?")
    chips = page.inner_text("#chat .chips")
    assert "picture · 16 frames · 4.0 s" in chips and "sound · 16 frames" in chips and "stopped" in chips
    assert 0 < len(page.inner_text("#chat .bot.message")) < 1000
    page.wait_for_selector("#evidence-view .words button")

    upload(page, files / "mute.mp4")
    page.wait_for_selector("#evidence", state="hidden")  # it was of another clip
    page.wait_for_selector("#clip-notes .note")
    assert "'mute.mp4' has no audio track" in page.inner_text("#clip-notes")
    upload(page, files / "text.mp4")
    page.wait_for_selector("#notice .notice")
    assert "is a text" in page.inner_text("#notice")
    page.fill("#question textarea", "and now ?")
    page.click("#send")
    page.wait_for_timeout(500)
    page.wait_for_selector("#notice .notice")
    assert page.input_value("#question textarea") == "and now ?"  # nothing of the user's is lost
    assert page.locator("#chat .chips").count() == 1

    upload(page, files / "own.mp4")
    page.wait_for_selector("#notice .notice", state="detached")
    page.uncheck("#senses input[name=audio]")
    ask_and_stop(page, "and this ?")
    page.wait_for_function("document.querySelectorAll('#chat .chips').length == 2")
    assert "sound" not in page.locator("#chat .chips").last.inner_text()
    page.click("#clear")
    page.wait_for_selector("#chat .chips", state="detached")
    assert page.locator("#evidence").is_hidden()

    page.fill("#question textarea", "and while it talks ?")
    page.click("#send")
    page.wait_for_selector("#chat .bot.message")
    page.click("#clear")
    page.wait_for_selector("#chat .message", state="detached")
    page.wait_for_selector("#send")
    ask_and_stop(page, "what is it ?")  # the answer before has ended, and does not come back
    page.wait_for_selector("#chat .chips")
    assert page.locator("#chat .user.message").all_inner_texts() == ["what is it ?"]


def requests_of(page):
    """A list that grows by each event that the page sends."""
    sent = []
    page.on("request", lambda request: sent.append(request.url) if "/queue/join" in request.url else None)
    return sent


TYPED = """what is ![this](http://192.0.2.1/picture.png) <img src="http://192.0.2.2/x.png" onerror="alert(1)">
# a title
* a *list* of **two**
1. one
    four spaces, `code`, $x^2$, $$y^2$$, \\(z\\) and [a link](http://192.0.2.3/) &amp; &lt;b>

```mermaid
graph TD
```
http://192.0.2.4/auto www.example.com someone@example.com <style>p { display: none }</style> | a | ~~b~~"""


def test_what_is_asked_and_said_is_shown_as_typed(nonsense, open_page):
    page = open_page(nonsense)  # which at its end counts the hosts that were asked
    page.click("#examples .gallery-item")
    page.wait_for_selector("#seen-picture img")
    ask_and_stop(page, TYPED)
    page.wait_for_selector("#chat .chips")
    asked = page.locator("#chat .user.message").first
    assert asked.inner_text().strip() == TYPED
    for part in ("img", "a", "ul", "ol", "h1", "code", "pre", "table", "del", "em", "style", ".katex", "svg"):
        assert asked.locator(f".message-content {part}").count() == 0, part
    assert page.locator("#chat .bot.message p").count() == 1 and page.locator("#chat .chip").count() >= 3


def test_a_question_is_edited_as_it_was_typed(nonsense, open_page):
    page = open_page(nonsense)
    page.click("#examples .gallery-item")
    page.wait_for_selector("#seen-picture img")
    box, typed = page.locator("#question textarea"), 'what is <b>this</b> &amp; "that" ?'
    for number, question in enumerate((typed, "and then ?"), start=1):
        ask_and_stop(page, question)
        page.wait_for_function(f"document.querySelectorAll('#chat .chips').length == {number}")
    page.locator("#chat").get_by_role("button", name="Edit question 1").click()
    page.get_by_text("it and what follows are replaced").wait_for()
    assert box.input_value() == typed and box.evaluate("box => box === document.activeElement")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("#editing .editing", state="detached")
    assert box.input_value() == "" and page.locator("#chat .user.message").count() == 2

    page.locator("#chat .edit").first.press("Enter")  # without a mouse
    page.wait_for_selector("#editing .editing")
    ask_and_stop(page, "what is <i>it</i> ?")
    page.wait_for_selector("#editing .editing", state="detached")
    page.wait_for_selector("#chat .chips")
    assert page.locator("#chat .user.message").all_inner_texts() == ["what is <i>it</i> ?"]


def test_a_reload_keeps_the_conversation_the_clip_and_the_settings_of_its_tab(nonsense, open_page, files):
    page = open_page(nonsense)
    upload(page, files / "own.mp4")
    budget = page.locator("#budget")
    budget.get_by_text("of 2,048 tokens").wait_for(state="attached")
    page.uncheck("#senses input[name=depth]")
    ask_and_stop(page, "what <b>is</b> it ?")
    page.wait_for_selector("#chat .chips")
    said = page.inner_text("#chat .bot.message p")
    word = page.locator("#evidence-view .words button").first
    word.wait_for()
    page.wait_for_function("sessionStorage.getItem('lynx')?.includes('is</b> it ?')")

    page.reload()
    page.wait_for_selector("#chat .chips")
    assert page.locator("#chat .user.message").all_inner_texts() == ["what <b>is</b> it ?"]
    assert page.inner_text("#chat .bot.message p") == said
    page.wait_for_selector("#video video")
    word.wait_for()
    budget.get_by_text("of 2,048 tokens").wait_for(state="attached")
    assert not page.is_checked("#senses input[name=depth]") and page.is_checked("#senses input[name=audio]")
    sent = requests_of(page)
    page.wait_for_timeout(3000)
    before = len(sent)
    page.wait_for_timeout(1500)
    assert len(sent) == before, "the page goes on by itself"
    ask_and_stop(page, "and now ?")
    page.wait_for_function("document.querySelectorAll('#chat .chips').length == 2")
    assert page.locator("#chat .divider").count() == 0, "it is about the same clip"

    other = page.context.new_page()
    other.goto(nonsense)
    other.wait_for_selector("#senses input >> nth=1")
    other.wait_for_timeout(1500)
    assert other.locator("#chat .message").count() == 0 and other.locator("#video video").count() == 0


def test_the_page_comes_to_rest(nonsense, open_page, files):
    """Events that call one another without end would starve the machine, and every other visitor."""
    page = open_page(nonsense, unfold=True)
    sent = requests_of(page)
    steps = {
        "an example": lambda: page.click("#examples .gallery-item"),
        "another video": lambda: upload(page, files / "two.mkv"),
        "two views": lambda: put(page, "#views", files / "own.mp4", files / "mute.mp4"),
        "one view": page.locator("#views button[aria-label='Remove this file']").first.click,
        "a sense off": lambda: page.uncheck("#senses input[name=audio]"),
    }
    for step, act in steps.items():
        sent.clear()
        act()
        page.wait_for_timeout(4000)
        assert 0 < len(sent) < 25, f"{step}: {len(sent)} events"
        before = len(sent)
        page.wait_for_timeout(1500)
        assert len(sent) == before, f"{step}: the page goes on by itself"


def put(page, place, *paths):
    """Files in a place beside the video, instead of what is there."""
    if page.locator(f"{place} button[aria-label=Clear]").count():
        page.click(f"{place} button[aria-label=Clear]")
        page.wait_for_selector(f"{place} .file-preview", state="detached")
    page.set_input_files(f"{place} input[type=file]", [str(path) for path in paths])


def test_depth_and_further_views_have_their_places(nonsense, open_page, files):
    page = open_page(nonsense, unfold=True)
    budget, notes = page.locator("#budget"), page.locator("#clip-notes")
    page.click("#examples .gallery-item")
    budget.get_by_text("second view 16 frames").wait_for()
    assert "depth 16 frames" in budget.inner_text()
    assert page.locator("#suggestions .gallery-item").all_inner_texts() == [
        "what do you hear ?",
        "what is near ?",
    ]

    put(page, "#views", files / "own.mp4", files / "mute.mp4")
    budget.get_by_text("second view 32 frames").wait_for()
    page.fill("#offsets :is(input, textarea)", "soon")
    page.press("#offsets :is(input, textarea)", "Enter")
    page.get_by_text("one number of seconds for each of the 2").wait_for()
    page.fill("#offsets :is(input, textarea)", "0, 1.5")
    page.press("#offsets :is(input, textarea)", "Enter")
    notes.get_by_text("mute does not record at 6 of 16 moments").wait_for()

    put(page, "#depth", files / "torn.zip")
    page.get_by_text("'torn.zip' cannot be unpacked").wait_for()
    page.uncheck("#senses input[name=depth]")
    page.wait_for_selector("#notice .notice", state="detached")
    ask_and_stop(page, "what is behind ?")
    chips = page.inner_text("#chat .chips")
    assert "second view · 32 frames" in chips and "depth" not in chips
    put(page, "#depth", *sorted((files / "depth").glob("*.png")), files / "times.txt")
    notes.get_by_text("Depth is switched off, though a file was given for it").wait_for()
    page.check("#senses input[name=depth]")
    budget.get_by_text("depth 16 frames").wait_for()


def fill(page, place, text):
    """Type into a field and press Enter."""
    field = f"{place} :is(input, textarea)"
    page.fill(field, text)
    page.press(field, "Enter")


def test_a_part_of_the_clip_and_the_folded_settings(nonsense, open_page):
    page = open_page(nonsense, unfold=True)
    page.click("#examples .gallery-item")
    budget, notice = page.locator("#budget"), page.locator("#notice")
    budget.get_by_text("picture 16 frames").wait_for()
    fill(page, "#from", "1")
    fill(page, "#to", "0:03")
    budget.get_by_text("1.0–3.0 s").wait_for()
    assert page.locator("#fps").is_hidden() and page.locator("#track").is_hidden()
    page.click("#advanced .label-wrap")
    fill(page, "#fps", "2")
    budget.get_by_text("picture 4 frames").wait_for()
    fill(page, "#max-frames", "3")
    page.locator("#clip-notes").get_by_text("2 frames a second would be 4; 3 are used").wait_for()
    fill(page, "#temperature", "hot")
    notice.get_by_text("'hot' is no number from 0 to 2").wait_for()
    fill(page, "#temperature", "0")
    page.wait_for_selector("#notice .notice", state="detached")
    fill(page, "#unit", "inch")
    notice.get_by_text("depth unit is 'inch'").wait_for()
    fill(page, "#unit", "0.002")
    page.wait_for_selector("#notice .notice", state="detached")
    fill(page, "#from", "7")
    notice.get_by_text("expected seconds after start, which is 7").wait_for()
    fill(page, "#from", "2")
    budget.get_by_text("2.0–3.0 s").wait_for()
    ask_and_stop(page, "what is it ?")
    assert "picture · 2 frames · 2.0–3.0 s" in page.inner_text("#chat .chips")


def test_evidence_leaves_at_once_with_its_clip_and_comes_back_with_it(nonsense, open_page):
    page = open_page(nonsense, unfold=True)
    page.click("#examples .gallery-item")
    page.wait_for_selector("#seen-picture img")
    ask_and_stop(page, "what do you hear ?")
    word, budget = page.locator("#evidence-view .words button").first, page.locator("#budget")
    word.wait_for()

    held, events = [], "**/queue/join*"

    def hold(route):
        held.append(route)  # the server hears of nothing

    page.route(events, hold)
    fill(page, "#from", "2")
    word.wait_for(state="hidden", timeout=4000)
    for route in held:
        route.continue_()
    page.unroute(events)
    budget.get_by_text("2.0–4.0 s").wait_for()
    page.wait_for_selector("#no-evidence .note")

    page.click("#examples .gallery-item")  # the same one, which has no such part
    word.wait_for()
    budget.get_by_text("2.0–4.0 s").wait_for(state="detached")
    assert page.input_value("#from :is(input, textarea)") == ""
    fill(page, "#from", "1")
    budget.get_by_text("1.0–4.0 s").wait_for()
    word.wait_for(state="hidden")
    fill(page, "#from", "")
    word.wait_for()


def test_a_chosen_sound_track_is_heard_and_that_of_another_file_is_no_error(nonsense, open_page, files):
    page = open_page(nonsense, unfold=True)
    budget, notes = page.locator("#budget"), page.locator("#clip-notes")
    upload(page, files / "two.mkv")
    notes.get_by_text("2 sound tracks; #2 (default) is heard").wait_for()
    page.click("#track input")
    page.get_by_role("option").first.click()
    notes.get_by_text("2 sound tracks; #1 is heard").wait_for()
    upload(page, files / "own.mp4")
    page.wait_for_selector("#track", state="hidden")
    budget.get_by_text("sound 16 frames").wait_for()
    assert page.locator(".toast-body").count() == 0


def test_a_file_is_read_whatever_this_browser_thinks_of_its_type(nonsense, open_page, files):
    page = open_page(nonsense, unfold=True)
    budget, boxes = page.locator("#budget"), page.locator("#senses")
    put(page, "#video", files / "own.ts")
    budget.get_by_text("picture 16 frames").wait_for()
    page.wait_for_selector("#video[data-unplayable]")
    boxes.get_by_text("sound – not in this clip").wait_for()
    assert page.locator("#senses input[name=audio]").is_checked(), "it is on for the next clip"
    upload(page, files / "own.mp4")
    budget.get_by_text("sound 16 frames").wait_for()
    boxes.get_by_text("sound – not in this clip").wait_for(state="detached")
    page.wait_for_selector("#video:not([data-unplayable])")

    page.click("#video button[aria-label=Clear]")
    page.evaluate(
        """([name, content]) => {
            const dropped = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            dropped.items.add(new File([bytes], name));
            const place = document.querySelector("#video :is(.upload-container, [aria-dropeffect])");
            const drop = { dataTransfer: dropped, bubbles: true, cancelable: true };
            place.dispatchEvent(new DragEvent("drop", drop));
        }""",
        ["dropped.ts", base64.b64encode((files / "own.ts").read_bytes()).decode()],
    )
    page.locator("#clip-notes").get_by_text("'dropped.ts' has no audio track").wait_for()

    page.locator("#sound label").nth(1).click()
    put(page, "#audio", files / "sound.mkv")
    budget.get_by_text("sound 16 frames").wait_for()
    assert page.locator(".toast-body").count() == 0


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (390, 844)])
def test_the_question_and_its_answer_are_in_sight(app, open_page, width, height):
    page = open_page(app)
    page.set_viewport_size({"width": width, "height": height})

    def is_in_sight():
        """Once the page has come to rest."""
        bottom = "scrollY + document.querySelector('#send').getBoundingClientRect().bottom"
        page.wait_for_function(f"{bottom} <= {height} && document.documentElement.scrollWidth <= {width}")

    for chosen in ("Hear it: a bell", "A dog barks"):
        page.get_by_role("button", name=chosen).click()
        page.locator("#suggestions button").first.wait_for()
        page.wait_for_selector("#seen-picture img")
        is_in_sight()
    page.locator("#hint").get_by_text("ten real sounds").wait_for()  # its model has been loaded
    page.locator("#suggestions button").first.click()
    page.wait_for_selector("#chat .chips")
    page.wait_for_selector("#notice .progress-text", state="detached")  # nothing waits any more
    is_in_sight()


def test_a_question_asked_while_the_model_of_an_example_is_loaded_is_answered(app, open_page):
    page = open_page(app)
    for chosen in ("Hear it: a bell", "A dog barks"):
        page.get_by_role("button", name=chosen).click()
        page.locator("#suggestions button").first.wait_for()
    page.locator("#suggestions button").first.click()  # at once
    page.wait_for_selector("#chat .chips")
    assert page.locator(".toast-body").count() == 0


def test_a_bark_is_heard_after_three_clicks(app, open_page):
    """From the first look to a right answer: the example, a question; a third asks whether it is one."""
    page = open_page(app)
    assert "real sounds" not in page.inner_text("#hint")
    page.get_by_role("button", name="A dog barks").click()
    page.get_by_role("button", name="What sound do you hear?").click()
    page.wait_for_selector("#chat .chips")
    assert page.inner_text("#chat .bot.message p").strip() == "dog"
    assert "ten real sounds" in page.inner_text("#hint") and "felix.blume" in page.inner_text("#examples")
    page.get_by_role("button", name="Is it a dog?").click()
    page.wait_for_function("document.querySelectorAll('#chat .chips').length == 2")
    assert page.locator("#chat .bot.message p").last.inner_text().strip() == "yes"

    page.get_by_role("button", name="Hear it: a bell").click()  # which the model before knows
    page.wait_for_selector("#video video")
    page.get_by_role("button", name="What sound do you hear?").click()
    page.wait_for_function("document.querySelectorAll('#chat .chips').length == 3")
    assert page.locator("#chat .bot.message p").last.inner_text().strip() == "bell"
    assert page.locator(".toast-body").count() == 0 and "real sounds" not in page.inner_text("#hint")


@pytest.mark.parametrize("chosen", [None, "Hear it: a bell", "A dog barks"])
def test_few_tabs_lead_from_the_first_example_to_the_question(app, open_page, chosen):
    page = open_page(app)
    if chosen:
        page.get_by_role("button", name=chosen).click()
        page.locator("#suggestions button").first.click()
        page.wait_for_selector("#chat .chips")
    first = page.locator("#examples button").first
    first.focus()
    page.keyboard.press("ArrowRight")
    assert "chirp" in page.evaluate("document.activeElement.innerText")
    page.keyboard.press("Home")
    assert first.evaluate("each => each === document.activeElement")
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.matches(':focus-visible')")
        if page.evaluate("!!document.activeElement.closest('#question')"):
            break
    else:
        pytest.fail("not reached in 12 presses")


def test_what_is_recorded_here_and_now_is_read(nonsense, open_page):
    """A webcam and a microphone, as Chromium plays them."""
    page = open_page(nonsense, unfold=True, permissions=["camera", "microphone"])
    page.click("#video button[aria-label='Capture from camera']")
    page.get_by_text("Click to Access Webcam").click()
    page.click("#video button[aria-label='start recording']")
    page.wait_for_timeout(2000)
    page.click("#video button[aria-label='start recording']")  # now it says Stop
    page.locator("#budget").get_by_text("picture 16 frames").wait_for()
    page.locator("#sound label").nth(1).click()
    page.click("#audio button[aria-label='Record audio']")
    page.click("#audio .record-button")
    page.wait_for_timeout(2000)
    page.click("#audio .stop-button")
    page.locator("#budget").get_by_text("sound 16 frames").wait_for()


def test_on_a_phone_what_is_wrong_with_a_field_is_in_sight(nonsense, open_page):
    page = open_page(nonsense, unfold=True)
    fill(page, "#from", "soon")
    page.wait_for_selector("#notice .notice")
    page.set_viewport_size({"width": 390, "height": 844})
    place = page.evaluate("document.querySelector('#notice').getBoundingClientRect().toJSON()")
    assert 0 < place["top"] and place["bottom"] <= 844


def test_on_a_phone_nothing_sticks_out(nonsense, open_page):
    page = open_page(nonsense, unfold=True, is_mobile=True)
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("#examples .gallery-item")
    page.wait_for_selector("#seen-picture img")
    page.click("#advanced .label-wrap")
    ask_and_stop(page, "hello ?")
    page.wait_for_selector("#evidence-view .words button")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.fixture(scope="module")
def app():
    """The address of `python app.py`, as a newcomer starts it."""
    for needed in (EMBEDDED, ADAPTER):
        if not needed.is_file():
            pytest.skip(f"needs the trained {needed.relative_to(ROOT).parent}")
    port = free_port()
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, str(ROOT / "app.py")], env=environment, cwd=ROOT)
    url, patience = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            urlopen(url, timeout=5).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < patience, "app.py does not come up"
            time.sleep(0.2)
    yield url
    server.terminate()
    server.wait(timeout=20)


def test_the_main_job(app, open_page, files):
    """An example, its sound, the same without it, what the answer rests on, and a clip of one's own."""
    page = open_page(app)
    assert "knows only its miniature world" in page.inner_text("#hint")
    page.get_by_role("button", name="Hear it: a bell").click()
    page.wait_for_selector("#seen-picture img")
    page.fill("#question textarea", "what sound do you hear ?")
    page.press("#question textarea", "Enter")
    page.wait_for_selector("#chat .chips")
    assert "bell" in page.inner_text("#chat .bot.message").lower()

    evidence = page.locator("#evidence-view")
    evidence.get_by_text("The media make").wait_for()
    totals = dict(re.findall(r"([a-z ]+)\s+([+\u2212]?\d+\.\d)", evidence.locator(".bars").inner_text()))
    assert {"picture", "sound"} <= set(totals)
    nats = {sense: float(total.replace("\u2212", "-")) for sense, total in totals.items()}
    assert nats["sound"] > 3 and nats["sound"] > 3 * abs(nats["picture"])
    evidence.locator("input[value=attention]").check()
    evidence.get_by_text("its attention lay").wait_for()
    with page.expect_download() as saved:
        page.click("#save-csv")
    assert "attribution" in Path(saved.value.path()).read_text()
    page.click("#compare")
    page.wait_for_selector("#comparison .card")
    cards = page.locator("#comparison .card")
    assert "bell" in cards.first.locator("p").inner_text()
    mute = cards.filter(has_text="without sound")
    mute.locator("p", has_not_text="…").wait_for()  # its answer has come
    assert "bell" not in mute.locator("p").inner_text() and "differs" in mute.inner_text()
    page.uncheck("#senses input[name=audio]")
    page.click("#retry")
    page.wait_for_function("document.querySelector('#chat .chips')?.innerText.includes('sound') === false")
    assert "bell" not in page.inner_text("#chat .bot.message p").lower()

    upload(page, files / "own.mp4")
    page.wait_for_selector("#no-evidence .note")  # it was of another clip
    assert evidence.is_hidden()
    page.locator("#chat .bot.message").first.click()
    evidence.locator(".words button").first.wait_for()
    page.wait_for_selector("#seen-picture img")
    page.fill("#question textarea", "how many shapes are there ?")
    page.click("#send")
    page.wait_for_function("document.querySelectorAll('#chat .chips').length == 2")
