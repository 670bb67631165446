"""What is particular to Qwen3-VL: features beside the tokens, seconds in words, sizes of a whole clip."""

import json
import math
from dataclasses import replace

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import arguments, clip, followed, random_adapter, sound, stock_inputs
from transformers import AutoModelForImageTextToText
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

import lynx
from lynx import BackboneError
from lynx.backbones import load_backbone, skeleton
from lynx.compat import cache_beginning
from lynx.config import GuideConfig
from lynx.datasets.base import Example
from lynx.evaluation.interface import measure_interface, vocabulary
from lynx.evidence.integrated_gradients import integrated_gradients
from lynx.streams.budget import plan
from lynx.training.guidance import guide
from lynx.types import Frames, Moments, Stream

QUESTION = [{"role": "user", "content": "what is it ?"}]
DEEP = 2
"""Layers of the small LLM that are given features."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With one layer more than are given features: what is added behind the last one is seen by none."""
    write = checkpoints.FAMILIES["qwen3_vl"]
    return write(tmp_path_factory.mktemp("checkpoint"), num_hidden_layers=DEEP + 1)


@pytest.fixture
def model(folder):
    return lynx.load(folder)


@pytest.fixture(scope="module")
def plain(folder):
    return AutoModelForImageTextToText.from_pretrained(folder).eval().requires_grad_(False)


def compose(model, video):
    return model.backbone.compose(QUESTION, [model.encode("video", video)])


# --- seconds in words, and positions --------------------------------------------------------------


def captions_of(model, prompt):
    text = model.backbone.tokenizer.decode(prompt.input_ids[0]).replace("<|video_pad|>", "")
    return text[text.index("<|vision_start|>") : text.index("what")]


def test_every_two_frames_stand_behind_their_second_inside_the_template_s_marks(model):
    """The mean of both, however they are spaced; a last frame alone stands for its own."""
    times = torch.tensor([0.1, 0.6, 2.0, 2.3, 9.96], dtype=torch.float64)
    video = replace(clip(5), times=times, duration=12.0)
    prompt = compose(model, video)
    pair = "<|vision_start|><|vision_end|>"
    expected = f"<0.3 seconds>{pair}<2.1 seconds>{pair}<10.0 seconds>{pair}"  # 0.35 and 2.15 in binary
    assert captions_of(model, prompt) == f"<|vision_start|>{expected}<|vision_end|>"
    stream = model.encode("video", video)
    moments = stream.times[:: stream.grid[0] * stream.grid[1]]
    assert moments.tolist() == pytest.approx([0.35, 2.15, 9.96])
    assert len(prompt.spans["video"]) == len(stream.tokens)


@pytest.mark.parametrize(("frames", "end"), [(5, 2.5), (8, 30.0), (1, 0.4), (9, 1234.5)])
def test_captions_are_counted_before_they_are_there(model, frames, end):
    video = replace(clip(frames), times=torch.linspace(0.0, end, frames).double(), duration=end)
    stream, prompt = model.encode("video", video), compose(model, video)
    text = model.backbone.compose(QUESTION)
    outer = 2  # marks of the template
    words = prompt.input_ids.shape[1] - text.input_ids.shape[1] - outer - len(stream.tokens)
    assert model.backbone.captions(video.times) == words


@torch.no_grad()
def test_steps_of_another_sense_stand_in_grids_of_their_own_between_one_pair_of_marks(model):
    random_adapter(model, "audio")
    video = clip(4)
    seen = model.encode("video", video)
    heard = model.encode("audio", model.modality("audio").render(sound(2.0), video.times))
    prompt = model.backbone.compose(QUESTION, [seen, heard])
    span, size = prompt.spans["audio"], heard.grid[0] * heard.grid[1]
    assert span.diff().eq(1).all(), "no words between its steps"
    at = prompt.position_ids[:, 0, span].view(3, heard.steps, *heard.grid)
    start = int(prompt.position_ids[0, 0, span[0]])
    assert start == int(prompt.position_ids[:, 0, prompt.spans["video"]].amax()) + 1 + 2  # its marks
    for step in range(heard.steps):
        begin = start + step * max(heard.grid)
        assert at[0, step].eq(begin).all(), "time stands still in a grid"
        assert torch.equal(at[1, step, :, 0] - begin, torch.arange(heard.grid[0]))
        assert torch.equal(at[2, step, 0] - begin, torch.arange(heard.grid[1]))
    behind = prompt.position_ids[:, 0, span[-1] + 1]
    assert behind.eq(start + heard.steps * max(heard.grid)).all() and size * heard.steps == len(span)


@pytest.mark.parametrize(
    ("name", "millions", "vision", "llm"),
    [("2b", 2127.53, 28.836, 69.730), ("4b", 4437.82, 28.967, 132.121), ("8b", 8767.12, 35.387, 174.588)],
)
def test_the_catalog_s_counts_are_those_of_the_public_configurations(name, millions, vision, llm):
    backbone = skeleton(f"qwen3-vl-{name}")
    count = sum(weight.numel() for weight in set(backbone.model.parameters()))
    assert count / 1e6 == pytest.approx(millions, abs=0.005)
    for part, added in (("vision", vision), ("llm", llm)):
        tensors = backbone.lora_shapes(part, 64).values()
        assert sum(map(math.prod, tensors)) / 1e6 == pytest.approx(added, abs=5e-4)


# --- sizes ----------------------------------------------------------------------------------------


def test_a_longer_clip_has_smaller_frames_as_stock_s_have():
    backbone = skeleton("qwen3-vl-2b")
    for frames, tokens in ((2, 880), (16, 880), (17, 880), (32, 720), (64, 364)):
        height, width = smart_resize(frames, 720, 1280, 2, 32, 4096, 25_165_824)
        assert height * width // 32**2 == tokens
        assert backbone.tokens(frames, (720, 1280)) == -(-frames // 2) * tokens
        assert backbone.frame_pixels((720, 1280), frames) == height * width
    assert backbone.tokens(16) == 8 * 14 * 14 == 16 * 98, "pseudo-frames have one size"


@torch.no_grad()
def test_a_clip_in_parts_has_the_size_of_all_its_frames(model, plain):
    video = clip(37, 60, 80)
    inputs = stock_inputs(model.backbone, video, QUESTION)
    stream = model.stream("video", video, video.times)
    few = model.encode("video", replace(video, pixels=video.pixels[:16], times=video.times[:16]))
    assert few.grid != stream.grid == tuple((inputs["video_grid_thw"][0, 1:] // 2).tolist())
    prompt = model.backbone.compose(QUESTION, [stream])
    assert torch.equal(prompt.input_ids, inputs["input_ids"])
    logits = model.backbone.model(**arguments(model.backbone, prompt)).logits
    # In passes of their own the last bit of the tower's output may differ.
    torch.testing.assert_close(logits, plain(**inputs).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_one_frame_alone_is_the_frame_twice(model, plain):
    """Stock refuses it."""
    with pytest.raises(ValueError, match="t:1 must be larger"):
        smart_resize(1, 50, 70, 2, 8, 512, 4608)
    one = replace(clip(1), times=torch.tensor([1.5]).double(), duration=3.0)
    twice = Frames(one.pixels.repeat(2, 1, 1, 1), one.times.repeat(2), 3.0)
    inputs, prompt = stock_inputs(model.backbone, twice, QUESTION), compose(model, one)
    assert torch.equal(prompt.input_ids, inputs["input_ids"])
    logits = model.backbone.model(**arguments(model.backbone, prompt)).logits
    assert torch.equal(logits, plain(**inputs).logits)


@pytest.mark.parametrize(
    ("kind", "limit", "expected"),
    [
        ("qwen2_5_vl", None, [20, 60, 100, 400]),
        ("qwen2_5_vl", 12, [6, 6, 10, 40]),
        ("qwen2_5_vl", 40, [20, 36, 30, 40]),
        ("qwen3_vl", None, [35, 36, 30, 120]),
        ("qwen3_vl", 12, [8, 24, 30, 120]),
        ("qwen3_vl", 40, [35, 36, 30, 120]),
    ],
)
def test_a_checkpoint_that_caps_the_pixels_of_a_frame_has_stock_s_sizes(tmp_path, kind, limit, expected):
    """Numbers are those of the stock processors, which need torchvision."""
    folder = checkpoints.FAMILIES[kind](tmp_path)
    described = json.loads((folder / "preprocessor_config.json").read_text())
    described |= {"cap_pixels_per_frame": True} | ({"max_video_tokens": limit} if limit else {})
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    backbone = load_backbone(folder)
    assert [backbone.tokens(frames, (50, 70)) for frames in (2, 5, 9, 40)] == expected


def test_frames_that_fit_are_not_refused_because_fewer_would_not(tmp_path):
    """Two pairs of three frames have 20 tokens each, two pairs of four have 15."""
    model = lynx.load(checkpoints.FAMILIES["qwen3_vl"](tmp_path, max_position_embeddings=86))
    counts = [model.tokens("video", frames, (50, 70)) for frames in (2, 3, 4)]
    assert counts == [35, 40, 30] and model.backbone.media_context == 65
    assert plan(model, {"video": clip(4)}, Moments(4)).frames == 4
    with pytest.raises(BackboneError, match="use at most 2 frames"):
        plan(model, {"video": clip(4)}, Moments(3))


# --- features beside the tokens -------------------------------------------------------------------


@torch.no_grad()
def test_a_token_is_the_token_and_its_features(model, plain):
    video = clip(4)
    inputs = stock_inputs(model.backbone, video, QUESTION)
    output = plain.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    tokens = model.encode("video", video).tokens
    parts = [output.pooler_output[0], *(layer[0] for layer in output.deepstack_features)]
    assert torch.equal(tokens, torch.cat(parts, dim=1)) and len(parts) == 1 + DEEP
    assert tokens.shape[1] == model.backbone.token_width == 3 * model.backbone.width


@torch.no_grad()
def test_features_cannot_be_left_out(model):
    prompt = compose(model, clip(4))
    without = replace(prompt, inputs_embeds=prompt.inputs_embeds.clone())
    without.inputs_embeds[..., model.backbone.width :] = 0
    logits = [model.backbone.model(**arguments(model.backbone, p)).logits for p in (prompt, without)]
    assert (logits[0] - logits[1]).abs().max() > 0.1


@torch.no_grad()
def test_the_decoder_alone_gives_what_the_model_gives(model):
    """As tuning calls it."""
    backbone, prompt = model.backbone, compose(model, clip(4))
    given = backbone.decoder_inputs(prompt.input_ids, prompt.inputs_embeds)
    hidden = backbone.model.get_decoder()(**given, position_ids=prompt.position_ids).last_hidden_state
    expected = backbone.model(**arguments(backbone, prompt)).logits
    assert torch.equal(backbone.model.lm_head(hidden), expected)


@torch.no_grad()
def test_a_cache_cut_anywhere_goes_on_as_stock_does(model, plain):
    """Before the clip, in a grid, behind a grid, in the words between, behind the clip."""
    video = clip(6)
    inputs, prompt = stock_inputs(model.backbone, video, QUESTION), compose(model, video)
    length, span = prompt.input_ids.shape[1], prompt.spans["video"].tolist()
    options = {"max_new_tokens": 8, "do_sample": False}
    expected = plain.generate(**inputs, **options)[:, length:]
    whole = model.backbone.model(**arguments(model.backbone, prompt), use_cache=True)
    gap = next(place for place, behind in zip(span, span[1:], strict=False) if behind > place + 1)
    for kept in (1, span[0], span[0] + 3, gap, gap + 1, gap + 4, span[-1], span[-1] + 1, length - 1):
        cache = cache_beginning(whole.cache, dropped=length - kept)
        assert torch.equal(model.generate(prompt, cache=cache, max_new_tokens=8), expected), kept


@torch.no_grad()
def test_a_token_whose_embedding_is_the_placeholder_s_stays_a_word(folder, model):
    """With embeddings stock would find the places by their values."""
    backbone, letter = model.backbone, model.backbone.tokenizer("w")["input_ids"][0]
    weight = backbone.model.get_input_embeddings().weight
    weight[letter] = weight[backbone.placeholder]
    inputs, prompt = stock_inputs(backbone, clip(4), QUESTION), compose(model, clip(4))
    plain = AutoModelForImageTextToText.from_pretrained(folder).eval().requires_grad_(False)
    plain.get_input_embeddings().weight.data.copy_(weight)
    assert (inputs["input_ids"] == letter).any()
    logits = backbone.model(**arguments(backbone, prompt)).logits
    assert torch.equal(logits, plain(**inputs).logits)


def test_an_answer_with_the_placeholder_in_it_can_be_explained(model):
    """Random weights may say it; behind the prompt it is a word without features."""
    chat = model.chat(video=clip(4), frames=4)
    chat.ask("what ?", max_new_tokens=4)
    answered = chat.evidence.answered
    pad = torch.tensor([model.backbone.placeholder])
    said = replace(answered, ids=torch.cat([answered.ids[:2], pad, answered.ids[:1]]))
    with torch.no_grad(), said.replay() as replay:
        prompt = model.backbone.compose(said.messages, list(said.streams.values()))
        given = arguments(model.backbone, followed(model.backbone, prompt, said.ids))
        plain_pass = model.backbone.model(**given).logits[0, replay.start + 2].log_softmax(-1)
        assert float(replay.log_probs(replay.inputs, [3])) == pytest.approx(float(plain_pass[said.ids[3]]))


def test_gradients_reach_tokens_and_features_which_count_as_one(model):
    random_adapter(model, "audio")
    chat = model.chat(video=clip(), audio=sound(), frames=4)
    chat.ask("what ?", max_new_tokens=4)
    width = model.backbone.width
    with chat.evidence.answered.replay() as replay:
        inputs = replay.inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(replay.log_probs(inputs, [0]), inputs)
        found = integrated_gradients(replay, [0])
        changed = replay.inputs != replay.blank
        media = torch.cat(list(replay.spans.values()))
    for part in gradient[0, media].split(width, dim=1):
        assert part.abs().sum(1).gt(0).all(), "every token, and every layer's features"
    assert changed[0, media].any(1).all() and changed[..., width:].any()
    assert found.values.shape == gradient.shape[1:2] and found.values[media].ne(0).all()
    assert float(found.values.sum()) == pytest.approx(found.real - found.blank, abs=1e-4)


def test_a_type_embedding_is_on_the_token_and_not_on_its_features(model):
    mark = torch.linspace(-1, 1, model.backbone.width)
    stream = model.encode("video", clip(2))
    marked = replace(stream, type_embedding=mark)
    token, *features = marked.embeds.split(model.backbone.width, dim=1)
    plain_token, *plain_features = stream.tokens.split(model.backbone.width, dim=1)
    assert torch.equal(token, plain_token + mark)
    assert all(torch.equal(a, b) for a, b in zip(features, plain_features, strict=True))


def test_the_map_of_the_interface_shows_tokens_and_compares_statistics_of_all(model):
    random_adapter(model, "audio")
    examples = [Example("a", {"video": clip(seed=3)})]
    guidance = guide(model, examples, GuideConfig(frames=4), progress=False)
    session = model.chat(video=clip(), audio=sound(), frames=4)
    row = measure_interface(session, guidance=guidance).table()[-1]
    heard = session.encode()["audio"].tokens.double()
    shown = heard[:, : model.backbone.width]
    assert row["norm"] == pytest.approx(float(shown.norm(dim=1).mean()), rel=1e-5)
    words = torch.nn.functional.normalize(vocabulary(model.backbone).double(), dim=1).mean(0)
    directions = torch.nn.functional.normalize(shown, dim=1).mean(0)
    assert row["to_vocabulary"] == pytest.approx(1 - float(words @ directions), abs=1e-5)
    values = heard.numpy()
    statistics = np.linalg.norm(values.mean(0) - guidance.token_mean.numpy())
    statistics += np.linalg.norm(values.var(0) - guidance.token_var.numpy())
    assert row["statistics"] == pytest.approx(statistics, rel=1e-4)
    assert guidance.token_mean.shape == (model.backbone.token_width,)


def test_streams_are_as_large_as_they_are_counted(model):
    stream: Stream = model.encode("video", clip(4))
    assert stream.tokens.nbytes == model.tokens("video", 4, (50, 70)) * model.backbone.token_width * 4
