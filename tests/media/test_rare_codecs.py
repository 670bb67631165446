"""Tracks in rare codecs are decoded in a worker, and what comes back is what would have been read here."""

import av
import numpy as np
import pytest
import torch

from lynx.media import rare_codecs
from lynx.media.audio import Sound, iter_audio, read_audio
from lynx.media.container import probe
from lynx.media.rare_codecs import COMMON, needs_worker
from lynx.media.video import iter_frames, read_frames
from lynx.modalities.audio import Audio
from lynx.modalities.inspection import inspect
from lynx.modalities.video import Video

pytest.importorskip("resource")


def recorded(path, video, audio, pixels="yuv420p", rate=16000):
    """Twenty frames in two seconds, ever brighter, and a tone."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream(video, rate=10)
        picture.width = picture.height = 64
        picture.pix_fmt = pixels
        sound = container.add_stream(audio, rate=rate, layout="mono")
        tone = (8000 * np.sin(np.arange(2 * rate) / 8)).astype(np.int16)
        samples = av.AudioFrame.from_ndarray(tone[None], "s16", "mono")
        samples.sample_rate = rate
        grays = [np.full((64, 64, 3), 10 * n, np.uint8) for n in range(20)]
        frames = [av.VideoFrame.from_ndarray(gray, "rgb24") for gray in grays]
        for stream, given in ((picture, frames), (sound, [samples])):
            for frame in [*given, None]:
                container.mux(stream.encode(frame))
    return path


def everything(path):
    times = [0.05, 0.55, 1.25]
    parts = list(iter_audio(path, 8000))
    return (
        probe(path),
        read_frames(path, times).pixels,
        torch.from_numpy(np.stack(list(iter_frames(path, times)))).permute(0, 3, 1, 2),
        read_audio(path, 8000).samples,
        torch.from_numpy(np.concatenate([samples for _, samples in parts])),
        read_audio(path, 8000, (0.5, 1.25)).samples,
        Audio().render(path, torch.tensor([0.7, 1.1])).pixels,
    )


def told(path):
    """What is said of a recording."""
    sounds = [Sound(path, 8000), Sound(path, 8000, 1.0, 1.5)]
    heard = [(len(sound.waveform().samples), sound.notes, sound.begins, sound.ends) for sound in sounds]
    rendered = [sense().render(path, torch.tensor([0.3, 1.9])) for sense in (Audio, Video)]
    return heard, [(frames.duration, frames.notes) for frames in rendered], str(inspect(path)).split("\n")[1:]


RARE = {
    "old.asf": ("wmv2", "adpcm_ms"),
    "flash.flv": ("flv", "nellymoser", "yuv420p", 22050),
    "swf.flv": ("flv", "adpcm_swf", "yuv420p", 22050),
    "capture.avi": ("huffyuv", "adpcm_ima_wav", "yuv422p"),
    "cinepak.avi": ("cinepak", "pcm_s16le", "rgb24"),
    "video1.avi": ("msvideo1", "pcm_s16le", "rgb555le"),
    "svq.mov": ("svq1", "adpcm_ima_qt", "yuv410p"),
    "tta.mkv": ("libx264", "tta"),
}


@pytest.mark.parametrize("name", RARE)
def test_a_rare_codec_is_read_in_a_worker_and_as_it_would_be_here(tmp_path, monkeypatch, calls, name):
    path = recorded(tmp_path / name, *RARE[name])
    apart, said = everything(path), told(path)
    assert len(calls) >= 6 and set(calls) == {repr(name)}
    calls.clear()
    monkeypatch.setattr("lynx.media.rare_codecs.separate", lambda: False)
    again = tmp_path / "again"
    again.mkdir()
    here, said_here = everything(path.rename(again / name)), told(again / name)
    assert calls == [] and said == said_here
    assert apart[0].video == here[0].video and apart[0].audio == here[0].audio
    assert apart[0].duration == here[0].duration
    assert all(one.equal(other) for one, other in zip(apart[1:], here[1:], strict=True))
    assert apart[1].float().mean((1, 2, 3)).diff().min() > 30, "pictures ever brighter"
    assert apart[3].abs().mean() > 0.05 and len(apart[5]) == 6000


def test_one_rare_track_is_enough_and_common_ones_start_no_worker(tmp_path, calls):
    everything(recorded(tmp_path / "a.mp4", "libx264", "aac"))
    everything(recorded(tmp_path / "b.avi", "mpeg4", "pcm_s16le"))
    assert calls == []
    everything(recorded(tmp_path / "c.mkv", "libx264", "tta"))
    assert set(calls) == {"'c.mkv'"}


@pytest.mark.parametrize(
    ("codec", "apart"),
    [("h264", False), ("aac", False), ("pcm_s16le", False), ("libdav1d", False), ("", False)]
    + [("wmv2", True), ("cinepak", True), ("adpcm_ms", True), ("pcm_bluray", True)],
)
def test_which_codecs_are_rare(codec, apart):
    assert needs_worker(codec) is apart


def test_the_names_are_those_of_decoders_that_exist():
    there = {name for name in COMMON if name in av.codecs_available}
    assert len(COMMON - there) <= 8, "av1's names differ from build to build"
    assert rare_codecs.only_common()["codec_whitelist"].count(",") == len(COMMON) - 1
