"""Second view: further clips of the same scene, each with its name, on the first camera's clock."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lynx.errors import MediaError
from lynx.modalities.base import MAX_SIDE, Modality, check_ranges
from lynx.modalities.video import Video, VideoRendering
from lynx.types import FileSource, Frames, MediaSource, Recording

LAST_FRAME = 0.1
"""Seconds for which a view's last frame stays: files end up to a frame before they should."""
OFFSETS = "offsets.json"
"""In a folder of clips: {"name of a clip": seconds on the first camera's clock at which it begins}."""


@dataclass(frozen=True)
class View:
    """A clip, and when it begins: seconds on the first camera's clock, negative if it began before."""

    clip: FileSource | Frames
    offset: float = 0.0


@dataclass(frozen=True)
class MultiViewRendering:
    """Longest side of a picture, in pixels. All views have the size of the first one."""

    max_side: int = 1280

    def __post_init__(self) -> None:
        check_ranges(self, max_side=(1, MAX_SIDE))


def views_of(source: MediaSource | View) -> dict[str, View]:
    """The views by name, in order: of a mapping, a folder of clips with `offsets.json`, or a single clip.

    Raises MediaError when there is none, or an offset is not a number of seconds of an existing clip.
    """
    if isinstance(source, Mapping):
        views = {str(name): clip if isinstance(clip, View) else View(clip) for name, clip in source.items()}
    elif isinstance(source, View | Frames):
        views = {"second view": source if isinstance(source, View) else View(source)}
    elif isinstance(source, FileSource):
        path = Recording.of(source).path
        views = _read_folder(path) if path.is_dir() else {path.stem: View(source)}
    else:
        raise MediaError(f"Further views are clips, not {type(source).__name__}.")
    if not views:
        raise MediaError("There is no further view; give at least one clip.")
    return views


def _is_clip(path: Path) -> bool:
    return path.suffix.lower() in Video.suffixes


def _read_folder(folder: Path) -> dict[str, View]:
    clips = {path.stem: path for path in sorted(folder.iterdir()) if _is_clip(path)}
    offsets: dict[str, float] = {}
    if (folder / OFFSETS).is_file():
        try:
            given = json.loads((folder / OFFSETS).read_text())
            offsets = {name: float(value) for name, value in given.items()}
        except (ValueError, TypeError, AttributeError) as error:
            problem = f"{OFFSETS} in {str(folder)!r} must be seconds by the names of clips."
            raise MediaError(problem) from error
        if unknown := sorted(set(offsets) - set(clips)):
            raise MediaError(f"{OFFSETS} names {unknown[0]!r}; the clips are {', '.join(clips) or 'none'}.")
    return {name: View(path, offsets.get(name, 0.0)) for name, path in clips.items()}


class MultiView(Modality):
    """The frames of the other cameras, as they are: of each moment one picture a view, in their order."""

    name = "multi_view"
    label = "second view"
    color = (37, 99, 235)
    takes = "view"
    suffixes = Video.suffixes
    example_file = "second_view.mp4"
    example_questions = ("What is hidden?",)
    Rendering = MultiViewRendering

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        """The clip; of a folder the clips in it and their offsets."""
        if not path.is_dir():
            return [path]
        return [file for file in sorted(path.iterdir()) if _is_clip(file) or file.name == OFFSETS]

    def pictures(self, source: MediaSource) -> int:
        """As many as there are views."""
        return len(views_of(source))

    def duration(self, source: MediaSource) -> float:
        """Seconds on the first camera's clock until the last view ends. Raises MediaError for bad clips."""
        end = max(self._ends(view) for view in views_of(source).values())
        if end <= 0:
            raise MediaError("All further views end before the first camera begins; check their offsets.")
        return end

    def render(self, source: MediaSource, times: Tensor) -> Frames:
        """Pictures (T * views, 3, H, W) uint8, those of one moment of `times` (T,) one after the other.

        A view is black while it does not record, which is noted.
        Raises MediaError when a clip cannot be read, or no view records at any of the moments.
        """
        (frames,) = self.parts(source, times, len(times))
        return frames

    def parts(self, source: MediaSource, times: Tensor, size: int) -> Iterator[Frames]:
        """The same pictures, those of `size` moments at a time."""
        views, times = views_of(source), torch.as_tensor(times, dtype=torch.float64)
        there: dict[str, Tensor] = {}  # at which moments each view has a picture: (T,) bool
        for name, view in views.items():
            local = times - view.offset
            there[name] = (local >= 0) & (local <= self._ends(view) - view.offset + LAST_FRAME)
        first = next((view for name, view in views.items() if there[name].any()), None)
        if first is None:
            raise MediaError(f"None of the views records at {times.tolist()} s; check their offsets.")
        sight, duration = Video(VideoRendering(self.rendering.max_side)), self.duration(source)
        shape = sight.size(first.clip)
        notes = tuple(
            f"{name} does not record at {int((~seen).sum())} of {len(times)} moments"
            for name, seen in there.items()
            if not seen.all()
        )
        for at in torch.arange(len(times)).split(size):
            shown = torch.zeros(len(at), len(views), 3, *shape, dtype=torch.uint8)
            for number, (name, view) in enumerate(views.items()):
                seen = there[name][at]
                if seen.any():
                    frames = sight.render(view.clip, times[at][seen] - view.offset)
                    notes, pixels = (*notes, *frames.notes), frames.pixels
                    if tuple(pixels.shape[-2:]) != shape:
                        pixels = F.interpolate(
                            pixels, shape, mode="bicubic", align_corners=False, antialias=True
                        )
                    shown[seen, number] = pixels
            moments = times[at].repeat_interleave(len(views))
            notes = tuple(dict.fromkeys(notes))
            yield Frames(shown.flatten(0, 1), moments, duration, tuple(views) * len(at), notes)

    @staticmethod
    def _ends(view: View) -> float:
        """When a view ends on the first camera's clock. Raises MediaError when it has no pictures."""
        if isinstance(view.clip, Frames):
            return view.offset + view.clip.duration
        return view.offset + Video().duration(view.clip)
