"""axe-core on the page in real Chromium: light and dark, laptop and phone, empty, answered, unfolded."""

from pathlib import Path

import pytest

pytest.importorskip("gradio")

from lynx.ui import launch

ROOT = Path(__file__).parents[2]
NEEDED = ("lynx/assets/lynx-tiny/model.safetensors", "adapters/audio/lynx_config.json")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
PATIENCE = 90_000  # milliseconds
SERIOUS = {"serious", "critical"}
WIDTHS = {1280: 720, 390: 844}
RULES = {"rules": {"target-size": {"enabled": True}}}  # beside those that axe runs of itself
# Gradio's File, once it holds files: its button for further ones is a button in a button, around the input.
# All open the same dialog. Neither an attribute nor a style of ours takes one out of the other, and what lies
# inside hides the outer one, which is then too small a target by itself.
ALLOWED = dict.fromkeys(("nested-interactive", "target-size"), '.icon-button[aria-label="common.upload"]')
"""By rule, the part of Gradio's that breaks it."""


@pytest.fixture(scope="module")
def url():
    for path in NEEDED:
        if not (ROOT / path).is_file():
            pytest.skip(f"needs {path}")
    blocks = launch(port=None, block=False)
    yield blocks.local_url
    blocks.close(verbose=False)


def broken(page):
    """What stands in somebody's way: the rule, where, and how."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options=RULES).response
    assert {each["id"] for each in found["passes"]} >= {"color-contrast", "button-name", "target-size"}
    return [
        (rule["id"], str(node["target"]), node["html"][:300], node["failureSummary"])
        for rule in found["violations"]
        if rule["impact"] in SERIOUS
        for node in rule["nodes"]
        if rule["id"] not in ALLOWED or ALLOWED[rule["id"]] not in str(node["target"])
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_on_the_page_stands_in_anybodys_way(url, browser, width, theme):
    context = browser.new_context(viewport={"width": width, "height": WIDTHS[width]})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{url}?__theme={theme}")
    page.wait_for_selector("#senses input >> nth=1")
    assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
    assert not broken(page), "before a question"

    page.locator("#examples button").first.click()
    page.wait_for_selector("#budget .bar", state="attached")
    page.fill("#question textarea", "What sound do you hear?")
    page.press("#question textarea", "Enter")
    page.wait_for_selector("#chat .chips")
    page.locator("#evidence-view").get_by_text("The media make").wait_for()
    page.locator("#chat .edit").first.click()
    page.wait_for_selector("#editing .editing")
    page.click("#compare")
    page.wait_for_selector("#comparison .changed")
    assert not broken(page), "with an answer"

    while (folded := page.locator("button.label-wrap:not(.open):visible")).count():
        folded.first.click()
    for inside in ("#seen-picture", "#load", "#depth", "#temperature"):
        page.wait_for_selector(inside)
    assert not broken(page), "unfolded"
    context.close()


def test_axe_sees_what_is_broken(browser):
    page = browser.new_page()
    page.set_content(
        "<html lang=en><title>t</title><main><h1 style='color:#999'>faint</h1><button></button>"
        "<label>a <input></label><p>text</p><button style='width:99px;height:99px'>b</button></main>"
    )
    assert {rule for rule, *_ in broken(page)} >= {"color-contrast", "button-name"}
    page.close()
