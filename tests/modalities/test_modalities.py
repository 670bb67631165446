"""Sound as pictures, against an independent spectrogram; sight; and the registry."""

import math
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch

from lynx.errors import DataError, MediaError
from lynx.media.audio import Sound, read_audio
from lynx.media.container import probe
from lynx.media.writer import write_video
from lynx.modalities import OTHER_COLORS, REGISTRY, color_of, get
from lynx.modalities.audio import Audio, AudioRendering, spectrogram
from lynx.modalities.video import Video
from lynx.types import Frames, Waveform, sample_times

RATE = 16000


def log_mel(samples, rendering):
    """(columns, F) uint8 of samples (n,)."""
    return torch.cat(list(spectrogram([samples], rendering)))


def tone(hertz, seconds, amplitude=1.0):
    return Waveform(
        amplitude * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * RATE)) / RATE), RATE
    )


def reference_mel(samples, r):
    """The definition once more with scipy.signal.stft and triangles written out filter by filter."""
    length, hop = round(r.window_s * RATE), round(r.hop_s * RATE)
    window = scipy.signal.get_window("hann", length)
    padded = np.concatenate([np.zeros(length // 2), samples, np.zeros(length)])
    _, _, spectrum = scipy.signal.stft(
        padded, RATE, window, length, length - hop, r.n_fft, boundary=None, padded=False, scaling="psd"
    )
    power = (
        2 * (2 * np.abs(spectrum) ** 2) * RATE / r.n_fft
    )  # one-sided density x bin width; a sine's power is 1/2
    mel = lambda f: 2595 * math.log10(1 + f / 700)  # noqa: E731
    points = [
        700 * (10 ** ((mel(r.fmin) + k * (mel(r.fmax) - mel(r.fmin)) / (r.n_mels + 1)) / 2595) - 1)
        for k in range(r.n_mels + 2)
    ]
    bands = np.zeros((r.n_mels, power.shape[1]))
    for k in range(r.n_mels):
        left, center, right = points[k : k + 3]
        for b in range(r.n_fft // 2 + 1):
            f = b * RATE / r.n_fft
            weight = (f - left) / (center - left) if f <= center else (right - f) / (right - center)
            bands[k] += max(0.0, weight) * power[b]
    decibels = 10 * np.log10(np.maximum(bands, 1e-20))
    return np.clip((decibels - r.floor_db) / (r.ceil_db - r.floor_db), 0, 1).T * 255  # (columns, F)


@pytest.mark.parametrize(
    "rendering",
    [AudioRendering(), AudioRendering(n_mels=40, n_fft=512, window_s=0.02, hop_s=0.01, fmax=7000.0)],
)
def test_log_mel_equals_an_independent_computation(rendering):
    noise = np.random.default_rng(0).normal(0, 0.1, RATE) * np.linspace(0, 1, RATE)
    samples = noise + 0.3 * np.sin(2 * np.pi * 700 * np.arange(RATE) / RATE)
    actual = log_mel(torch.from_numpy(samples).float(), rendering).numpy().astype(float)
    expected = reference_mel(samples, rendering)[: len(actual)]
    assert actual.shape == expected.shape and len(actual) == RATE // rendering.hop + 1
    assert np.abs(actual - expected).max() <= 0.51


def test_transformers_mel_filters_are_imported_when_sound_is_drawn():
    lines = "import sys, lynx.modalities; assert 'transformers' not in sys.modules\n"
    lines += "lynx.modalities.get('audio')(); assert 'transformers' in sys.modules"
    subprocess.run([sys.executable, "-c", lines], check=True)


def test_long_sound_is_cut_into_parts_without_a_seam():
    samples = torch.randn(RATE * 40) * 0.1
    r = AudioRendering()
    whole = log_mel(samples, r)
    start = 4000  # columns; the seam lies at 4096
    part = log_mel(samples[start * r.hop - 512 : (start + 200) * r.hop + 512], r)
    assert torch.equal(whole[start : start + 200], part[4:204])


def test_a_full_scale_sine_is_the_ceiling_and_silence_the_floor():
    picture = Audio().render(tone(1000, 2), sample_times(2.0, 4)).pixels
    assert picture.shape == (4, 3, 64, 62)
    assert picture[1:3].max() > 240  # the sine's power lies in two or three neighboring bands
    quiet = Audio().render(tone(1000, 2, amplitude=0.01), sample_times(2.0, 4)).pixels  # -40 dB
    assert int(picture[1:3].max()) - int(quiet[1:3].max()) == pytest.approx(255 / 2, abs=2)
    silence = Audio().render(Waveform(torch.zeros(2 * RATE), RATE), sample_times(2.0, 4)).pixels
    assert silence.max() == 0


def test_a_level_makes_loud_and_quiet_recordings_look_alike():
    quiet, loud = (Waveform(gain * tone(700, 1.0).samples, RATE) for gain in (0.02, 0.9))
    times = sample_times(1.0, 2)
    level = Audio(AudioRendering(level_db=-12.0))
    assert torch.equal(level.render(quiet, times).pixels, level.render(loud, times).pixels)
    # two bands share the tone
    assert 0 <= 255 * 68 / 80 - int(level.render(quiet, times).pixels.max()) < 255 * 3 / 80
    assert not torch.equal(Audio().render(quiet, times).pixels, Audio().render(loud, times).pixels)
    faint = Waveform(1e-5 * loud.samples, RATE)  # that much would amplify noise
    assert int(level.render(faint, times).pixels.max()) < 255 * 30 / 80
    silence = Waveform(torch.zeros(RATE), RATE)
    assert not level.render(silence, times).pixels.any()


def test_low_frequencies_are_at_the_bottom():
    times = sample_times(1.0, 1)
    row = [
        int(Audio().render(tone(f, 1), times).pixels[0, 0].float().mean(1).argmax())
        for f in (200, 1000, 6000)
    ]
    assert row[0] > row[1] > row[2] and row[0] > 50 and row[2] < 15


def test_three_channels_are_equal():
    pixels = Audio().render(tone(500, 1), sample_times(1.0, 2)).pixels
    assert torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])


@pytest.mark.parametrize(
    ("n_mels", "hop_s", "seconds"), [(20, 0.004, 0.32), (33, 0.01, 0.31), (20, 0.1, 0.1)]
)
def test_slopes_equal_an_independent_computation(n_mels, hop_s, seconds):
    """Red is the level; green and blue its slopes, pixel by pixel, flat beyond the edges; one column too."""
    wave = Waveform(torch.randn(RATE, generator=torch.Generator().manual_seed(1)) * 0.05, RATE)
    shared = {"n_mels": n_mels, "hop_s": hop_s, "seconds_per_frame": seconds}
    times = sample_times(1.0, 3)
    gray = Audio(AudioRendering(**shared)).render(wave, times).pixels[:, 0].numpy().astype(int)
    found = Audio(AudioRendering(**shared, show="slopes")).render(wave, times).pixels.numpy()
    height, width = gray.shape[1:]
    steps, bands = max(1, round(0.032 / hop_s)), math.ceil(n_mels / 10)
    assert found.shape == (3, 3, n_mels, max(1, round(seconds / hop_s)))
    for t, y, x in np.ndindex(gray.shape):
        later, sooner = gray[t, y, min(x + steps, width - 1)], gray[t, y, max(x - steps, 0)]
        above, below = gray[t, max(y - bands, 0), x], gray[t, min(y + bands, height - 1), x]
        slopes = [min(255, max(0, 128 + 3 * rise)) for rise in (later - sooner, above - below)]
        assert found[t, :, y, x].tolist() == [gray[t, y, x], *slopes]


def test_silence_has_a_level_of_nothing_and_no_slope():
    silent = Waveform(torch.zeros(RATE), RATE)
    pixels = Audio(AudioRendering(show="slopes")).render(silent, sample_times(1.0, 2)).pixels
    assert (pixels[:, 0] == 0).all() and (pixels[:, 1:] == 128).all()
    with pytest.raises(DataError, match="show='colors' is none of level, slopes"):
        AudioRendering(show="colors")


def test_a_click_stands_at_its_time():
    samples = torch.zeros(4 * RATE)
    samples[round(2.6 * RATE)] = 1.0
    frames = Audio().render(
        Waveform(samples, RATE), sample_times(4.0, 8)
    )  # pictures of 0.5 s centered at .25, .75, ..
    energy = frames.pixels[:, 0].float().sum(1)  # (T, columns)
    picture, column = divmod(int(energy.argmax()), energy.shape[1])
    assert picture == 5
    bright = energy[5] > energy.max() * 0.5
    center = (torch.arange(62) + 0.5)[bright].mean() * 0.008 + frames.times[5] - 31 * 0.008
    assert center == pytest.approx(2.6, abs=0.006)
    assert energy[[0, 1, 2, 3, 4, 6, 7]].sum() == 0


def test_neighboring_pictures_are_one_spectrogram_cut():
    wave = Waveform(torch.randn(4 * RATE) * 0.1, RATE)
    rendering = AudioRendering(
        seconds_per_frame=0.512
    )  # 64 columns, and frames 0.512 s apart: no gap, no overlap
    times = 0.512 * (torch.arange(6) + 0.5)
    strip = torch.cat(list(Audio(rendering).render(wave, times).pixels[:, 0]), dim=1).flip(0).T
    assert torch.equal(strip, log_mel(wave.samples, rendering)[: len(strip)]) or torch.equal(
        strip[:-1], log_mel(wave.samples, rendering)[1 : len(strip)]
    )


def test_pictures_of_close_moments_overlap_where_they_show_a_least_stretch():
    noise = Waveform(torch.randn(RATE, generator=torch.Generator().manual_seed(0)).clamp(-1, 1), RATE)
    times = sample_times(1.0, 10)
    wide = Audio(AudioRendering(least_s=0.32)).render(noise, times).pixels
    assert torch.equal(wide, Audio(AudioRendering(seconds_per_frame=0.32)).render(noise, times).pixels)
    few = sample_times(1.0, 2)
    assert torch.equal(
        Audio(AudioRendering(least_s=0.32)).render(noise, few).pixels, Audio().render(noise, few).pixels
    )


def test_the_same_moment_looks_the_same_whatever_else_is_asked():
    wave = Waveform(torch.randn(4 * RATE) * 0.1, RATE)
    audio = Audio(AudioRendering(seconds_per_frame=0.5))
    alone = audio.render(wave, torch.tensor([1.7]))
    among = audio.render(wave, torch.tensor([0.2, 1.7, 3.9]))
    assert torch.equal(alone.pixels[0], among.pixels[1])


def test_moments_outside_the_recording_are_silent():
    frames = Audio(AudioRendering(seconds_per_frame=0.5)).render(tone(800, 1), torch.tensor([0.5, 1.0, 9.0]))
    assert frames.pixels[0].amax((0, 1)).min() > 0
    assert frames.pixels[1, :, :, 33:].max() == 0 and frames.pixels[1, :, :, :28].max() > 0
    assert frames.pixels[2].max() == 0


@pytest.mark.parametrize("n", [1, 7, 399, 401, 16001])
@pytest.mark.parametrize("moments", [1, 3])
def test_odd_and_tiny_recordings(n, moments):
    wave = Waveform(torch.ones(n) * 0.5, RATE)
    frames = Audio().render(wave, sample_times(wave.duration, moments))
    assert len(frames) == moments and frames.pixels.shape[1:3] == (3, 64) and frames.pixels.shape[3] >= 1
    assert frames.duration == wave.duration


def test_sound_from_a_file_equals_sound_from_memory(tmp_path):
    video = torch.zeros(8, 3, 48, 64, dtype=torch.uint8)
    wave = tone(440, 2, 0.5)
    write_video(tmp_path / "clip.mp4", video, 4, wave)
    times = sample_times(2.0, 4)
    read = Audio().render(tmp_path / "clip.mp4", times).pixels[1:3].float()
    memory = Audio().render(wave, times).pixels[1:3].float()
    loud = memory > 100
    assert (read - memory)[loud].abs().mean() < 4
    assert Audio().duration(tmp_path / "clip.mp4") == pytest.approx(2.0, abs=0.1)


def long_sound(path, seconds=60, loud=55):
    """Noise that is loud in the second `loud` alone."""
    noise = np.random.default_rng(0).normal(0, 0.02, round(seconds * RATE)).clip(-1, 1)
    noise[loud * RATE : (loud + 1) * RATE] *= 10
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((noise * 32767).astype(np.int16).tobytes())
    return path


@pytest.mark.parametrize("held", [False, True])
def test_a_part_of_a_long_recording_is_what_the_whole_shows_there(tmp_path, monkeypatch, held):
    path = long_sound(tmp_path / "long.wav")
    source = read_audio(path, RATE) if held else path
    times = 30.0 + 0.5 * torch.arange(8, dtype=torch.float64)
    whole = Audio(AudioRendering(seconds_per_frame=0.5)).render(source, sample_times(60.0, 120))
    spans, original = [], Sound.__init__

    def noted(self, *args):
        spans.append(args[2:])
        original(self, *args)

    monkeypatch.setattr(Sound, "__init__", noted)
    part = Audio().render(source, times + 0.25)
    assert (part.pixels.int() - whole.pixels[60:68].int()).abs().max() <= 1
    assert part.duration == 60.0 and part.notes == () and part.times.tolist() == (times + 0.25).tolist()
    assert spans == ([] if held else [(pytest.approx(29.94, abs=0.02), pytest.approx(34.05))])


def test_the_level_of_a_part_is_that_of_what_is_shown(tmp_path):
    path, r = long_sound(tmp_path / "long.wav"), AudioRendering(level_db=-14.0)
    shown = Audio(r).render(path, 30.0 + sample_times(4.0, 8)).pixels
    alone = Audio(r).render(read_audio(path, RATE, (30.0, 34.0)), sample_times(4.0, 8)).pixels
    assert (shown[1:-1].int() - alone[1:-1].int()).abs().max() <= 3
    assert shown.float().mean() > Audio(r).render(path, sample_times(60.0, 8)).pixels[2:6].float().mean() + 20


def test_moments_without_sound_are_counted_in_a_note(tmp_path):
    path = long_sound(tmp_path / "short.wav", 4, 1)
    assert Audio().render(path, sample_times(4.0, 16)).notes == ()
    frames = Audio().render(path, sample_times(8.0, 16))
    assert frames.notes == ("the sound ends at 4.0 s: 8 of 16 moments are silent",)
    later = Audio().render(path, 10.0 + sample_times(2.0, 4))
    assert not later.pixels.any() and later.notes == ("the sound ends at 4.0 s: 4 of 4 moments are silent",)
    assert list(Audio().parts(path, sample_times(8.0, 16), 4))[-1].notes == frames.notes
    brief = Audio().render(long_sound(tmp_path / "brief.wav", 0.032, 1), sample_times(0.16, 4))
    assert brief.notes == ("the sound ends at 0.032 s: 3 of 4 moments are silent",)


def test_a_lone_sound_is_spread_over_its_own_length_and_a_clip_over_its_picture(tmp_path):
    assert Audio().duration(long_sound(tmp_path / "sound.wav", 4, 1)) == pytest.approx(4.0)
    write_video(tmp_path / "clip.mp4", torch.zeros(8, 3, 48, 64, dtype=torch.uint8), 4, tone(440, 2))
    assert Audio().duration(tmp_path / "clip.mp4") == probe(tmp_path / "clip.mp4").duration


def test_a_silent_recording_is_noted_and_drawn(tmp_path):
    with wave.open(str(tmp_path / "silent.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(4 * RATE))
    frames = Audio().render(tmp_path / "silent.wav", sample_times(2.0, 4))
    assert not frames.pixels.any() and frames.notes == ("the sound is silent",)


def test_what_is_no_sound_is_refused(tmp_path):
    write_video(tmp_path / "mute.mp4", torch.zeros(4, 3, 48, 64, dtype=torch.uint8), 4)
    for call in (Audio().duration, lambda source: Audio().render(source, sample_times(1.0, 2))):
        with pytest.raises(MediaError, match="has no audio track"):
            call(tmp_path / "mute.mp4")
    with pytest.raises(MediaError, match="not from Frames"):
        Audio().render(
            Frames(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1), 1.0), torch.zeros(1)
        )
    with pytest.raises(MediaError, match="8000 Hz"):
        Audio().render(Waveform(torch.zeros(800), 8000), torch.zeros(1))
    with pytest.raises(MediaError, match="no samples"):
        Audio().render(Waveform(torch.zeros(0), RATE), torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_s": 0.1}, "does not fit"),
        ({"n_mels": 256, "n_fft": 512}, "always be black"),
        ({"fmax": 9000.0}, "between 0 and"),
        ({"floor_db": 0.0}, "below ceil_db"),
        ({"hop_s": 0.0}, "less than one sample"),
    ],
)
def test_renderings_that_cannot_be_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        AudioRendering(**change)


def test_rendering_travels_as_a_dict():
    audio = Audio(AudioRendering(n_mels=48, seconds_per_frame=0.5))
    assert Audio.from_dict(audio.to_dict()).rendering == audio.rendering
    assert Audio.from_dict({}).rendering == AudioRendering()
    with pytest.raises(DataError, match="n_mel;"):
        Audio.from_dict({"n_mel": 3})
    with pytest.raises(DataError, match="n_mels of audio is '128'; expected int"):
        Audio.from_dict({"n_mels": "128"})
    with pytest.raises(DataError, match="n_mels of audio is 64.5"):
        Audio.from_dict({"n_mels": 64.5})
    assert Audio.from_dict({"fmin": 30, "level_db": None}).rendering == AudioRendering(fmin=30)
    with pytest.raises(DataError, match="VideoRendering"):
        Video(AudioRendering())


def test_video_shows_what_is_on_the_screen(tmp_path):
    levels = torch.arange(0, 240, 30, dtype=torch.uint8)
    pixels = levels[:, None, None, None].expand(8, 3, 48, 64)
    write_video(tmp_path / "clip.mp4", pixels, 4)
    times = sample_times(2.0, 4)
    read = Video().render(tmp_path / "clip.mp4", times)
    memory = Video().render(Frames(pixels, torch.arange(8) / 4, 2.0), times)
    assert Video().duration(tmp_path / "clip.mp4") == pytest.approx(2.0)
    assert memory.pixels[:, 0, 0, 0].tolist() == [30, 90, 150, 210]
    assert (read.pixels.float() - memory.pixels.float()).abs().max() < 8
    with pytest.raises(MediaError, match="Waveform"):
        Video().render(tone(1, 1), times)


def test_the_registry_knows_the_senses_by_their_names():
    assert all(name == modality.name and modality.label for name, modality in REGISTRY.items())
    assert get("audio") is Audio and get("video") is Video
    with pytest.raises(DataError, match="smell"):
        get("smell")


def test_what_is_known_of_a_sense_stands_in_its_class():
    for name, modality in REGISTRY.items():
        assert color_of(name) == modality.color and modality.example_questions[0].endswith("?")
        assert all(suffix.startswith(".") for suffix in modality.suffixes)
    assert len({modality.color for modality in REGISTRY.values()}) == len(REGISTRY)
    assert Path(Audio.example_file).suffix in Audio.suffixes and ".npy" in REGISTRY["depth"].suffixes


def test_a_sense_that_says_no_more_than_it_must_has_a_color_and_a_question(monkeypatch):
    class Warmth(Video):
        name, label, color = "warmth", "warmth", None

    monkeypatch.setitem(REGISTRY, "warmth", Warmth)
    assert color_of("warmth") == color_of("warmth") in OTHER_COLORS
    assert color_of("an adapter's name") in OTHER_COLORS and get("warmth").example_questions


@pytest.mark.parametrize(
    ("sense", "name", "value"),
    [
        ("audio", "n_mels", 10**9),
        ("audio", "n_fft", 2**40),
        ("audio", "sample_rate", 10**12),
        ("audio", "seconds_per_frame", 1e308),
        ("audio", "least_s", 1e9),
        ("depth", "max_side", 10**9),
        ("depth", "unit", 1e300),
        ("high_fps", "max_side", 10**9),
        ("multi_view", "max_side", 10**9),
    ],
)
def test_a_rendering_that_would_take_the_memory_is_refused_before_anything_is_made(sense, name, value):
    with pytest.raises(DataError, match=f"{name}=.* must lie between"):
        get(sense).from_dict({name: value})


def test_columns_of_a_very_wide_picture_are_averaged(monkeypatch):
    """As where a damaged header claims hours: pictures of 900,000 columns took gigabytes."""
    wave = Waveform(0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(1)), 16000)
    whole = Audio().render(wave, torch.tensor([0.5])).pixels  # (1, 3, F, 125)
    monkeypatch.setattr("lynx.modalities.audio.MAX_COLUMNS", 25)
    narrow = Audio().render(wave, torch.tensor([0.5])).pixels
    assert narrow.shape[-1] == 25
    assert (narrow.float() - whole.float().unflatten(-1, (25, 5)).mean(-1)).abs().max() <= 0.5
