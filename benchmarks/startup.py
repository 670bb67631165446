"""Waiting times: `import lynx`, from the server's start to a ready page, and for the first answer.

    python -m benchmarks.startup [--rounds 3]

Each round starts the app on a free port and visits it in Chromium. The page is ready when the model is
loaded and its senses can be switched; then the first example is clicked and asked about.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from statistics import median
from typing import Any

from benchmarks import ROOT, report, seconds

QUESTION = "what sound do you hear ?"
PATIENCE_S = 120


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    imports = [seconds(lambda: _python("import lynx")) - seconds(lambda: _python("")) for _ in range(9)]
    visits = rounds(options.rounds)
    report(
        "startup",
        import_lynx_s=round(median(imports), 3),
        page_served_s=round(median(visit[0] for visit in visits), 2),
        page_ready_s=round(median(visit[1] for visit in visits), 2),
        first_answer_s=round(median(visit[2] for visit in visits), 2),
        answers=[visit[3] for visit in visits],
    )


def rounds(n: int) -> list[tuple[float, float, float, str]]:
    """For each start: seconds to a served page, to a ready one, from question to answer; the answer."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        return [start_and_ask(browser) for _ in range(n)]


def start_and_ask(browser: Any) -> tuple[float, float, float, str]:
    """One round."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    begin = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, **quiet)
    try:
        while not _served(url):
            if server.poll() is not None or time.perf_counter() - begin > PATIENCE_S:
                raise SystemExit("the app did not start: run `python app.py` to see why")
            time.sleep(0.05)
        served = time.perf_counter() - begin
        page.goto(url)
        page.wait_for_selector("#senses input >> nth=1")
        ready = time.perf_counter() - begin
        page.locator("#examples .gallery-item").first.click()
        page.wait_for_selector("#seen-picture img")
        page.fill("#question textarea", QUESTION)
        begin = time.perf_counter()
        page.press("#question textarea", "Enter")
        page.wait_for_selector("#chat .chips")
        answered = time.perf_counter() - begin
        return served, ready, answered, page.inner_text("#chat .bot.message p")
    finally:
        page.close()
        server.terminate()
        server.wait()


def _served(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as page:
            return page.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
