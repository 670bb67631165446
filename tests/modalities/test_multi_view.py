"""Further views: their names, their clocks, and when they do not record."""

import json

import pytest
import torch

from lynx.errors import DataError, MediaError
from lynx.media.writer import write_video
from lynx.modalities.multi_view import MultiView, MultiViewRendering, View, views_of
from lynx.types import Frames, Waveform, sample_times


def clip(base, seconds=2.0, size=(16, 24), fps=4):
    """Frame i is of level base + i."""
    count = round(seconds * fps)
    levels = (base + torch.arange(count)).to(torch.uint8)
    return Frames(
        levels[:, None, None, None].expand(count, 3, *size).contiguous(), torch.arange(count) / fps, seconds
    )


def levels(frames):
    return frames.pixels[:, 0, 8, 8].tolist()


def test_one_further_clip_is_its_frames():
    frames = MultiView().render(clip(50), sample_times(2.0, 4))
    assert levels(frames) == [51, 53, 55, 57] and frames.labels == ("second view",) * 4
    assert frames.times.tolist() == sample_times(2.0, 4).tolist() and frames.notes == ()


def test_views_of_a_moment_follow_each_other_under_their_names():
    views = {"left": clip(50), "top": clip(100), "right": clip(150)}
    sense = MultiView()
    frames = sense.render(views, sample_times(2.0, 2))
    assert levels(frames) == [52, 102, 152, 56, 106, 156]
    assert frames.labels == ("left", "top", "right") * 2
    assert frames.times.tolist() == [0.5, 0.5, 0.5, 1.5, 1.5, 1.5]
    assert sense.pictures(views) == 3 and sense.pictures(clip(1)) == 1


def test_offsets_put_all_views_on_one_clock():
    """A view that begins at 0.5 s shows at 1.5 s what it recorded one second after its beginning."""
    views = {"late": View(clip(50), 0.5), "early": View(clip(100), -0.75)}
    frames = MultiView().render(views, torch.tensor([0.75, 1.0]))
    assert levels(frames) == [51, 106, 52, 107]
    assert MultiView().duration(views) == 2.5


def test_a_view_is_black_while_it_does_not_record_and_that_is_said():
    views = {"left": clip(50, seconds=4.0), "late": View(clip(100), 1.0)}
    frames = MultiView().render(views, torch.tensor([0.5, 1.0, 2.9, 3.5]))
    assert levels(frames) == [52, 0, 54, 100, 61, 107, 64, 0]
    assert frames.notes == ("late does not record at 2 of 4 moments",)
    ends = MultiView().render(clip(50), torch.tensor([2.05]))  # files end up to a frame early
    assert levels(ends) == [57] and ends.notes == ()
    with pytest.raises(MediaError, match="check their offsets"):
        MultiView().render(View(clip(1), 90.0), sample_times(2.0, 4))
    with pytest.raises(MediaError, match="end before the first camera begins"):
        MultiView().duration(View(clip(1), -9.0))


def test_all_views_have_the_size_of_the_first():
    frames = MultiView().render({"a": clip(50), "b": clip(100, size=(31, 45))}, sample_times(2.0, 2))
    assert frames.pixels.shape == (4, 3, 16, 24) and levels(frames) == [52, 102, 56, 106]
    hidden = {"late": View(clip(1, size=(6, 6)), 9.0), "now": clip(50)}
    assert MultiView().render(hidden, sample_times(2.0, 1)).pixels.shape == (2, 3, 16, 24)


def test_a_folder_of_clips_with_offsets(tmp_path):
    for name, base in (("left", 60), ("top", 160)):
        shown = clip(base, size=(32, 48))
        write_video(tmp_path / f"{name}.mp4", shown.pixels, 4)
    (tmp_path / "notes.txt").write_text("no clip")
    frames = MultiView().render(tmp_path, sample_times(2.0, 2))
    assert frames.labels == ("left", "top") * 2
    assert levels(frames) == pytest.approx([62, 162, 66, 166], abs=3)
    (tmp_path / "offsets.json").write_text(json.dumps({"top": -0.5}))
    moved = MultiView().render(tmp_path, torch.tensor([0.5]))
    assert levels(moved) == pytest.approx([62, 164], abs=3)
    assert MultiView().duration(tmp_path) == pytest.approx(2.0, abs=0.05)
    single = MultiView().render(tmp_path / "top.mp4", sample_times(2.0, 2))
    assert single.labels == ("top", "top")
    assert MultiView(MultiViewRendering(24)).render(tmp_path, torch.tensor([0.5])).pixels.shape[2:] == (
        16,
        24,
    )


@pytest.mark.parametrize("text", ["[1, 2]", '{"top": "soon"}', "no json", '{"bottom": 1}'])
def test_offsets_that_cannot_be_are_said(tmp_path, text):
    (tmp_path / "top.mp4").touch()
    (tmp_path / "offsets.json").write_text(text)
    with pytest.raises(MediaError, match=r"offsets\.json"):
        views_of(tmp_path)


def test_what_is_no_view_is_refused(tmp_path):
    for nothing in ({}, tmp_path):
        with pytest.raises(MediaError, match="no further view"):
            MultiView().duration(nothing)
    with pytest.raises(MediaError, match="not Waveform"):
        MultiView().render(Waveform(torch.zeros(100), 16000), torch.zeros(1))
    with pytest.raises(MediaError, match="no file"):
        MultiView().render({"a": tmp_path / "none.mp4"}, torch.zeros(1))
    with pytest.raises(DataError):
        MultiViewRendering(0)
