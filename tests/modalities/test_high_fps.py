"""Fast motion: which moments are shown, how they are tiled, and when a recording does not have them."""

import numpy as np
import pytest
import torch

from lynx.errors import DataError, MediaError
from lynx.media.writer import write_video
from lynx.modalities.high_fps import HighFps, HighFpsRendering, fast_times, find_repeats, tile_frames
from lynx.types import Frames, Waveform, sample_times


def counting(fps, seconds, size=(32, 48), repeat=1):
    """Frame i is of one level, 7 * (i // repeat) % 251: each differs from the one before."""
    count = round(fps * seconds)
    levels = (16 * (torch.arange(count) // repeat) % 251).to(torch.uint8)
    pixels = levels[:, None, None, None].expand(count, 3, *size).contiguous()
    return Frames(pixels, torch.arange(count, dtype=torch.float64) / fps, seconds)


def cells(picture, n):
    """The level in the middle of each cell, row by row."""
    height, width = picture.shape[-2] // n, picture.shape[-1] // n
    return [
        int(picture[0, r * height + height // 2, c * width + width // 2]) for r in range(n) for c in range(n)
    ]


def test_the_moments_of_all_pictures_are_one_even_sequence():
    """As the method does it: k times the frames, k consecutive ones to a picture."""
    for n, duration, k in ((8, 4.0, 4), (3, 10.0, 9), (1, 2.5, 4), (5, 0.7, 16)):
        moments = fast_times(sample_times(duration, n), k, duration)
        assert moments.shape == (n, k)
        assert torch.allclose(moments.flatten(), sample_times(duration, n * k))


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("size", [(12, 18), (13, 19), (1, 1), (7, 2)])
def test_tiles_are_block_means_in_reading_order(n, size):
    frames = torch.randint(0, 256, (2 * n * n, 3, *size), dtype=torch.uint8)
    tiled = tile_frames(frames, n)
    height, width = (max(1, side // n) for side in size)
    assert tiled.shape == (2, 3, n * height, n * width) and tiled.dtype == torch.uint8
    for i, frame in enumerate(frames.numpy().astype(float)):
        row, column = divmod(i % (n * n), n)
        cell = tiled[
            i // (n * n), :, row * height : (row + 1) * height, column * width : (column + 1) * width
        ]
        for r in range(height):
            for c in range(width):
                rows = slice(r * size[0] // height, -(-(r + 1) * size[0] // height))
                columns = slice(c * size[1] // width, -(-(c + 1) * size[1] // width))
                mean = frame[:, rows, columns].mean((1, 2))
                assert np.abs(cell[:, r, c].numpy() - mean).max() <= 0.5001


@pytest.mark.parametrize(("count", "pictures"), [(1, 1), (4, 1), (5, 2), (11, 3)])
def test_frames_that_do_not_fill_a_picture_leave_it_black(count, pictures):
    tiled = tile_frames(torch.full((count, 3, 8, 8), 200, dtype=torch.uint8), 2)
    assert len(tiled) == pictures
    flat = [level for picture in tiled for level in cells(picture, 2)]
    assert flat == [200] * count + [0] * (4 * pictures - count)


@pytest.mark.parametrize("n", [2, 3])
def test_a_picture_shows_the_frames_on_the_screen_at_its_moments(n):
    clip = counting(24, 4.0)
    times = sample_times(4.0, 5)
    frames = HighFps(HighFpsRendering(tile=n)).render(clip, times)
    assert torch.equal(frames.times, times) and frames.duration == 4.0
    for picture, time in zip(frames.pixels, times.tolist(), strict=True):
        moments = [time + (j + 0.5 - n * n / 2) * 0.8 / (n * n) for j in range(n * n)]
        assert cells(picture, n) == [16 * int(moment * 24 + 1e-6) % 251 for moment in moments]


def test_frames_from_a_file_are_found_by_their_times(tmp_path):
    clip = counting(24, 2.0, size=(64, 64))
    write_video(tmp_path / "clip.mp4", clip.pixels, 24)
    times = sample_times(2.0, 4)
    read, memory = (HighFps().render(source, times) for source in (tmp_path / "clip.mp4", clip))
    assert read.pixels.shape == memory.pixels.shape == (4, 3, 64, 64)
    for one, other in zip(read.pixels, memory.pixels, strict=True):
        assert np.abs(np.subtract(cells(one, 2), cells(other, 2))).max() <= 4
    small = HighFps(HighFpsRendering(max_side=32)).render(tmp_path / "clip.mp4", times)
    assert small.pixels.shape == (4, 3, 32, 32)


def test_moments_may_be_any_and_lie_at_the_ends():
    frames = HighFps().render(counting(24, 4.0), torch.tensor([0.0, 0.3, 1.9, 4.0]))
    assert len(frames) == 4
    assert cells(frames.pixels[0], 2)[0] == 0  # before the beginning is the first frame


def test_a_recording_without_faster_frames_is_refused(tmp_path):
    slow = counting(2, 4.0, size=(64, 64))
    write_video(tmp_path / "slow.mp4", slow.pixels, 2)
    for source in (slow, tmp_path / "slow.mp4"):
        with pytest.raises(MediaError, match="2 frames a second, of which the video shows 2"):
            HighFps().render(source, sample_times(4.0, 8))
        assert HighFps().duration(source) == pytest.approx(4.0, abs=0.01)
    one = Frames(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1), 4.0)
    with pytest.raises(MediaError, match="0 frames a second"):
        HighFps().render(one, sample_times(4.0, 2))


def test_a_rate_below_the_one_asked_for_is_said():
    frames = HighFps().render(counting(6, 4.0), sample_times(4.0, 8))
    assert "6 frames a second, not 8" in frames.notes[0]
    assert HighFps().render(counting(8, 4.0), sample_times(4.0, 8)).notes == ()


def test_repeated_frames_do_not_make_a_recording_fast():
    with pytest.raises(MediaError, match="repeats its frames"):  # 2 pictures a second, written as 24
        HighFps().render(counting(24, 4.0, repeat=12), sample_times(4.0, 8))
    some = HighFps().render(counting(24, 4.0, repeat=9), sample_times(4.0, 8))
    assert "of the fast frames show no change" in some.notes[0]


def test_what_stands_still_is_no_fault():
    still = Frames(torch.full((96, 3, 8, 8), 90, dtype=torch.uint8), torch.arange(96) / 24, 4.0)
    assert "nothing moves" in HighFps().render(still, sample_times(4.0, 8)).notes[0]
    pixels = still.pixels.clone()
    pixels[[13, 14]] = 255  # one flash, which the video at 0.25, 0.75, ... s misses
    frames = HighFps().render(Frames(pixels, still.times, 4.0), sample_times(4.0, 8))
    assert [level for picture in frames.pixels for level in cells(picture, 2)].count(255) == 1
    assert 255 not in still.at(sample_times(4.0, 8)).pixels


def test_coding_noise_is_no_change():
    frames = torch.full((3, 3, 8, 8), 100, dtype=torch.uint8)
    frames[1] += 5
    frames[2, 0, 0, 0] = 200
    assert find_repeats(frames).tolist() == [True, False]


def test_what_cannot_be_is_refused():
    for wrong in ({"tile": 1}, {"tile": 9}, {"tile": 4, "max_side": 3}):
        with pytest.raises(DataError):
            HighFpsRendering(**wrong)
    with pytest.raises(MediaError, match="Waveform"):
        HighFps().render(Waveform(torch.zeros(100), 16000), torch.zeros(1))
    assert HighFps.from_dict({"tile": 3}).rendering == HighFpsRendering(tile=3)
