"""Tracks in rare codecs are decoded in a worker, and what comes back is what would have been read here."""

import av
import numpy as np
import pytest
import torch

from lynx.media import rare_codecs, worker
from lynx.media.audio import iter_audio, read_audio
from lynx.media.container import probe
from lynx.media.rare_codecs import COMMON, needs_worker
from lynx.media.video import iter_frames, read_frames

pytest.importorskip("resource")


def recorded(path, video, audio):
    """Twenty frames in two seconds, ever brighter, and a tone."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream(video, rate=10)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream(audio, rate=16000, layout="mono")
        tone = (8000 * np.sin(np.arange(32000) / 8)).astype(np.int16)
        samples = av.AudioFrame.from_ndarray(tone[None], "s16", "mono")
        samples.sample_rate = 16000
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
    )


@pytest.fixture
def calls(monkeypatch):
    """Names of the files that workers are called about."""
    seen, real = [], worker._pool.call

    def counted(function, args, about, seconds):
        seen.append(about)
        return real(function, args, about, seconds)

    monkeypatch.setattr(worker._pool, "call", counted)
    return seen


def test_a_rare_codec_is_read_in_a_worker_and_as_it_would_be_here(tmp_path, monkeypatch, calls):
    path = recorded(tmp_path / "old.asf", "wmv2", "adpcm_ms")
    apart = everything(path)
    assert len(calls) >= 4 and set(calls) == {"'old.asf'"}
    calls.clear()
    monkeypatch.setattr("lynx.media.rare_codecs.separate", lambda: False)
    here = everything(path.rename(tmp_path / "renamed.asf"))
    assert calls == []
    assert apart[0].video == here[0].video and apart[0].audio == here[0].audio
    assert apart[0].duration == here[0].duration
    assert all(one.equal(other) for one, other in zip(apart[1:], here[1:], strict=True))
    assert apart[1].float().mean((1, 2, 3)).diff().min() > 30, "pictures ever brighter"


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
