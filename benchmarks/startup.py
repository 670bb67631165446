"""How long one waits: `import lynx`, from the server's start to a ready page, and for the first answer.

    python -m benchmarks.startup [--rounds 3]

Each round starts the app anew, on a free port, and asks about an example through `/ask`.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from statistics import median

from benchmarks import ROOT, report, seconds

EXAMPLE = ROOT / "examples" / "bell" / "clip.mp4"
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
    starts, answers, answer = [], [], ""
    for _ in range(options.rounds):
        ready, first, answer = start_and_ask()
        starts.append(ready)
        answers.append(first)
    report(
        "startup",
        import_lynx_s=round(median(imports), 3),
        server_ready_s=round(median(starts), 2),
        first_answer_s=round(median(answers), 2),
        answer=answer,
        rounds=options.rounds,
    )


def start_and_ask() -> tuple[float, float, str]:
    """Seconds from the process's start to a served page, seconds to the first answer, and the answer."""
    from gradio_client import Client, handle_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    begin = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/"
        while not _served(url):
            if server.poll() is not None or time.perf_counter() - begin > PATIENCE_S:
                raise SystemExit("the app did not start: run `python app.py` to see why")
            time.sleep(0.05)
        ready = time.perf_counter() - begin
        client = Client(url, verbose=False)
        clip = handle_file(str(EXAMPLE))
        begin = time.perf_counter()
        answer = client.predict(clip, None, QUESTION, ["video", "audio"], api_name="/ask")
        return ready, time.perf_counter() - begin, str(answer)
    finally:
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
