"""The picture of the interface map."""

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import clip, random_adapter, sound

import lynx
from lynx.evaluation.interface import Reference, measure_interface
from lynx.visualization.interface_chart import draw
from lynx.visualization.timeline import colour


@pytest.fixture
def model(tmp_path):
    model = lynx.load(checkpoints.llava_onevision(tmp_path))
    random_adapter(model, "audio")
    return model


def near(image, ink, tolerance=14):
    pixels = np.asarray(image).astype(int)
    return (np.abs(pixels - np.array(ink)).max(-1) <= tolerance).sum()


def test_the_picture_shows_every_group_and_what_alignment_did(model):
    noise = torch.randn(70, 48, generator=torch.Generator().manual_seed(1)) + 0.3
    found = measure_interface(model.chat(video=clip(), audio=sound(), frames=4), Reference(noise, "noise"))
    image = draw(found)
    assert image.mode == "RGB" and image.size == (1040, 640) and image.getpixel((5, 5)) == (255, 255, 255)
    plot, legend = image.crop((0, 0, 716, 640)), image.crop((716, 0, 1040, 640))
    for part in (plot, legend):
        assert near(part, colour("video")) > 20 and near(part, colour("audio")) > 20
    arrow = tuple(
        round(0.35 * of + 0.65 * ink) for of, ink in zip(colour("audio"), (30, 41, 59), strict=True)
    )
    assert near(plot, arrow, 4) > 20


def test_many_senses_make_it_higher(model):
    for name in ("one", "two", "three", "four"):
        random_adapter(model, name, "multi_view")
    views = dict.fromkeys(("one", "two", "three", "four"), clip(seed=2))
    found = measure_interface(model.chat(video=clip(), frames=2, **views))
    assert "second view (one)" in {group.label for group in found.groups}
    assert draw(found).height > 640


def test_it_is_drawn_without_a_reference_too(model):
    assert draw(measure_interface(model.chat(audio=sound(), frames=4))).size == (1040, 640)
