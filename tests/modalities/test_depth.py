"""Depth as pictures: colors, normals and the choice of views against values computed another way."""

import math

import numpy as np
import pytest
import torch
import trimesh

from lynx.errors import DataError, MediaError
from lynx.media.mesh import orbit, pinhole
from lynx.modalities.depth import (
    Depth,
    DepthRendering,
    closeness,
    draw_normals,
    farthest_views,
    shrink,
    surface_normals,
    turbo,
)
from lynx.types import DepthClip, Frames, sample_times

CAMERA = np.array([[80.0, 0, 47.5], [0, 90.0, 31.5], [0, 0, 1]])
NOTHING = DepthClip.of(np.zeros((3, 8, 9), np.float32))


def plane(normal, offset, height=64, width=96, camera=CAMERA):
    """Depth of the plane normal . X = offset, pixel by pixel from the equation of its rays."""
    depth = np.zeros((height, width))
    for v in range(height):
        for u in range(width):
            ray = [(u - camera[0, 2]) / camera[0, 0], (v - camera[1, 2]) / camera[1, 1], 1.0]
            depth[v, u] = offset / sum(n * r for n, r in zip(normal, ray, strict=True))
    return depth


def steady(meters, **known):
    return DepthClip.of(np.asarray(meters, np.float32), **known)


@pytest.mark.parametrize(
    ("meters", "linear", "log"),
    [
        (0.2, 1.0, 1.0),
        (10.0, 0.0, 0.0),
        (0.05, 1.0, 1.0),
        (50.0, 0.0, 0.0),
        (1.0, 0.9 / 4.9, math.log(10) / math.log(50)),
        (2.0, 0.4 / 4.9, math.log(5) / math.log(50)),
    ],
)
def test_disparity_is_clipped_and_scaled(meters, linear, log):
    one = np.full((1, 1), meters)
    assert closeness(one, 0.2, 10.0, "linear").item() == pytest.approx(linear)
    assert closeness(one, 0.2, 10.0, "log").item() == pytest.approx(log)


@pytest.mark.parametrize(
    ("unit", "color"),
    [  # rows of the published table: 0.18995, 0.07176, 0.23217 and so on
        (0, (48, 18, 59)),
        (64, (41, 187, 236)),
        (128, (164, 252, 60)),
        (192, (251, 126, 33)),
        (255, (122, 4, 3)),
    ],
)
def test_turbo_is_the_published_map(unit, color):
    meters = 1 / (unit / 255 * (1 / 1.0 - 1 / 8.0) + 1 / 8.0)
    drawn = turbo(np.full((2, 3), meters), 1.0, 8.0, "linear")
    assert drawn.shape == (2, 3, 3) and drawn.dtype == np.uint8
    assert np.abs(drawn.astype(int) - color).max() <= 1


def test_turbo_follows_its_published_polynomial():
    """Google's fit of degree 5, which is off by up to 32 levels at the ends."""
    fit = [
        (59.28637943, -152.94239396, 132.13108234, -42.66032258, 4.61539260, 0.13572138),
        (2.82956604, 4.27729857, -14.18503333, 4.84296658, 2.19418839, 0.09140261),
        (27.34824973, -89.90310912, 110.36276771, -60.58204836, 12.64194608, 0.10667330),
    ]
    part = np.linspace(0, 1, 256)
    meters = 1 / (part * (1 / 1.0 - 1 / 8.0) + 1 / 8.0)
    expected = np.stack([np.polyval(row, part) for row in fit], -1).clip(0, 1) * 255
    errors = np.abs(turbo(meters[None], 1.0, 8.0, "linear")[0] - expected)
    assert errors.max() < 33 and errors.mean() < 7


def test_near_is_redder_than_far_and_holes_are_black():
    drawn = turbo(np.array([[0.5, 2.0, 8.0, 0.0]]), 0.2, 10.0)[0].astype(int)
    assert drawn[0, 0] > 200 and drawn[0, 2] < 60  # red
    assert drawn[2, 2] > drawn[2, 0] and drawn[3].tolist() == [0, 0, 0]
    assert drawn[2].sum() > 60  # the farthest color is no black


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.6, 0, -0.8), (0, -0.8, -0.6), (0.48, -0.6, -0.64)])
def test_normals_of_a_plane_are_its_normal_everywhere(normal):
    wall = plane(normal, -3.0)
    depth = np.where((wall > 0) & (wall < 30), wall, 0)
    found = surface_normals(depth, CAMERA)
    seen = depth > 0
    assert seen.mean() > 0.3
    assert np.abs(found[seen] - np.array(normal)).max() < 1e-3
    assert (found[~seen] == 0).all()


def test_normals_of_a_sphere_point_from_its_middle():
    middle, radius = np.array([0.2, -0.1, 3.0]), 1.0
    v, u = np.indices((120, 160))
    camera = np.array([[150.0, 0, 79.5], [0, 150.0, 59.5], [0, 0, 1]])
    rays = np.stack([(u - 79.5) / 150, (v - 59.5) / 150, np.ones(u.shape)], -1)
    a, b, c = (rays**2).sum(-1), -2 * rays @ middle, middle @ middle - radius**2
    inside = b * b - 4 * a * c
    depth = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / (2 * a), 0)
    expected = (depth[..., None] * rays - middle) / radius
    found = surface_normals(depth, camera)
    facing = (expected * rays).sum(-1) / np.linalg.norm(rays, axis=-1) < -0.35  # not the very rim
    errors = np.degrees(np.arccos(np.clip((found * expected).sum(-1)[facing & (depth > 0)], -1, 1)))
    assert (facing & (depth > 0)).sum() > 2000
    assert np.median(errors) < 0.5 and errors.max() < 6


def test_an_edge_in_depth_leaves_both_surfaces_their_normals():
    depth = plane((0, 0, -1), -4.0)
    depth[:, 40:] = plane((0.6, 0, -0.8), -1.5)[:, 40:]
    found = surface_normals(depth, CAMERA)
    assert np.abs(found[:, :40] - (0, 0, -1)).max() < 1e-3
    assert np.abs(found[:, 40:] - (0.6, 0, -0.8)).max() < 1e-3


def test_holes_and_lonely_pixels_have_no_normal():
    depth = np.zeros((5, 7))
    assert (surface_normals(depth, CAMERA) == 0).all()
    depth[2, 3] = 1.5
    assert (surface_normals(depth, CAMERA) == 0).all()
    assert surface_normals(np.ones((1, 1)), CAMERA).shape == (1, 1, 3)


def test_a_wall_that_faces_the_camera_is_the_blue_of_normal_maps():
    faces = np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0], [0, 0, 0]])
    assert draw_normals(faces).tolist() == [[128, 128, 255], [255, 128, 128], [128, 255, 128], [0, 0, 0]]
    assert draw_normals(np.array([[0.0, 0, 1]]), "world").tolist() == [[128, 128, 255]]


def test_world_normals_do_not_turn_with_the_camera():
    """The floor under a camera on an orbit: whichever way it looks, the floor faces the world's z."""
    poses, camera = orbit(3, 4.0, np.eye(3)[2]), pinhole(48)
    v, u = np.indices((48, 48))
    rays = np.stack(
        [(u - camera[0, 2]) / camera[0, 0], (v - camera[1, 2]) / camera[1, 1], np.ones(u.shape)], -1
    )
    floors = []
    for pose in poses:
        slope = (rays @ pose[:3, :3].T)[..., 2]
        floors.append(np.where(slope < -0.15, -pose[2, 3] / np.minimum(slope, -0.15), 0))
    clip = steady(floors, times=np.arange(3.0), duration=3.0, intrinsics=camera, poses=poses)
    rendering = DepthRendering(show="normals", frame="world", far=40.0)
    pixels = Depth(rendering).render(clip, sample_times(3.0, 3)).pixels
    drawn = pixels.permute(0, 2, 3, 1)[torch.tensor(np.array(floors)) > 0].int()
    assert len(drawn) > 3000 and (drawn - torch.tensor([128, 128, 255])).abs().max() <= 1


def test_shrinking_averages_what_returned():
    depth = np.array([[1.0, 3.0, 0.0, 0.0, 5.0], [2.0, 0.0, 0.0, 4.0, 5.0], [1.0, 1.0, 2.0, 2.0, 7.0]])
    small, k = shrink(depth, 3)
    assert k == 2 and small.shape == (2, 3)
    # by hand: (1 + 3 + 2) / 3; one return of four is too few; 5 and 5; below, half of each block is padding
    assert small.tolist() == [[2.0, 0.0, 5.0], [1.0, 2.0, 0.0]]
    assert shrink(depth, 5)[1] == 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (64, 63), (101, 37)])
def test_odd_sizes_are_drawn(height, width):
    clip = steady(np.full((1, height, width), 2.0), intrinsics=CAMERA)
    for show, count in (("turbo", 1), ("normals", 1), ("both", 2)):
        frames = Depth(DepthRendering(show=show, max_side=40)).render(clip, sample_times(1.0, 1))
        k = -(-max(height, width) // 40)
        assert frames.pixels.shape == (count, 3, -(-height // k), -(-width // k))


def test_uniform_views_are_those_measured_nearest():
    meters = np.stack([np.full((4, 4), 1.0 + i) for i in range(6)])
    clip = steady(meters, times=np.array([0.0, 0.1, 0.2, 3.0, 3.1, 5.0]), duration=6.0)
    frames = Depth().render(clip, torch.tensor([0.06, 0.5, 2.9, 4.5]))
    expected = [turbo(meters[i], 0.2, 10.0)[0, 0].tolist() for i in (1, 2, 3, 5)]
    assert frames.pixels[:, :, 0, 0].tolist() == expected
    assert frames.times.tolist() == pytest.approx([0.06, 0.5, 2.9, 4.5]) and frames.duration == 6.0


def test_maps_without_a_clock_are_spread_over_the_clip():
    meters = np.stack([np.full((4, 4), 1.0 + i) for i in range(3)])
    frames = Depth().render(steady(meters), sample_times(9.0, 6))
    expected = [turbo(meters[i], 0.2, 10.0)[0, 0].tolist() for i in (0, 0, 1, 1, 2, 2)]
    assert frames.pixels[:, :, 0, 0].tolist() == expected and frames.duration == pytest.approx(9.0)
    assert Depth().duration(steady(meters)) == 3.0


def test_moments_far_from_every_map_are_said():
    clip = steady(np.ones((4, 4, 4)), times=np.arange(4) * 0.5, duration=2.0)
    near = Depth().render(clip, sample_times(2.0, 4))
    late = Depth().render(clip, sample_times(8.0, 8))
    assert near.notes == () and "5 of 8 moments lie up to 6.0 s" in late.notes[0]


def farthest_by_hand(features, n):
    chosen = [0]
    while len(chosen) < n:
        rest = [i for i in range(len(features)) if i not in chosen]
        gaps = [min(math.dist(features[i], features[j]) for j in chosen) for i in rest]
        chosen.append(rest[gaps.index(max(gaps))])
    return sorted(chosen)


def test_farthest_views_are_those_of_a_loop_written_out():
    rng = np.random.default_rng(3)
    poses = np.repeat(np.eye(4)[None], 20, axis=0)
    poses[:, :3, 3] = rng.normal(size=(20, 3)) * (5, 3, 0.5)
    turns = rng.uniform(0, 2 * np.pi, 20)
    poses[:, 0, 0], poses[:, 0, 2], poses[:, 2, 0], poses[:, 2, 2] = (
        np.cos(turns), np.sin(turns), -np.sin(turns), np.cos(turns)
    )  # fmt: skip
    places = poses[:, :3, 3]
    extent = math.dist(places.min(0), places.max(0))
    features = [
        [*(p / extent), math.sin(t) / 2, 0, math.cos(t) / 2] for p, t in zip(places, turns, strict=True)
    ]
    for n in (1, 2, 5, 12, 20):
        assert farthest_views(poses, n).tolist() == farthest_by_hand(features, n)


def test_one_infinite_pose_does_not_break_the_choice():
    poses = orbit(12, 2.0, np.eye(3)[2])
    poses[[0, 5]] = [np.full((4, 4), -np.inf), np.full((4, 4), np.nan)]
    chosen = farthest_views(poses, 4)
    assert len(set(chosen.tolist())) == 4 and not {0, 5} & set(chosen.tolist())
    assert len(farthest_views(poses, 50)) == 10  # no view twice
    same = np.repeat(np.eye(4)[None], 5, axis=0)
    assert farthest_views(same, 3).tolist() == [0, 1, 2]  # cameras in one place are still different maps
    assert len(farthest_views(np.full((3, 4, 4), np.inf), 2)) == 0


def test_pose_aware_pictures_are_those_of_the_cameras_chosen():
    poses = orbit(8, 2.0, np.eye(3)[2])
    poses[0] = np.inf
    meters = np.stack([np.full((4, 4), 1.0 + i) for i in range(8)])
    clip = steady(meters, times=np.arange(8.0), duration=8.0, poses=poses)
    aware = Depth(DepthRendering(choose="pose_aware"))
    frames = aware.render(clip, sample_times(8.0, 3))
    index = farthest_views(poses, 3)
    assert frames.times.tolist() == index.tolist() and 0 not in index
    assert frames.pixels[:, :, 0, 0].tolist() == [turbo(meters[i], 0.2, 10.0)[0, 0].tolist() for i in index]
    many = aware.render(clip, sample_times(8.0, 16))
    assert len(many) == 7 and "only 7 of 8" in many.notes[0]


def test_poses_that_are_missing_are_said():
    clip = steady(np.ones((3, 6, 6)), times=np.arange(3.0), duration=3.0, intrinsics=CAMERA)
    frames = Depth(DepthRendering(choose="pose_aware")).render(clip, sample_times(3.0, 3))
    assert len(frames) == 3 and "evenly in time" in frames.notes[0]
    world = Depth(DepthRendering(show="normals", frame="world"))
    with pytest.raises(MediaError, match="need camera poses"):
        world.render(clip, sample_times(3.0, 3))
    poses = np.repeat(np.eye(4)[None], 3, axis=0)
    poses[1] = np.inf
    lost = steady(np.ones((3, 6, 6)), times=np.arange(3.0), duration=3.0, intrinsics=CAMERA, poses=poses)
    frames = world.render(lost, sample_times(3.0, 3))
    assert "1 of 3 maps" in frames.notes[0]
    assert frames.pixels[1].max() == 0 and frames.pixels[[0, 2]].amax((1, 2, 3)).tolist() == [128, 128]
    with pytest.raises(MediaError, match="None of the camera poses"):
        Depth(DepthRendering(choose="pose_aware")).render(
            steady(np.ones((2, 4, 4)), poses=np.full((2, 4, 4), np.nan)), sample_times(2.0, 2)
        )


def test_holes_and_units_that_cannot_be_are_said():
    depth = np.full((1, 10, 10), 2.0)
    depth[0, :, :3] = 0
    assert "30% of the depth has no return" in Depth().render(steady(depth), sample_times(1.0, 1)).notes[0]
    far = Depth().render(steady(depth * 1000), sample_times(1.0, 1))
    assert far.notes[1].startswith("100% of the depth is farther than 10 m (around 2e+03 m)")
    behind = Depth(DepthRendering(far=1.8)).render(steady(depth), sample_times(1.0, 1))
    assert len(behind.notes) == 1, "a wall a little behind what is drawn"
    for sense in (Depth(), Depth(DepthRendering(show="normals"))):
        with pytest.raises(MediaError, match="no return"):
            sense.render(NOTHING, sample_times(3.0, 3))
    some = np.concatenate([depth, np.zeros((1, 10, 10))])
    assert Depth().render(steady(some), sample_times(2.0, 2)).pixels[1].max() == 0


def test_both_pictures_of_a_moment_follow_each_other():
    clip = steady(np.full((2, 6, 8), 2.0), times=np.arange(2.0), duration=2.0, intrinsics=CAMERA)
    both = Depth(DepthRendering(show="both"))
    frames = both.render(clip, sample_times(2.0, 2))
    assert both.pictures(clip) == 2 and Depth().pictures(clip) == 1
    assert frames.labels == ("distance", "surface") * 2 and frames.times.tolist() == [0.5, 0.5, 1.5, 1.5]
    assert torch.equal(frames.pixels[0::2], Depth().render(clip, sample_times(2.0, 2)).pixels)
    assert frames.pixels[1, :, 3, 4].tolist() == [128, 128, 255]


def test_normals_without_intrinsics_assume_a_field_of_view():
    clip = steady(np.full((1, 40, 60), 2.0))
    frames = Depth(DepthRendering(show="normals", max_side=30)).render(clip, sample_times(1.0, 1))
    assert "field of view of 60 degrees" in frames.notes[-1]
    assert (frames.pixels[0].permute(1, 2, 0).int() - torch.tensor([128, 128, 255])).abs().max() <= 1


@pytest.mark.parametrize(
    "wrong",
    [{"near": 0.0}, {"near": 11.0}, {"show": "rgb"}, {"scale": "sqrt"}, {"frame": "sky"},
     {"choose": "random"}, {"unit": 0.0}, {"fps": -1.0}, {"max_side": 1}],
)  # fmt: skip
def test_renderings_that_cannot_be_are_refused(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        DepthRendering(**wrong)


def test_rendering_travels_as_a_dict_and_pictures_are_no_depth():
    depth = Depth(DepthRendering(near=1.0, far=8.0, show="both", fps=24.0))
    assert Depth.from_dict(depth.to_dict()).rendering == depth.rendering
    with pytest.raises(MediaError, match="not from Frames"):
        Depth().render(
            Frames(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1), 1.0), torch.zeros(1)
        )
    with pytest.raises(MediaError, match="as many poses"):
        DepthClip.of(np.ones((2, 3, 3)), poses=np.eye(4)[None])


def test_a_mesh_is_seen_once_around_in_as_many_pictures_as_moments(tmp_path):
    box = trimesh.creation.box((1.0, 2.0, 0.5))
    box.apply_scale(1000)
    box.export(tmp_path / "box.stl")
    sense = Depth(DepthRendering(max_side=48, show="both", frame="world"))
    assert sense.duration(tmp_path / "box.stl") == 8.0
    frames = sense.render(str(tmp_path / "box.stl"), sample_times(8.0, 4))
    assert (
        frames.pixels.shape == (8, 3, 48, 48) and len(frames.notes) == 2 and "unknown unit" in frames.notes[0]
    )
    front, back = frames.pixels[1], frames.pixels[5]  # from opposite sides, the lids alike, the sides not
    lid = torch.tensor([128, 128, 255])[:, None, None]
    assert ((front.int() - lid).abs().amax(0) <= 2).sum() > 50
    assert ((back.int() - lid).abs().amax(0) <= 2).sum() > 50
    seen = [{tuple(c) for c in side.flatten(1).T.tolist()} for side in (front, back)]
    assert len(seen[0] & seen[1]) < len(seen[0])


@pytest.mark.parametrize("show", ["turbo", "both"])
def test_parts_are_the_whole_and_never_hold_more_maps_than_they_draw(show):
    rng, asked = np.random.default_rng(3), []
    meters = rng.uniform(0.1, 30.0, (9, 12, 16)).astype(np.float32) * (rng.random((9, 12, 16)) > 0.3)
    poses = np.repeat(np.eye(4)[None], 9, axis=0)
    poses[4] = np.nan

    def measure(indices):
        asked.append(len(indices))
        return meters[list(indices)]

    clip = DepthClip(9, measure, np.arange(9.0), 9.0, CAMERA, poses)
    sense = Depth(DepthRendering(show=show, frame="world", far=5.0))
    times = sample_times(9.0, 14)  # some maps stand for two moments, across the parts too
    whole = sense.render(clip, times)
    asked.clear()
    parts = list(sense.parts(clip, times, 4))
    assert [len(part) // sense.pictures(clip) for part in parts] == [4, 4, 4, 2]
    assert len(asked) == 4 and max(asked) <= 4
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
    assert torch.equal(torch.cat([part.times for part in parts]), whole.times)
    assert sum((part.labels for part in parts), ()) == whole.labels
    assert (parts[-1].notes, parts[-1].duration) == (whole.notes, whole.duration)
    assert any("no return" in note for note in whole.notes) and any("farther" in note for note in whole.notes)
