"""The picture of the interface map."""

import sys
from dataclasses import replace

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import clip, random_adapter, sound

import lynx
from lynx import LynxError
from lynx.cli.main import main
from lynx.evaluation.interface import Reference, measure_interface
from lynx.visualization.drawing import color
from lynx.visualization.interface_chart import draw


@pytest.fixture
def model(tmp_path):
    model = lynx.load(checkpoints.llava_onevision(tmp_path))
    random_adapter(model, "audio")
    return model


def tinted(image, ink):
    """How many pixels have a color as seen on white, at any opacity from a third on."""
    gone, full = 255.0 - np.asarray(image), 255.0 - np.array(ink)  # what is missing to white
    size = np.linalg.norm(gone, axis=-1)
    cosine = gone @ full / np.maximum(size, 1) / np.linalg.norm(full)
    return ((cosine > 0.999) & (size > np.linalg.norm(full) / 3)).sum()


def test_the_picture_shows_every_group_and_what_alignment_did(model):
    noise = torch.randn(70, 48, generator=torch.Generator().manual_seed(1)) + 0.3
    found = measure_interface(model.chat(video=clip(), audio=sound(), frames=4), Reference(noise, "noise"))
    image = draw(found)
    assert image.mode == "RGB" and image.size == (1040, 640) and image.getpixel((5, 5)) == (255, 255, 255)
    plot, legend = image.crop((0, 0, 716, 640)), image.crop((716, 0, 1040, 640))
    for part in (plot, legend):
        assert tinted(part, color("video")) > 20 and tinted(part, color("audio")) > 20
    arrow = tuple(
        round(0.35 * of + 0.65 * ink) for of, ink in zip(color("audio"), (30, 41, 59), strict=True)
    )
    assert tinted(plot, arrow) > 20
    aligned = [group for group in found.groups if group.aligned]
    assert tinted(draw(replace(found, groups=tuple(aligned))).crop((0, 0, 716, 640)), arrow) < 5


def test_a_map_cannot_be_drawn_without_matplotlib(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LynxError, match=r"lynx\[plots\]"):
        draw(measure_interface(model.chat(audio=sound(), frames=4)))
    assert main(["map", "--video", "nowhere.mp4", "--out", "map.png"]) == 1
    assert "lynx[plots]" in capsys.readouterr().err, "said before anything is read"


def test_many_senses_make_it_higher(model):
    for name in ("one", "two", "three", "four"):
        random_adapter(model, name, "multi_view")
    views = dict.fromkeys(("one", "two", "three", "four"), clip(seed=2))
    found = measure_interface(model.chat(video=clip(), frames=2, **views))
    assert "second view (one)" in {group.label for group in found.groups}
    assert draw(found).height > 640


def test_it_is_drawn_without_a_reference_too(model):
    assert draw(measure_interface(model.chat(audio=sound(), frames=4))).size == (1040, 640)
