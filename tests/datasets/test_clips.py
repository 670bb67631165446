"""Examples about a part of a clip: what is rendered, and under which key it is kept."""

from dataclasses import replace

import pytest
import torch
from checkpoints import clip, sound

from lynx.datasets.base import Example
from lynx.datasets.clips import content_key, render_clip
from lynx.errors import MediaError
from lynx.modalities import Audio, Video
from lynx.modalities.multi_view import MultiView
from lynx.types import Moments

SENSES = {"audio": Audio, "multi_view": MultiView}
EXAMPLE = Example("a", {"video": clip(16), "audio": sound(8.0)})  # eight seconds


def test_an_example_about_a_part_is_rendered_at_its_moments():
    example = replace(EXAMPLE, moments=Moments(start=4, end=6))
    part = render_clip({"video": Video(), "audio": Audio()}, example, 2)
    whole = render_clip({"video": Video(), "audio": Audio()}, EXAMPLE, 8)
    assert part["video"].times.tolist() == [4.5, 5.5] == part["audio"].times.tolist()
    assert torch.equal(part["video"].pixels, whole["video"].pixels[4:6])
    assert torch.equal(part["audio"].pixels[:, :, :, 3:-3], whole["audio"].pixels[4:6, :, :, 3:-3])


@pytest.mark.parametrize("end", [8, 20])
def test_a_part_that_is_all_of_the_clip_is_rendered_as_the_whole(end):
    senses = {"video": Video(), "audio": Audio()}
    longer = replace(EXAMPLE, media=dict(EXAMPLE.media) | {"audio": sound(9.0)})  # nothing of it is silenced
    whole = render_clip(senses, longer, 2)
    part = render_clip(senses, replace(longer, moments=Moments(end=end)), 2)
    for sense in senses:
        assert torch.equal(part[sense].pixels, whole[sense].pixels)
        assert part[sense].notes == whole[sense].notes


def test_parts_of_one_clip_have_keys_of_their_own_and_the_whole_keeps_its_key():
    for known in ("", "vouched for"):
        whole = replace(EXAMPLE, key=known)
        parts = [{}, {"start": 1.0}, {"end": 1.0}, {"start": 1.0, "end": 2.0}, {"start": 1, "end": 3}]
        keys = [content_key(replace(whole, moments=Moments(**part))) for part in parts]
        assert len(set(keys)) == 5 and all(len(key) == 32 for key in keys)
        assert content_key(replace(whole, moments=Moments(start=1, end=2))) == keys[3]


def test_a_part_that_is_not_there_names_the_example():
    with pytest.raises(MediaError, match="example 'a': .*lasts 8.00 s"):
        render_clip({"video": Video()}, replace(EXAMPLE, moments=Moments(start=9)), 2)


@pytest.mark.parametrize(
    "given, times",
    [({"frames": 1}, [4.0]), ({"fps": 0.5}, [1, 3, 5, 7]), ({"fps": 2, "max_frames": 2, "start": 4}, [5, 7])],
)
def test_an_example_may_say_how_many_moments_are_looked_at(given, times):
    example = replace(EXAMPLE, moments=Moments(**given))
    assert render_clip({"video": Video()}, example, 3)["video"].times.tolist() == times
    assert content_key(example) != content_key(EXAMPLE)


@pytest.mark.parametrize("order", [("audio", "multi_view"), ("multi_view", "audio")])
def test_without_a_video_the_longest_sense_says_how_long_a_clip_is(order):
    """As in a chat, and whichever sense is named first."""
    media = {"audio": sound(4.0), "multi_view": clip(4)}  # the views last 2 s
    found = render_clip({sense: SENSES[sense]() for sense in order}, Example("a", media), 2)
    assert found["multi_view"].times.tolist() == [1.0, 3.0]
