"""Sight: frames as they are. The one sense that needs no adapter."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lynx.errors import MediaError
from lynx.media import Frames, probe, read_frames
from lynx.modalities.base import Modality, Source


@dataclass(frozen=True)
class VideoRendering:
    """Longest side read, in pixels: bounds memory, and every backbone looks at less."""

    max_side: int = 1280


class Video(Modality):
    """The frames on the screen at the moments asked for."""

    name = "video"
    label = "picture"
    takes = "video"
    Rendering = VideoRendering

    def duration(self, source: Source) -> float:
        """Seconds of the whole recording. Raises MediaError when it has no picture track."""
        if isinstance(source, Frames):
            return source.duration
        if not isinstance(source, str | Path):
            raise MediaError(f"Video is read from a file or from Frames, not from {type(source).__name__}.")
        info = probe(source)
        if info.video is None:
            raise MediaError(f"{info.path.name!r} has no picture track; give it as sound instead.")
        return info.duration

    def render(self, source: Source, times: Tensor) -> Frames:
        """Frames (T, 3, H, W) uint8 displayed at `times` (T,) seconds."""
        if isinstance(source, Frames):
            return source.at(times)
        if not isinstance(source, str | Path):
            raise MediaError(f"Video is read from a file or from Frames, not from {type(source).__name__}.")
        return read_frames(source, times, self.rendering.max_side)
