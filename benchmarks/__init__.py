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


def cpu_seconds(run: Callable[[], object]) -> float:
    """Processor time of one call, all threads together: other programs on the machine do not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(plain: Callable[[], object], ours: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median processor seconds of both and of their ratio, run in turn (A B, B A, ...) after a warm-up."""
    plain(), ours()
    pairs = []
    for number in range(rounds):
        if number % 2:
            after = cpu_seconds(ours)
            pairs.append((cpu_seconds(plain), after))
        else:
            pairs.append((cpu_seconds(plain), cpu_seconds(ours)))
    ratios = [b / a for a, b in pairs]
    return {
        "plain_s": round(median(a for a, _ in pairs), 4),
        "ours_s": round(median(b for _, b in pairs), 4),
        "ratio": round(median(ratios), 4),
        "ratio_min": round(min(ratios), 4),
        "ratio_max": round(max(ratios), 4),
        "rounds": rounds,
    }
