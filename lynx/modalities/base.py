"""The base of all senses: media -> pseudo-frames, with parameters that travel with the adapter."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast, get_args, get_type_hints

import torch
from torch import Tensor

from lynx.config import short_repr
from lynx.errors import DataError, MediaError
from lynx.media.thumbnails import THUMBNAIL_PIXELS
from lynx.types import FileSource, Frames, MediaSource, Recording

Color = tuple[int, int, int]
"""Red, green and blue, 0..255."""


def recording_of(source: MediaSource, expected: str) -> Recording:
    """The recording that a sense is read from. Raises MediaError when the source is none."""
    if not isinstance(source, FileSource):
        raise MediaError(f"{expected}, not from {type(source).__name__}.")
    return Recording.of(source)


MAX_SIDE = 8192
"""Maximum pixels of a side that a rendering may ask for."""


def check_ranges(rendering: Any, **ranges: tuple[float, float]) -> None:
    """Refuse rendering parameters outside (least, most); None is allowed. An adapter of a stranger says them:
    a mel bank of 10^9 bands would be made before anything else is checked.

    Raises: DataError naming the parameter, its value and its range.
    """
    for name, (least, most) in ranges.items():
        value = getattr(rendering, name)
        if value is not None and not least <= value <= most:
            raise DataError(f"{name}={value} must lie between {least:g} and {most:g}.")


class Modality(ABC):
    """A sense. A subclass declares its names, what it is read from and how it is drawn."""

    name: ClassVar[str]
    """In code, in files and on the command line: "audio"."""
    label: ClassVar[str]
    """For people: "sound"."""
    color: ClassVar[Color | None] = None
    """In all pictures of it; None takes one of OTHER_COLORS, always the same for the same name."""
    takes: ClassVar[str]
    """The kind of file it is read from, which decides the place in the app: video, audio, depth or view."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of files that are a whole recording of it; folders and several files may be one, too."""
    example_file: ClassVar[str] = "clip.mp4"
    """Example of a file name, for model cards."""
    example_questions: ClassVar[tuple[str, ...]] = ("What do you see?",)
    """Questions that need the sense; model cards show the first."""
    Rendering: ClassVar[type]
    """The frozen dataclass of its rendering parameters."""
    style: ClassVar[str] = "lynx"
    """Which way it is drawn, where there are several: see `styles`."""
    styles: ClassVar[dict[str, type[Any]]]
    """The classes that draw this sense, by the `style` of a rendering."""

    def __init_subclass__(cls, style: str = "") -> None:
        """style: of a class that draws the sense it inherits from in another way."""
        super().__init_subclass__()
        if style:
            cls.style, cls.styles[style] = style, cls
        else:
            cls.styles = {cls.style: cls}

    def __init__(self, rendering: Any = None) -> None:
        self.rendering = self.Rendering() if rendering is None else rendering
        if not isinstance(self.rendering, self.Rendering):
            raise DataError(
                f"{self.name} is rendered with {self.Rendering.__name__}, not {type(rendering).__name__}."
            )

    @classmethod
    def from_dict(cls, parameters: dict[str, Any]) -> Self:
        """The modality of the `style` that these rendering parameters name; defaults for those left out.

        Raises DataError for unknown parameters, since a sense has to be drawn as in training.
        """
        known = [field.name for field in fields(cls.Rendering)]
        if "style" in parameters and "style" not in known:
            parameters = dict(parameters)
            style = parameters.pop("style")
            if not isinstance(style, str) or style not in cls.styles:
                styles = " or ".join(cls.styles)
                raise DataError(f"style of {cls.name} is {short_repr(style)}; it can be {styles}.")
            return cast(Self, cls.styles[style].from_dict(parameters))
        unknown = sorted(set(parameters) - set(known))
        if unknown:
            raise DataError(
                f"Unknown rendering parameters of {cls.name}: {', '.join(unknown)}; known {', '.join(known)}."
            )
        hints = get_type_hints(cls.Rendering)
        for name, value in parameters.items():
            kinds = get_args(hints[name]) or (hints[name],)  # of `float | None` both
            if type(value) not in kinds and not (type(value) is int and float in kinds):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise DataError(f"{name} of {cls.name} is {short_repr(value)}; expected {expected}.")
        return cls(cls.Rendering(**parameters))

    def to_dict(self) -> dict[str, Any]:
        """The rendering parameters as JSON-ready values."""
        style = {} if self.style == Modality.style else {"style": self.style}
        return style | asdict(self.rendering)

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        """All files that are read for `path`; a cached stream is named by their bytes.

        Overridden by senses that read side files, or only some files of a folder.
        """
        return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]

    @classmethod
    def drawing_bytes(cls, seconds: float) -> int:
        """Peak bytes while a recording of that length is drawn with the default rendering.

        0 where that is negligible, as in a sense that is drawn frame by frame.
        """
        return 0

    @classmethod
    def picture_bytes(cls, frames: int, seconds: float) -> int:
        """Maximum bytes of the pictures kept of that many moments, with the default rendering."""
        return 3 * frames * THUMBNAIL_PIXELS

    def pictures(self, source: MediaSource) -> int:
        """Number of pseudo-frames of each moment. Raises MediaError when the source cannot be this sense."""
        return 1

    @abstractmethod
    def duration(self, source: MediaSource) -> float:
        """Seconds of the recording. Raises MediaError when the source cannot be this sense."""

    def check(self, source: MediaSource) -> float:
        """Its seconds, once its beginning has been decoded. Raises MediaError when that cannot be done."""
        return self.duration(source)  # which decodes a first picture

    def clock(self, source: MediaSource) -> float | None:
        """Seconds of the recording's own clock; None where it has none and is spread over the clip."""
        return self.duration(source)

    @abstractmethod
    def render(self, source: MediaSource, times: Tensor) -> Frames:
        """Pseudo-frames (T', 3, H, W) uint8 for the moments `times` (T,) of the video's frames, in seconds.

        Where there are several of a moment they follow each other, and `labels` tells them apart; `notes` say
        what could not be drawn as asked. A sense alone is asked at `sample_times(duration, T)`.
        Raises MediaError if the source cannot be this.
        """

    def blank(self, frames: Frames) -> Tensor:
        """What it draws where there is nothing, as large as these pictures: (1, 3, H, W) uint8, black.

        Where its kinds of pictures differ there, one of each: (kinds, 3, H, W).
        """
        return torch.zeros_like(frames.pixels[:1])

    def parts(self, source: MediaSource, times: Tensor, size: int) -> Iterator[Frames]:
        """`render` in parts of at most `size` moments, so that memory does not grow with the recording.

        All parts but the last have the same size; the last one has the duration and notes of the whole. By
        default there is one part, for senses whose pictures depend on one another.
        """
        yield self.render(source, times)
