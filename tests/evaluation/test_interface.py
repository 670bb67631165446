"""The map of the interface against plain numpy, over all pairs, written out here."""

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import clip, random_adapter, sound

import lynx
from lynx import DataError
from lynx.config import GuideConfig
from lynx.datasets.base import Example
from lynx.evaluation import interface as module
from lynx.evaluation.interface import (
    POINTS,
    Reference,
    measure_interface,
    principal_axes,
    unaligned,
    vocabulary,
)
from lynx.training.guidance import guide
from lynx.visualization.interface_map import REFERENCE, VOCABULARY

FRAMES = 4


@pytest.fixture
def session(model):
    return model.chat(video=clip(), audio=sound(), frames=FRAMES)


@pytest.fixture
def reference():
    return Reference(torch.randn(70, 48, generator=torch.Generator().manual_seed(1)) + 0.3, "noise")


def pairs(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean cosine distance over all pairs, one by one; of a set with itself over different tokens."""
    a, b = (tokens.double().numpy() for tokens in (one, other))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    distances = 1 - a @ b.T
    if one is other:
        return float(distances[~np.eye(len(a), dtype=bool)].mean())
    return float(distances.mean())


def tokens_of(session) -> dict[str, torch.Tensor]:
    """Every group's tokens, by their labels."""
    model, times = session.model, session.plan.times
    streams = session.encode()
    plain = unaligned(model, "audio", session.media["audio"], times)
    return {
        "words": vocabulary(model.backbone),
        "picture": streams["video"].tokens[:-1],
        "sound, not aligned": plain.tokens[:-1],
        "sound": streams["audio"].tokens[:-1],
    }


def test_figures_are_those_of_all_pairs(session, reference, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 7)  # in parts, as a large vocabulary is
    tokens = {**tokens_of(session), "noise": reference.tokens}
    rows = {row["group"]: row for row in measure_interface(session, reference).table()}
    assert set(rows) == set(tokens)
    near, words, video = tokens["noise"], tokens["words"], tokens["picture"]
    mean, var = near.double().numpy().mean(0), near.double().numpy().var(0)
    for label, group in tokens.items():
        row, values = rows[label], group.double().numpy()
        assert row["tokens"] == len(group)
        assert row["norm"] == pytest.approx(np.linalg.norm(values, axis=1).mean(), rel=1e-5)
        assert row["to_reference"] == pytest.approx(pairs(group, near), abs=1e-5)
        assert row["to_vocabulary"] == pytest.approx(pairs(group, words), abs=1e-5)
        assert row["to_video"] == pytest.approx(pairs(group, video), abs=1e-5)
        assert row["to_itself"] == pytest.approx(pairs(group, group), abs=1e-5)
        beyond = pairs(group, near) - (pairs(group, group) + pairs(near, near)) / 2
        assert row["gap"] == pytest.approx(beyond, abs=1e-5)
        if label == "words":
            assert row["statistics"] is None
            continue
        statistics = np.linalg.norm(values.mean(0) - mean) + np.linalg.norm(values.var(0) - var)
        assert row["statistics"] == pytest.approx(statistics, rel=1e-4, abs=1e-5)


def test_not_aligned_is_the_encoder_as_it_was(model, session, folder):
    stock = lynx.load(folder).backbone
    frames = model.modality("audio").render(session.media["audio"], session.plan.times)
    with torch.no_grad():
        expected, _ = stock.encode(stock.pixels(frames.pixels))
    found = unaligned(model, "audio", session.media["audio"], session.plan.times)
    assert torch.equal(found.tokens, expected) and model.lora.on == ()
    assert not torch.equal(found.tokens, session.encode()["audio"].tokens)


@pytest.mark.parametrize(("pooling", "tokens"), [("space", FRAMES), ("halves", 32), ("bands", 8)])
def test_not_aligned_is_pooled_as_the_adapter_pools(folder, pooling, tokens):
    model = lynx.load(folder)
    random_adapter(model, "audio", token_pooling=pooling)
    session = model.chat(video=clip(), audio=sound(), frames=FRAMES)
    counts = {row["group"]: row["tokens"] for row in measure_interface(session).table()}
    assert counts["sound"] == counts["sound, not aligned"] == tokens


def test_an_adapter_without_a_vision_lora_has_nothing_to_compare(folder):
    model = lynx.load(folder)
    random_adapter(model, "audio", parts=("llm",))
    groups = measure_interface(model.chat(audio=sound(), frames=FRAMES)).groups
    assert [group.label for group in groups] == ["words", "sound"]


def test_the_clips_own_video_is_the_reference_of_other_backbones(session):
    found = measure_interface(session)
    rows = {row["group"]: row for row in found.table()}
    assert found.reference == "this clip's own video" and REFERENCE not in {g.sense for g in found.groups}
    assert rows["sound"]["to_reference"] == rows["sound"]["to_video"]
    assert rows["picture"]["gap"] == pytest.approx(0) and rows["picture"]["statistics"] == 0


def test_without_a_video_there_is_nothing_to_be_near_to(model):
    found = measure_interface(model.chat(audio=sound(), frames=FRAMES))
    row = found.table()[-1]
    assert found.reference is None and row["group"] == "sound" and row["to_vocabulary"] > 0
    assert row["to_reference"] is row["to_video"] is row["gap"] is row["statistics"] is None


def test_a_sense_that_is_off_is_left_out(session):
    session.encode()
    session.senses["audio"] = False
    assert [group.sense for group in measure_interface(session).groups] == [VOCABULARY, "video"]


def test_a_guidance_gives_the_mean_and_the_variance(model, session, tmp_path_factory):
    guidance = guide(model, [Example("a", {"video": clip(seed=3)})], GuideConfig(frames=4), progress=False)
    row = measure_interface(session, guidance=guidance).table()[-1]
    values = session.encode()["audio"].tokens[:-1].double().numpy()
    expected = np.linalg.norm(values.mean(0) - guidance.token_mean.numpy())
    expected += np.linalg.norm(values.var(0) - guidance.token_var.numpy())
    assert row["statistics"] == pytest.approx(expected, rel=1e-4)
    other = lynx.load(checkpoints.llava_onevision(tmp_path_factory.mktemp("other"), seed=5))
    with pytest.raises(DataError, match="not from"):
        measure_interface(other.chat(video=clip(), frames=2), guidance=guidance)


def test_axes_are_those_of_a_singular_value_decomposition():
    generator = torch.Generator().manual_seed(0)
    groups = [torch.randn(n, 9, dtype=torch.float64, generator=generator) + n for n in (5, 12)]
    points, shares = principal_axes(groups)
    centerd = torch.cat(groups).numpy()
    centerd = centerd - centerd.mean(0)
    _, values, rows = np.linalg.svd(centerd, full_matrices=False)
    expected = centerd @ rows[:2].T
    found = torch.cat(points).numpy()
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-8)
    assert shares == pytest.approx(tuple(values[:2] ** 2 / (values**2).sum()))
    first = points[0]
    assert (first.gather(0, first.abs().argmax(0, keepdim=True)) < 0).all()  # which way is up is settled


def test_the_same_clip_gives_the_same_map_of_at_most_so_many_points(session, monkeypatch):
    monkeypatch.setattr(module, "POINTS", 20)
    one, other = measure_interface(session), measure_interface(session)
    for a, b in zip(one.groups, other.groups, strict=True):
        assert len(a.points) == 20 < a.figures.tokens and torch.equal(a.points, b.points)
    assert POINTS == 256


def test_in_the_world_an_aligned_sense_lies_among_other_videos(root):
    """The paper's claim, on a clip that nothing was trained on, and what alignment did to its sound."""
    model = lynx.load("lynx-tiny", adapters=[root / "adapters/audio"])
    path = root / "examples/sirens/clip.mp4"
    session = model.chat(video=path, audio=path)
    found = measure_interface(session)
    rows = {row["group"]: row for row in found.table()}
    videos, words = rows[found.reference], rows["words"]
    assert videos["tokens"] == 2048 and words["tokens"] == len(model.backbone.words)
    assert words["to_itself"] > videos["to_itself"] and words["to_reference"] > 1
    assert rows["sound"]["gap"] < 0.5 * rows["sound, not aligned"]["gap"]
    assert rows["sound"]["gap"] < 0.1 * words["gap"]
    kept = len(model.streams)
    again = measure_interface(session)
    assert again.table() == found.table() and len(model.streams) == kept  # nothing is encoded again
