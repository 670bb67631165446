import builtins
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from lynx.errors import MediaError
from lynx.media.audio import read_audio
from lynx.media.container import probe
from lynx.media.video import read_frames
from lynx.media.writer import write_stream
from lynx.types import Waveform

SIZE = (96, 64)


def grays(*levels):
    for level in levels:
        yield np.full((SIZE[1], SIZE[0], 3), level, np.uint8)


def tone(seconds, rate=16000):
    time = torch.arange(int(seconds * rate)) / rate
    return Waveform(torch.sin(2 * torch.pi * 440 * time) * 0.5, rate)


def test_a_stream_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "film.mp4"
    write_stream(path, grays(20, 120, 220), SIZE, 2, tone(1.5))
    info = probe(path)
    assert (info.video.width, info.video.height, info.video.codec) == (*SIZE, "h264")
    assert info.audio[0].codec == "aac" and info.duration == pytest.approx(1.5, abs=0.1)
    levels = read_frames(path, [0.2, 0.7, 1.2]).pixels.float().mean((1, 2, 3)).tolist()
    assert levels == pytest.approx([20, 120, 220], abs=4)
    heard = read_audio(path, 16000).samples
    assert float(heard[4000:20000].square().mean()) == pytest.approx(0.125, rel=0.1)
    assert list(path.parent.iterdir()) == [path]


def test_browsers_play_it_from_its_first_bytes_in_its_own_colors(tmp_path):
    red = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    red[..., 0] = 220
    write_stream(tmp_path / "film.mp4", [red] * 3, SIZE, 23.98)
    data = (tmp_path / "film.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        assert stream.codec_context.pix_fmt == "yuv420p" and not container.streams.audio
        assert float(stream.average_rate) == pytest.approx(23.98, abs=0.01)
        assert frame.colorspace == 1  # BT.709
        assert frame.to_ndarray(format="rgb24").mean((0, 1)) == pytest.approx([220, 0, 0], abs=5)


def test_what_goes_wrong_leaves_nothing_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"precious")

    def broken():
        yield from grays(1, 2)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_stream(path, broken(), SIZE, 2, tone(1.0))
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(MediaError, match="could not be written"):
        write_stream(path, grays(*[1] * 3), SIZE, 0.0)  # what ffmpeg refuses
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]


def test_a_place_that_takes_no_film_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match=r"cannot write .*film.mp4 \(File exists\)"):
        write_stream(tmp_path / "file" / "film.mp4", grays(1), SIZE, 2)
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(MediaError, match=r"cannot write .*film.mp4 \(File too large\)"):
            write_stream(tmp_path / "film.mp4", grays(*[1] * 3), SIZE, 2, tone(1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_odd_sides_and_a_missing_package_are_said(tmp_path, monkeypatch):
    with pytest.raises(MediaError, match="even sides"):
        write_stream(tmp_path / "film.mp4", grays(1), (95, 64), 2)
    real = builtins.__import__

    def without(name, *more):
        if name.startswith("moviepy"):
            raise ModuleNotFoundError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MediaError, match=r"lynx\[app\]"):
        write_stream(tmp_path / "film.mp4", grays(1), SIZE, 2)
    assert not Path(tmp_path / "film.mp4").exists()
