"""A folder of pictures as a video: `color/0.jpg` ... (ScanNet), `rgb/1305031102.175304.png` (TUM), or flat.

Only the pictures that are asked for are opened. Their times come from the numbers in the names at
the recording's rate, the first at 0:00, else `times.txt` beside them, else names that are Unix time, else
they are spread.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import av
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lynx.config import LIMITS, short_repr
from lynx.errors import MediaError
from lynx.media.numbered_files import TIMES, end_of, in_order, read_times, times_at_rate, unix_times
from lynx.media.picture import Size, fit, framed, inside, over_black
from lynx.types import EPSILON, FileSource, Frames, MediaInfo, Recording, Track, VideoTrack

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
"""Pillow's names of the formats that are opened."""
INSIDE = ("color", "rgb")
"""Folders that hold the pictures in recordings with depth."""
COLOR = ".color"
"""End of the names of pictures that lie beside depth maps in one folder (7-Scenes)."""
ORIENTATION = 274  # EXIF tag
WHAT = "pictures"
PICTURE_SIDE = 1280
"""Longest side of pictures that are given by themselves, in pixels: as of a video's."""
BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on files that are damaged or of another kind."""


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a recording, in order: those in the folder's color/ or rgb/, else in itself."""
    inner = next((folder / name for name in INSIDE if (folder / name).is_dir()), folder)
    # macOS leaves a hidden ._0.jpg beside 0.jpg
    shown = [file for file in inner.iterdir() if file.suffix.lower() in ENDINGS and file.name[0] != "."]
    files = [file for file in shown if file.is_file()]
    named = [file for file in files if file.stem.lower().endswith(COLOR)]
    return in_order(named or files)


def frame_files(folder: Path) -> list[Path]:
    """All files that are read of a folder of pictures: the pictures and their times."""
    files = picture_files(folder)
    times = _times_file(folder, files)
    return [*files, *([times] if times else ())]


def _times_file(folder: Path, files: list[Path]) -> Path | None:
    """`times.txt` beside the pictures, or beside the folder color/ or rgb/ they lie in."""
    inner = files[0].parent if files else folder
    outer = [inner.parent] if inner.name in INSIDE else []
    return next((path / TIMES for path in (inner, *outer) if (path / TIMES).is_file()), None)


@dataclass(frozen=True)
class FrameFolder:
    """Pictures and their times."""

    path: Path
    files: list[Path]
    times: np.ndarray  # (n,) ascending seconds
    duration: float  # seconds
    notes: tuple[str, ...]

    @classmethod
    def open(cls, source: FileSource) -> Self:
        """The folder, its pictures and times. Raises MediaError when it holds none, or times do not fit."""
        recording = Recording.of(source)
        path, files = recording.path, picture_files(recording.path)
        if not files:
            raise MediaError(
                f"There is no file {str(path)!r}, nor a folder of that name with pictures; give a video, "
                f"or a folder of *{', *'.join(ENDINGS)}."
            )
        count = len(files)
        if recording.fps:
            times = times_at_rate(files, recording.fps, WHAT)
            times -= times[0]  # the numbers may go on from another part of the scene
        elif (file := _times_file(path, files)) is not None:
            times = read_times(file, count, WHAT)
        elif (stamps := unix_times(files)) is not None:
            times = stamps - stamps[0]
        else:
            lasts = recording.lasts or float(count)
            note = f"{path.name}: {count} pictures have no times ({TIMES}) and no rate (fps): "
            note += f"spread over {lasts:g} s" if recording.lasts else "one a second is assumed"
            return cls(path, files, np.arange(count) * (lasts / count), lasts, (note,))
        late = f"{path.name}: its first picture is of {times[0]:.1f} s and is shown until then as well"
        return cls(path, files, times, end_of(times), (late,) if times[0] > 1 else ())

    @cached_property
    def _first(self) -> tuple[str, Size]:
        """Format and displayed size of the first picture, which all others are shown at."""
        with _opened(self.files[0]) as image:
            if image.format == "TIFF":  # turned by Pillow itself, in some versions only once it is loaded
                image.load()
            turned = image.getexif().get(ORIENTATION, 1) >= 5  # these four are turned by 90 degrees
            return (image.format or "").lower(), image.size[::-1] if turned else image.size

    def info(self) -> MediaInfo:
        """What is known of it as a recording."""
        codec, (width, height) = self._first
        spacing = float(np.median(np.diff(self.times))) if len(self.files) > 1 else self.duration
        rate = 1 / spacing if spacing > 0 else 0.0
        video = VideoTrack(width, height, rate, codec, 0, duration=self.duration, notes=self.notes)
        track = Track(0, "video", codec, True, True, "the pictures of the folder")
        return MediaInfo(self.path, self.duration, video, (), (track,), picture_notes=self.notes)

    def indices(self, times: Tensor) -> np.ndarray:
        """Which picture (T,) is on the screen at each of `times` (T,): before the first, the first."""
        return (np.searchsorted(self.times, times.numpy() + EPSILON, side="right") - 1).clip(min=0)

    def pictures(self, times: Tensor, max_side: int | None, notes: dict[str, None]) -> Iterator[np.ndarray]:
        """The picture (H, W, 3) uint8 on the screen at each of `times` (T,), of one size; adds to `notes`.

        Raises MediaError naming a picture that is damaged or too large.
        """
        notes.update(dict.fromkeys(self.notes))
        shown, picture = -1, np.empty(0)
        for index in self.indices(times):
            if index != shown:
                shown, picture = index, self._read(self.files[index], max_side, notes)
            yield picture

    def _read(self, file: Path, max_side: int | None, notes: dict[str, None]) -> np.ndarray:
        """(H, W, 3) uint8 of a picture, upright, between bars where its shape is not that of the first."""
        with _opened(file) as image:
            rgb, remark = _rgb(image)
        if remark:
            notes[f"{self.path.name}: {remark}"] = None
        displayed, size = self._first[1], (rgb.shape[1], rgb.shape[0])
        if size != displayed:
            shown_at = f"all are shown at {displayed[0]}x{displayed[1]}"
            notes[f"{self.path.name}: its pictures differ in size, {shown_at}"] = None
        return _at_size(rgb, fit(*displayed, max_side))


def frames_of(pictures: Sequence[Image.Image | str | Path], rate: float) -> Frames:
    """Pictures, in memory or files, as frames, `rate` a second: all at the size of the first, between bars.

    Raises MediaError naming one that is damaged, too large or no picture.
    """
    read, notes = [], dict[str, None]()
    for number, picture in enumerate(pictures, 1):
        rgb, remark = _opened_rgb(picture)
        if remark:
            notes[f"picture {number}: {remark}"] = None
        read.append(rgb)
    height, width = read[0].shape[:2]
    if any(each.shape != read[0].shape for each in read):
        notes[f"the pictures differ in size, all are shown at {width}x{height}"] = None
    room = fit(width, height, PICTURE_SIDE)
    pixels = np.stack([_at_size(each, room) for each in read])  # (T, H, W, 3)
    times = torch.arange(len(read), dtype=torch.float64) / rate
    frames = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Frames(frames, times, len(read) / rate, notes=tuple(notes))


def _opened_rgb(picture: Image.Image | str | Path) -> tuple[np.ndarray, str]:
    """As `_rgb`, of a picture in memory or a file."""
    if isinstance(picture, Image.Image):
        return _rgb(picture)
    if not isinstance(picture, str | Path):
        raise MediaError(f"{short_repr(picture)} is no picture: expected one of Pillow, or a file")
    with _opened(Path(picture)) as image:
        return _rgb(image)


def _at_size(rgb: np.ndarray, room: Size) -> np.ndarray:
    """A picture (H, W, 3) uint8 at that size, between bars where it has another shape."""
    size = (rgb.shape[1], rgb.shape[0])
    if (fitted := inside(size, room)) != size:
        frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
        rgb = frame.reformat(*fitted, interpolation="AREA").to_ndarray()
    return framed(rgb, room)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The opened picture. Raises MediaError with its name when it, or what is done with it, fails."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if max(image.size) > LIMITS.max_side:
                size, most = f"{image.width}x{image.height}", LIMITS.say("max_side")
                raise MediaError(f"{file.name!r} is {size}; sides of up to {most} are read.")
            yield image
    except BROKEN as error:
        problem = f"{file.name!r} cannot be read as a picture: it is damaged or of another kind."
        raise MediaError(problem) from error


def _rgb(image: Image.Image) -> tuple[np.ndarray, str]:
    """(H, W, 3) uint8 of a picture, upright, and what had to be assumed of it."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits of gray, which Pillow would cut off at 255
        gray = np.asarray(upright).clip(0, 65535).astype(np.uint32)
        levels = ((gray + 128) // 257).astype(np.uint8)
        return np.repeat(levels[..., None], 3, axis=2), ""
    if upright.has_transparency_data:
        rgba = np.asarray(upright.convert("RGBA"))
        return (rgba[..., :3].copy(), "") if (rgba[..., 3] == 255).all() else over_black(rgba)
    return np.asarray(upright.convert("RGB")), ""
