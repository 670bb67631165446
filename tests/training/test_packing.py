"""Packed questions are answered as if each had been asked alone, or as one conversation."""


import stages
import torch
from stages import streams_of
from torch.nn import functional as F

from lynx.datasets.base import Turn
from lynx.training.packing import IGNORE, Packer, attention_mask, shared_length
from lynx.training.tuning_loss import answer_loss


def alone(model, streams, turn):
    """Logits (answer tokens, V) of one question in a sequence of its own, and the answer's ids."""
    backbone = model.backbone
    prompt = backbone.compose(turn.messages, streams)
    ids = backbone.tokenizer(turn.answer, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*ids, backbone.tokenizer.eos_token_id]])
    embeds = torch.cat([prompt.inputs_embeds, backbone.model.get_input_embeddings()(ids)], 1)
    logits = backbone.model(inputs_embeds=embeds).logits[0]
    return logits[prompt.input_ids.shape[1] - 1 : -1], ids[0]


@torch.no_grad()
def test_packed_questions_get_the_logits_of_separate_sequences(model):
    examples = stages.clips(3)
    streams = [streams_of(model, example) for example in examples]
    turns = [list(example.turns[: 4 - i]) for i, example in enumerate(examples)]  # rows of unequal length
    turns[0][1] = turns[0][1].following(turns[0][2:])  # a question behind a conversation that is given
    turns[2][0] = turns[2][0].following(turns[0][:1])
    streams[1] = streams[1][:1]  # and one clip without sound
    packed = Packer(model.backbone).pack(streams, turns)
    hidden = model.backbone.model.get_decoder()(
        inputs_embeds=packed.embeds, attention_mask=packed.mask, position_ids=packed.positions
    ).last_hidden_state
    logits = model.backbone.model.lm_head(hidden)
    losses, number = [], 0
    for row, asked in enumerate(turns):
        for turn in asked:
            number += 1
            mine = (packed.questions[row] == number) & (packed.labels[row] != IGNORE)
            expected, ids = alone(model, streams[row], turn)
            torch.testing.assert_close(logits[row][mine], expected, rtol=0, atol=1e-5)
            assert packed.labels[row][mine].tolist() == ids.tolist()
            losses.append(F.cross_entropy(expected, ids, reduction="none"))
    loss, right = answer_loss(model.backbone, packed)
    torch.testing.assert_close(loss, torch.cat(losses).mean())
    assert right.shape == (number,)


@torch.no_grad()
def test_a_packed_conversation_is_one_plain_sequence(model):
    """Its logits are those of a causal forward of [prompt, answer, what a chat adds, answer, ...]."""
    (example,) = stages.clips(1)
    streams, turns = streams_of(model, example), list(example.turns[:3])
    packer, backbone = Packer(model.backbone), model.backbone
    packed = packer.pack([streams], [turns], conversation=True)
    hidden = backbone.model.get_decoder()(
        inputs_embeds=packed.embeds, attention_mask=packed.mask, position_ids=packed.positions
    ).last_hidden_state
    logits = backbone.model.lm_head(hidden)[0]
    text, answers = "", []
    for i, turn in enumerate(turns):
        text += f"<|im_start|>user {'' if i else '<video>'}\n{turn.question}<|im_end|><|im_start|>assistant\n"
        start = len(backbone.tokenizer(text).input_ids)
        text += f"{turn.answer}<|im_end|>"
        answers.append(range(start - 1, len(backbone.tokenizer(text).input_ids) - 1))
    ids = backbone.tokenizer(text, return_tensors="pt").input_ids[0]
    place = int((ids == backbone.placeholder).nonzero())
    media = torch.cat([stream.tokens for stream in streams])
    embed = backbone.model.get_input_embeddings()
    embeds = torch.cat([embed(ids[:place]), media, embed(ids[place + 1 :])])[None]
    expected = backbone.model(inputs_embeds=embeds).logits[0]
    for number, places in enumerate(answers, 1):
        mine = (packed.questions[0] == number) & (packed.labels[0] != IGNORE)
        behind = [i + len(media) - 1 for i in places]
        assert packed.labels[0][mine].tolist() == ids[[i + 1 for i in places]].tolist()
        torch.testing.assert_close(logits[mine], expected[behind], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_question_is_right_if_all_its_tokens_are(model):
    (example,) = stages.clips(1)
    streams = streams_of(model, example)
    logits, _ = alone(model, streams, Turn("hear ?", "xyz"))
    best = model.backbone.tokenizer.decode(logits[:1].argmax(-1))
    turns = [Turn("hear ?", best), Turn("hear ?", "xyz"), *example.turns[2:4]]
    _, right = answer_loss(model.backbone, Packer(model.backbone).pack([streams], [turns]))
    expected = []
    for turn in turns:
        logits, ids = alone(model, streams, turn)
        expected.append(float((logits.argmax(-1) == ids).all()))
    assert right.tolist() == expected


def test_who_sees_whom():
    questions = torch.tensor([[0, 0, 1, 1, 2, -1]])
    seen = attention_mask(questions)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_the_shared_part_leaves_every_question_something_of_its_own():
    assert shared_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_length([[1, 2], [1, 2, 4]]) == 1
    assert shared_length([[1, 2, 3]]) == 2
    assert shared_length([[1], [1]]) == 0
