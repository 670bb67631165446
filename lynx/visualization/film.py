"""An answer's evidence as a film: the clip with the heat of a chosen word over it, and every sense under it.

Pictures come from the user's own file, one after another, so that memory does not grow with the clip; the
heat, between two moments that the model looked at, goes evenly from the one's map to the other's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lynx.errors import LynxError, MediaError
from lynx.evidence.attention import TEXT, Evidence
from lynx.media.audio import read_audio
from lynx.media.container import probe
from lynx.media.video import iter_frames
from lynx.media.writer import write_stream
from lynx.types import VIDEO, Frames, Waveform
from lynx.visualization.drawing import Lane, attention_curve, clock, full_heat
from lynx.visualization.film_frame import Caption, FramePainter, picture_size

if TYPE_CHECKING:
    from lynx.session import Session

AUDIO = "audio"
Progress = Callable[[int, int], None]
"""Told how many frames are written, and of how many."""

DEFAULT_SECONDS = 120.0
"""How much of a longer clip is filmed where no window is asked for."""
MAX_SECONDS = 600.0
"""The longest window that can be asked for."""
DEFAULT_FPS, MIN_FPS, MAX_FPS = 24.0, 12.0, 30.0
MAX_SAMPLE_RATE = 48000  # Hz
TOLERANCE = 0.1
"""Seconds by which a window may go beyond the clip: durations are rounded where people see them."""
PART_OF_A_LETTER = "\ufffd"
"""How a token looks that holds a part of a letter: with it the tokens do not add up to the answer."""
NOTE = (
    "Brighter: more attention while {what} was said, each sense on its own scale. An indication, not a proof."
)


@dataclass(frozen=True)
class Film:
    """What was written: seconds of the clip, size (width, height), the chosen word (None: the answer)."""

    path: Path
    start: float
    end: float
    size: tuple[int, int]
    fps: float
    sound: bool
    word: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class AnswerWord:
    """A word of an answer: its text, its tokens, and its first letter in the answer and the first one behind.

    The whole answer has no text and no tokens of its own.
    """

    text: str | None
    tokens: list[int] | None
    letters: tuple[int, int]


def find_word(evidence: Evidence, word: int | str | None = None) -> AnswerWord:
    """A word of the answer: its index in `evidence.words`, or the word itself (the first one of them).

    None is the whole answer. Raises: LynxError where there is no such word; it names those there are.
    """
    words = evidence.words
    if word is None:
        return AnswerWord(None, None, (0, 0))
    if isinstance(word, str):
        same = (i for i, (text, _) in enumerate(words) if text.casefold() == word.strip().casefold())
        word = next(same, -1)
    if not 0 <= word < len(words):
        raise LynxError(f"the answer has no such word; it has {', '.join(text for text, _ in words)}")
    text, tokens = words[word]
    start = len("".join(evidence.tokens[: tokens[0]]))
    raw = "".join(evidence.tokens[tokens[0] : tokens[-1] + 1])
    start += len(raw) - len(raw.lstrip())
    return AnswerWord(text, tokens, (start, start + len(raw.strip())))


def write_film(
    session: "Session",
    path: str | Path,
    word: int | str | None = None,
    window: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> Film:
    """Write an mp4 of the session's last answer: what `word` rests on, see `find_word`.

    window: seconds of the clip; by default all of it, or its first DEFAULT_SECONDS, which a note says.
    Raises: LynxError: no answer, no such word. MediaError: media that cannot be read, a window outside of the
    clip, a file that cannot be written; then nothing is left of it.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise MediaError(f"a film is an mp4: give a name that ends in .mp4, not {path.name!r}")
    evidence, question = _answered(session)
    chosen = find_word(evidence, word)
    start, end, notes = _window(session.plan.duration, window)
    clip = _ClipReader(session.media.get(VIDEO))
    labels = {sense: session.model.modality(sense).label for sense in evidence.spans}
    caption = Caption(
        question,
        "".join(evidence.tokens),
        chosen.letters,
        evidence.share(chosen.tokens),
        labels | {TEXT: "words"},
        NOTE.format(what="the marked word" if chosen.text else "the answer"),
    )
    lanes = []
    for sense, stream in evidence.streams.items():
        if sense != VIDEO:  # which is the picture itself
            modality, heat = session.model.modality(sense), evidence.frame_maps(chosen.tokens, sense)
            seconds = getattr(modality.rendering, "seconds_per_frame", None) or 0.0
            fill = modality.takes == AUDIO
            lanes.append(Lane(sense, labels[sense], stream.frames, heat, fill, seconds))
    curves = [attention_curve(evidence, chosen.tokens, sense) for sense in evidence.spans]
    painter = FramePainter(clip.shown, caption, lanes, curves, (start, end))
    count = max(1, round((end - start) * clip.fps))
    times = start + torch.arange(count, dtype=torch.float64) / clip.fps
    maps = evidence.heatmap(chosen.tokens, VIDEO) if VIDEO in evidence.spans else None  # (T, rows, cols)
    if maps is not None:
        maps, moments = maps / full_heat(maps), evidence.curve(chosen.tokens, VIDEO)[0].double().contiguous()

    def draw() -> Iterator[np.ndarray]:
        """The frames (H, W, 3) uint8, one after another, so that memory does not grow with the clip."""
        for number, pixels in enumerate(clip.frames(times)):
            time = float(times[number])
            yield painter.draw(time, pixels, _heat_at(time, moments, maps) if maps is not None else None)
            if progress is not None:
                progress(number + 1, count)

    sound = _sound(session, start, end)
    write_stream(path, draw(), painter.size, clip.fps, sound)
    return Film(path, start, end, painter.size, clip.fps, sound is not None, chosen.text, notes)


def _answered(session: "Session") -> tuple[Evidence, str]:
    """The evidence of the last answer, and its question."""
    evidence, history = session.evidence, session.history
    if evidence is None or len(history) < 2:
        raise LynxError("there is no answer to film yet: ask something first")
    said, cut, _ = "".join(evidence.tokens).strip().partition(PART_OF_A_LETTER)
    answer = history[-1]["content"]
    if not (answer.startswith(said) if cut else answer == said):
        raise LynxError("the answer was taken back: ask again before it is filmed")
    if not evidence.spans:
        raise LynxError("the answer rests on no media: there is nothing to film")
    return evidence, history[-2]["content"]


def _window(duration: float, window: tuple[float, float] | None) -> tuple[float, float, tuple[str, ...]]:
    """The film's first and last second, and what has to be said about them."""
    if window is None:
        if duration <= DEFAULT_SECONDS:
            return 0.0, duration, ()
        first, whole = clock(DEFAULT_SECONDS, DEFAULT_SECONDS), clock(duration, duration)
        return 0.0, DEFAULT_SECONDS, (f"the first {first} of {whole}: ask for a window to film more",)
    start, end = window
    if not 0 <= start < end <= duration + TOLERANCE or start >= duration:
        asked = f"the window from {start:g} to {end:g} s"
        raise MediaError(f"{asked} does not lie in the clip, which lasts {duration:.2f} s")
    if end - start > MAX_SECONDS:
        raise MediaError(f"a film lasts at most {MAX_SECONDS:g} s, not {end - start:g} s: shorten the window")
    return start, min(end, duration), ()


class _ClipReader:
    """The picture of a film, read as it is shown; `shown` is its size there, None where there is none."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.shown: tuple[int, int] | None = None
        self.fps = DEFAULT_FPS
        if isinstance(source, Frames):
            self.shown = picture_size(source.pixels.shape[-1], source.pixels.shape[-2])
        elif source is not None:
            track = probe(source).video
            assert track is not None  # the answer looked at it
            self.shown = picture_size(track.width, track.height)
            # of 60 or 50 frames a second every other one is shown, of fewer than MIN_FPS some twice
            rate = track.fps / ceil(track.fps / MAX_FPS) if track.fps else 0.0
            self.fps = round(rate, 2) if rate >= MIN_FPS else DEFAULT_FPS

    def frames(self, times: Tensor) -> Iterator[Tensor | None]:
        """The frame (3, H, W) uint8 on the screen at each moment."""
        if self.shown is None:
            yield from (None for _ in times)
        elif isinstance(self.source, Frames):
            yield from (self.source.at(time[None]).pixels[0] for time in times)
        else:
            for pixels in iter_frames(self.source, times, max(self.shown)):
                yield torch.from_numpy(pixels).permute(2, 0, 1)


def _heat_at(time: float, times: Tensor, maps: Tensor) -> Tensor:
    """The heat (rows, cols) of a moment, between the maps (T, rows, cols) of the times around it."""
    behind = int(torch.searchsorted(times, time))
    first, last = max(0, behind - 1), min(behind, len(times) - 1)
    gap = float(times[last] - times[first])
    return torch.lerp(maps[first], maps[last], (time - float(times[first])) / gap if gap else 0.0)


def _sound(session: "Session", start: float, end: float) -> Waveform | None:
    """What is heard in these seconds: of the sense that hears, else of the clip itself."""
    media, modality = session.media, session.model.modality
    heard = [source for sense, source in media.items() if modality(sense).takes == AUDIO]
    for source in (*heard, media.get(VIDEO)):
        if isinstance(source, Waveform):
            rate = source.sample_rate
            samples = source.samples[round(start * rate) : round(end * rate)]
            return Waveform(samples, rate) if len(samples) else None
        if isinstance(source, str | Path) and (tracks := probe(source).audio):
            found = read_audio(source, min(tracks[0].sample_rate, MAX_SAMPLE_RATE), window=(start, end))
            return found if len(found.samples) else None
    return None
