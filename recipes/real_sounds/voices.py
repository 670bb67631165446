"""More speakers of the digits, synthesized by espeak-ng (apt-get install espeak-ng).

A few speakers teach their own voices along with the numbers. This writes "zero" to "nine" by hundreds of
others, of different accents, timbres, pitches and speeds, in the layout of the Free Spoken Digit Dataset
(DIGIT_SPEAKER_TAKE.wav, one take each). The same seed gives the same files.
"""

import random
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which

from tqdm import tqdm

from lynx.errors import DataError
from lynx.evaluation.metrics import NUMBERS

ACCENTS = "en-gb en-us en-029 en-gb-scotland en-gb-x-rp en-gb-x-gbcwmd en-gb-x-gbclan en-us-nyc".split()
NO_PERSON = re.compile("robo|whisper|demonic|announce|croak|fast|ricishay|storm|tweaky|mr$", re.IGNORECASE)
PITCH = (15, 85)
"""Range of pitch (0..99), and deviation of one number from its voice; likewise for speed, words a minute."""
OFF_PITCH = 10
SPEED = (95, 205)
OFF_SPEED = 15


def timbres() -> list[str]:
    """The variants of voices that this espeak-ng has and that could be people."""
    table = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True, check=True)
    return sorted(found for found in re.findall(r"!v/(\S+)", table.stdout) if not NO_PERSON.search(found))


def commands(out: Path, voices: int, seed: int, names: Sequence[str]) -> list[list[str]]:
    """One run of espeak-ng for each of ten numbers by each voice."""
    draw = random.Random(seed)
    runs = []
    for voice in range(voices):
        accent, timbre = draw.choice(ACCENTS), names[voice % len(names)]
        pitch, speed = draw.randint(*PITCH), draw.randint(*SPEED)
        for number, word in enumerate(NUMBERS[:10]):
            spoken = out / f"{number}_voice{voice}-{accent}-{timbre}_0.wav"
            at = pitch + draw.randint(-OFF_PITCH, OFF_PITCH), speed + draw.randint(-OFF_SPEED, OFF_SPEED)
            options = ["-v", f"{accent}+{timbre}", "-p", str(at[0]), "-s", str(at[1]), "-w", str(spoken)]
            runs.append(["espeak-ng", "-z", *options, word])  # -z: no silence at the end
    return runs


def speak(out: Path, voices: int = 125, seed: int = 0) -> int:
    """Write the recordings; returns how many. Raises: DataError: espeak-ng is not installed."""
    if not which("espeak-ng"):
        raise DataError("espeak-ng is not installed: apt-get install espeak-ng")
    out.mkdir(parents=True, exist_ok=True)
    runs = commands(out, voices, seed, timbres())
    with ThreadPoolExecutor(2) as pool:
        spoken = pool.map(lambda run: subprocess.run(run, check=True, capture_output=True), runs)
        for _ in tqdm(spoken, total=len(runs), desc="speak", unit="number"):
            pass
    return len(runs)
