"""A folder of pictures is a video: its order, its times, its sizes, and every way it can be bad."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lynx.errors import MediaError
from lynx.media import frame_folder
from lynx.media.audio import read_audio
from lynx.media.container import probe
from lynx.media.depth import open_depth
from lynx.media.video import iter_frames, read_frames, read_levels, shown_at
from lynx.modalities.depth import Depth
from lynx.modalities.video import Video, VideoRendering
from lynx.types import Recording, sample_times

REAL = Path(__file__).parents[3] / "shared" / "media" / "rgbd_room"


def level(number):
    return 10 + 20 * number


def fill(folder, names, size=(32, 24)):
    """Gray pictures, the i-th of level(i)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", size, (level(number),) * 3).save(folder / name)
    return folder


def seen(source, times):
    return [round((x.float().mean().item() - 10) / 20) for x in read_frames(source, times).pixels]


@pytest.mark.parametrize("inner", ["", "color", "rgb"])
def test_numbers_in_names_are_sorted_as_numbers(tmp_path, inner):
    fill(tmp_path / inner, [f"{number}.jpg" for number in range(12)])
    assert seen(tmp_path, sample_times(12.0, 12)) == list(range(12))
    info = probe(tmp_path)
    assert info.duration == 12.0 and info.video.fps == 1.0 and info.video.codec == "jpeg"
    assert "one a second" in info.notes[0] and "fps" in info.notes[0]
    assert read_frames(tmp_path, [0.0]).notes == info.notes


def test_times_beside_the_pictures_count(tmp_path):
    fill(tmp_path / "color", ["0.png", "1.png", "2.png"])
    (tmp_path / "times.txt").write_text("0.5\n2.0\n2.25\n")
    assert seen(tmp_path, [0.0, 1.9, 2.0, 2.2, 2.3, 9.0]) == [0, 0, 1, 1, 2, 2]
    assert probe(tmp_path).duration == pytest.approx(2.25 + 0.875) and not probe(tmp_path).notes
    assert seen(tmp_path / "color", [2.0]) == [1], "the folder of pictures itself is the same recording"
    files = Video.files(tmp_path)
    assert tmp_path / "times.txt" in files and len(files) == 4 and files == Video.files(tmp_path / "color")


@pytest.mark.parametrize("text", ["1\n2\n", "2\n1\n3\n", "1\nnan\n3\n", "one\ntwo\nthree\n"])
def test_times_that_do_not_fit_are_refused(tmp_path, text):
    fill(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "times.txt").write_text(text)
    with pytest.raises(MediaError, match="times|numbers"):
        probe(tmp_path)


def test_numbers_count_at_the_rate_of_the_recording(tmp_path):
    fill(tmp_path, ["frame_0.png", "frame_5.png", "frame_20.png"])
    recording = Recording(tmp_path, fps=10)
    assert seen(recording, [0.4, 0.5, 1.9, 2.0]) == [0, 1, 1, 2] and not probe(recording).notes
    Image.new("RGB", (32, 24)).save(tmp_path / "other.png")
    with pytest.raises(MediaError, match="no frame numbers"):
        probe(recording)


def test_the_first_picture_is_at_zero_and_maps_beside_it_too(tmp_path):
    fill(tmp_path / "color", [f"{number}.png" for number in range(1000, 1010)])
    (tmp_path / "depth").mkdir()
    for number in (1000, 1005):
        depth = np.full((24, 32), number, np.uint16)
        Image.fromarray(depth).save(tmp_path / "depth" / f"{number}.png")
    recording = Recording(tmp_path, fps=10)
    assert probe(recording).duration == pytest.approx(1.0) and not probe(recording).notes
    assert seen(recording, [0.0, 0.05, 0.95]) == [0, 0, 9]
    assert open_depth(recording).times.tolist() == [0.0, 0.5]
    assert open_depth(Recording(tmp_path / "depth", fps=10)).times.tolist() == [0.0, 0.5]


def test_the_rate_given_counts_before_times_beside_the_pictures(tmp_path):
    fill(tmp_path, ["0.png", "1.png", "._0.png"])
    (tmp_path / "times.txt").write_text("0\n9\n")
    assert shown_at(tmp_path, [8.0, 9.5]) == [0.0, 9.0]
    assert shown_at(Recording(tmp_path, fps=2), [0.4, 0.6]) == [0.0, 0.5]
    assert read_levels(tmp_path, [0.0]).shape == (1, 24, 32, 3)


def test_pictures_without_a_clock_are_spread_over_what_the_recording_lasts(tmp_path):
    fill(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    recording = Recording(tmp_path, lasts=10.0)
    assert seen(recording, [0.0, 2.4, 2.5, 9.9]) == [0, 0, 1, 3]
    assert probe(recording).duration == 10.0 and "10 s" in probe(recording).notes[0]


def test_names_that_are_unix_time_are_seconds(tmp_path):
    fill(tmp_path / "rgb", ["1305031102.175304.png", "1305031102.211214.png", "1305031103.175304.png"])
    assert seen(tmp_path, [0.0, 0.03, 0.04, 0.99, 1.0]) == [0, 0, 1, 1, 2] and not probe(tmp_path).notes
    assert probe(tmp_path).duration == pytest.approx(1.0 + (1 - 0.03591 + 0.03591) / 2, abs=1e-3)


def test_only_the_pictures_asked_for_are_opened(tmp_path, monkeypatch):
    fill(tmp_path, [f"{number}.bmp" for number in range(10)])
    opened, original = [], frame_folder.Image.open
    monkeypatch.setattr(
        frame_folder.Image, "open", lambda path, **known: opened.append(path.stem) or original(path, **known)
    )
    assert seen(tmp_path, [3.5, 3.6, 7.5]) == [3, 3, 7]
    assert set(opened) == {"0", "3", "7"} and opened.count("3") == 1  # 0 has the size


def test_pictures_of_other_sizes_are_shown_like_the_first(tmp_path):
    fill(tmp_path, ["0.png"], (40, 20))
    Image.new("RGB", (20, 40), (200, 200, 200)).save(tmp_path / "1.png")
    frames = read_frames(tmp_path, [0.5, 1.5])
    assert frames.pixels.shape == (2, 3, 20, 40) and "differ in size" in frames.notes[-1]
    columns = frames.pixels[1, 0].float().mean(0) > 100
    assert columns.sum() == 10 and columns[15:25].all(), "20x40 between bars in 40x20"
    small = Video(VideoRendering(max_side=10))
    assert small.render(tmp_path, torch.tensor([0.5])).pixels.shape == (1, 3, 5, 10)
    assert small.size(tmp_path) == (5, 10)


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_honored(tmp_path, tag, ending):
    upright = np.full((32, 48, 3), 30, np.uint8)
    upright[:16, :24, 0], upright[16:, :24, 1], upright[:16, 24:, 2] = 250, 250, 250
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2),
              8: np.rot90(upright, -1)}[tag]  # fmt: skip
    exif = Image.Exif()
    exif[274] = tag
    settings = {"quality": 95} if ending in ("jpg", "webp") else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"0.{ending}", exif=exif, **settings)
    info, picture = probe(tmp_path), read_frames(tmp_path, [0.0]).pixels[0].permute(1, 2, 0).numpy()
    assert (info.video.width, info.video.height) == (48, 32) and picture.shape == upright.shape
    assert np.abs(picture.astype(int) - upright).mean() < 10


def test_other_kinds_of_pictures_are_colors_of_8_bits(tmp_path):
    gray = (np.linspace(0, 1, 32)[None] * np.ones((24, 1)) * 65535).astype(np.uint16)
    Image.fromarray(gray).save(tmp_path / "0.png")
    Image.fromarray((gray // 257).astype(np.uint8)).save(tmp_path / "1.tiff")
    Image.new("CMYK", (32, 24), (0, 255, 255, 0)).save(tmp_path / "2.jpg")
    clear = Image.new("RGBA", (32, 24), (200, 100, 50, 255))
    clear.paste((200, 100, 50, 0), (0, 0, 16, 24))
    clear.save(tmp_path / "3.png")
    clear.convert("P").save(tmp_path / "4.png", transparency=clear.convert("P").getpixel((0, 0)))
    frames = read_frames(tmp_path, [0.0, 1.0, 2.0, 3.0, 4.0])
    pixels = frames.pixels.permute(0, 2, 3, 1).numpy().astype(int)
    assert np.abs(pixels[:2] - (gray // 257)[None, ..., None]).max() <= 1, "16 bits are scaled, not cut off"
    assert pixels[2, 5, 5, 0] > 240 > 20 > pixels[2, 5, 5, 1:].max()
    assert pixels[3, 5, 5].tolist() == [0, 0, 0] and pixels[3, 5, 20].tolist() == [200, 100, 50]
    assert pixels[4, 5, 5].tolist() == [0, 0, 0]
    assert any("over black" in note for note in frames.notes)


def test_damaged_pictures_and_others_are_refused_by_name(tmp_path):
    fill(tmp_path, ["0.png", "1.png", "2.jpg", "3.png"])
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "2.jpg").write_bytes(b"GIF89a" + bytes(99))
    Image.new("1", (8193, 1)).save(tmp_path / "3.png")
    for number, problem in [(1, "'1.png'.*damaged"), (2, "'2.jpg'.*another kind"), (3, "8193x1.*8,192 p")]:
        with pytest.raises(MediaError, match=problem):
            read_frames(tmp_path, [number + 0.5])
    assert read_frames(tmp_path, [0.5]).pixels.shape == (1, 3, 24, 32)


def test_a_folder_without_pictures_is_no_video(tmp_path):
    fill(tmp_path / "depth", ["0.png"])
    for read in (probe, Video().duration, lambda path: next(iter_frames(path, [0.0]))):
        with pytest.raises(MediaError, match="no file.*pictures"):
            read(tmp_path)
    fill(tmp_path, ["0.png"])
    with pytest.raises(MediaError, match="no sound|audio track"):
        read_audio(tmp_path, 16000)


def test_pictures_beside_depth_maps_are_told_by_their_names(tmp_path):
    fill(tmp_path, ["frame-0.color.png", "frame-0.depth.png", "frame-1.color.png", "frame-1.depth.png"])
    assert seen(tmp_path, [0.5, 1.5]) == [0, 2]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/media")
def test_a_real_recording_of_color_and_depth_is_one_folder():
    times = sample_times(Video().duration(REAL), 5)
    pictures, maps = Video().render(REAL, times), Depth().render(REAL, times)
    for number, picture in enumerate(pictures.pixels.permute(0, 2, 3, 1).numpy()):
        expected = np.asarray(Image.open(REAL / "color" / f"{number}.jpg"))
        assert np.array_equal(picture, expected), "opened as it is"
    assert len(maps) == len(pictures) == 5 and pictures.duration == 5.0
    assert [file.name for file in Video.files(REAL)] == [f"{number}.jpg" for number in range(5)]
