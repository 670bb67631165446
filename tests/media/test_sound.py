"""Which track is heard, how channels become one, and what is said of sound that is odd."""

import re
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lynx.errors import MediaError
from lynx.media import downmix
from lynx.media.audio import PREROLL, Sound, iter_audio, read_audio
from lynx.media.container import probe
from lynx.types import Recording

CASES = Path(__file__).parents[3] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases, not in the project")
RATE = 16000


def sine(hertz, seconds, rate, amplitude=0.4):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write_sound(path, channels, rate=48000, codec="pcm_s16le", layout="stereo", container=None, begins=0.0):
    """A file of channels (C, n) float64; any codec whose frames PyAV can make of packed samples."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        encoder = stream.codec_context
        encoder.open()
        packed = np.ascontiguousarray(np.asarray(channels, np.float32).T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, "flt", encoder.layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, round(begins * rate), Fraction(1, rate)
        convert = av.AudioResampler(encoder.format, encoder.layout, rate, encoder.frame_size or None)
        for part in [*convert.resample(frame), *convert.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path


def heard(path, rate=RATE, **window):
    sound = Sound(path, rate, **window)
    return sound.waveform().samples.numpy(), sound.notes


def db(samples):
    """Root mean square in decibels, without the edges."""
    middle = np.asarray(samples, np.float64)[1000:-1000]
    return 10 * np.log10((middle**2).mean() + 1e-12)


def tracks(path, defaults=(False, True)):
    """Two sound tracks of 300 and 600 Hz."""
    with av.open(str(path), "w") as file:
        streams = [file.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in defaults]
        for stream, default in zip(streams, defaults, strict=True):
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
        for number, stream in enumerate(streams):
            samples = (sine(300 * (number + 1), 1, RATE) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    return path


def test_the_default_track_is_heard_unless_another_is_asked_for(tmp_path):
    path = tracks(tmp_path / "two.mkv")
    peak = lambda source: int(np.abs(np.fft.rfft(heard(source)[0])).argmax())  # noqa: E731
    assert peak(path) == 600 and peak(f"{path}#0") == 300 and peak(Recording(path, track=1)) == 600
    assert peak(tracks(tmp_path / "first.mkv", (True, False))) == 300
    with pytest.raises(MediaError, match=r"Track 7 of 'two.mkv' .* one of these: #0: .*, #1"):
        read_audio(Recording(path, track=7), RATE)


@needs_cases
def test_cases_of_several_tracks_are_heard_rightly():
    assert db(heard(CASES / "default_second.mkv")[0]) == pytest.approx(-9.0, abs=0.3)
    silent, notes = heard(f"{CASES / 'default_second.mkv'}#1")
    assert not silent.any() and notes == ("the sound is silent",)
    sound = Sound(CASES / "apac_first.mp4", RATE)  # the first track's codec is decoded by nobody
    assert sound.track.index == 2 and db(sound.waveform().samples) == pytest.approx(-9.0, abs=0.3)


# Decibels at which the channels of a layout are heard, by ITU-R BS.775 and the mean of left and right.
LEVELS = {
    "mono": [0],
    "stereo": [-6.02] * 2,
    "2.1": [-6.02, -6.02, None],
    "quad": [-6.02, -6.02, -9.03, -9.03],
    "5.1": [-6.02, -6.02, -3.01, None, -9.03, -9.03],
    "7.1": [-6.02, -6.02, -3.01, None, -9.03, -9.03, -9.03, -9.03],
    "4 channels": [-12.04] * 4,
    "24 channels": [-27.6] * 24,
}


@pytest.mark.parametrize("layout", LEVELS)
def test_every_channel_is_heard_at_the_level_of_its_place(tmp_path, layout):
    count = len(LEVELS[layout])
    for channel, level in enumerate(LEVELS[layout]):
        channels = np.zeros((count, 24000))
        channels[channel] = sine(440, 0.5, 48000)
        samples, _ = heard(write_sound(tmp_path / "one.wav", channels, layout=layout))
        alone = db(sine(440, 0.5, RATE))
        assert db(samples) < -100 if level is None else db(samples) - alone == pytest.approx(level, abs=0.05)


@pytest.mark.parametrize(("count", "layout"), [(1, "mono"), (2, "stereo"), (6, "5.1"), (8, "7.1")])
def test_channels_without_names_are_taken_for_what_players_take_them_for(tmp_path, count, layout):
    for channel, level in enumerate(LEVELS[layout]):
        channels = np.zeros((count, 24000))
        channels[channel] = sine(440, 0.5, 48000)
        path = write_sound(tmp_path / "one.wav", channels, layout=f"{count} channels")
        samples, notes = heard(path)
        alone = db(sine(440, 0.5, RATE))
        assert db(samples) < -100 if level is None else db(samples) - alone == pytest.approx(level, abs=0.05)
        assumed = f"its {count} channels have no names: taken for {layout}"
        assert (assumed in notes) == (count > 2) and probe(path).sound.layout == layout


def test_sound_in_what_mono_leaves_out_is_noted(tmp_path):
    channels = np.zeros((6, 24000))
    channels[3] = sine(60, 0.5, 48000)
    path = write_sound(tmp_path / "low.wav", channels, layout="5.1")
    assert heard(path)[1] == ("only what mono leaves out (LFE) has sound", "the sound is silent")
    channels[0] = sine(440, 0.5, 48000)
    assert heard(write_sound(tmp_path / "both.wav", channels, layout="5.1"))[1] == ()


def test_stereo_is_the_mean_of_its_channels_to_the_bit(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 48000))
    path = write_sound(tmp_path / "noise.wav", noise)
    convert = av.AudioResampler(format="flt", rate=RATE)
    with av.open(str(path)) as file:
        frames = [out for frame in file.decode(audio=0) for out in convert.resample(frame)]
    frames += convert.resample(None)
    expected = np.concatenate([frame.to_ndarray().reshape(-1, 2).mean(1) for frame in frames])
    assert np.array_equal(heard(path)[0], expected)


@needs_cases
def test_dialog_in_the_center_of_surround_sound_is_heard():
    assert db(heard(CASES / "centre51.mkv")[0]) == pytest.approx(-12.04, abs=0.05)
    assert db(heard(CASES / "hostile" / "surround71.wav")[0]) > -40  # this one used to end the process


@pytest.mark.parametrize("held", [downmix.HELD, 1000])
def test_stereo_that_cancels_out_is_heard_by_its_left_channel_with_a_note(tmp_path, monkeypatch, held):
    monkeypatch.setattr(downmix, "HELD", held)
    left = sine(440, 2, 48000)
    path = write_sound(tmp_path / "anti.wav", [left, -left])
    samples, notes = heard(path)
    assert db(samples) == pytest.approx(db(sine(440, 2, RATE)), abs=0.05)
    assert notes == ("left and right cancel out in mono (nothing is left): the left channel is heard alone",)
    part, _ = heard(path, start=0.5, end=1.5)
    assert np.abs(part - samples[8000:24000]).max() < 0.01
    louder, notes = heard(write_sound(tmp_path / "louder.wav", [0.88 * left, -left]))
    assert db(louder) == pytest.approx(db(samples), abs=0.05) and "the right channel is heard" in notes[0]
    assert "(21 dB are lost)" in notes[0]


def test_stereo_that_cancels_out_in_part_is_noted_and_plain_stereo_is_not(tmp_path):
    left, right = sine(440, 1, 48000), sine(550, 1, 48000)
    samples, notes = heard(write_sound(tmp_path / "part.wav", [left, -0.7 * left]))
    assert notes == ("left and right cancel out in mono: 12 dB are lost",)
    assert db(samples) == pytest.approx(db(0.15 * sine(440, 1, RATE)), abs=0.05)
    for name, channels in (("both", [left, left]), ("two", [left, right]), ("one", [left, 0 * left])):
        assert heard(write_sound(tmp_path / f"{name}.wav", channels))[1] == ()


@pytest.mark.parametrize("second, much", [(-1.0, "nothing is left"), (-0.7, "12 dB are lost")])
def test_a_stretch_in_which_stereo_cancels_out_is_noted(tmp_path, second, much):
    left = sine(440, 8, 48000)
    for begin, seconds in ((0, 4), (4, 4), (2.6, 1.5)):
        right = left.copy()
        right[round(begin * 48000) : round((begin + seconds) * 48000)] *= second
        (note,) = heard(write_sound(tmp_path / "part.wav", [left, right]))[1]
        found = re.fullmatch(rf"left and right cancel out in mono in (.+) s of the sound: {much}", note)
        assert seconds - 0.5 <= float(found[1]) <= seconds
    right = left.copy()
    right[48000 : round(1.5 * 48000)] *= second
    assert heard(write_sound(tmp_path / "short.wav", [left, right]))[1] == (), "half a second is none"
    right[48000 : round(2.5 * 48000)] = 0
    assert heard(write_sound(tmp_path / "one.wav", [left, right]))[1] == ()


def join(path, *files):
    """Raw streams one behind the other."""
    path.write_bytes(b"".join(file.read_bytes() for file in files))
    return path


def two_formats(folder, codec, suffix, container=None):
    """A second of 440 Hz at 44.1 kHz mono and one of 880 Hz at 48 kHz stereo."""
    mono = [sine(440, 1, 44100)]
    stereo = [sine(880, 1, 48000)] * 2
    first = write_sound(folder / f"a.{suffix}", mono, 44100, codec, "mono", container)
    second = write_sound(folder / f"b.{suffix}", stereo, 48000, codec, "stereo", container)
    return join(folder / f"both.{suffix}", first, second)


@pytest.mark.parametrize(
    ("codec", "suffix", "container"),
    [("aac", "aac", "adts"), ("libmp3lame", "mp3", None), ("aac", "ts", None)],
)
def test_a_sound_that_changes_its_rate_and_layout_is_heard_to_its_end(tmp_path, codec, suffix, container):
    path = two_formats(tmp_path, codec, suffix, container)
    samples, notes = heard(path)
    assert len(samples) / RATE == pytest.approx(2.0, abs=0.15)
    for begin, hertz in ((3000, 440), (20000, 880)):
        part = samples[begin : begin + 8000]
        assert np.abs(np.fft.rfft(part)).argmax() * 2 == pytest.approx(hertz, abs=4)
        assert db(part) == pytest.approx(db(sine(440, 1, RATE)), abs=0.5)
    (note,) = notes
    assert note.startswith("the sound changes at 1.") and note.endswith("44100 Hz mono, then 48000 Hz stereo")


def test_raw_aac_of_two_rates_lasts_as_long_as_its_packets_say(tmp_path):
    click = np.zeros(2 * 48000)
    click[48000:48096] = 0.8
    first = write_sound(tmp_path / "1.aac", [click[: 2 * 44100] * 0], 44100, "aac", "mono", "adts")
    second = write_sound(tmp_path / "2.aac", [click] * 2, 48000, "aac", "stereo", "adts")
    path = join(tmp_path / "both.aac", first, second)
    lasts = probe(first).duration + probe(second).duration  # 4.07 s: FFmpeg's own clock says 4.25 s
    assert probe(path).duration == pytest.approx(lasts, abs=1e-3)
    whole = heard(path)[0]
    assert len(whole) / RATE == pytest.approx(lasts, abs=1e-3)
    alone = np.abs(heard(second)[0]).argmax() / RATE + probe(first).duration
    for samples, start in ((whole, 0.0), (heard(path, start=2.5, end=3.9)[0], 2.5)):
        assert np.abs(samples).argmax() / RATE + start == pytest.approx(alone, abs=0.01)


@needs_cases
def test_the_sound_of_mixed_rate_lasts_four_seconds():
    samples, notes = heard(CASES / "mixed_rate.mp3")
    assert len(samples) / RATE == pytest.approx(4.0, abs=0.06)
    assert notes == ("the sound changes at 2.0 s: 44100 Hz mono, then 48000 Hz stereo",)


@pytest.mark.parametrize(
    ("codec", "layout"), [("pcm_f32le", "mono"), ("pcm_f64le", "stereo"), ("pcm_f32le", "7.1")]
)
def test_samples_that_are_not_numbers_are_silence_and_counted(tmp_path, codec, layout):
    count = {"mono": 1, "stereo": 2, "7.1": 8}[layout]
    channels = np.tile(sine(440, 1, 48000), (count, 1))
    whole = heard(write_sound(tmp_path / "whole.wav", channels * 0.2, 48000, codec, layout))
    assert whole[1] == ()
    channels[-1, 24000:24012] = [np.nan, np.inf, -np.inf] * 4
    samples, notes = heard(write_sound(tmp_path / "nan.wav", channels * 0.2, 48000, codec, layout))
    assert notes == ("12 samples are not numbers and are heard as silence",)
    assert np.isfinite(samples).all()
    difference = np.abs(samples - whole[0])
    assert difference[:7950].max() < 1e-6 and difference[8050:].max() < 1e-6


def test_peaks_beyond_full_scale_are_clipped_and_said(tmp_path):
    form = (RATE, "pcm_f32le", "mono")
    loud, notes = heard(write_sound(tmp_path / "loud.wav", [sine(440, 1, RATE, 4.0)], *form))
    assert np.abs(loud).max() == 1 and notes == ("84 % of the sound is beyond full scale and is clipped",)
    assert heard(write_sound(tmp_path / "full.wav", [sine(440, 1, RATE, 1.0)], *form))[1] == ()


def test_a_silent_recording_is_said_to_be_silent(tmp_path):
    faint = "the sound is all but silent, below -80 dBFS"
    for amplitude, notes in ((0.0, ("the sound is silent",)), (5e-5, (faint,)), (1e-3, ())):
        path = write_sound(tmp_path / "quiet.wav", [sine(440, 1, RATE, amplitude)], RATE, "pcm_f32le", "mono")
        assert heard(path)[1] == notes


SUFFIXES = {
    "wav": "pcm_s16le", "aiff": "pcm_s16be", "flac": "flac", "ogg": "flac", "mkv": "flac", "opus": "libopus",
    "mp3": "libmp3lame", "avi": "libmp3lame", "mpg": "mp2", "aac": "aac", "m4a": "aac", "mka": "aac",
    "ts": "aac",
}  # fmt: skip


def clicks():
    """12 s at 48 kHz: noise, then silence, which makes a variable bit rate vary; a click every 0.37 s."""
    sound = np.zeros(12 * 48000)
    sound[: 4 * 48000] = np.random.default_rng(0).uniform(-0.1, 0.1, 4 * 48000)
    for index in range(1, 32):
        sound[round(index * 0.37 * 48000) :][:96] = 0.8
    return sound


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_window_hears_what_the_whole_has_there(tmp_path, suffix):
    """Clicks stand where they stand in the whole, to the millisecond of the coarsest clocks."""
    container = {"aac": "adts"}.get(suffix)
    path = write_sound(tmp_path / f"clicks.{suffix}", [clicks()], 48000, SUFFIXES[suffix], "mono", container)
    whole = heard(path)[0]
    for start, end in ((0.25, 1.25), (3.1, 4.9), (6.0, 7.0), (9.37, 10.8)):
        part = heard(path, start=start, end=end)[0]
        expected = whole[round(start * RATE) : round(end * RATE)]
        assert abs(len(part) - len(expected)) <= 1
        places = [np.flatnonzero(np.abs(samples) > 0.4) for samples in (part, expected)]
        assert len(places[1]) and abs(places[0][0] - places[1][0]) <= 17
        assert abs(places[0][-1] - places[1][-1]) <= 17


def test_a_window_of_mp3_of_a_variable_bit_rate_without_header_is_where_it_was_asked(tmp_path):
    with av.open(str(tmp_path / "vbr.mp3"), "w", options={"write_xing": "0", "id3v2_version": "0"}) as file:
        stream = file.add_stream("libmp3lame", rate=48000, layout="mono", options={"compression_level": "4"})
        stream.codec_context.flags |= av.codec.context.Flags.qscale
        stream.codec_context.global_quality = 4 * 118
        frame = av.AudioFrame.from_ndarray(clicks().astype(np.float32)[None], "fltp", "mono")
        frame.sample_rate, frame.pts = 48000, 0
        for part in av.AudioResampler("fltp", "mono", 48000, 1152).resample(frame):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    whole = heard(tmp_path / "vbr.mp3")[0]
    part = heard(tmp_path / "vbr.mp3", start=9.37, end=10.8)[0]
    assert np.abs(part - whole[round(9.37 * RATE) : round(10.8 * RATE)]).max() < 0.05


def test_a_window_of_a_long_file_is_not_read_from_its_beginning(tmp_path, monkeypatch):
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(2 * RATE * 1000))
    seconds = 0.0
    original = downmix.Downmix.push

    def counted(self, frame):
        nonlocal seconds
        seconds += frame.samples / frame.sample_rate
        return original(self, frame)

    monkeypatch.setattr(downmix.Downmix, "push", counted)
    parts = list(iter_audio(tmp_path / "long.wav", RATE, 900.0, 902.0))
    assert {start for start, _ in parts} == {900.0} and sum(len(samples) for _, samples in parts) == 2 * RATE
    assert seconds < 2 + PREROLL + 1


def test_a_window_after_the_end_is_empty(tmp_path):
    late = Sound(write_sound(tmp_path / "short.mkv", [sine(440, 1, 48000)] * 2), RATE, 5.0, 6.0)
    assert len(late.waveform().samples) == 0 and late.notes == ()


@pytest.mark.parametrize(("codec", "suffix"), [("flac", "ogg"), ("libopus", "ogg"), ("mp2", "ts")])
def test_every_second_of_joined_files_is_heard(tmp_path, codec, suffix):
    parts = [
        write_sound(tmp_path / f"{tone}.{suffix}", [sine(tone, 2, 48000)], 48000, codec, "mono")
        for tone in (440, 880)
    ]
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert probe(path).duration == pytest.approx(4, abs=0.15)
    for start, tone in ((0.5, 440), (2.5, 880)):
        part = read_audio(path, RATE, (start, start + 1)).samples.numpy()
        assert len(part) == RATE and np.abs(np.fft.rfft(part)).argmax() == pytest.approx(tone, abs=2)


def test_ogg_whose_channels_change_is_refused_with_the_reason(tmp_path):
    parts = [
        write_sound(tmp_path / f"{layout}.ogg", [sine(440, 1, 48000)] * count, 48000, "libopus", layout)
        for count, layout in ((1, "mono"), (2, "stereo"))
    ]
    path = tmp_path / "joined.ogg"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(MediaError, match="changes in mid-file"):
        probe(path)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("ac3", "ac3"), ("eac3", "eac3"), ("pcm_s16be", "au"), ("wavpack", "wv"), ("tta", "tta")],
)
def test_sound_without_a_video_container_is_heard(tmp_path, codec, suffix):
    path = write_sound(tmp_path / f"a.{suffix}", [sine(440, 2, 48000)], 48000, codec, "mono")
    assert probe(path).duration == pytest.approx(2, abs=0.05)
    part = read_audio(path, RATE, (0.5, 1.5)).samples.numpy()
    assert len(part) == RATE and np.abs(np.fft.rfft(part)).argmax() == 440
