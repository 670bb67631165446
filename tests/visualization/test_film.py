"""Films are read back from their files: what is seen and heard at which second."""

from dataclasses import replace
from types import SimpleNamespace

import av
import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import clip, random_adapter, sound

import lynx
from lynx import LynxError, MediaError
from lynx.config import Limits
from lynx.evidence.evidence import Evidence
from lynx.media.audio import read_audio
from lynx.media.container import probe
from lynx.media.writer import write_video
from lynx.types import Frames, Waveform
from lynx.visualization import film
from lynx.visualization.drawing import Lane, color
from lynx.visualization.film import letters_of, write_film
from lynx.visualization.film_frame import (
    AXIS,
    DIMMED,
    GROUND,
    GUTTER,
    MARGIN,
    MARK,
    WIDTH,
    Caption,
    FramePainter,
    picture_size,
)

SECONDS, MOMENTS = 2.0, 4
HOT = (0, 3)  # the row and the column of the video that the word rests on, at the third moment
ANSWER = [" a", " loud", " sir", "en", "."]  # the first token of an answer may begin with a space
LEVEL = 90
PICTURE = (640, 480)  # pixels at which the clip of 64 x 48 is shown, MARGIN from the corner
BESIDE = 2 * MARGIN + PICTURE[0]  # where the words begin
LANES = MARGIN + PICTURE[1] + 2 * AXIS  # where the first lane begins
LANE_WIDTH = WIDTH - GUTTER - MARGIN


def region(frames, top, bottom, left, right):
    """Part of the picture in each frame (T, H, W, 3), in pixels from the picture's own corner."""
    return frames[:, MARGIN + top : MARGIN + bottom, MARGIN + left : MARGIN + right]




@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Gray pictures, the second half lighter, with a tone from 1.0 to 1.5 s: eight frames a second."""
    folder = tmp_path_factory.mktemp("media")
    levels = torch.tensor([LEVEL] * 8 + [LEVEL + 60] * 8, dtype=torch.uint8)
    pixels = levels[:, None, None, None].expand(-1, 3, 48, 64)
    time = torch.arange(int(SECONDS * 16000)) / 16000
    tone = torch.sin(2 * torch.pi * 880 * time) * 0.5 * ((time >= 1.0) & (time < 1.5))
    write_video(folder / "clip.mp4", pixels, 8, Waveform(tone, 16000))
    write_video(folder / "mute.mp4", pixels, 8)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = lynx.load(checkpoints.llava_onevision(tmp_path_factory.mktemp("checkpoint")))
    random_adapter(model, "audio")
    random_adapter(model, "multi_view", "multi_view")
    return model


def answered(model, **media):
    """A session whose answer, "a loud siren.", rests on one cell of the video and on the last sound.

    media: also a part, `start` and `end`.
    """
    session = model.chat(frames=MOMENTS, **media)
    session.ask("what is it ?", max_new_tokens=len(ANSWER))
    evidence = session.evidence
    spans = evidence.attention.spans
    rows = torch.zeros(len(ANSWER), evidence.attention.rows.shape[1])
    rows[:, 1] = 0.1  # words of the question
    if "video" in spans:
        height, width = evidence.streams["video"].grid
        cell = (2 * height + HOT[0]) * width + HOT[1]
        rows[2:4, spans["video"][cell]] = 1.0  # the word "siren"
    if "audio" in spans:
        rows[1, spans["audio"][-17:-1]] = 1.0  # the word "loud"
    attention = replace(evidence.attention, rows=rows, baseline=None)
    session.evidence = Evidence(ANSWER, attention)
    session.history[-1]["content"] = "".join(ANSWER).strip()
    return session


@pytest.fixture(scope="module")
def session(model, media):
    return answered(model, video=media / "clip.mp4", audio=media / "clip.mp4")


def frames_of(path):
    """(T, H, W, 3) int of a film."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).astype(int)


def marks(picture):
    """(H, W) bool: where the ground of the marked word is."""
    return np.abs(picture - np.array(MARK)).max(-1) < 30


@pytest.fixture(scope="module")
def siren(session, tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "siren.mp4"
    told = []
    made = write_film(session, path, "siren", progress=lambda done, total: told.append((done, total)))
    return made, frames_of(path), told


def test_a_film_is_what_it_says(siren):
    made, frames, told = siren
    info = probe(made.path)
    assert (info.video.width, info.video.height) == made.size == (WIDTH, frames.shape[1])
    assert made.size[0] % 2 == made.size[1] % 2 == 0 and info.video.codec == "h264"
    assert made.fps == 24 and len(frames) == 48  # the clip's own 8 a second are too few
    assert info.duration == pytest.approx(SECONDS, abs=0.1) and (made.start, made.end) == (0, SECONDS)
    assert made.sound and [track.codec for track in info.audio] == ["aac"]
    assert told[0] == (1, 48) and told[-1] == (48, 48)
    assert (made.word, made.method, made.notes) == ("siren", "attention", ())


def test_the_sound_is_heard_at_its_second(siren):
    heard = read_audio(siren[0].path, 16000).samples
    loud = heard[:32000].reshape(-1, 1600).square().mean(1).sqrt() > 0.1  # tenths of a second
    assert loud.nonzero().flatten().tolist() == [10, 11, 12, 13, 14]


def test_the_picture_is_hot_where_and_when_the_word_looked(siren):
    _, frames, _ = siren
    hot = region(frames, 20, 100, 500, 620).mean((1, 2, 3))
    cold = region(frames, 380, 460, 20, 140).mean((1, 2, 3))
    ground = np.mean(GROUND)
    expected = [(1 - DIMMED) * level + DIMMED * ground for level in (LEVEL, LEVEL + 60)]
    assert cold[2] == pytest.approx(expected[0], abs=4) and cold[30] == pytest.approx(expected[1], abs=4)
    assert abs(hot[5] - cold[5]) < 4 and hot[30] > cold[30] + 40  # the third moment is at 1.25 s
    assert hot[30] > hot[26] > cold[26] + 3 and hot[30] > hot[36] > cold[36] + 3  # it comes and goes


def test_the_chosen_word_is_marked_beside_the_picture(session, siren, tmp_path):
    def where(picture):
        return np.flatnonzero(marks(picture)[: MARGIN + PICTURE[1]].any(0))

    write_film(session, tmp_path / "loud.mp4", 1, (0.0, 0.25))
    write_film(session, tmp_path / "whole.mp4", None, (0.0, 0.25))
    loud, whole = (frames_of(tmp_path / f"{name}.mp4")[0] for name in ("loud", "whole"))
    assert where(siren[1][0]).min() >= BESIDE
    assert len(where(whole)) == 0 and len(where(loud)) > 30
    assert where(loud).mean() + 50 < where(siren[1][0]).mean()
    letters = whole[:200, BESIDE:] > 200
    assert letters.all(-1).sum() > 200  # the answer is written, in the ink of answers


def test_the_playhead_runs_with_the_clip(siren):
    made, frames, _ = siren
    band = frames[:, LANES + 10 : LANES + 60]
    lines = [np.flatnonzero((picture > 225).all((0, 2))) for picture in band]
    places = [line.mean() for line in lines if len(line)]
    assert len(places) == len(frames)
    steps = np.diff(places)
    assert steps.min() > 0 and places[0] < GUTTER + 10
    assert places[-1] - places[0] == pytest.approx(LANE_WIDTH * 47 / 48, abs=3)


def test_a_window_is_that_part_of_the_clip(session, tmp_path):
    made = write_film(session, tmp_path / "part.mp4", "siren", (0.9, 1.4))
    frames = frames_of(made.path)
    assert (made.start, made.end) == (0.9, 1.4) and len(frames) == 12
    levels = region(frames, 380, 460, 20, 140).mean((1, 2, 3))
    assert levels[-1] > levels[0] + 30  # the pictures grow lighter at 1.0 s
    heard = read_audio(made.path, 16000).samples
    quiet, loud = (float(part.square().mean().sqrt()) for part in (heard[:1400], heard[2400:7000]))
    assert quiet < 0.02 < 0.3 < loud


def test_a_film_of_a_part_shows_the_part_at_its_own_seconds(model, media, tmp_path):
    part = answered(model, video=media / "clip.mp4", audio=media / "clip.mp4", start=1.0, end=1.5)
    made = write_film(part, tmp_path / "part.mp4", "siren")
    frames = frames_of(made.path)
    assert (made.start, made.end, made.notes) == (1.0, 1.5, ()) and len(frames) == 12
    assert float(read_audio(made.path, 16000).samples[1600:6400].square().mean().sqrt()) > 0.3  # the tone
    more = frames_of(write_film(part, tmp_path / "more.mp4", "siren", (0.5, 1.5)).path)
    corner = region(more, 20, 100, 500, 600).astype(float).mean((1, 2))  # in the cell that the word rests on
    assert abs(corner[2:10] - LEVEL).max() < 8, "nothing was looked at here: gray as it is, not dimmed"
    assert np.ptp(corner[14:22], axis=1).max() > 40


@pytest.mark.parametrize("window", [(-1.0, 1.0), (1.0, 1.0), (0.0, 9.0), (2.0, 2.05), (1.5, 0.5)])
def test_a_window_outside_of_the_clip_is_refused(session, tmp_path, window):
    with pytest.raises(MediaError, match="does not lie in the clip, which lasts 2.00 s"):
        write_film(session, tmp_path / "film.mp4", window=window)


def test_of_a_long_clip_the_first_part_is_shown_and_that_is_said(session, tmp_path, monkeypatch):
    monkeypatch.setattr(film, "DEFAULT_SECONDS", 0.5)
    made = write_film(session, tmp_path / "film.mp4")
    assert made.end == 0.5 and "of 2.00 s: ask for a window" in made.notes[0]
    monkeypatch.setattr(film, "LIMITS", Limits(max_film_seconds=1))
    with pytest.raises(MediaError, match=r"at most 1 s \(LYNX_MAX_FILM_SECONDS\)"):
        write_film(session, tmp_path / "film.mp4", window=(0.0, 1.5))


def test_a_clip_without_sound_has_a_film_without_sound(model, media, tmp_path):
    made = write_film(answered(model, video=media / "mute.mp4"), tmp_path / "film.mp4", window=(0, 0.25))
    assert not made.sound and not probe(made.path).audio


def test_sound_alone_is_its_spectrogram(model, media, tmp_path):
    made = write_film(answered(model, audio=media / "clip.mp4"), tmp_path / "film.mp4", "loud")
    frames = frames_of(made.path)
    assert made.sound and made.size[0] == WIDTH
    bottom = made.size[1] - 240  # above the curve, the clock and the note
    spectrogram = frames[0, bottom - 200 : bottom, GUTTER : GUTTER + LANE_WIDTH]
    tone = spectrogram[:, 540:810].mean()  # from 1.0 to 1.5 s of two seconds
    assert tone > spectrogram[:, :500].mean() + 10
    hot = spectrogram[:, 830:1050] - spectrogram[:, :220]  # the last quarter, silent as the first
    assert hot.mean() > 60


def test_media_in_memory_and_several_views(model, tmp_path):
    views = {"left": clip(4, seed=1), "right": clip(4, seed=2)}
    session = answered(model, video=clip(4), audio=sound(2.0), multi_view=views)
    made = write_film(session, tmp_path / "film.mp4", window=(0, 0.25))
    assert made.sound and made.fps == 24
    assert (
        made.size[1]
        > write_film(answered(model, video=clip(4)), tmp_path / "film.mp4", window=(0, 0.25)).size[1] + 3 * 50
    )


def test_what_goes_wrong_is_said_and_leaves_no_file(model, media, session, tmp_path):
    path = tmp_path / "film.mp4"
    fresh = model.chat(video=media / "clip.mp4", frames=2)
    with pytest.raises(LynxError, match="no answer to film"):
        write_film(fresh, path)
    with pytest.raises(LynxError, match="it has a, loud, siren, \\."):
        write_film(session, path, "bell")
    with pytest.raises(MediaError, match=r"ends in \.mp4"):
        write_film(session, tmp_path / "film.gif")
    fresh.ask("what is it ?", max_new_tokens=3)
    fresh.ask("and now ?", max_new_tokens=5)
    fresh.evidence = replace(fresh.evidence, tokens=["another", " answer"])
    fresh.undo()
    with pytest.raises(LynxError, match="taken back"):
        write_film(fresh, path)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_film(session, path, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_letter_of_several_tokens_is_no_answer_taken_back(session, monkeypatch):
    monkeypatch.setattr(session, "evidence", replace(session.evidence, tokens=["caf", "\ufffd", ""]))
    monkeypatch.setitem(session.history[-1], "content", "café")
    assert film._answered(session)[1] == "what is it ?"


@pytest.mark.parametrize(
    "word, text, letters", [(0, "a", "a"), ("LOUD", "loud", "loud"), (2, "siren", "siren"), (3, ".", ".")]
)
def test_a_word_is_found_by_its_number_or_its_letters(session, word, text, letters):
    found, tokens = session.evidence.find_word(word)
    start, end = letters_of(session.evidence, word)
    assert found == text and "".join(ANSWER)[start:end] == letters
    assert "".join(ANSWER[i] for i in tokens).strip() == text


@pytest.mark.parametrize("word", [-1, 4, "sir", ""])
def test_a_word_that_is_not_there_is_refused(session, word):
    with pytest.raises(LynxError, match="; it has a, loud"):
        session.evidence.find_word(word)


@pytest.mark.parametrize(
    "size, shown",
    [
        ((1920, 1080), (720, 404)),
        ((640, 360), (640, 360)),
        ((480, 480), (480, 480)),
        ((320, 240), (640, 480)),
        ((1080, 1920), (338, 600)),
        ((101, 57), (640, 362)),
        ((4000, 10), (720, 2)),
    ],
)
def test_pictures_keep_their_shape_and_have_even_sides(size, shown):
    assert picture_size(*size) == shown


@pytest.mark.parametrize(
    "rate, fps", [(60, 30), (50, 25), (25, 25), (29.97, 29.97), (120, 30), (5, 24), (0, 24)]
)
def test_the_rate_is_the_clips_own_where_it_can_be(monkeypatch, rate, fps):
    info = SimpleNamespace(video=SimpleNamespace(width=64, height=48, fps=rate))
    monkeypatch.setattr(film, "probe", lambda path: info)
    assert film._size_and_rate("clip.mp4")[1] == pytest.approx(fps)


def test_a_long_film_scrolls_under_the_playhead():
    frames = Frames(torch.zeros(60, 3, 8, 8, dtype=torch.uint8), torch.arange(60).double() + 0.5, 60.0)
    caption = Caption("what ?", "this", (0, 0), {"audio": 1.0}, {"audio": "sound"})
    lane = Lane("audio", "sound", frames, fill=True, seconds=1.0)
    screen = FramePainter(None, caption, [lane], [], (0.0, 60.0))
    assert screen.span == 12 and screen.scale == pytest.approx(screen.lane_width / 12)

    def playhead(time):
        picture = screen.draw(time, None).astype(int)
        return np.flatnonzero((picture[screen.top + 40 : screen.top + 200] > 225).all((0, 2))).mean()

    middle = screen.gutter + screen.lane_width / 2
    assert playhead(3.0) == pytest.approx(screen.gutter + 3 * screen.scale, abs=2)
    assert playhead(20.0) == pytest.approx(middle, abs=2) and playhead(40.0) == pytest.approx(middle, abs=2)
    assert playhead(57.0) == pytest.approx(middle + 3 * screen.scale, abs=2)


def test_a_film_shows_what_speaks_for_and_against_the_word(model, media, tmp_path, monkeypatch):
    chat = model.chat(video=media / "clip.mp4", audio=media / "clip.mp4", frames=MOMENTS)
    chat.ask("what is it ?", max_new_tokens=3)
    found = chat.evidence.attribution(0)
    values = torch.zeros_like(found.heatmap("video"))
    values[1, 0, -1], values[1, -1, 0] = 2.0, -2.0
    flat = {"video": values.flatten(), "audio": torch.zeros_like(found.values["audio"])}
    totals = {"video": 0.0, "audio": -1.5, "text": 3.0}
    real = ~chat.evidence.streams["video"].times.isnan()
    if len(real) != values.numel():  # a row of newlines behind the pictures
        flat["video"] = torch.zeros(len(real))
        flat["video"][real] = values.flatten()
    steered = replace(found, values=flat, totals=totals, gained=2.3026, missed=0.0)
    monkeypatch.setattr(Evidence, "attribution", lambda self, word, method: steered)
    made = write_film(chat, tmp_path / "film.mp4", 0, (0.6, 1.0))
    assert made.method == "attribution"
    picture = region(frames_of(made.path)[3:5].mean(0)[None], 0, PICTURE[1], 0, PICTURE[0])[0]
    speaks_for, against, nothing = picture[60, 600], picture[440, 40], picture[60, 40]
    assert speaks_for[0] > speaks_for[2] + 25 and against[2] > against[0] + 25
    assert np.ptp(nothing) < 25, "between for and against lies nothing"
    beside = frames_of(made.path)[0][: MARGIN + PICTURE[1], BESIDE:]
    orange = np.abs(beside - np.array(color("audio"))).max(-1) < 25
    middle = int(np.flatnonzero(orange.sum(1) > 50).mean())  # of the bar's rows
    gray = np.abs(beside[middle + 42] - np.array(color("text"))).max(-1) < 12  # the next bar
    left, right = np.flatnonzero(orange[middle]), np.flatnonzero(gray)
    left = left[left > 40]  # behind the dot
    right = right[right > left.max() - 5]
    assert left.max() <= right.min() + 3, "left of zero what speaks against, right what speaks for"
    assert len(right) == pytest.approx(2 * len(left), rel=0.15)
