"""Pictures are checked by their pixels: what stands where, in which color, at which second."""

import numpy as np
import pytest
import torch
from PIL import Image

from lynx.types import Frames, sample_times
from lynx.visualization.drawing import (
    Curve,
    Lane,
    TimeAxis,
    clock,
    color,
    draw_curves,
    draw_dot,
    share_bar,
)
from lynx.visualization.heat import full_heat, heat_picture, overlay_heatmap
from lynx.visualization.timeline import GUTTER, timeline

WIDTH = GUTTER + 800  # 100 pixels a second in a clip of eight


def flat(levels, height=48, width=64, duration=8.0):
    """Frames of one gray level each, equally spaced over the duration."""
    pixels = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, height, width)
    return Frames(pixels, sample_times(duration, len(levels)), duration)


def pictures(frames, **options):
    return timeline([Lane("video", "picture", frames)], **options)


def near(image, ink, tolerance=12):
    """(H, W) bool: where the picture shows this color, opaque."""
    pixels = np.asarray(image.convert("RGBA")).astype(int)
    return (np.abs(pixels[..., :3] - np.array(ink)).max(-1) <= tolerance) & (pixels[..., 3] > 200)


def test_each_frame_is_centered_at_its_time():
    sheet = pictures(flat([10, 60, 110, 160]), width=WIDTH)
    for i, level in enumerate([10, 60, 110, 160]):
        columns = np.flatnonzero(near(sheet, (level,) * 3, 2).sum(0) > 10)
        assert columns.mean() == pytest.approx(GUTTER + 100 + 200 * i, abs=2)


def test_sound_stands_under_the_picture_of_its_second():
    sheet = timeline(
        [Lane("video", "picture", flat([60] * 4)), Lane("audio", "sound", flat([200] * 4), fill=True)],
        width=WIDTH,
    )
    picture, sound = near(sheet, (60,) * 3, 2), near(sheet, (200,) * 3, 2)
    assert np.flatnonzero(picture.any(1)).max() < np.flatnonzero(sound.sum(1) > 500).min()
    columns = np.flatnonzero(sound.any(0))
    assert columns.min() == pytest.approx(GUTTER, abs=2) and columns.max() == pytest.approx(WIDTH - 1, abs=2)


def test_a_spectrogram_has_no_seams():
    for count in (8, 13):
        sheet = timeline([Lane("audio", "sound", flat([200] * count), fill=True)], width=1200, per_row=16)
        assert near(sheet, (200,) * 3, 2).any(0)[GUTTER:1199].all()


def test_many_frames_break_into_rows():
    one, four = pictures(flat([90] * 8)), pictures(flat([90] * 32))
    assert four.height > 3.5 * one.height and four.width == one.width
    shown = near(four, (90,) * 3, 2)
    edges = np.diff(shown.any(1).astype(int))
    assert (edges == 1).sum() + shown.any(1)[0] == 4


def test_one_frame_and_no_lane():
    assert pictures(flat([90])).height > 20
    assert timeline([]).size == (1200, 1)


@pytest.mark.parametrize(("height", "width"), [(31, 17), (90, 1), (1, 90), (640, 360)])
def test_odd_shapes_fit(height, width):
    sheet = pictures(flat([90, 90], height, width))
    assert near(sheet, (90,) * 3, 3).any() and sheet.height <= 200


def test_heat_is_transparent_where_cold_and_bright_where_hot():
    cold, hot = np.asarray(heat_picture(torch.tensor([[0.0, 1.0]])))[0]
    assert cold[3] == 0 and hot[3] > 150 and hot[:3].mean() > 180


def test_heat_lies_on_its_cell():
    heat = torch.zeros(4, 4)
    heat[0, 3] = 1.0
    picture = np.asarray(overlay_heatmap(torch.zeros(3, 80, 80, dtype=torch.uint8), heat).convert("L"))
    rows, columns = np.unravel_index(picture.argmax(), picture.shape)
    assert rows < 20 and columns >= 60 and picture[60:, :20].max() < 5


def test_one_peak_for_all_frames_of_a_sense():
    maps = torch.zeros(2, 2, 2)
    maps[0], maps[1] = 1.0, 0.25
    sheet = np.asarray(
        timeline([Lane("video", "picture", flat([0, 0]), maps)], width=WIDTH).convert("RGB")
    ).astype(int)
    assert sheet[40, GUTTER + 200].sum() > sheet[40, GUTTER + 600].sum() + 150


def test_one_outlier_does_not_hide_the_rest():
    maps = torch.full((8, 4, 4), 0.1)
    maps[0, 0, 0] = 9.0
    assert full_heat(maps) == pytest.approx(0.1)
    maps[:] = 0.0
    assert full_heat(maps) == 1.0
    maps[0, 0, 0] = 9.0
    assert full_heat(maps) == 9.0


def test_a_curve_peaks_where_attention_does():
    times = sample_times(8.0, 8)
    values = torch.zeros(8)
    values[5] = 1.0
    ink = near(draw_curves([Curve("audio", times, values)], TimeAxis(0.0, 100.0), 800), color("audio"))
    top = np.flatnonzero(ink[np.flatnonzero(ink.any(1)).min()]).mean()
    assert top == pytest.approx(5.5 * 100, abs=4)


def test_no_curve_hides_another():
    times = sample_times(8.0, 8)
    curves = [Curve("video", times, torch.full((8,), 0.4)), Curve("audio", times, torch.ones(8))]
    sheet = draw_curves(curves, TimeAxis(0.0, 100.0), 800)
    assert near(sheet, color("video")).any() and near(sheet, color("audio")).any()


def test_attention_of_zero_draws_without_dividing_by_it():
    lane = Lane("video", "picture", flat([90, 90]), torch.zeros(2, 3, 3))
    assert timeline([lane], [Curve("video", sample_times(8.0, 2), torch.zeros(2))]).height > 100


def test_share_bar_is_proportional():
    bar = share_bar({"video": 0.25, "audio": 0.75}, width=1000)
    assert near(bar, color("video")).any(0).sum() == pytest.approx(250, abs=4)
    assert near(bar, color("audio")).any(0).sum() == pytest.approx(750, abs=4)


def test_a_share_of_one_pixel_is_drawn():
    bar = share_bar({"video": 0.25, "audio": 0.749, "depth": 0.001}, width=1200)
    assert near(bar, color("depth")).any(0).sum() == 1


def test_clock():
    moments = [clock(2.25, 9.0), clock(12.34, 30.0), clock(67.4, 600.0), clock(599.6, 600.0)]
    assert moments == ["2.25 s", "12.3 s", "1:07", "10:00"]


def test_several_pictures_of_a_moment_are_lanes_of_their_own():
    pixels = torch.tensor([40, 200] * 4, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 48, 64)
    times = sample_times(8.0, 4).repeat_interleave(2)
    views = Frames(pixels, times, 8.0, ("left_cam", "a view from above") * 4)
    maps = torch.zeros(8, 2, 2)
    maps[0], maps[1] = 1.0, 0.25
    sheet = timeline([Lane("multi_view", "second view", views)], width=WIDTH)
    for level in (40, 200):
        shown = near(sheet, (level,) * 3, 2)
        starts = np.flatnonzero(np.diff(shown.sum(0) > 10, prepend=False))
        assert len(starts) == 8 and (starts[::2] + starts[1::2]).tolist() == pytest.approx(
            [2 * (GUTTER + 100 + 200 * i) for i in range(4)], abs=4
        )
    dark, light = (np.flatnonzero(near(sheet, (level,) * 3, 2).sum(1) > 10) for level in (40, 200))
    assert dark.max() < light.min()
    heated = np.asarray(timeline([Lane("multi_view", "", views, maps)], width=WIDTH).convert("L")).astype(int)
    warm = [
        heated[rows.mean().astype(int), GUTTER + 100] - level for rows, level in ((dark, 40), (light, 200))
    ]
    assert warm[0] > 100 > warm[1], "one scale for all pictures of a sense"


def test_many_lanes_are_less_high():
    lanes = [Lane(f"sense{i}", "sense", flat([90] * 4), fill=i == 1) for i in range(5)]
    few, many = timeline(lanes[:3]), timeline(lanes)
    assert many.height < 1.2 * few.height


def test_long_names_stay_in_the_gutter():
    sheet = np.asarray(timeline([Lane("video", "a_very_long_name of anunbelievablylongsense", flat([0]))]))
    assert not sheet[:, GUTTER - 4 : GUTTER, 3].any() and sheet[:, :GUTTER, 3].any(1).sum() > 35


def test_a_sense_nobody_has_drawn_yet_has_a_color_of_its_own():
    known = ("video", "audio", "depth", "high_fps", "multi_view", "text")
    assert len({*map(color, known), color("smell")}) == 7 and color("smell") == color("smell")


def test_a_dot_is_round_and_smooth_on_any_ground():
    for mode, ground in (("RGB", (0, 0, 0)), ("RGBA", (0, 0, 0, 0))):
        sheet = Image.new(mode, (40, 40), ground)
        draw_dot(sheet, (20, 20), 5, (255, 0, 0))
        red = np.asarray(sheet)[..., -1 if mode == "RGBA" else 0].astype(int)
        assert red[20, 20] == 255 and red[15, 15] == 0 and red[15, 20] > 100
        assert red.sum() / 255 == pytest.approx(np.pi * 5.5**2, rel=0.05)
        assert (red == red.T).all() and ((red > 0) & (red < 255)).any()
