"""An answer's evidence as a film: the clip with the heat of a chosen word over it, and every sense under it.

Pictures come from the user's own file, one after another, so that memory does not grow with the clip; the
heat between two moments that the model looked at is interpolated.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lynx.config import LIMITS
from lynx.errors import LynxError, MediaError
from lynx.evidence.attribution import TEXT, Attribution
from lynx.evidence.evidence import Evidence, Word
from lynx.evidence.methods import ATTENTION, ATTRIBUTION
from lynx.media.audio import heard_track, read_audio
from lynx.media.container import probe
from lynx.media.video import iter_frames
from lynx.media.writer import write_stream
from lynx.types import VIDEO, FileSource, Frames, Waveform
from lynx.visualization.drawing import Lane, clock, curve_of, strongest
from lynx.visualization.explained import NATS, SHARE, WORDS, gained_sentence
from lynx.visualization.film_frame import Caption, FramePainter, picture_size
from lynx.visualization.heat import THRESHOLD, full_heat

if TYPE_CHECKING:
    from lynx.session import Session
    from lynx.streams.budget import Plan

AUDIO = "audio"
DEFAULT_SECONDS = 120.0  # of a longer clip, if no window is given
DEFAULT_FPS, MIN_FPS, MAX_FPS = 24.0, 12.0, 30.0
MAX_SAMPLE_RATE = 48000  # Hz
TOLERANCE = 0.1
"""Seconds by which a window may go beyond the clip: durations are rounded where people see them."""
PART_OF_A_LETTER = "\ufffd"
"""Text of a token that holds part of a letter: such tokens do not add up to the answer."""
NOTES = {
    NATS: "Warm: makes {} more likely. Blue: less likely. Bars and curve are in nats: +2.3 is ten times as "
    "likely.",
    SHARE: "Brighter: more attention while {} was said, each sense on its own scale. Attention is where the "
    "model looked, which is often not where the answer came from.",
}
"""By unit, what is shown."""


@dataclass(frozen=True)
class Film:
    """A written film: seconds of the clip, size (width, height), the chosen word (None: the answer), and
    the method by which it is explained."""

    path: Path
    start: float
    end: float
    size: tuple[int, int]
    fps: float
    sound: bool
    word: str | None
    method: str
    notes: tuple[str, ...]


def letters_of(evidence: Evidence, word: Word) -> tuple[int, int]:
    """Where a word's letters begin and end in the answer; (0, 0) for the whole answer."""
    if word is None:
        return 0, 0
    _, tokens = evidence.find_word(word)
    start = len("".join(evidence.tokens[: tokens[0]]))
    raw = "".join(evidence.tokens[tokens[0] : tokens[-1] + 1])
    start += len(raw) - len(raw.lstrip())
    return start, start + len(raw.strip())


def write_film(
    session: "Session", path: str | Path, word: int | str | None = None,
    window: tuple[float, float] | None = None, progress: Callable[[int, int], None] | None = None,
    method: str | None = None,
) -> Film:
    """Write an mp4 of the session's last answer: what `word` rests on, see `Evidence.find_word`.

    window: seconds of the clip; by default what the answer looked at, or the first DEFAULT_SECONDS of that,
    which a note says. There is no heat outside of what was looked at.
    progress: called with how many frames are written, and of how many.
    method: of METHODS; by default attribution, and attention where the answer was not kept with its model.
    Raises: LynxError: no answer, no such word or method. MediaError: media that cannot be read, a window
    outside of the clip, a file that cannot be written. Then no file is left.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise MediaError(f"a film is an mp4: give a name that ends in .mp4, not {path.name!r}")
    evidence, question = _answered(session)
    text, _ = evidence.find_word(word)
    method = method or (ATTENTION if evidence.answered is None else ATTRIBUTION)
    start, end, notes = _window(session.plan, window)
    found = evidence.attribution(word, method)
    source = session.media.get(VIDEO)
    shown, fps = _size_and_rate(source)
    labels = {sense: session.model.modality(sense).label for sense in evidence.streams}
    labels[TEXT] = WORDS[found.unit]
    note = NOTES[found.unit].format("the marked word" if text else "the answer")
    told = gained_sentence({"text": text, "gained": found.gained, "missed": found.missed}) or ""
    said = (question, "".join(evidence.tokens), letters_of(evidence, word))
    caption = Caption(*said, found.totals, labels, note, found.unit, told)
    curves = [curve_of(found, sense) for sense in evidence.streams]
    painter = FramePainter(shown, caption, _lanes(session, found, labels), curves, (start, end))
    count = max(1, round((end - start) * fps))
    times = start + torch.arange(count, dtype=torch.float64) / fps
    maps = found.heatmap(VIDEO) if VIDEO in evidence.streams else None  # (T, rows, cols)
    if maps is not None:
        full = strongest(found.values.values()) if found.unit == NATS else full_heat(maps)
        maps, moments = maps / full, found.curve(VIDEO)[0].double().contiguous()

    def draw() -> Iterator[np.ndarray]:
        """The frames (H, W, 3) uint8, one after another, so that memory does not grow with the clip."""
        for number, pixels in enumerate(_pictures(source, shown, times)):
            time, heat = float(times[number]), None
            looked_at = session.plan.start <= time <= session.plan.end
            if maps is not None and looked_at:  # between the maps of the moments around it
                behind = int(torch.searchsorted(moments, time))
                first, last = max(0, behind - 1), min(behind, len(moments) - 1)
                gap = float(moments[last] - moments[first])
                weight = (time - float(moments[first])) / gap if gap else 0.0
                heat = torch.lerp(maps[first], maps[last], weight)  # (rows, cols)
            yield painter.draw(time, pixels, heat)
            if progress is not None:
                progress(number + 1, count)

    sound = _sound(session, start, end)
    write_stream(path, draw(), painter.size, fps, sound)
    return Film(path, start, end, painter.size, fps, sound is not None, text, method, notes)


def _lanes(session: "Session", found: Attribution, labels: Mapping[str, str]) -> list[Lane]:
    """A lane for each sense but the video, which is the picture itself. Evidence has one scale for all."""
    signed, lanes = found.unit == NATS, []
    full = strongest(found.values.values()) if signed else 0.0
    for sense, stream in found.streams.items():
        if sense != VIDEO:
            modality, heat = session.model.modality(sense), found.frame_maps(sense)
            seconds = getattr(modality.rendering, "seconds_per_frame", None) or 0.0
            fill = modality.takes == AUDIO
            look = (full, signed, THRESHOLD * signed)
            lanes.append(Lane(sense, labels[sense], stream.frames, heat, fill, seconds, *look))
    return lanes


def _answered(session: "Session") -> tuple[Evidence, str]:
    """The evidence of the last answer, and its question."""
    evidence, history = session.evidence, session.history
    if evidence is None or len(history) < 2:
        raise LynxError("there is no answer to film yet: ask something first")
    said, cut, _ = "".join(evidence.tokens).strip().partition(PART_OF_A_LETTER)
    answer = history[-1]["content"]
    if not (answer.startswith(said) if cut else answer == said):
        raise LynxError("the answer was taken back: ask again before it is filmed")
    return evidence, history[-2]["content"]


def _window(plan: "Plan", window: tuple[float, float] | None) -> tuple[float, float, tuple[str, ...]]:
    """The film's first and last second, and notes on them."""
    duration = plan.duration
    if window is None:
        start, length = plan.start, plan.end - plan.start
        shown = min(DEFAULT_SECONDS, LIMITS.max_film_seconds)
        if length <= shown:
            return start, plan.end, ()
        first, whole = clock(shown, shown), clock(length, length)
        note = f"the first {first} of {whole}: ask for a window to film more"
        return start, start + shown, (note,)
    start, end = window
    if not 0 <= start < end <= duration + TOLERANCE or start >= duration:
        asked = f"the window from {start:g} to {end:g} s"
        raise MediaError(f"{asked} does not lie in the clip, which lasts {duration:.2f} s")
    if end - start > LIMITS.max_film_seconds:
        most = LIMITS.say("max_film_seconds")
        raise MediaError(f"a film lasts at most {most}, not {end - start:g} s: shorten the window")
    return start, min(end, duration), ()


def _size_and_rate(source: Any) -> tuple[tuple[int, int] | None, float]:
    """The size at which a video is shown, None where there is none, and the film's frames a second."""
    if source is None:
        return None, DEFAULT_FPS
    if isinstance(source, Frames):
        return picture_size(source.pixels.shape[-1], source.pixels.shape[-2]), DEFAULT_FPS
    track = probe(source).video
    assert track is not None  # the answer looked at it
    # of 60 or 50 frames a second every other one is shown, of fewer than MIN_FPS some twice
    rate = track.fps / ceil(track.fps / MAX_FPS) if track.fps else 0.0
    return picture_size(track.width, track.height), round(rate, 2) if rate >= MIN_FPS else DEFAULT_FPS


def _pictures(source: Any, shown: tuple[int, int] | None, times: Tensor) -> Iterator[Tensor | None]:
    """The picture (3, H, W) uint8 on the screen at each moment; None where there is no video."""
    if shown is None:
        yield from (None for _ in times)
    elif isinstance(source, Frames):
        yield from (source.at(time[None]).pixels[0] for time in times)
    else:
        for pixels in iter_frames(source, times, max(shown)):
            yield torch.from_numpy(pixels).permute(2, 0, 1)


def _sound(session: "Session", start: float, end: float) -> Waveform | None:
    """The sound of these seconds: that of a sense that hears, else the clip's own."""
    media = session.media
    heard = [source for sense, source in media.items() if session.model.modality(sense).takes == AUDIO]
    for source in (*heard, media.get(VIDEO)):
        if isinstance(source, Waveform):
            rate = source.sample_rate
            samples = source.samples[round(start * rate) : round(end * rate)]
            return Waveform(samples, rate) if len(samples) else None
        if isinstance(source, FileSource) and probe(source).audio:
            rate = min(heard_track(source).sample_rate, MAX_SAMPLE_RATE)
            found = read_audio(source, rate, window=(start, end))
            return found if len(found.samples) else None
    return None
