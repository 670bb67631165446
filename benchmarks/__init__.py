"""What the product costs: each module is a command that prints a JSON object (`python -m benchmarks.media`).

Ratios are taken between runs that alternate in one process, so that a machine that slows down slows both.
"""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "benchmarks"


def report(name: str, **figures: object) -> None:
    """Print the figures of one benchmark with the machine they belong to."""
    import torch

    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({"benchmark": name, **figures, "machine": machine}, indent=2))


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved(plain: Callable[[], object], ours: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median seconds of both and of their ratio, run in turn (A B B A ...) after one warm-up of each."""
    plain(), ours()
    pairs = []
    for i in range(rounds):
        if i % 2:
            b, a = seconds(ours), seconds(plain)
        else:
            a, b = seconds(plain), seconds(ours)
        pairs.append((a, b))
    ratios = [b / a for a, b in pairs]
    return {
        "plain_s": round(median(a for a, _ in pairs), 4),
        "ours_s": round(median(b for _, b in pairs), 4),
        "ratio": round(median(ratios), 4),
        "ratio_min": round(min(ratios), 4),
        "ratio_max": round(max(ratios), 4),
        "rounds": rounds,
    }
