"""`lynx.inspect`: what is told of files made here is what was put into them."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

import lynx
from lynx.errors import MediaError
from lynx.media.video import read_frames, shown_at
from lynx.modalities import inspection
from lynx.modalities.audio import Audio
from lynx.modalities.depth import Depth
from lynx.types import Frames, Recording, sample_times

RATE = 16000
KEYS = {
    "video": "width height rotation mirrored sample_aspect rate hdr interlaced duration times shown_at",
    "audio": "sample_rate channels layout duration level_dbfs",
    "depth": "maps unit unit_from up range_m holes",
}
BEGINS = [0.0, 0.1, 0.2, 1.5, 2.0, 3.3]
"""Seconds at which the frames of `clip` begin: a variable frame rate."""


def write(path, begins=(), levels=None, sound=None, codec="libx264", form="yuv420p"):
    """A file of gray frames from `begins` on, and of samples (n,) at RATE as its sound."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream(codec, rate=1000) if len(begins) else None
        heard = [container.add_stream("pcm_s16le", rate=RATE, layout="mono")] if sound is not None else []
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 48, form
            picture.codec_context.time_base = picture.time_base = Fraction(1, 1000)
        for number, begin in enumerate(begins):
            gray = levels[number] if levels is not None else np.full((48, 64), 10 + 30 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(gray, "gray16le" if gray.dtype == np.uint16 else "gray")
            frame = frame.reformat(format=form)
            frame.pts, frame.time_base = round(begin * 1000), Fraction(1, 1000)
            container.mux(picture.encode(frame))
        container.mux(picture.encode() if picture is not None else [])
        for stream in heard if sound is not None and len(sound) else []:
            frame = av.AudioFrame.from_ndarray((sound * 32767).astype(np.int16)[None], "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(stream.encode(frame))
    return path


def tone(seconds, amplitude):
    return amplitude * np.sin(2 * np.pi * 500 * np.arange(round(seconds * RATE)) / RATE)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Four seconds of picture; loud, half as loud, silent, silent."""
    sound = np.concatenate([tone(1, 0.5), tone(1, 0.25), np.zeros(2 * RATE)])
    return write(tmp_path_factory.mktemp("clip") / "clip.mkv", [*BEGINS, 3.9, 4.0], sound=sound)


@pytest.fixture
def maps(tmp_path):
    """Three depth maps: 2 m, a quarter of which returns nothing and a pixel of which lies far beyond."""
    (tmp_path / "scan" / "depth").mkdir(parents=True)
    depth = np.full((48, 64), 2000, np.uint16)
    depth[:, :16] = 0
    depth[:, 40:] = 3500
    depth[5, 30] = 60000
    for number in range(3):
        Image.fromarray(depth).save(tmp_path / "scan" / "depth" / f"{number}.png")
    return tmp_path / "scan"


def test_the_keys_are_always_the_same_in_the_same_order(clip, maps):
    pytest.importorskip("trimesh")
    for file in (clip, maps):
        told = lynx.inspect(file, frames=2).to_dict()
        assert list(told) == "file kind duration tracks video audio depth notes".split()
        for sense in ("video", "audio", "depth"):
            assert told[sense] is None or list(told[sense]) == KEYS[sense].split()
        for track in told["tracks"]:
            assert list(track) == "index type codec default taken why".split()
        assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_clip_shows_the_frames_that_begin_before_the_moments(clip):
    seen = lynx.inspect(clip, frames=4)
    told = seen.to_dict()
    assert told["kind"] == "video" and told["depth"] is None
    assert [track["type"] for track in told["tracks"]] == ["video", "audio"]
    asked, shown = told["video"]["times"], told["video"]["shown_at"]
    assert asked == pytest.approx(sample_times(told["duration"], 4).tolist(), abs=1e-6)
    assert shown == pytest.approx([max(each for each in BEGINS if each <= time) for time in asked], abs=1e-6)
    assert torch.equal(seen.frames["video"].pixels, read_frames(clip, asked).pixels)
    assert torch.equal(seen.frames["audio"].pixels, Audio().render(clip, torch.tensor(asked)).pixels)


def test_shown_at_counts_from_the_recordings_own_start(tmp_path):
    path = write(tmp_path / "late.ts", [5.0, 5.5, 6.0])
    assert shown_at(path, [0.1, 0.6, 1.2]) == pytest.approx([0.0, 0.5, 1.0], abs=1e-3)


def test_levels_are_those_of_a_sine_and_silence_has_a_floor(clip):
    levels = lynx.inspect(clip, frames=4, end=4.0).to_dict()["audio"]["level_dbfs"]
    assert levels == pytest.approx([-6.02, -12.04, -120, -120], abs=0.1)
    assert levels[2:] == [-120.0, -120.0], "the floor, exactly"
    whole = lynx.inspect(clip, frames=1, end=4.0).level_dbfs[0]
    assert whole == pytest.approx(10 * np.log10((0.25 + 0.0625) / 4), abs=0.1), "the mean power of all four"


def test_a_part_is_told_in_the_seconds_of_the_recording(clip):
    told = lynx.inspect(clip, frames=2, start=1.0, end=3.0).to_dict()
    assert told["video"]["times"] == [1.5, 2.5] and told["video"]["shown_at"] == [1.5, 2.0]
    assert told["audio"]["level_dbfs"] == pytest.approx([-12.04, -120], abs=0.1)
    assert lynx.inspect(clip, frames=2, start=3.0, end=99).times[-1] < 4, "beyond the end there is nothing"


@pytest.mark.parametrize("part", [(5.0, None), (2.0, 2.0), (3.0, 1.0), (-1.0, None)])
def test_a_part_that_is_not_there_is_refused(clip, part):
    with pytest.raises(MediaError, match="no part of it"):
        lynx.inspect(clip, 4, *part)


@pytest.mark.parametrize("frames", [0, 10**9])
def test_the_number_of_moments_has_limits(clip, frames):
    with pytest.raises(MediaError, match="1 to 1024"):
        lynx.inspect(clip, frames)


def test_sound_alone_is_audio(tmp_path):
    told = lynx.inspect(write(tmp_path / "tone.wav", sound=tone(2, 1.0)), frames=2).to_dict()
    assert told["kind"] == "audio" and told["video"] is None and told["depth"] is None
    assert told["audio"]["sample_rate"] == RATE
    assert told["audio"]["level_dbfs"] == pytest.approx([0, 0], abs=0.1)


def test_a_clip_without_sound_has_none(tmp_path):
    told = lynx.inspect(write(tmp_path / "mute.mp4", BEGINS)).to_dict()
    assert told["audio"] is None and told["video"]["width"] == 64


def test_only_a_sound_track_of_the_file_can_be_asked_for(clip):
    assert lynx.inspect(f"{clip}#1").audio.index == 1
    with pytest.raises(MediaError, match="Track 7 "):
        lynx.inspect(Recording(clip, track=7))


def test_depth_maps_tell_their_range_without_speckles_and_their_holes(maps):
    told = lynx.inspect(maps, frames=4).to_dict()
    assert told["kind"] == "depth" and told["tracks"] == []
    assert told["video"] is None and told["audio"] is None
    assert told["depth"]["maps"] == 3
    assert told["depth"]["range_m"] == pytest.approx([2.0, 3.5])
    assert told["depth"]["holes"] == pytest.approx(0.25)


def test_what_is_drawn_and_noted_of_depth_is_what_the_sense_draws(maps):
    seen = lynx.inspect(maps, frames=4)
    drawn = Depth().render(maps, torch.tensor(seen.times))
    assert torch.equal(seen.frames["depth"].pixels, drawn.pixels)
    assert seen.notes == drawn.notes and any("no times" in note for note in seen.notes)


def test_a_folder_of_pictures_and_maps_is_a_video_with_depth(maps):
    (maps / "color").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (80 * number,) * 3).save(maps / "color" / f"{number}.png")
    (maps / "times.txt").write_text("0\n0.5\n1\n")
    seen = lynx.inspect(maps, frames=4)
    assert seen.kind == "video" and set(seen.frames) == {"video", "depth"} and seen.depth.maps == 3
    assert seen.times == (0.1875, 0.5625, 0.9375, 1.3125) and seen.shown_at == (0.0, 0.5, 0.5, 1.0)
    (track,) = seen.to_dict()["tracks"]
    assert track["default"] and track["taken"] and track["why"] == "the pictures of the folder"


def test_the_folder_of_the_maps_alone_is_depth_too(maps):
    seen = lynx.inspect(maps / "depth", frames=4)
    assert seen.kind == "depth" and seen.video is None and seen.depth == lynx.inspect(maps, frames=4).depth


def test_a_mesh_has_no_holes(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "box.stl")
    told = lynx.inspect(tmp_path / "box.stl", frames=3).to_dict()
    assert told["kind"] == "mesh" and told["depth"]["holes"] is None and told["depth"]["maps"] == 3
    near, far = told["depth"]["range_m"]
    assert 0 < near < far


def test_a_gray_16_bit_video_is_depth_and_an_8_bit_one_is_where_the_user_says_so(tmp_path, clip):
    meters = [np.full((48, 64), value, np.uint16) for value in (1000, 2000, 2000)]
    deep = write(tmp_path / "deep.mkv", [0.0, 0.5, 1.0], meters, codec="ffv1", form="gray16le")
    told = lynx.inspect(deep, frames=2).to_dict()
    assert told["kind"] == "video" and told["video"] is not None
    assert told["depth"]["range_m"] == pytest.approx([1.0, 2.0])
    assert lynx.inspect(clip).depth is None
    told = inspection.inspect(clip, 2, as_depth=True)
    assert told.depth is not None and any("no unit" in note for note in told.notes)


@pytest.mark.parametrize("name", ["notes.txt", "clip.mp4", "scan.npy", "mesh.ply", "map.png"])
def test_what_is_no_recording_is_refused(tmp_path, name):
    (tmp_path / name).write_text("no recording")
    with pytest.raises(MediaError, match=name):
        lynx.inspect(tmp_path / name)


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(MediaError, match="no file"):
        lynx.inspect(tmp_path / "missing.mp4")
    with pytest.raises(MediaError):
        lynx.inspect(tmp_path)


def test_pictures_are_whole_and_smaller_only_where_they_would_fill_the_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "clip.mp4", BEGINS)
    assert lynx.inspect(path).frames["video"].pixels.shape == (8, 3, 48, 64)
    monkeypatch.setattr(inspection, "MAX_PICTURE_BYTES", 8 * 3 * 24 * 32)
    seen = lynx.inspect(path)
    assert seen.frames["video"].pixels.shape == (8, 3, 24, 32)
    assert any("32 x 24" in note for note in seen.notes)


def test_a_sound_that_cannot_be_read_is_noted_beside_a_picture(tmp_path):
    told = lynx.inspect(write(tmp_path / "clip.mkv", BEGINS, sound=np.zeros(0))).to_dict()
    assert told["video"] is not None and told["audio"] is None
    assert any("there is no sound: " in note for note in told["notes"])


def test_a_note_is_told_once():
    pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    frames = Frames(pixels, torch.zeros(1), 1.0, notes=("dark", "late"))
    more = replace(frames, notes=("late", "far"))
    assert inspection.notes_of([frames, more]) == ("dark", "late", "far")


def test_pictures_are_written_as_they_are_drawn(clip, tmp_path):
    seen = lynx.inspect(clip, frames=2)
    written = seen.write(tmp_path / "new" / "folder")
    assert [file.name for file in written] == ["video_00.png", "video_01.png", "audio_00.png", "audio_01.png"]
    for file, picture in zip(written[:2], seen.frames["video"].pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), picture.permute(1, 2, 0).numpy())
    with pytest.raises(MediaError, match="cannot be written"):
        seen.write(written[0])


def test_the_text_is_for_people(clip):
    text = str(lynx.inspect(clip, frames=4, end=4.0))
    assert text.splitlines()[0].endswith("clip.mkv: video, 0:04.0") or "0:03.9" in text.splitlines()[0]
    assert "0:01.5" in text and "64 x 48 pixels" in text and "-6.0" in text and "Inspection(" not in text


def test_a_clock_writes_minutes_and_tenths():
    written = {0: "0:00.0", 62.54: "1:02.5", 59.96: "1:00.0", 3600: "60:00.0", -1.5: "-0:01.5"}
    assert {seconds: inspection.clock(seconds) for seconds in written} == written


def test_asking_for_inspect_imports_no_torch():
    code = "import lynx, sys; lynx.inspect; assert 'torch' not in sys.modules and 'av' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
