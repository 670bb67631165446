"""Sixteen frames of a ten-minute 720p clip: seconds, resident memory, share of the clip that is decoded.

    python -m benchmarks.media [--minutes 10]

The clip (H.264 at 24 frames a second, a key frame every 10 s; AAC) is made once by moviepy's ffmpeg and
kept in .cache/benchmarks.
"""

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import CACHE, report, seconds

FPS, KEY_FRAME_EVERY = 24, 240


def make_clip(path: Path, minutes: int) -> None:
    """A moving test picture with a tone."""
    import imageio_ffmpeg

    path.parent.mkdir(parents=True, exist_ok=True)
    length = str(60 * minutes)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    command += [
        "-f",
        "lavfi",
        "-i",
        f"testsrc2=size=1280x720:rate={FPS}",
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=440",
    ]
    command += ["-t", length, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "32", "-pix_fmt", "yuv420p"]
    command += ["-g", str(KEY_FRAME_EVERY), "-c:a", "aac", "-movflags", "+faststart", str(path)]
    subprocess.run(command, check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--frames", type=int, default=16)
    options = parser.parse_args()
    clip = CACHE / f"{options.minutes}min_720p.mp4"
    if not clip.is_file():
        make_clip(clip, options.minutes)

    import psutil
    import torch

    from lynx.media import playhead
    from lynx.media import video as media
    from lynx.types import sample_times

    decoded = 0
    decode = playhead.decode

    def counted(*args: Any) -> Iterator[Any]:
        nonlocal decoded
        for frame in decode(*args):
            decoded += 1
            yield frame

    playhead.decode = counted
    times = sample_times(media.probe(clip).duration, options.frames)
    decoded = 0
    process = psutil.Process()
    before = process.memory_info().rss
    torch.set_num_threads(1)
    wall = seconds(lambda: media.read_frames(clip, times, max_side=384))
    peak = _peak_rss()
    report(
        "media",
        clip_s=60 * options.minutes,
        frames=options.frames,
        wall_s=round(wall, 2),
        decoded_share=round(decoded / (60 * options.minutes * FPS), 4),
        rss_mb=round((process.memory_info().rss - before) / 2**20, 1),
        peak_rss_mb=round((peak - before) / 2**20, 1),
    )


def _peak_rss() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
