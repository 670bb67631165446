"""Greedy answers to many questions about clips.

`answer_batch` computes what the prompts about a clip share once and writes all answers side by side.
`answer_alone` asks transformers' own `generate`, one prompt at a time: what a chat does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lynx.backbones import Backbone
from lynx.backbones.decoding import generate
from lynx.types import Prompt

MAX_NEW_TOKENS = 20
"""New tokens of an answer, at most; the longest of the world's answers has 11 words."""


@torch.no_grad()
def answer_batch(
    backbone: Backbone, prompts: Sequence[Prompt], clips: Sequence[int] = (), limit: int = MAX_NEW_TOKENS
) -> list[str]:
    """The greedy answer to each prompt, as if asked alone; under the adapters that are on.

    clips: a number a prompt, the same for those about the same media; all are where none are given.
    """
    shared, clips = _shared(prompts), clips or [0] * len(prompts)
    first = {clip: prompt for clip, prompt in reversed(list(zip(clips, prompts, strict=True)))}
    output = backbone.model(
        inputs_embeds=torch.cat([prompt.inputs_embeds[:, :shared] for prompt in first.values()]),
        attention_mask=torch.cat([prompt.attention_mask[:, :shared] for prompt in first.values()]),
        position_ids=torch.cat([prompt.position_ids[..., :shared] for prompt in first.values()], -2),
        use_cache=True,
        logits_to_keep=1,
    )
    cache, row = output.cache, {clip: i for i, clip in enumerate(first)}
    cache.batch_select_indices(torch.tensor([row[clip] for clip in clips], device=backbone.device))
    embeds, mask, positions = _rest(prompts, shared)
    ends = torch.tensor(_ends(backbone), device=mask.device)
    ids = torch.zeros(len(prompts), 0, dtype=torch.long, device=mask.device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=mask.device)
    while ids.shape[1] < limit and not done.all():
        output = backbone.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        new = output.logits[:, -1].argmax(-1).masked_fill(done, backbone.pad_id)
        ids = torch.cat([ids, new[:, None]], 1)  # (B, new)
        done |= torch.isin(new, ends)
        embeds = backbone.model.get_input_embeddings()(new[:, None])
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        positions = positions[..., -1:] + 1
    return [_text(backbone, row) for row in ids]


def _shared(prompts: Sequence[Prompt]) -> int:
    """The number of tokens with which all prompts begin; at least one is left of each."""
    rows = [prompt.input_ids[0].tolist() for prompt in prompts]
    length = min(len(row) for row in rows) - 1
    return next((i for i in range(length) if any(row[i] != rows[0][i] for row in rows)), length)


def _rest(prompts: Sequence[Prompt], shared: int) -> tuple[Tensor, Tensor, Tensor]:
    """What follows the shared part, padded in front: embeds (B, R, D), mask (B, shared + R), positions."""
    longest = max(prompt.input_ids.shape[1] for prompt in prompts)
    embeds, masks, positions = [], [], []
    for prompt in prompts:
        gap = longest - prompt.input_ids.shape[1]
        rest = prompt.inputs_embeds[:, shared:]
        embeds.append(torch.cat([rest.new_zeros(1, gap, rest.shape[-1]), rest], 1))
        places = prompt.position_ids[..., shared:]
        positions.append(torch.cat([places.new_zeros(*places.shape[:-1], gap), places], -1))
        mask = prompt.attention_mask
        masks.append(torch.cat([mask[:, :shared], mask.new_zeros(1, gap), mask[:, shared:]], 1))
    return torch.cat(embeds), torch.cat(masks), torch.cat(positions, -2)


def _ends(backbone: Backbone) -> list[int]:
    ends = backbone.model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, (list, tuple)) else [ends]


def _text(backbone: Backbone, ids: Tensor) -> str:
    return str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def answer_alone(backbone: Backbone, prompt: Prompt, limit: int = MAX_NEW_TOKENS) -> str:
    """The answer of transformers' own `generate` to one prompt, greedy, under the adapters that are on."""
    return _text(backbone, generate(backbone, prompt, max_new_tokens=limit)[0])
