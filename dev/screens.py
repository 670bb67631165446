"""The pictures of the page in docs/images: what a visitor sees who has asked what the bark is.

    python -m dev.screens [--out docs/images]     # needs Chromium

The first screen at four widths, light and dark, without scrolling, and a sheet of all.
"""

import argparse
import io
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks.hosting import served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SIZES = ((390, 844), (768, 1024), (1280, 720), (1440, 900))
THEMES = ("light", "dark")
COLORS = 256
"""Of a picture's palette, which keeps its file small."""
GAP, GROUND, WIDTH = 24, (128, 128, 128), 1800
"""Pixels between the pictures of the sheet, what is between them, and its width."""


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with served() as (url, _, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shots = [[shot(browser, url, size, theme) for size in SIZES] for theme in THEMES]
        browser.close()
    sheet(shots).quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(options.out / "screens.png", optimize=True)


def shot(browser: "Browser", url: str, size: tuple[int, int], theme: str) -> Image.Image:
    """The page after two clicks: on the bark, and on the first question to try."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(f"{url}/?__theme={theme}")
    page.wait_for_selector("#senses input >> nth=1", timeout=90_000)
    page.get_by_role("button", name="A dog barks").click()
    page.locator("#suggestions button").first.click()
    page.wait_for_selector("#chat .bot .chip", timeout=90_000)
    page.wait_for_timeout(4000)  # what the answer rests on is drawn
    page.evaluate("window.scrollTo(0, 0)")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.close()
    return picture


def sheet(shots: list[list[Image.Image]]) -> Image.Image:
    """All pictures, a row a theme."""
    width = sum(each.width + GAP for each in shots[0]) + GAP
    height = sum(max(each.height for each in row) + GAP for row in shots) + GAP
    found = Image.new("RGB", (width, height), GROUND)
    top = GAP
    for row in shots:
        left = GAP
        for each in row:
            found.paste(each, (left, top))
            left += each.width + GAP
        top += max(each.height for each in row) + GAP
    return found.resize((WIDTH, round(height * WIDTH / width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
