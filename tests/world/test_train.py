"""The training of lynx-tiny: batches that follow from the step, exact resume, a stock folder at the end."""

import json

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

from lynx.errors import DataError
from lynx.world.pretraining.batches import frame_numbers, joint_batch, vision_batch
from lynx.world.pretraining.loop import Muons, Run
from lynx.world.pretraining.model import build_backbone
from lynx.world.pretraining.packing import IGNORE, Packer
from lynx.world.pretraining.train import TrainConfig, answer_loss, train


@pytest.fixture(scope="module")
def backbone():
    model, tokenizer = build_backbone(0)
    return model.eval(), tokenizer, Packer(tokenizer)


def test_a_batch_follows_from_its_step():
    for one, other in zip(vision_batch(3, frames=4), vision_batch(3, frames=4), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(vision_batch(3, frames=4)[0], vision_batch(4, frames=4)[0])


def test_ranks_and_steps_never_draw_the_same_clip(backbone):
    *_, packer = backbone
    drawn = [joint_batch(step, rank, 2, packer, clips=2)[0] for step in range(2) for rank in range(2)]
    clips = [clip for batch in drawn for clip in batch]
    assert not any(torch.equal(a, b) for i, a in enumerate(clips) for b in clips[:i])


def test_frames_are_the_middles_of_equal_parts():
    assert frame_numbers().tolist() == [6, 18, 30, 42, 54, 66, 78, 90]


@pytest.mark.parametrize("conversation", [False, True])
def test_packed_questions_equal_the_stock_forward(backbone, conversation):
    """The loss of packed questions is that of each alone behind its video, through the stock model."""
    model, tokenizer, packer = backbone
    pixels, batch, *_ = joint_batch(3 if conversation else 0, 0, 2, packer, clips=1)
    with torch.no_grad():
        videos = model.model.get_video_features(pixels).pooler_output
        loss = answer_loss(model, batch, torch.stack(list(videos)))
        total, count = 0.0, 0
        ids, positions, labels = batch.ids[0], batch.positions[0], batch.labels[0]
        prefix = int((ids == model.config.video_token_id).nonzero().max()) + 1
        starts = [prefix, *((positions[1:] < positions[:-1]).nonzero().flatten() + 1).tolist(), len(ids)]
        for start, end in zip(starts[:-1], starts[1:], strict=True):
            alone = torch.cat([ids[:prefix], ids[start:end]])[None]
            wanted = torch.cat([labels[:prefix], labels[start:end]])[None]
            logits = model(input_ids=alone, pixel_values_videos=pixels).logits[wanted != IGNORE]
            total += nn.functional.cross_entropy(logits, wanted[wanted != IGNORE], reduction="sum").item()
            count += int((wanted != IGNORE).sum())
    assert len(starts) == 2 if conversation else len(starts) > 10
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def optimise(folder, steps, until):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    run = Run("toy", folder, model, Muons([(list(model.named_parameters()), 1.0)], 1e-2, steps))
    for step in run.steps(every=5):
        if step == until:
            break
        data = torch.randn(32, 8, generator=torch.Generator().manual_seed(step))
        (model(data) - data[:, :4]).square().mean().backward()
        run.optimizer.step(step)
    return model.state_dict()


def test_a_killed_run_ends_where_an_unbroken_one_does(tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    unbroken = optimise(tmp_path / "one", 20, None)
    optimise(tmp_path / "two", 20, 13)
    resumed = optimise(tmp_path / "two", 20, None)
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
