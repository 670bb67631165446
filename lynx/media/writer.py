"""Writes PNGs, and mp4 files that every browser plays: H.264 in yuv420p, AAC, the index in front of the data.

`write_stream` takes frames one after another, and leaves either a whole file or none; `write_video` takes a
tensor of them. This is the only writer of films and of the world's clips. moviepy encodes, through the ffmpeg
that it brings along; only its writer of single frames is used, since its clips request each frame by its
time.
"""

import os
import wave
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from lynx import compat
from lynx.errors import MediaError, writing

if TYPE_CHECKING:
    from lynx.types import Waveform

QUALITY = ["-crf", "20"]
FASTSTART = ["-movflags", "+faststart"]
BT709 = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709"]
BT709 += ["-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
"""Colors are written into the file: without them players guess by its size."""


def write_video(path: str | Path, frames: Tensor, fps: float, waveform: "Waveform | None" = None) -> None:
    """Write frames (T, 3, H, W) uint8 as a clip, with the waveform as its sound.

    Raises what `write_stream` does.
    """
    pictures = frames.permute(0, 2, 3, 1).contiguous().numpy()
    write_stream(path, pictures, (frames.shape[3], frames.shape[2]), fps, waveform)


def write_stream(
    path: str | Path,
    frames: Iterable[np.ndarray],
    size: tuple[int, int],
    fps: float,
    waveform: "Waveform | None" = None,
) -> None:
    """Write frames (H, W, 3) uint8 of `size` (W, H) as they come; one is held at a time.

    fps: to a hundredth. The file is written aside and moved into place when complete; on errors an existing
    file stays.
    Raises MediaError when a side is odd, moviepy is missing, or the file cannot be written.
    """
    try:
        film_encoder = compat.film_encoder()
    except ModuleNotFoundError as error:
        raise MediaError("writing a film needs moviepy: pip install 'lynx[app]' or 'lynx[world]'") from error
    width, height = size
    if height % 2 or width % 2:  # yuv420p has one color for 2 x 2 pixels
        raise MediaError(f"H.264 video needs even sides, not {width}x{height}; crop or pad one pixel.")
    path = Path(path)
    with writing(path, MediaError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".half-", dir=path.parent) as folder:
            half, sound = Path(folder, "film.mp4"), Path(folder, "sound.wav")
            if waveform:  # as 16-bit PCM, which ffmpeg encodes
                samples = (waveform.samples.float().clamp(-1, 1) * 32767).round().short().numpy()
                with wave.open(str(sound), "wb") as file:
                    file.setparams((1, 2, waveform.sample_rate, len(samples), "NONE", ""))
                    file.writeframes(samples.astype("<i2").tobytes())
            with film_encoder(
                str(half),
                size,
                fps,
                audiofile=str(sound) if waveform else None,
                audio_codec="aac",
                preset="faster",
                threads=1,  # more would make the file depend on the number of cores
                ffmpeg_params=[*QUALITY, *BT709, *FASTSTART],
            ) as writer:
                process = compat.encoder_process(writer)
                for frame in frames:
                    try:
                        writer.write_frame(frame)
                    except OSError as error:  # its message is ffmpeg's whole log
                        raise MediaError(_failure(path, str(error).strip().rpartition("\n")[2])) from error
            if process.returncode:
                raise MediaError(_failure(path, "ffmpeg stopped at its end"))
            os.replace(half, path)


def write_png(path: str | Path, picture: Tensor) -> None:
    """Write one picture (3, H, W) uint8."""
    Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy()).save(path, "PNG")


def _failure(path: Path, reason: str) -> str:
    return f"{path.name!r} could not be written ({reason.strip()}): is there room in its folder?"
