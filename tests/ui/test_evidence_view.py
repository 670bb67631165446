"""The evidence view: what is sent to the browser, and what a person sees and does with it in Chromium."""

import json
import math
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from time import sleep

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from lynx.types import Frames
from lynx.ui import evidence_view as module
from lynx.ui.evidence_view import evidence_html, evidence_viewer

pytestmark = [  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

GRID = (4, 4)
MOMENTS = 8
TIMES = [0.25 + 0.5 * i for i in range(MOMENTS)]
FOR, AGAINST, WEAK = (1, 1, 2), (2, 0, 0), (3, 3, 3)  # moment, row, column
EVIL = "<img src=x onerror=window.hurt=1>"


def frames(count=MOMENTS, height=90, width=120, labels=()):
    """Gray pictures, each lighter than the one before."""
    pixels = torch.linspace(40, 220, count).byte()[:, None, None, None].repeat(1, 3, height, width)
    return Frames(pixels, torch.arange(count).double() * (4 / count) + 2 / count, 4.0, labels)


def values(**cells):
    """One map with these cells: {"at_1_1_2": 3.0}."""
    found = np.zeros((MOMENTS, *GRID))
    for name, value in cells.items():
        found[tuple(map(int, name.split("_")[1:]))] = value
    return found.tolist()


def attribution(word, method="attribution", picture=3.0, sound=-0.5):
    at = "_".join(map(str, FOR))
    against = "_".join(map(str, AGAINST))
    weak = "_".join(map(str, WEAK))
    maps = {
        "video": values(**{f"at_{at}": picture, f"at_{against}": -picture / 2, f"at_{weak}": picture / 8}),
        "audio": values(at_5_0_0=sound),
    }
    totals = {"video": picture * 5 / 8, "audio": sound, "text": 1.25}
    unit = "share" if method == "attention" else "nats"
    return {
        "word": word, "method": method, "unit": unit, "gained": totals["video"] + sound,
        "missed": 0.0, "totals": totals, "values": {} if method == "hiding" else maps,
    }  # fmt: skip


def record(*attributions, words=("a", "bell")):
    others = [{"text": text, "probability": 0.04} for text in (" cat", EVIL, " dog")]
    tokens = [{"text": f" {word}", "probability": 0.5, "others": others} for word in words]
    sense = {"grid": list(GRID), "times": TIMES}
    return {
        "format": "lynx-evidence",
        "version": 1,
        "answer": " ".join(words),
        "tokens": tokens,
        "words": [{"text": word, "tokens": [i]} for i, word in enumerate(words)],
        "senses": {
            "video": {"label": "picture", "color": "#0d9488", **sense},
            "audio": {"label": "sound", "color": "#d97706", **sense},
        },
        "attributions": list(attributions),
    }


PICTURES = {"video": frames(), "audio": frames()}


def sheet(lane):
    """Each picture of a lane as it is cut from its sheet."""
    whole = Image.open(BytesIO(b64decode(lane["sheet"].partition(",")[2])))
    width, height = lane["tile"]
    places = [divmod(i, lane["columns"]) for i in range(len(lane["times"]))]
    boxes = [
        (column * width, row * height, (column + 1) * width, (row + 1) * height) for row, column in places
    ]
    return [np.asarray(whole.crop(box)) for box in boxes]


def test_cells_come_back_within_half_a_level_and_sums_over_time_exactly():
    noise = np.random.default_rng(0).normal(size=(MOMENTS, *GRID))
    known = attribution(0)
    known["values"] = {"video": noise.tolist()}
    told = json.loads(evidence_html(record(known), PICTURES))["attributions"][0]["maps"]["video"]
    cells = np.frombuffer(b64decode(told["cells"]), dtype=np.int8).reshape(told["shape"])
    assert np.abs(cells / module.LEVELS * told["strongest"] - noise).max() <= np.abs(noise).max() / 250
    assert np.allclose(told["sums"], noise.sum(axis=(1, 2)), atol=1e-6)
    assert told["times"] == TIMES


def test_pictures_of_one_moment_share_a_lane_by_their_kind_and_their_sum_over_time():
    both = frames(2 * MOMENTS, labels=("left", "right") * MOMENTS)
    told = record(attribution(0))
    told["senses"]["video"]["times"] = [time for time in TIMES for _ in range(2)]
    told["attributions"][0]["values"]["video"] = np.ones((2 * MOMENTS, *GRID)).tolist()
    data = json.loads(evidence_html(told, {"video": both}))
    assert [lane["label"] for lane in data["lanes"]] == ["left", "right"]
    assert [lane["index"] for lane in data["lanes"]] == [list(range(0, 16, 2)), list(range(1, 16, 2))]
    assert data["attributions"][0]["maps"]["video"]["sums"] == [2.0 * math.prod(GRID)] * MOMENTS


@pytest.mark.parametrize("count", [1, 8, 40])
def test_every_picture_is_found_in_its_sheet(count):
    (lane,) = json.loads(evidence_html(record(), {"video": frames(count)}))["lanes"]
    expected = frames(count).pixels[:, 0, 0, 0].tolist()
    assert [round(float(picture.mean())) for picture in sheet(lane)] == pytest.approx(expected, abs=3)
    assert max(lane["tile"]) <= module.MAX_SIDE and lane["shape"] == [120, 90]


def test_sixteen_frames_of_three_senses_stay_below_400_kilobytes():
    smooth = torch.rand(16, 3, 12, 16, generator=torch.manual_seed(0)) * 255  # as busy as a real clip
    pixels = torch.nn.functional.interpolate(smooth, (360, 480), mode="bicubic").clamp(0, 255).byte()
    clip = Frames(pixels, torch.arange(16).double() / 4 + 0.125, 4.0)
    methods = ("attribution", "attention")
    told = record(*(attribution(word, method) for word in range(6) for method in methods))
    senses = ("video", "audio", "depth")
    told["senses"] = {
        sense: {"label": sense, "color": "#888888", "grid": [14, 14], "times": clip.times.tolist()}
        for sense in senses
    }
    rng = np.random.default_rng(0)
    for each in told["attributions"]:
        each["values"] = {sense: rng.normal(size=(16, 14, 14)).tolist() for sense in senses}
    size = len(evidence_html(told, dict.fromkeys(senses, clip)))
    assert size < 400_000


def test_the_same_answer_keeps_its_name_as_more_becomes_known():
    first = json.loads(evidence_html(record(), PICTURES))
    more = json.loads(evidence_html(record(attribution(0)), PICTURES, loading="wait"))
    other = json.loads(evidence_html(record(words=("the", "bell")), PICTURES))
    again = json.loads(evidence_html(record(), PICTURES, key="asked again"))
    elsewhere = json.loads(evidence_html(record(), PICTURES | {"video": frames(height=60)}))
    assert first["name"] == more["name"] and first["version"] != more["version"]
    assert len({each["name"] for each in (first, other, again, elsewhere)}) == 4


def test_the_part_of_a_clip_is_the_time_axis():
    assert json.loads(evidence_html(record(), PICTURES))["end"] == pytest.approx(4.0)
    told = json.loads(evidence_html(record(), PICTURES, part=(0.0, 3.5)))
    assert (told["start"], told["end"]) == (0.0, 3.5)


def test_making_the_component_writes_no_file_beside_its_code():
    with gr.Blocks():
        evidence_viewer()
    assert not list(Path(module.__file__).parent.glob("*.pyi"))


# In Chromium, on a page that has the view alone.

HIDING = "hiding"
FAILS = "No memory is left: choose a shorter part."


@pytest.fixture(scope="module")
def served():
    """The address of a page with the view: it knows word 0, and computes the others in half a second."""
    first = [attribution(0), attribution(None, picture=4.0), attribution(0, "attention", 0.3, 0.1)]

    def compute(known, event: gr.EventData):
        sleep(0.5)
        if event.method == HIDING:
            return known, evidence_html(record(*known), PICTURES, notice=FAILS)
        known = [*known, attribution(event.word, event.method, picture=-6.0)]
        return known, evidence_html(record(*known), PICTURES)

    # "bell" is unknown; a word of a stranger is text, whatever it looks like
    def answer(words=("a", "bell")):
        sentences = {"attribution": "Right in 97 % of clips."}
        return evidence_html(record(*first, words=words), PICTURES, chosen=0, sentences=sentences)

    with gr.Blocks() as blocks:
        known = gr.State(first)
        asked = gr.Button("ask", elem_id="ask")
        evil = gr.Button("evil", elem_id="evil")
        faint = gr.Button("faint", elem_id="faint")
        clear = gr.Button("clear", elem_id="clear")
        view = evidence_viewer(elem_id="view")
        heard = gr.Textbox(elem_id="heard")
        asked.click(lambda: (answer(), first), None, [view, known], queue=False)
        evil.click(lambda: answer(("a", EVIL)), None, view, queue=False)
        weak = attribution(0, picture=0.02, sound=0.01)
        faint.click(
            lambda: evidence_html(record(weak, words=("faint",)), PICTURES), None, view, queue=False
        )
        clear.click(lambda: "", None, view, queue=False)
        quiet = {"trigger_mode": "multiple", "show_progress": "hidden"}
        view.compute(compute, known, [known, view], **quiet)

        def told(event: gr.EventData):
            return f"{event.word} {event.method}"

        view.choose(told, None, heard, queue=False, **quiet)
    blocks.launch(prevent_thread_lock=True, ssr_mode=False, quiet=True)
    yield blocks.local_url
    blocks.close()


@pytest.fixture
def page(browser, served, request):
    """The page with an answer; at the end: no error in it, and no request to another host."""
    options = getattr(request, "param", {})
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
    context.set_default_timeout(60_000)
    tab = context.new_page()
    trouble, hosts = [], set()
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("console", lambda line: trouble.append(line.text) if "rror" in line.text else None)
    tab.on("request", lambda asked: hosts.add(re.split(r"[/:]+", asked.url)[1]))
    tab.goto(served)
    tab.click("#ask")
    tab.wait_for_selector("#view .lead .said")
    tab.wait_for_timeout(200)  # pictures are decoded
    yield tab
    context.close()
    assert not trouble
    assert {host for host in hosts if "." in host} == {"127.0.0.1"}


def color_at(page, moment, row, column, lane=0):
    """Red, green and blue in the middle of a cell of a lane."""
    return page.evaluate(
        """([lane, moment, row, column]) => {
          const canvas = document.querySelectorAll("#view .lane canvas")[lane];
          const tile = canvas.tiles[moment], density = canvas.width / canvas.clientWidth;
          const x = (tile.x + tile.width * (column + 0.5) / 4) * density;
          const y = (tile.y + tile.height * (row + 0.5) / 4) * density;
          return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
        }""",
        [lane, moment, row, column],
    )


def click_cell(page, moment, row, column, lane=0):
    canvas = page.locator("#view .lane canvas").nth(lane)
    tile = page.evaluate(
        "([lane, i]) => document.querySelectorAll('#view .lane canvas')[lane].tiles[i]", [lane, moment]
    )
    x, y = tile["x"] + tile["width"] * (column + 0.5) / 4, tile["y"] + tile["height"] * (row + 0.5) / 4
    canvas.click(position={"x": x, "y": y})


def figures(page):
    """What stands under each word."""
    return [text.replace("\u00a0", " ") for text in page.locator("#view .word .figure").all_inner_texts()]


in_browser = pytest.mark.browser


@in_browser
def test_a_sentence_and_bars_say_how_much_each_sense_adds(page):
    said = page.inner_text(".lead .said")
    assert said == "The media make “a” 1.4 nats more likely: picture 1.9, sound −0.5."
    assert "make it 4.0 times more likely" in page.inner_text(".lead")
    assert page.inner_text(".switch .fine") == "Right in 97 % of clips."
    assert page.locator(".bars .value").all_inner_texts() == ["+1.9", "−0.5", "+1.3"]
    zero = page.locator(".bars .track b").first.bounding_box()["x"]
    picture, sound, words = (page.locator(".bars .track i").nth(i).bounding_box() for i in range(3))
    assert picture["x"] == pytest.approx(zero, abs=1.5)
    assert sound["x"] + sound["width"] == pytest.approx(zero, abs=1.5)  # against: to the left
    assert picture["width"] / words["width"] == pytest.approx(1.875 / 1.25, rel=0.05)


@in_browser
def test_heat_is_warm_for_and_cool_against_and_the_threshold_hides_what_is_weak(page):
    red, _, blue = color_at(page, *FOR)
    assert red > blue + 40
    red, _, blue = color_at(page, *AGAINST)
    assert blue > red + 40
    assert max(color_at(page, 4, 0, 0)) - min(color_at(page, 4, 0, 0)) < 4  # nothing: as gray as the picture
    page.locator(".threshold input").fill("0")
    red, _, blue = color_at(page, *WEAK)  # an eighth of the strongest
    assert red > blue + 15
    page.locator(".threshold input").fill("20")
    red, _, blue = color_at(page, *WEAK)
    assert abs(red - blue) < 4


@in_browser
def test_what_hardly_matters_is_not_drawn_as_if_it_did(page):
    page.click("#faint")
    page.get_by_text("The media hardly change how likely “faint” is").wait_for()
    page.wait_for_timeout(200)
    assert "no cell matters by itself" in page.inner_text(".legend")
    page.locator(".threshold input").fill("20")
    assert max(color_at(page, *FOR)) - min(color_at(page, *FOR)) < 50  # a fifth of 0.1 nats


@in_browser
def test_words_follow_a_region_and_a_moment_and_those_that_are_missing_are_computed(page):
    assert figures(page) == ["25 %", "50 %", "50 %"]
    click_cell(page, *FOR)
    assert figures(page) == ["+4.0", "+3.0", "?"]
    assert "Picture, 0.75 s, row 2, column 3: +3.0 nats for “a”." in page.inner_text(".reading")
    page.get_by_role("button", name="Compute the other word").click()
    page.wait_for_function("!document.querySelector('#view .word.unknown')")
    assert figures(page) == ["+4.0", "+3.0", "−6.0"]
    assert "against" in page.locator(".word").nth(2).get_attribute("class")
    assert page.locator(".word[aria-pressed=true] .text").inner_text() == "a"  # still what was chosen
    canvas = page.locator("#view .curve canvas")
    canvas.click(position={"x": canvas.bounding_box()["width"] * 2.75 / 4, "y": 30})
    assert "All senses at 2.75 s: −0.5 nats for “a”." in page.inner_text(".reading")
    page.locator("#view").get_by_role("button", name="Clear").click()
    assert figures(page) == ["25 %", "50 %", "50 %"]


@in_browser
def test_a_rectangle_is_dragged(page):
    canvas = page.locator("#view .lane canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    tile = page.evaluate("document.querySelector('#view .lane canvas').tiles[1]")
    left, top = box["x"] + tile["x"], box["y"] + tile["y"]
    page.mouse.move(left + 2, top + 2)
    page.mouse.down()
    page.mouse.move(left + tile["width"] - 2, top + tile["height"] - 2)
    page.mouse.up()
    assert "Picture, 0.75 s, 16 cells: +3.0 nats" in page.inner_text(".reading")


@in_browser
def test_a_choice_is_told_and_computed_and_a_late_result_changes_no_choice(page):
    bell = page.locator(".word").nth(2)
    bell.click()
    page.wait_for_selector("#view .status.waiting")
    assert "Computing what “bell” rests on" in page.inner_text(".status")
    page.locator(".word").nth(1).click()  # back, while it is computed
    page.wait_for_function("document.querySelector('#heard textarea').value == '0 attribution'")
    page.wait_for_selector("#view .status.waiting", state="detached")
    assert "“a”" in page.inner_text(".lead .said")
    bell.click()  # known by now
    assert "“bell” 4.3 nats less likely" in page.inner_text(".lead .said")


@in_browser
def test_methods_are_switched_by_keyboard_and_a_failure_is_said(page):
    page.locator(".switch input").first.focus()
    page.keyboard.press("ArrowRight")
    assert "While the model said “a”, its attention lay" in page.inner_text(".lead .said")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#view .status.failed")
    assert page.inner_text(".status") == FAILS
    assert page.locator(".lead .said").count() == 0  # nothing is shown that is not known
    page.keyboard.press("ArrowLeft")
    assert "attention" in page.inner_text(".lead .said")


@in_browser
def test_cells_and_moments_are_reached_by_arrow_keys(page):
    page.locator("#view .lane canvas").first.focus()
    for key in ("ArrowDown", "ArrowDown", *["ArrowRight"] * 6):  # the first shows where one is
        page.keyboard.press(key)
    assert "Picture, 0.75 s, row 2, column 3: +3.0 nats" in page.inner_text(".reading")
    page.keyboard.press("Escape")
    assert "Pick a cell" in page.inner_text(".reading")
    page.locator("#view .curve canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#view .curve canvas").get_attribute("aria-valuetext") == "0.75 s"
    assert "All senses at 0.75 s: +3.0 nats" in page.inner_text(".reading")


@in_browser
def test_text_is_text_and_an_empty_value_empties_the_view(page):
    page.click("#evil")
    page.get_by_text(EVIL).first.wait_for()
    page.locator(".word").nth(2).hover()
    assert EVIL in page.inner_text(".others")
    assert page.evaluate("window.hurt") is None and page.locator("#view img").count() == 0
    page.click("#clear")
    page.wait_for_selector("#view .word", state="detached")
    assert "Ask about a clip" in page.inner_text("#view")


@in_browser
@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}], indirect=True
)
def test_on_a_phone_nothing_sticks_out_and_a_tap_picks_a_cell(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    canvas = page.locator("#view .lane canvas").first
    canvas.scroll_into_view_if_needed()
    tile = page.evaluate("document.querySelector('#view .lane canvas').tiles[1]")
    canvas.tap(position={"x": tile["x"] + tile["width"] * 0.6, "y": tile["y"] + tile["height"] * 0.35})
    assert "Picture, 0.75 s, row 2, column 3" in page.inner_text(".reading")
    words = page.locator("#view .words").bounding_box()
    assert 0 <= words["y"] < 844 - words["height"]  # in sight, though the page is scrolled
