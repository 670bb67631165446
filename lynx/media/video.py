"""Pictures at moments: the frame that is displayed at each, as a player shows it, found by its timestamp.

Which frame that is the `playhead` finds; what is done to it stands in `picture`. A folder of pictures is a
video, too: `frame_folder`.
"""

from collections.abc import Iterator, Sequence

import av
import numpy as np
import torch
from torch import Tensor

from lynx.errors import MediaError
from lynx.media.container import open_recording, probe, start_of, video_streams
from lynx.media.frame_folder import FrameFolder
from lynx.media.picture import Converter, oriented, turned
from lynx.media.playhead import Playhead
from lynx.media.rare_codecs import codecs_of, in_worker_if_rare, is_rare
from lynx.types import FileSource, Frames, MediaInfo

AT_ONCE = 16
"""Pictures that a worker gives at a time."""


@in_worker_if_rare(probe)
def read_frames(source: FileSource, times: Tensor | Sequence[float], max_side: int | None = None) -> Frames:
    """The frames displayed at `times` (T,) ascending seconds, no side longer than max_side, with notes.

    A moment after the last frame shows the last frame, as a player does.
    Raises MediaError if the file cannot be read, has no picture track, or `times` do not ascend from >= 0.
    """
    moments, info = _checked(source, times)
    notes = dict.fromkeys(info.picture_notes)
    pixels = np.stack(list(_pictures(source, info, moments, max_side, notes)))  # (T, H, W, 3)
    shown = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Frames(shown, moments, info.duration, notes=tuple(notes))


def iter_frames(
    source: FileSource, times: Tensor | Sequence[float], max_side: int | None = None
) -> Iterator[np.ndarray]:
    """The same pictures, (H, W, 3) uint8, one after another: only one is in memory at a time."""
    moments, info = _checked(source, times)
    if not is_rare(codecs_of(info)):
        yield from _pictures(source, info, moments, max_side, {})
        return
    for part in moments.split(AT_ONCE):
        yield from read_frames(source, part, max_side).pixels.permute(0, 2, 3, 1).numpy()


@in_worker_if_rare(probe)
def read_levels(source: FileSource, times: Tensor | Sequence[float]) -> np.ndarray:
    """16-bit gray (T, H, W) uint16, or else RGB (T, H, W, 3) uint8, at `times`; raises as `read_frames`.

    Values as they are stored, upright: a measurement is neither deinterlaced nor tone-mapped.
    """
    moments, info = _checked(source, times)
    if info.path.is_dir():
        return np.stack(list(_pictures(source, info, moments, None, {})))
    assert info.video is not None  # by _checked
    levels = []
    for frame, _ in _displayed(info, moments):
        layout = "gray16le" if frame.format.name.startswith("gray16") else "rgb24"
        stored = frame.reformat(format=layout).to_ndarray()
        levels.append(oriented(stored, *turned(frame, info.video)))
    if len(shapes := {one.shape for one in levels}) > 1:
        raise MediaError(f"The pictures of {info.path.name!r} change size: {sorted(shapes)}.")
    return np.stack(levels)


@in_worker_if_rare(probe)
def shown_at(source: FileSource, times: Tensor | Sequence[float]) -> list[float]:
    """Seconds (T) at which the frames displayed at `times` (T,) begin themselves; raises as `read_frames`."""
    moments, info = _checked(source, times)
    if info.path.is_dir():
        folder = FrameFolder.open(source)
        return folder.times[folder.indices(moments)].tolist()
    began = [float(frame.time or 0) for frame, _ in _displayed(info, moments)]
    with open_recording(info.path) as container:
        start = start_of(container)
    return [time - start for time in began]


def _checked(source: FileSource, times: Tensor | Sequence[float]) -> tuple[Tensor, MediaInfo]:
    """The moments (T,) float64, and what is known of the recording."""
    moments = torch.as_tensor(times, dtype=torch.float64)
    known = moments.ndim == 1 and len(moments) and moments.isfinite().all()
    if not known or moments[0] < 0 or (moments.diff() < 0).any():
        raise MediaError(f"Frames are read at ascending seconds from 0, not at {moments.tolist()}.")
    info = probe(source)
    if info.video is None:
        raise MediaError(f"{info.path.name!r} has no picture track; give it as sound instead.")
    return moments, info


def _pictures(
    source: FileSource, info: MediaInfo, times: Tensor, max_side: int | None, notes: dict[str, None]
) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3) uint8 of one size at `times` (T,); what had to be assumed is added to `notes`."""
    assert info.video is not None  # by _checked
    if info.path.is_dir():
        yield from FrameFolder.open(source).pictures(times, max_side, notes)
        return
    convert: Converter | None = None
    for frame, stream in _displayed(info, times):
        convert = convert or Converter(info.video, max_side, stream, info.path.name)
        yield convert(frame)
        notes.update(convert.notes)


def _displayed(info: MediaInfo, times: Tensor) -> Iterator[tuple[av.VideoFrame, av.VideoStream]]:
    """The frame on the screen at each moment, with its track."""
    with open_recording(info.path) as container:
        stream = video_streams(container)[0]
        # FFmpeg's Theora decoder overwrites frames that are still in use when it decodes several at once
        stream.thread_type = "SLICE" if stream.codec_context.name == "theora" else "AUTO"
        playhead = Playhead(container, stream)
        for time in times.tolist():
            yield playhead.show(time), stream
