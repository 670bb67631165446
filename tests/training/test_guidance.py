"""Stage 1 against means computed another way."""

import json

import pytest
import stages
import torch
from safetensors import safe_open
from transformers import LlavaOnevisionForConditionalGeneration

from lynx.config import GuideConfig
from lynx.errors import DataError
from lynx.training.guidance import Accumulator, Guidance, counted_tokens, guide
from lynx.types import TokenLayout, sample_times

CONFIG = GuideConfig(frames=stages.FRAMES, batch_size=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return stages.small_model(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def examples():
    return stages.clips(5, ("video",))


@pytest.fixture(scope="module")
def guidance(model, examples):
    return guide(model, examples, CONFIG, progress=False)


def test_means_equal_those_of_the_stock_model(model, examples, guidance):
    """Keys and values from stock transformers' own projections, all frames at once, in float64."""
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(model.backbone.source).eval()
    kept: dict[str, torch.Tensor] = {}
    for name, module in stock.named_modules():
        if name.endswith(("k_proj", "v_proj")) and "vision_tower" in name:
            module.register_forward_hook(lambda m, i, out, name=name: kept.__setitem__(name, out.detach()))
    frames = torch.cat([e.media["video"].at(sample_times(2.0, stages.FRAMES)).pixels for e in examples])
    with torch.no_grad():
        tokens = stock.model.get_video_features(model.backbone.pixels(frames)[None]).pooler_output[0, :-1]
    assert (guidance.frames, guidance.tokens) == (10, len(tokens))
    assert len(guidance.keys) == 3
    for kind, means in (("k_proj", guidance.keys), ("v_proj", guidance.values)):
        for layer, mean in enumerate(means):
            (name,) = [n for n in kept if f".{layer}.self_attn.{kind}" in n]
            flat = kept[name].double().mean(0)  # (n, H * d)
            by_hand = flat.view(16, 4, 8).transpose(0, 1)[None]  # (1, H, n, d)
            torch.testing.assert_close(mean.double(), by_hand, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(guidance.token_mean, tokens.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(guidance.token_var, tokens.var(0, correction=0), rtol=1e-4, atol=1e-6)


def test_the_size_of_a_batch_changes_nothing(model, examples, guidance):
    other = guide(model, examples, GuideConfig(frames=stages.FRAMES, batch_size=3), progress=False)
    for a, b in zip((*guidance.keys, *guidance.values), (*other.keys, *other.values), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(guidance.token_var, other.token_var)
    assert other.frames == guidance.frames


def test_merged_guidance_is_that_of_all_frames(model, examples, guidance):
    first, rest = (guide(model, part, CONFIG, progress=False) for part in (examples[:2], examples[2:]))
    merged = first.merge(rest)
    assert (merged.frames, merged.tokens) == (guidance.frames, guidance.tokens)
    for a, b in zip((*merged.keys, *merged.values), (*guidance.keys, *guidance.values), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(merged.token_mean, guidance.token_mean)
    torch.testing.assert_close(merged.token_var, guidance.token_var)


def test_newlines_are_counted_where_that_is_asked(model, examples, guidance, tmp_path):
    """One for each of the five clips, as the released code does; by hand from the moments without them."""
    config = GuideConfig(frames=stages.FRAMES, batch_size=4, stat_newline=True)
    counted = guide(model, examples, config, progress=False)
    newline = model.backbone.model.model.image_newline.double()
    assert (counted.frames, counted.tokens) == (guidance.frames, guidance.tokens + 5)
    n, mean = guidance.tokens, guidance.token_mean.double()
    with_newlines = (n * mean + 5 * newline) / (n + 5)
    squares = n * (guidance.token_var.double() + mean.square()) + 5 * newline.square()
    torch.testing.assert_close(counted.token_mean.double(), with_newlines, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        counted.token_var.double(), squares / (n + 5) - with_newlines.square(), rtol=1e-4, atol=1e-6
    )
    assert all(a.equal(b) for a, b in zip(counted.keys, guidance.keys, strict=True))
    read = Guidance.load(counted.save(tmp_path / "counted.safetensors"))
    assert read.stat_newline and read.merge(counted).stat_newline
    assert not Guidance.load(guidance.save(tmp_path / "plain.safetensors")).stat_newline
    with pytest.raises(DataError, match="stat_newline"):
        guidance.merge(counted)


def test_a_backbone_without_newlines_has_none_to_count():
    tokens, layout = torch.ones(4, 2), TokenLayout.of(1, (2, 2))
    assert counted_tokens(tokens, layout).equal(tokens)
    with pytest.raises(DataError, match="no newline token"):
        counted_tokens(tokens, layout, 2)


def test_means_stay_exact_over_many_frames():
    """4,000 frames whose mean is far from 0: the error stays near one rounding."""
    accumulator = Accumulator([1])
    values = 1000 + torch.randn(4000, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    for part in values.split(7):
        accumulator.add_attention(0, torch.nn.Identity(), part, part, part, part)
    accumulator.add_tokens(values.flatten(1))
    (mean,) = accumulator.result({}).keys
    torch.testing.assert_close(mean.double(), values.double().mean(0, keepdim=True), rtol=0, atol=2e-3)


def test_files_hold_half_precision_and_say_what_they_are(tmp_path, model, guidance):
    path = guidance.save(tmp_path / "deep" / "guidance.safetensors")
    read = Guidance.load(path)
    assert (read.frames, read.tokens, read.backbone) == (guidance.frames, guidance.tokens, guidance.backbone)
    for mine, theirs in zip(guidance.keys + guidance.values, read.keys + read.values, strict=True):
        assert theirs.equal(mine.half().float())
    assert read.token_mean.equal(guidance.token_mean)
    assert read.token_var.equal(guidance.token_var)
    with safe_open(path, "pt") as file:
        assert file.get_tensor("key.000").dtype == torch.float16
        assert json.loads(file.metadata()["lynx"])["backbone"]["family"] == "llava_onevision"
    read.check(model.backbone)


def test_other_files_and_other_backbones_are_refused(tmp_path, guidance):
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(DataError, match="cannot read the guidance"):
        Guidance.load(tmp_path / "text")
    with pytest.raises(DataError, match="cannot read the guidance"):
        Guidance.load(tmp_path / "missing")
    other = stages.small_model(tmp_path, seed=1)
    with pytest.raises(DataError, match="run `lynx guide` with this backbone"):
        guidance.check(other.backbone)
    with pytest.raises(DataError, match="different backbones"):
        guidance.merge(stages.small_guidance(other))


def test_guidance_without_video_is_an_error(model):
    with pytest.raises(DataError, match="'clip0' has no video"):
        guide(model, stages.clips(1, ("audio",)), CONFIG, progress=False)
    with pytest.raises(DataError, match="no frames"):
        guide(model, [], CONFIG, progress=False)
