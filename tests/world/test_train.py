"""The training of lynx-tiny: batches that follow from the step, exact resume, a stock folder at the end."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

from lynx.errors import DataError
from lynx.training.packing import Packer
from lynx.training.tuning_loss import answer_loss
from lynx.world.dataset import frame_numbers
from lynx.world.pretraining.batches import SCENES, joint_batch, text_batch, vision_batch
from lynx.world.pretraining.loop import MuonAdamW, Phase
from lynx.world.pretraining.model import FRAMES, build_backbone, trainable_backbone
from lynx.world.pretraining.text import tell
from lynx.world.pretraining.train import TrainConfig, patch_features, train, video_streams
from lynx.world.scene.scene import draw_scene


@pytest.fixture(scope="module")
def backbone():
    return trainable_backbone(0)


def test_a_batch_follows_from_its_step(backbone):
    one, again, other = (vision_batch(backbone, step, frames=4) for step in (3, 3, 4))
    assert torch.equal(one.pixels, again.pixels) and not torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.classes, again.classes) and torch.equal(one.places, again.places)


def test_ranks_and_steps_never_draw_the_same_clip(backbone):
    drawn = [joint_batch(backbone, step, rank, 2, clips=2)[0] for step in range(2) for rank in range(2)]
    clips = [clip for batch in drawn for clip in batch.pixels.split(FRAMES)]
    assert len(clips) == 8
    assert not any(torch.equal(a, b) for i, a in enumerate(clips) for b in clips[:i])


def test_frames_are_the_middles_of_equal_parts():
    assert frame_numbers(FRAMES).tolist() == [6, 18, 30, 42, 54, 66, 78, 90]


@pytest.mark.parametrize("conversation", [False, True])
def test_the_joint_loss_is_that_of_each_question_through_the_stock_model(backbone, conversation):
    frames, turns = joint_batch(backbone, 0, 0, 2, clips=1)
    with torch.no_grad():
        clips = video_streams(backbone, patch_features(backbone, frames.pixels), 1)
        expected, _ = backbone.encode(frames.pixels)
        assert torch.allclose(clips[0].tokens, expected, atol=1e-5)
        packed = Packer(backbone).pack([clips], turns, conversation)
        loss, _ = answer_loss(backbone, packed)
        stock = stock_loss(backbone, turns[0], conversation, frames.pixels)
    assert len(turns[0]) == 13 and loss.item() == pytest.approx(stock, rel=1e-5)


@pytest.mark.parametrize("step", [0, 3])  # side by side, and as conversations
def test_the_text_loss_is_that_of_each_told_question_through_the_stock_model(backbone, step):
    with torch.no_grad():
        loss, _ = answer_loss(backbone, text_batch(Packer(backbone), step, scenes=1))
        rng = np.random.default_rng([step, 0, 0])
        text, asked = tell(draw_scene("train", SCENES["text"], step * 8), rng)
        turns = [asked[i] for i in rng.permutation(len(asked))[:10]]
        stock = stock_loss(backbone, turns, step == 3, None, text)
    assert loss.item() == pytest.approx(stock, rel=1e-5)


def stock_loss(backbone, turns, conversation, pixels, text=""):
    """Mean loss over the tokens of all answers, from the chat template and the stock model alone."""
    total = count = 0
    for place, turn in enumerate(turns):
        before = turns[:place] if conversation else []
        words = [word for past in before for word in (past.question, past.answer)] + [turn.question]
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": word} for i, word in enumerate(words)]
        messages[0]["content"] = f"{text} {messages[0]['content']}".strip()
        prompt = backbone.prompt_ids(messages, with_media=pixels is not None)
        media = {}
        if pixels is not None:
            at = prompt.index(backbone.placeholder)
            prompt[at : at + 1] = [backbone.placeholder] * backbone.tokens(len(pixels))
            media = {"pixel_values_videos": pixels[None]}
        end = backbone.tokenizer.eos_token_id
        answer = [*backbone.tokenizer(turn.answer, add_special_tokens=False).input_ids, end]
        logits = backbone.model(input_ids=torch.tensor([prompt + answer]), **media).logits[0]
        predicted = logits[len(prompt) - 1 : -1]  # of each token of the answer
        total += nn.functional.cross_entropy(predicted, torch.tensor(answer), reduction="sum").item()
        count += len(answer)
    return total / count


def optimize(folder, steps, until):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    run = Phase("toy", folder, model, MuonAdamW([(list(model.named_parameters()), 1.0)], 1e-2, steps))
    for step in run.steps(every=5):
        if step == until:
            break
        data = torch.randn(32, 8, generator=torch.Generator().manual_seed(step))
        (model(data) - data[:, :4]).square().mean().backward()
        run.optimizer.step(step)
    return model.state_dict()


def test_a_killed_run_ends_where_an_unbroken_one_does(tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    unbroken = optimize(tmp_path / "one", 20, None)
    optimize(tmp_path / "two", 20, 13)
    resumed = optimize(tmp_path / "two", 20, None)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_training_writes_a_stock_checkpoint(tmp_path):
    config = TrainConfig(vision_steps=1, text_steps=1, joint_steps=2, clips=2, frozen=0.5)
    folder = train(config, tmp_path)
    model, tokenizer = (
        LlavaOnevisionForConditionalGeneration.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    start, _ = build_backbone(config.seed)
    assert not torch.equal(model.lm_head.weight, start.lm_head.weight)
    assert tokenizer("what sound do you hear ?").input_ids
    about = json.loads((folder / "lynx_tiny.json").read_text())
    assert about["training"]["joint_step"] == 2 and "bell" in about["words"]
    with pytest.raises(DataError, match="other settings"):
        train(TrainConfig(seed=1), tmp_path)
