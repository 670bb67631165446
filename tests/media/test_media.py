"""Real files through the real decoder: times, seeking, rotation, tracks, and every way a file can be bad."""

import struct
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from lynx.errors import MediaError
from lynx.media.audio import Sound, iter_audio, read_audio
from lynx.media.container import probe
from lynx.media.downmix import mono_weights, placed
from lynx.media.playhead import Playhead
from lynx.media.video import iter_frames, read_frames
from lynx.media.writer import write_video
from lynx.modalities.audio import Audio, AudioRendering
from lynx.types import Frames, Waveform, sample_times

REAL = Path(__file__).parents[3] / "shared" / "media" / "sample_demo_1.mp4"


def encode(path, times, *, size=(64, 48), gop=250, rotation=0, tone=None, tracks=1):
    """A video whose frame i is of gray level(i), shown from times[i] on; `tone` (seconds, Hz) as AAC."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000, options={"g": str(gop), "crf": "12"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        sounds = [
            container.add_stream("aac", rate=16000, layout="mono") for _ in range(tracks if tone else 0)
        ]
        for i, time in enumerate(times):
            picture = np.full((size[1], size[0], 3), level(i), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for k, sound in enumerate(sounds):
            t = np.arange(round(tone[0] * 16000)) / 16000
            wave = (0.5 * np.sin(2 * np.pi * tone[1] * (k + 1) * t)).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def level(i):
    return 10 + (i * 8) % 240


def levels(frames):
    return [round((x.float().mean().item() - 10) / 8) for x in frames.pixels]


def test_sample_times_are_the_middles_of_equal_parts():
    assert sample_times(8.0, 4).tolist() == [1.0, 3.0, 5.0, 7.0]
    assert sample_times(3.0, 1).dtype == torch.float64


def test_frames_at_shows_the_last_frame_that_began():
    pixels = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    frames = Frames(pixels, torch.tensor([0.0, 1.0, 2.0]), 3.0).at(torch.tensor([-1.0, 0.5, 1.0, 9.0]))
    assert frames.pixels[:, 0, 0, 0].tolist() == [0, 0, 1, 2]
    assert frames.times.tolist() == [-1.0, 0.5, 1.0, 9.0] and frames.duration == 3.0


def test_frames_refuse_float_pixels_and_missing_times():
    with pytest.raises(MediaError, match="uint8"):
        Frames(torch.zeros(1, 3, 2, 2), torch.zeros(1), 1.0)
    with pytest.raises(MediaError, match="as many times"):
        Frames(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.zeros(1), 1.0)


def test_variable_frame_rate_is_read_by_timestamp(tmp_path):
    times = [0.0, 0.1, 0.2, 0.3, 3.0, 3.1, 5.0]
    path = encode(tmp_path / "vfr.mp4", times)
    asked = [0.05, 0.1, 0.299, 0.3, 2.999, 3.0, 4.9, 5.0]
    assert levels(read_frames(path, asked)) == [0, 1, 2, 3, 3, 4, 5, 6]


@pytest.mark.parametrize("gop", [1, 7, 1000])
def test_every_gop_length_gives_the_same_frames(tmp_path, gop):
    path = encode(tmp_path / "clip.mp4", np.arange(25) * 0.04, gop=gop)
    asked = [0.0, 0.01, 0.04, 0.30, 0.31, 0.77, 0.96]
    assert levels(read_frames(path, asked)) == [0, 0, 1, 7, 7, 19, 24]


@pytest.mark.parametrize("container", ["mkv", "ts", "mov"])
def test_other_containers_agree_with_mp4(tmp_path, container):
    path = encode(tmp_path / f"clip.{container}", np.arange(25) * 0.04, gop=6)
    asked = sample_times(1.0, 5)
    assert levels(read_frames(path, asked)) == [2, 7, 12, 17, 22]


def test_a_moment_after_the_end_shows_the_last_frame(tmp_path):
    path = encode(tmp_path / "clip.mp4", np.arange(10) * 0.1, tone=(3.0, 440))
    assert probe(path).sound.duration == pytest.approx(3.0, abs=0.1)
    assert probe(path).duration == pytest.approx(0.9, abs=0.1)  # the picture's own
    assert levels(read_frames(path, [0.5, 1.5, 2.9])) == [5, 9, 9]


def test_the_same_moment_twice_gives_the_same_frame(tmp_path):
    path = encode(tmp_path / "clip.mp4", np.arange(10) * 0.1)
    assert levels(read_frames(path, [0.35, 0.35, 0.36])) == [3, 3, 3]


@pytest.mark.parametrize("times", [[0.5, 0.1], [-0.1], [], [float("nan")]])
def test_moments_that_make_no_sense_are_refused(tmp_path, times):
    path = encode(tmp_path / "clip.mp4", [0.0, 0.1])
    with pytest.raises(MediaError, match="read at"):
        read_frames(path, times)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotated_recordings_come_upright(tmp_path, rotation):
    """ffmpeg's own autorotate (moviepy's binary) is the reference."""
    import imageio_ffmpeg

    upright = torch.zeros(4, 3, 48, 64, dtype=torch.uint8)
    upright[:, 0, :24, :32] = 255  # red, top left
    upright[:, 1, 24:, 32:] = 255  # green, bottom right
    write_video(tmp_path / "plain.mp4", upright, 4)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    turned, reference = tmp_path / "turned.mp4", tmp_path / "reference.rgb"
    run = lambda *args: subprocess.run([ffmpeg, "-y", "-loglevel", "error", *map(str, args)], check=True)  # noqa: E731
    run("-display_rotation", rotation, "-i", tmp_path / "plain.mp4", "-c", "copy", turned)
    run("-i", turned, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "rgb24", reference)
    info, frames = probe(turned).video, read_frames(turned, [0.0])
    expected = np.fromfile(reference, np.uint8).reshape(info.height, info.width, 3)
    actual = frames.pixels[0].permute(1, 2, 0).numpy()
    assert np.abs(actual.astype(int) - expected).mean() < 3
    assert (info.width, info.height) == ((48, 64) if rotation % 180 else (64, 48))
    assert abs(info.rotation) == abs(rotation)


def test_max_side_scales_down_and_never_up(tmp_path):
    path = encode(tmp_path / "clip.mp4", [0.0, 0.1], size=(128, 64))
    assert read_frames(path, [0.0], max_side=32).pixels.shape == (1, 3, 16, 32)
    assert read_frames(path, [0.0], max_side=999).pixels.shape == (1, 3, 64, 128)


def test_sound_is_mono_at_the_rate_asked_for(tmp_path):
    path = encode(tmp_path / "clip.mp4", np.arange(20) * 0.1, tone=(2.0, 440))
    wave = read_audio(path, 8000)
    assert wave.sample_rate == 8000 and wave.samples.dtype == torch.float32
    assert wave.duration == pytest.approx(2.0, abs=0.15)
    spectrum = torch.fft.rfft(wave.samples[2000:10000]).abs()
    assert spectrum.argmax().item() == pytest.approx(440, abs=2)
    assert 0.3 < wave.samples.abs().max() <= 1.0


def test_each_audio_track_can_be_chosen(tmp_path):
    path = encode(tmp_path / "clip.mkv", np.arange(10) * 0.1, tone=(1.0, 440), tracks=2)
    assert len(probe(path).audio) == 2
    sounds = [read_audio(f"{path}#{index}", 16000).samples for index in (1, 2)]
    peaks = [torch.fft.rfft(samples[:16000]).abs().argmax().item() for samples in sounds]
    assert peaks == pytest.approx([440, 880], abs=6)
    with pytest.raises(MediaError, match=r"Track 0 of .* one of these: #1: aac, #2: aac"):
        read_audio(f"{path}#0", 16000)


def test_sound_that_begins_late_is_preceded_by_silence(tmp_path):
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for _ in range(20):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(np.full((1, 8000), 16000, np.int16), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 16000, Fraction(1, 16000)
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    samples = read_audio(path, 16000).samples
    assert samples[:15500].abs().max() == 0 and samples[16500:23500].min() > 0.4


def sound_file(path, codec, layout, rate=48000):
    """A second of 440 Hz; the amplitude of channel k is 0.1 + 0.01 k. Returns that of the mix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        encoder = stream.codec_context
        encoder.open()
        amplitudes = 0.1 + 0.01 * np.arange(encoder.layout.nb_channels)
        wave = np.sin(2 * np.pi * 440 * np.arange(rate) / rate)[:, None] * amplitudes  # (n, channels)
        packed = (wave * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, "s16", encoder.layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        convert = av.AudioResampler(encoder.format, encoder.layout, rate, encoder.frame_size or None)
        for part in [*convert.resample(frame), *convert.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:  # not every format keeps the layout
        weights = mono_weights(placed(next(container.decode(audio=0)).layout))
    return amplitudes.mean() if weights is None else float(amplitudes @ weights)


def test_sound_of_many_channels_is_their_mix(tmp_path):
    """Read in a process of its own: what reads past the planes of a frame ends the process."""
    files = [
        ("stereo.wav", "pcm_s16le", "stereo"),
        ("eight.wav", "pcm_s16le", "8 channels"),
        ("ten.mkv", "pcm_f32le", "10 channels"),
        ("most.wav", "pcm_s16le", "64 channels"),
        ("planar.mkv", "wavpack", "10 channels"),
        ("surround.flac", "flac", "7.1"),
        ("surround.opus", "libopus", "7.1"),
        ("circle.mka", "aac", "hexadecagonal"),
    ]
    expected = [sound_file(tmp_path / name, codec, layout) for name, codec, layout in files]
    read = (
        "import sys; from lynx.media.audio import read_audio\n"
        "for path in sys.argv[1:]: print(float(read_audio(path, 16000).samples[4000:12000].abs().max()))"
    )
    names = [str(tmp_path / name) for name, _, _ in files]
    done = subprocess.run([sys.executable, "-c", read, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [float(line) for line in done.stdout.split()]
    assert found == pytest.approx(expected, abs=0.02)  # wavpack rounds
    sound_file(tmp_path / "many.wav", "pcm_s16le", "65 channels")
    with pytest.raises(MediaError, match="65 channels; at most 64 channels"):
        read_audio(tmp_path / "many.wav", 16000)


def sound_with_a_gap(path, gap, header=None):
    """2 x 0.5 s of a constant 0.5, `gap` seconds of nothing between; the header says `header` seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for begin in (0.0, 0.5 + gap):
            frame = av.AudioFrame.from_ndarray(np.full((1, 8000), 2**14, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, round(begin * 16000), Fraction(1, 16000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if header:
        data, mark = path.read_bytes(), b"\x44\x89\x88"  # Matroska's Duration, 8 bytes of milliseconds
        before, after = data.split(mark)
        path.write_bytes(before + mark + struct.pack(">d", header * 1000) + after[8:])
    return path


def test_hours_of_silence_after_the_picture_are_heard_but_not_drawn(tmp_path, monkeypatch):
    """They took ten seconds, and half a gigabyte."""
    path, drawn = sound_with_a_gap(tmp_path / "gap.mkv", 6000.0, header=2.0), []
    real = torch.fft.rfft
    monkeypatch.setattr("torch.fft.rfft", lambda part, n: drawn.append(len(part)) or real(part, n=n))
    assert max(map(len, Sound(path, 16000))) <= 2**16
    frames = Audio(AudioRendering()).render(path, sample_times(2.0, 4))
    assert frames.duration == 6001.0 and 2.0 / 0.008 <= sum(drawn) <= 2 * 4096


def test_a_gap_in_the_timestamps_counts_as_sound(tmp_path):
    """27.8 hours of silence took minutes and gigabytes, as the header said 2 s."""
    short = read_audio(sound_with_a_gap(tmp_path / "short.mkv", 3.0), 16000).samples
    assert len(short) == 4 * 16000 and not short[8000:56000].any() and (short[56000:] == 0.5).all()
    path = sound_with_a_gap(tmp_path / "gap.mkv", 1e5, header=2.0)
    assert probe(path).duration == 2.0
    for listen in (
        partial(read_audio, path, 16000),
        partial(Audio(AudioRendering()).render, path, sample_times(2.0, 4)),
        partial(Audio(AudioRendering(level_db=-20.0)).render, path, sample_times(2.0, 4)),
    ):
        with pytest.raises(MediaError, match=r"'gap.mkv' spans 27.8 h .* at most 2 h \(LYNX_MAX_SECONDS\)"):
            listen()
    after = list(iter_audio(path, 16000, start=1e5 + 0.3, end=1e5 + 0.7))
    assert sum(len(samples) for _, samples in after) < 2 * 16000  # the silence before is not made
    window = read_audio(path, 16000, window=(1e5 + 0.3, 1e5 + 0.7)).samples
    assert len(window) == 6400 and not window[:3200].any() and (window[3200:] == 0.5).all()
    with pytest.raises(MediaError, match="spans 2.8 h"):
        read_audio(path, 16000, window=(9e4, 2e5))


def test_a_file_without_sound_says_so(tmp_path):
    path = encode(tmp_path / "mute.mp4", [0.0, 0.1, 0.2])
    assert probe(path).audio == ()
    with pytest.raises(MediaError, match="has no audio track"):
        read_audio(path, 16000)


def test_a_file_without_pictures_says_so(tmp_path):
    path = tmp_path / "tone.wav"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), "s16", "mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert probe(path).video is None and probe(path).duration == pytest.approx(1.0, abs=0.01)
    with pytest.raises(MediaError, match="has no picture track"):
        read_frames(path, [0.0])


def test_bad_files_are_one_clear_sentence(tmp_path):
    whole = encode(tmp_path / "whole.mp4", np.arange(50) * 0.1, size=(320, 240)).read_bytes()
    bad = {
        "empty.mp4": b"",
        "text.txt": b"hello world\n" * 50,
        "text.mp4": b"hello world\n" * 50,
        "list.m3u8": b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n",
        "noise.mp4": np.random.default_rng(0).bytes(20000),
        "cut.mp4": whole[: len(whole) // 2],  # the index stands at the end and is gone
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=name) as error:
            probe(tmp_path / name)
        assert "\n" not in str(error.value) and len(str(error.value)) < 160
    for path in (tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(MediaError, match="no file"):
            read_frames(path, [0.0])


def test_a_cut_file_with_its_index_in_front_is_found_out(tmp_path):
    frames = torch.randint(0, 255, (40, 3, 96, 128), dtype=torch.uint8)
    write_video(tmp_path / "whole.mp4", frames, 8)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    assert probe(tmp_path / "whole.mp4").duration == pytest.approx(5.0)
    with pytest.raises(MediaError, match="cut off"):
        probe(tmp_path / "cut.mp4")


def test_frames_one_after_another_are_the_same(tmp_path):
    path = encode(tmp_path / "clip.mp4", np.arange(25) * 0.04, gop=7)
    asked = sample_times(1.0, 9)
    shown = iter_frames(path, asked, 32)
    assert iter(shown) is shown  # not a list: a long clip would fill the memory
    together = read_frames(path, asked, 32).pixels.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.stack(list(shown)), together)
    with pytest.raises(MediaError, match="no file"):
        next(iter_frames(tmp_path / "missing.mp4", asked))


@pytest.mark.parametrize("window", [(0.0, 1.0), (1.0, 1.5), (0.1, 0.4), (2.5, 9.0), (3.95, 4.0)])
@pytest.mark.parametrize("suffix", ["mp4", "wav", "mkv"])
def test_a_window_of_the_sound_is_what_the_whole_sound_has_there(tmp_path, window, suffix):
    """A sound that is different at every moment: it rises by 200 Hz a second."""
    import wave

    rate = 16000
    time = torch.arange(4 * rate) / rate
    sweep = Waveform(torch.sin(2 * torch.pi * (300 + 100 * time) * time) * 0.5, rate)
    path = tmp_path / f"sound.{suffix}"
    if suffix == "wav":
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes((sweep.samples * 32767).short().numpy().tobytes())
    else:
        write_video(tmp_path / "clip.mp4", torch.zeros(16, 3, 32, 32, dtype=torch.uint8), 4, sweep)
        path = tmp_path / "clip.mp4" if suffix == "mp4" else remuxed(tmp_path / "clip.mp4", path)
    whole = read_audio(path, rate).samples
    part = read_audio(path, rate, window=window).samples
    expected = whole[round(window[0] * rate) : round(window[1] * rate)]
    assert abs(len(part) - len(expected)) < rate * 0.03
    n = min(len(part), len(expected))
    assert (part[:n] - expected[:n]).abs().max() < 0.02


def test_a_window_after_the_sound_is_silent(tmp_path):
    path = encode(tmp_path / "clip.mp4", np.arange(50) * 0.1, tone=(1.0, 440))
    assert len(read_audio(path, 16000, window=(3.0, 4.0)).samples) == 0


def remuxed(source, path):
    """The same packets in another container."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                new.mux(packet)
    return path


def test_write_video_round_trip(tmp_path):
    colors = torch.tensor([[220, 30, 30], [30, 200, 30], [30, 30, 220]], dtype=torch.uint8)
    frames = colors[:, :, None, None].expand(3, 3, 48, 64)
    tone = torch.sin(torch.arange(24000) / 16000 * 2 * torch.pi * 500) * 0.5
    write_video(tmp_path / "clip.mp4", frames, 2, Waveform(tone, 16000))
    info = probe(tmp_path / "clip.mp4")
    assert info.video.codec == "h264" and info.audio[0].codec == "aac"
    assert info.duration == pytest.approx(1.5, abs=0.08)
    read = read_frames(tmp_path / "clip.mp4", [0.0, 0.5, 1.0]).pixels.float().mean((2, 3))
    assert (read - colors).abs().max() < 12
    sound = read_audio(tmp_path / "clip.mp4", 16000)
    assert torch.fft.rfft(sound.samples[:16000]).abs().argmax().item() == pytest.approx(500, abs=3)
    assert sound.samples[2000:20000].abs().max() == pytest.approx(0.5, abs=0.03)  # two channels, one loudness
    with pytest.raises(MediaError, match="even sides"):
        write_video(tmp_path / "odd.mp4", frames[..., :63], 2)


def test_a_long_clip_is_not_decoded_whole(tmp_path, monkeypatch):
    """Ten minutes at 4 frames/s with a key frame every 10 s: 16 moments cost 16 such runs at most."""
    path = encode(tmp_path / "long.mp4", np.arange(2400) * 0.25, gop=40)
    decoded = 0
    original = Playhead.show.__globals__["decode"]

    def counting(*args):
        nonlocal decoded
        for frame in original(*args):
            decoded += 1
            yield frame

    monkeypatch.setitem(Playhead.show.__globals__, "decode", counting)
    frames = read_frames(path, sample_times(600.0, 16))
    index = (sample_times(600.0, 16) / 0.25 + 1e-6).long()
    assert (
        frames.pixels.float().mean((1, 2, 3)) - torch.tensor([level(int(i)) for i in index])
    ).abs().max() < 3
    assert decoded <= 16 * 42


@pytest.mark.skipif(
    not REAL.is_file(), reason="needs ../shared/media, real recordings that are not in the project"
)
def test_a_real_recording():
    info = probe(REAL)
    assert (info.video.width, info.video.height, info.duration) == (640, 360, pytest.approx(9.72, abs=0.05))
    frames = read_frames(REAL, sample_times(info.duration, 8), max_side=320)
    assert frames.pixels.shape == (8, 3, 180, 320)
    assert frames.pixels.float().std() > 20
    assert read_audio(REAL, 16000).duration == pytest.approx(9.7, abs=0.1)


def test_avi_whose_display_times_are_vague_is_read_in_order(tmp_path):
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "2", "crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level(i), np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    seen = levels(read_frames(path, sample_times(2.0, 5)))
    assert seen == sorted(seen) and len(set(seen)) == 5 and abs(seen[2] - 10) <= 2
    assert probe(path).duration == pytest.approx(2.0, abs=0.15)


def test_a_picture_track_without_a_picture_is_an_error(tmp_path):
    path = tmp_path / "empty.mkv"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(MediaError, match="empty.mkv"):
        probe(path)
