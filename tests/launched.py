"""Starts Python in several processes that work together, as a user's launcher does."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "training")))
"""Where other processes find lynx and the helpers and modules of tests."""
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node"],
    "accelerate launch": [
        *("accelerate.commands.accelerate_cli", "launch", "--multi_gpu"),
        *("--main_process_port", "0", "--num_processes"),
    ],
}


def launch(
    words: Sequence[object], launcher: str = "torchrun", processes: int = 2, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """What `processes` processes of `python WORDS` printed, and how they ended."""
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(processes), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=timeout, env=environment
    )
