"""Sight: frames as they are. The one sense that needs no adapter."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from lynx.errors import MediaError
from lynx.media.container import probe
from lynx.media.frame_folder import frame_files
from lynx.media.picture import fit
from lynx.media.video import read_frames
from lynx.modalities.base import MAX_SIDE, Modality, check_ranges, recording_of
from lynx.types import Frames, MediaSource

EXPECTED = "Video is read from a file, a folder of pictures or from Frames"


@dataclass(frozen=True)
class VideoRendering:
    """Longest side read, in pixels: bounds memory, and every backbone looks at less."""

    max_side: int = 1280

    def __post_init__(self) -> None:
        check_ranges(self, max_side=(1, MAX_SIDE))


class Video(Modality):
    """The frames on the screen at the moments asked for."""

    name = "video"
    label = "picture"
    color = (13, 148, 136)
    takes = "video"
    suffixes = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".ts", ".ogv", ".gif")
    example_questions = ("What do you see?",)
    Rendering = VideoRendering

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        """The clip; of a folder the pictures in it and their times."""
        return frame_files(path) if path.is_dir() else [path]

    def duration(self, source: MediaSource) -> float:
        """Seconds of the whole recording. Raises MediaError when it has no picture track."""
        if isinstance(source, Frames):
            return source.duration
        info = probe(recording_of(source, EXPECTED))
        if info.video is None:
            raise MediaError(f"{info.path.name!r} has no picture track; give it as sound instead.")
        return info.duration

    def size(self, source: MediaSource) -> tuple[int, int]:
        """(height, width) in pixels of the frames that `render` will give."""
        if isinstance(source, Frames):
            height, width = source.pixels.shape[-2:]
            return height, width
        track = probe(recording_of(source, EXPECTED)).video
        if track is None:
            raise MediaError(f"{source!r} has no picture track.")
        width, height = fit(track.width, track.height, self.rendering.max_side)
        return height, width

    def render(self, source: MediaSource, times: Tensor) -> Frames:
        """Frames (T, 3, H, W) uint8 displayed at `times` (T,) seconds."""
        if isinstance(source, Frames):
            return source.at(times)
        return read_frames(recording_of(source, EXPECTED), times, self.rendering.max_side)

    def parts(self, source: MediaSource, times: Tensor, size: int) -> Iterator[Frames]:
        """Frames as `render` gives them, `size` at a time; the last part has the notes of all."""
        notes: dict[str, None] = {}

        def part(moments: Tensor) -> Frames:
            frames = self.render(source, moments)
            notes.update(dict.fromkeys(frames.notes))
            return replace(frames, notes=tuple(notes))

        return (part(moments) for moments in times.split(size))  # none is held while the next is read
