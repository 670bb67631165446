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
from lynx.media.video import show_frames
from lynx.media.writer import write_stream
from lynx.types import VIDEO, Frames, Waveform
from lynx.visualization.film_frame import Screen, Track, Words, picture_size
from lynx.visualization.timeline import Curve, clock, full_heat

if TYPE_CHECKING:
    from lynx.session import Session

AUDIO = "audio"
Progress = Callable[[int, int], None]
"""Told how many frames are written, and of how many."""

LIMIT = 120.0
"""Seconds that are filmed of a longer clip where no window is asked for."""
LONGEST = 600.0
"""Seconds that can be asked for."""
USUAL_FPS, SLOWEST, FASTEST = 24.0, 12.0, 30.0
HIGHEST_RATE = 48000  # Hz
SLACK = 0.1
"""Seconds by which a window may go beyond the clip: durations are rounded where people see them."""
CUT_LETTER = "\ufffd"
"""Stands for a letter of several tokens: with it the tokens do not add up to the answer."""
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
class Choice:
    """The chosen word: its text, its tokens, and its first letter in the answer and the first one behind."""

    text: str | None
    tokens: list[int] | None
    letters: tuple[int, int]


def choose(evidence: Evidence, word: int | str | None = None) -> Choice:
    """A word of the answer: its index in `evidence.words`, or the word itself (the first one of them).

    None is the whole answer. Raises: LynxError where there is no such word; it names those there are.
    """
    words = evidence.words
    if word is None:
        return Choice(None, None, (0, 0))
    if isinstance(word, str):
        same = (i for i, (text, _) in enumerate(words) if text.casefold() == word.strip().casefold())
        word = next(same, -1)
    if not 0 <= word < len(words):
        raise LynxError(f"the answer has no such word; it has {', '.join(text for text, _ in words)}")
    text, tokens = words[word]
    start = len("".join(evidence.tokens[: tokens[0]]))
    raw = "".join(evidence.tokens[tokens[0] : tokens[-1] + 1])
    start += len(raw) - len(raw.lstrip())
    return Choice(text, tokens, (start, start + len(raw.strip())))


def write_film(
    session: "Session",
    path: str | Path,
    word: int | str | None = None,
    window: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> Film:
    """Write an mp4 of the session's last answer: what `word` rests on, see `choose`.

    window: seconds of the clip; by default all of it, or its first LIMIT seconds, which a note says.
    Raises: LynxError: no answer, no such word. MediaError: media that cannot be read, a window outside of the
    clip, a file that cannot be written; then nothing is left of it.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise MediaError(f"a film is an mp4: give a name that ends in .mp4, not {path.name!r}")
    evidence, question = _answered(session)
    choice = choose(evidence, word)
    start, end, notes = _stretch(session.plan.duration, window)
    clip = _Clip(session.media.get(VIDEO))
    words = Words(
        question,
        "".join(evidence.tokens),
        choice.letters,
        evidence.share(choice.tokens),
        {sense: session.model.modality(sense).label for sense in evidence.spans} | {TEXT: "words"},
        NOTE.format(what="the marked word" if choice.text else "the answer"),
    )
    curves = [_curve(evidence, choice, sense) for sense in evidence.spans]
    screen = Screen(clip.shown, words, _tracks(session, evidence, choice), curves, (start, end))
    count = max(1, round((end - start) * clip.fps))
    times = start + torch.arange(count, dtype=torch.float64) / clip.fps
    heat = _Heat(evidence, choice.tokens) if VIDEO in evidence.spans else None
    sound = _sound(session, start, end)
    frames = _draw(screen, times, clip.pictures(times), heat, progress)
    write_stream(path, frames, screen.size, clip.fps, sound)
    return Film(path, start, end, screen.size, clip.fps, sound is not None, choice.text, notes)


def _answered(session: "Session") -> tuple[Evidence, str]:
    """The evidence of the last answer, and its question."""
    evidence, history = session.evidence, session.history
    if evidence is None or len(history) < 2:
        raise LynxError("there is no answer to film yet: ask something first")
    said, cut, _ = "".join(evidence.tokens).strip().partition(CUT_LETTER)
    answer = history[-1]["content"]
    if not (answer.startswith(said) if cut else answer == said):
        raise LynxError("the answer was taken back: ask again before it is filmed")
    if not evidence.spans:
        raise LynxError("the answer rests on no media: there is nothing to film")
    return evidence, history[-2]["content"]


def _stretch(duration: float, window: tuple[float, float] | None) -> tuple[float, float, tuple[str, ...]]:
    """The film's first and last second, and what has to be said about them."""
    if window is None:
        if duration <= LIMIT:
            return 0.0, duration, ()
        shown = clock(LIMIT, LIMIT)
        return (
            0.0,
            LIMIT,
            (f"the first {shown} of {clock(duration, duration)}: ask for a window to film more",),
        )
    start, end = window
    if not 0 <= start < end <= duration + SLACK or start >= duration:
        raise MediaError(
            f"the window from {start:g} to {end:g} s does not lie in the clip, which lasts {duration:.2f} s"
        )
    if end - start > LONGEST:
        raise MediaError(
            f"a film lasts at most {LONGEST:g} s, not {end - start:g} s: ask for a shorter window"
        )
    return start, min(end, duration), ()


class _Clip:
    """The picture of a film, read as it is shown; `shown` is its size there, None where there is none."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.shown: tuple[int, int] | None = None
        self.fps = USUAL_FPS
        if isinstance(source, Frames):
            height, width = source.pixels.shape[-2:]
            self.shown = picture_size(width, height)
        elif source is not None:
            track = probe(source).video
            assert track is not None  # the answer looked at it
            self.shown = picture_size(track.width, track.height)
            # of 60 or 50 frames a second every other one is shown, of fewer than SLOWEST some twice
            rate = track.fps / ceil(track.fps / FASTEST) if track.fps else 0.0
            self.fps = round(rate, 2) if rate >= SLOWEST else USUAL_FPS

    def pictures(self, times: Tensor) -> Iterator[Tensor | None]:
        """The frame (3, H, W) uint8 on the screen at each moment."""
        if self.shown is None:
            yield from (None for _ in times)
        elif isinstance(self.source, Frames):
            yield from (self.source.at(time[None]).pixels[0] for time in times)
        else:
            for pixels in show_frames(self.source, times, max(self.shown)):
                yield torch.from_numpy(pixels).permute(2, 0, 1)


class _Heat:
    """The video's heat maps (T, rows, cols) in [0, 1], at any moment."""

    def __init__(self, evidence: Evidence, tokens: list[int] | None) -> None:
        self.times = evidence.curve(tokens, VIDEO)[0].double().contiguous()
        maps = evidence.heatmap(tokens, VIDEO)
        self.maps = maps / full_heat(maps)

    def at(self, time: float) -> Tensor:
        """The map (rows, cols) of a moment: between those of the moments before and behind it."""
        behind = int(torch.searchsorted(self.times, time))
        first, last = max(0, behind - 1), min(behind, len(self.times) - 1)
        gap = float(self.times[last] - self.times[first])
        return torch.lerp(
            self.maps[first], self.maps[last], (time - float(self.times[first])) / gap if gap else 0.0
        )


def _draw(
    screen: Screen,
    times: Tensor,
    pictures: Iterator[Tensor | None],
    heat: _Heat | None,
    progress: Progress | None,
) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 of the film, one after another."""
    for number, (time, pixels) in enumerate(zip(times.tolist(), pictures, strict=True), start=1):
        yield screen.draw(time, pixels, heat.at(time) if heat is not None else None)
        if progress is not None:
            progress(number, len(times))


def _tracks(session: "Session", evidence: Evidence, choice: Choice) -> list[Track]:
    """Every sense but the video; of one with several pictures a moment, each kind on a track of its own."""
    tracks = []
    for sense, stream in evidence.streams.items():
        if sense == VIDEO:
            continue
        modality, frames = session.model.modality(sense), stream.frames
        maps = evidence.frame_maps(choice.tokens, sense)
        kinds = list(dict.fromkeys(frames.labels)) or [modality.label]
        for number, kind in enumerate(kinds):
            part = Frames(
                frames.pixels[number :: len(kinds)], frames.times[number :: len(kinds)], frames.duration
            )
            spacing = float(part.times.diff().median()) if len(part) > 1 else part.duration
            seconds = getattr(modality.rendering, "seconds_per_frame", None) or spacing
            spread = modality.takes == AUDIO
            tracks.append(Track(sense, kind, part, maps[number :: len(kinds)], seconds, spread))
    return tracks


def _curve(evidence: Evidence, choice: Choice, sense: str) -> Curve:
    """Attention over time; that on several pictures of one moment adds up."""
    times, values = evidence.curve(choice.tokens, sense)
    moments, number = times.unique(return_inverse=True)
    return Curve(sense, moments, torch.zeros(len(moments)).index_add(0, number, values.float().cpu()))


def _sound(session: "Session", start: float, end: float) -> Waveform | None:
    """What is heard in these seconds: of the sense that hears, else of the clip itself."""
    heard = [
        source for sense, source in session.media.items() if session.model.modality(sense).takes == AUDIO
    ]
    for source in (*heard, session.media.get(VIDEO)):
        if isinstance(source, Waveform):
            rate = source.sample_rate
            samples = source.samples[round(start * rate) : round(end * rate)]
            return Waveform(samples, rate) if len(samples) else None
        if isinstance(source, str | Path) and (tracks := probe(source).audio):
            found = read_audio(source, min(tracks[0].sample_rate, HIGHEST_RATE), window=(start, end))
            return found if len(found.samples) else None
    return None
