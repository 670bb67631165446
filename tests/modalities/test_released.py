"""Pictures in the released code's style, against its formulas written out on small arrays."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lynx.errors import DataError, MediaError
from lynx.modalities import get
from lynx.modalities.audio import Audio
from lynx.modalities.depth import TURBO, Depth
from lynx.modalities.released import (
    ReleasedAudio,
    ReleasedAudioRendering,
    ReleasedDepth,
    floored_mel_filters,
    forward_normals,
    polynomial_turbo,
    stretched_mel,
)
from lynx.types import DepthClip, Frames, Recording, Waveform, sample_times

RATE = 16000
SMALL = ReleasedAudioRendering(n_mels=6, n_fft=32, hop_s=0.001, seconds_per_frame=0.01, columns=13)
CAMERA = np.array([[4.0, 0, 1.5], [0, 4.0, 1.0], [0, 0, 1]])  # of maps 4 wide and 3 high


def noise(seconds, seed=0):
    return 0.1 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


# --- which style ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sense", "kind"), [("audio", ReleasedAudio), ("depth", ReleasedDepth)])
def test_a_rendering_names_its_style_and_keeps_it(sense, kind):
    drawn = get(sense).from_dict({"style": "released"})
    assert type(drawn) is kind and drawn.to_dict()["style"] == "released"
    assert type(get(sense).from_dict(drawn.to_dict())) is kind
    assert type(get(sense).from_dict({"style": "lynx"})) is type(get(sense).from_dict({})) is get(sense)
    assert "style" not in get(sense)().to_dict()  # as in the adapters of earlier versions
    with pytest.raises(DataError, match=f"style of {sense} is 'paper'; it can be lynx or released"):
        get(sense).from_dict({"style": "paper"})
    with pytest.raises(DataError, match="it can be lynx"):
        get(sense).from_dict({"style": ["released"]})


def test_other_senses_have_no_other_style():
    with pytest.raises(DataError, match=r"style of high_fps is 'released'; it can be lynx\."):
        get("high_fps").from_dict({"style": "released"})


def test_what_the_style_does_not_have_is_refused():
    with pytest.raises(DataError, match="floor_db; known"):
        Audio.from_dict({"style": "released", "floor_db": -60.0})
    with pytest.raises(DataError, match="linear"):
        Depth.from_dict({"style": "released", "scale": "log"})
    wrongs = ({"hop_s": 0.0}, "a sample"), ({"n_fft": 65_536}, "too short"), ({"columns": 0}, "columns")
    for wrong, said in wrongs:
        with pytest.raises(DataError, match=said):
            Audio.from_dict({"style": "released", **wrong})


# --- sound ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_fft", "n_mels", "empty"), [(400, 128, 4), (1024, 128, 0), (32, 6, 0)])
def test_bands_have_whole_bins_as_corners(n_fft, n_mels, empty):
    """Triangle by triangle; at 400 samples a window four of the 128 bands are left with nothing."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    corners = [
        math.floor((n_fft + 1) * 700 * (10 ** (top * i / (n_mels + 1) / 2595) - 1) / RATE)
        for i in range(n_mels + 2)
    ]
    expected = torch.zeros(n_mels, n_fft // 2 + 1)
    for band in range(n_mels):
        left, center, right = corners[band : band + 3]
        center += center == left
        right += right == center
        for k in range(left, right):
            expected[band, k] = (k - left) / (center - left) if k < center else (right - k) / (right - center)
    torch.testing.assert_close(floored_mel_filters(RATE, n_fft, n_mels), expected)
    assert int((expected.sum(1) == 0).sum()) == empty


def test_a_picture_is_stretched_by_its_own_extremes():
    """A Fourier sum of mirrored samples, the natural logarithm, 2 columns of 0, extremes to 0 and 255."""
    samples = noise(0.01).double()  # 160 samples, 11 columns
    mirrored = np.pad(samples.numpy(), 16, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(32) / 32)
    turn = np.exp(-2j * np.pi * np.outer(np.arange(17), np.arange(32)) / 32)
    power = np.stack([abs(turn @ (window * mirrored[i : i + 32])) ** 2 for i in range(0, 161, 16)], 1)
    level = np.pad(np.log(floored_mel_filters(RATE, 32, 6).numpy() @ power + 1e-6), ((0, 0), (0, 2)))
    expected = np.floor(255 * (level - level.min()) / (level.max() - level.min()))
    found = stretched_mel(samples[None], SMALL)
    assert found.shape == (1, 6, 13)
    assert np.abs(found[0].numpy() - expected).max() <= 1 and (found[0].numpy() != expected).mean() < 0.05
    assert found.min() == 0 and found.max() == 255
    loud, quiet = (stretched_mel(each[None], replace(SMALL, columns=None)) for each in (samples, samples / 2))
    assert (loud.int() - quiet.int()).abs().max() <= 1  # loudness is lost


def test_low_frequencies_are_at_the_top():
    seconds = torch.arange(2 * RATE) / RATE
    low, high = (torch.sin(2 * torch.pi * hertz * seconds) for hertz in (200.0, 6000.0))
    found = stretched_mel(torch.stack([low, high]), ReleasedAudioRendering(columns=None))
    assert found.shape == (2, 128, 201)
    brightest = found.float().mean(2).argmax(1).tolist()
    assert brightest[0] < 20 and brightest[1] > 100


def test_windows_begin_by_their_number_not_at_their_frames():
    sense, wave = ReleasedAudio(), Waveform(noise(10.0), RATE)
    frames = sense.render(wave, sample_times(10.0, 5))  # frames at 1, 3, 5, 7, 9 s
    assert frames.pixels.shape == (5, 3, 128, 204)
    assert frames.times.tolist() == [1.0, 1.5, 2.0, 2.5, 3.0] and frames.duration == 10.0
    for i, picture in enumerate(frames.pixels):
        expected = stretched_mel(wave.samples[None, 8000 * i : 8000 * i + 32000], sense.rendering)
        assert all(channel.equal(expected[0]) for channel in picture)
    (note,) = frames.notes
    assert "5 windows begun every 0.5 s end at 4.0 s" in note
    halves = list(sense.parts(wave, sample_times(10.0, 5), 2))
    assert torch.cat([part.pixels for part in halves]).equal(frames.pixels)
    assert [len(part) for part in halves] == [2, 2, 1] and halves[-1].notes == frames.notes


def test_a_short_sound_is_followed_by_silence():
    sense, wave = ReleasedAudio(), Waveform(noise(2.25), RATE)
    frames = sense.render(wave, sample_times(2.25, 6))
    last = torch.cat([wave.samples[8000:], torch.zeros(4000)])
    assert frames.pixels[1, 0].equal(stretched_mel(last[None], sense.rendering)[0])
    assert frames.pixels[5].equal(sense.blank(frames)[0])
    assert frames.pixels[5, :, :, :201].max() == 0 and frames.pixels[5, :, :, 201:].min() == 255
    assert any("silent" in note for note in frames.notes)


def test_alignment_saw_eight_seconds_as_one_picture():
    like = {"style": "released", "n_fft": 1024, "hop_s": 0.016, "seconds_per_frame": 8.0, "columns": None}
    frames = Audio.from_dict(like).render(Waveform(noise(9.0), RATE), torch.tensor([4.5]))
    assert frames.pixels.shape == (1, 3, 128, 501) and frames.times.tolist() == [4.0]


def test_sound_is_read_from_files_and_their_parts(tmp_path):
    import wave as waves

    samples = (noise(4.0) * 30000).round().to(torch.int16)
    with waves.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples.numpy().tobytes())
    memory = Waveform(samples.float() / 2**15, RATE)
    sense, times = ReleasedAudio(), sample_times(4.0, 3)
    read, expected = (sense.render(source, times).pixels for source in (tmp_path / "a.wav", memory))
    assert (read.int() - expected.int()).abs().max() <= 1
    part = sense.render(Recording(tmp_path / "a.wav", part=(1.0, 4.0)), times)
    later = sense.render(Waveform(memory.samples[RATE:], RATE), times)
    assert part.times.tolist() == [2.0, 2.5, 3.0]
    assert (part.pixels.int() - later.pixels.int()).abs().max() <= 1


# --- depth ----------------------------------------------------------------------------------------


def test_colors_are_the_polynomial():
    found = polynomial_turbo().astype(int)
    assert found.shape == (256, 3) and np.abs(found - TURBO).max() == 32
    for index in (0, 64, 255):  # red by Horner's rule
        x, red = index / 255, 0.0
        for term in (59.28637943, -152.94239396, 132.13108234, -42.66032258, 4.61539260, 0.13572138):
            red = red * x + term
        assert found[index, 0] == round(255 * min(1, max(0, red)))
    assert found[0].tolist() == [35, 23, 27]


def test_no_return_is_as_far_as_can_be():
    depth = np.array([[[0.0, 10.0, 99.0, 0.2, 0.1, 1.0]]])
    colors, turbo = ReleasedDepth()._colors(depth)[0, 0], polynomial_turbo()
    assert [color.tolist() for color in colors[:3]] == [turbo[0].tolist()] * 3
    assert [color.tolist() for color in colors[3:5]] == [turbo[255].tolist()] * 2
    assert colors[5].tolist() == turbo[round(255 * (1 - 0.1) / (5 - 0.1))].tolist()  # linear in disparity


def test_surfaces_point_away_from_the_camera():
    wall = forward_normals(np.full((3, 4), 2.0), CAMERA, 0.2, 10.0)
    assert np.allclose(wall, [0, 0, 1], atol=1e-6)
    assert ReleasedDepth()._shade(wall)[0, 0].tolist() == [128, 128, 255]
    # z = x + 2: a wall turned by 45 degrees
    ramp = np.array([[2 / (1 - (u - 1.5) / 4) for u in range(4)]] * 3)
    found = forward_normals(ramp, CAMERA, 0.2, 10.0)
    assert np.allclose(found, np.array([-1, 0, 1]) / math.sqrt(2), atol=1e-5)
    low = math.floor(255 * (0.5 - 0.5 / math.sqrt(2)) + 0.5)
    assert ReleasedDepth()._shade(found)[1, 1].tolist() == [low, 128, 255 - low]


def test_a_surface_without_a_return_beside_it_faces_nowhere():
    depth = np.full((4, 5), 2.0)
    depth[1, 2] = 0
    found = forward_normals(depth, CAMERA, 0.2, 10.0)
    unknown = (found == 0).all(-1)
    assert sorted(map(tuple, np.argwhere(unknown).tolist())) == [(0, 2), (1, 1), (1, 2)]
    assert ReleasedDepth()._shade(found)[1, 2].tolist() == [128, 128, 128]
    depth[1, 2], depth[3, 4] = 2, 0
    assert (forward_normals(depth, CAMERA, 0.2, 10.0)[-1, -1] == [0, 0, 1]).all()  # as the pixel before it
    assert not forward_normals(depth[:1], CAMERA, 0.2, 10.0).any()


def test_the_camera_s_middle_is_the_map_s():
    """Intrinsics of pictures of another size: the principal point says which."""
    depth = np.array([[2.0, 2.5], [2.25, 3.0]])
    scale = 2 / (2 * 3.5 + 1)  # 2 pixels where there were 8; the point is scaled as it is
    camera = np.array([[8.0, 0, 3.5], [0, 8.0, 3.5], [0, 0, 1]])
    at = lambda v, u: depth[v, u] * np.array([(u - 3.5 * scale) / 2, (v - 3.5 * scale) / 2, 1])  # noqa: E731
    normal = np.cross(at(0, 1) - at(0, 0), at(1, 0) - at(0, 0))
    expected = normal / np.linalg.norm(normal) * np.sign(normal[2])
    np.testing.assert_allclose(forward_normals(depth, camera, 0.2, 10.0)[0, 0], expected, atol=1e-6)


def test_a_moment_has_two_pictures():
    clip = DepthClip.of(np.full((2, 3, 4), 2.0, np.float32), intrinsics=CAMERA)
    frames = Depth.from_dict({"style": "released"}).render(clip, sample_times(2.0, 2))
    assert frames.labels == ("distance", "surface") * 2 and frames.pixels.shape == (4, 3, 3, 4)
    assert frames.pixels[1, :, 0, 0].tolist() == [128, 128, 255]
    assert frames.pixels[0, :, 0, 0].tolist() == polynomial_turbo()[round(255 * 0.4 / 4.9)].tolist()
    blank = ReleasedDepth().blank(frames)
    assert blank.shape == (2, 3, 3, 4) and blank[:, :, 0, 0].tolist() == [[35, 23, 27], [128] * 3]


def test_the_world_turns_surfaces_by_the_poses():
    poses = np.stack([np.eye(4), np.full((4, 4), -np.inf)])
    poses[0, :3, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]  # the camera looks along the world's x
    clip = DepthClip.of(np.full((2, 3, 4), 2.0, np.float32), intrinsics=CAMERA, poses=poses)
    sense = Depth.from_dict({"style": "released", "show": "normals", "frame": "world"})
    frames = sense.render(clip, sample_times(2.0, 2))
    assert frames.pixels[:, :, 0, 0].tolist() == [[255, 128, 128], [128, 128, 128]]
    assert any("1 of 2 maps have no camera pose" in note for note in frames.notes)
    assert sense.blank(frames)[:, :, 0, 0].tolist() == [[128, 128, 128]]


def test_holes_are_noted_as_they_are_drawn():
    depth = np.full((1, 10, 10), 2.0, np.float32)
    depth[0, :5] = 0
    clip, times = DepthClip.of(depth, intrinsics=CAMERA), torch.tensor([0.5])
    assert any("drawn as if it were far" in note for note in ReleasedDepth().render(clip, times).notes)
    assert any("drawn black" in note for note in Depth().render(clip, times).notes)
    with pytest.raises(MediaError, match="no return"):
        ReleasedDepth().render(DepthClip.of(depth * 0), times)
    with pytest.raises(MediaError, match="Frames"):
        ReleasedAudio().render(Frames(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), times, 1.0), times)
