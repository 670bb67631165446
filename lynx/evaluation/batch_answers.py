"""Greedy answers to many questions about clips.

`answer_batch` computes what the prompts about a clip share once and writes all answers side by side.
`answer_alone` asks transformers' own `generate`, one prompt at a time: what a chat does. `likeliest` does not
let it answer, but takes the likeliest of a few words.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lynx.backbones import Backbone
from lynx.backbones.decoding import generate
from lynx.errors import BackboneError
from lynx.types import Prompt

MAX_NEW_TOKENS = 20
"""Maximum number of new tokens of an answer; the longest of the world's answers has 11 words."""


@torch.no_grad()
def answer_batch(
    backbone: Backbone, prompts: Sequence[Prompt], clips: Sequence[int] = (), limit: int = MAX_NEW_TOKENS
) -> list[str]:
    """The greedy answer to each prompt, as if asked alone; under the adapters that are on.

    clips: a number for each prompt, the same for those about the same media; () = all are about the same.
    """
    clips = clips or [0] * len(prompts)
    # What all prompts begin with is computed once a clip; at least one token is left of each.
    rows = [prompt.input_ids[0].tolist() for prompt in prompts]
    longest, shortest = max(map(len, rows)), min(map(len, rows)) - 1
    shared = next((i for i in range(shortest) if any(row[i] != rows[0][i] for row in rows)), shortest)
    first = {clip: prompt for clip, prompt in reversed(list(zip(clips, prompts, strict=True)))}
    ids = torch.cat([prompt.input_ids[:, :shared] for prompt in first.values()])
    embeds = torch.cat([prompt.inputs_embeds[:, :shared] for prompt in first.values()])
    output = backbone.model(
        **backbone.inputs(ids, embeds),
        attention_mask=torch.cat([prompt.attention_mask[:, :shared] for prompt in first.values()]),
        position_ids=torch.cat([prompt.position_ids[..., :shared] for prompt in first.values()], -2),
        use_cache=True, logits_to_keep=1,
    )
    cache, place = output.cache, {clip: i for i, clip in enumerate(first)}
    cache.batch_select_indices(torch.tensor([place[clip] for clip in clips], device=backbone.device))
    # What follows is padded in front, so that all prompts end side by side.
    padded: tuple[list[Tensor], ...] = ([], [], [], [])
    for prompt, row in zip(prompts, rows, strict=True):
        front, mask = (longest - len(row), 0), prompt.attention_mask
        padded[0].append(F.pad(prompt.inputs_embeds[:, shared:], (0, 0, *front)))
        padded[1].append(F.pad(prompt.position_ids[..., shared:], front))
        padded[2].append(torch.cat([mask[:, :shared], F.pad(mask[:, shared:], front)], 1))
        padded[3].append(F.pad(prompt.input_ids[:, shared:], front, value=backbone.pad_id))
    embeds, positions, mask = torch.cat(padded[0]), torch.cat(padded[1], -2), torch.cat(padded[2])
    given = torch.cat(padded[3])
    # given: (B, longest - shared) ids, embeds: (B, longest - shared, R), mask: (B, longest)
    ends = torch.tensor(backbone.model.generation_config.eos_token_id, device=mask.device)  # one or several
    ids = torch.zeros(len(prompts), 0, dtype=torch.long, device=mask.device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=mask.device)
    while ids.shape[1] < limit and not done.all():
        output = backbone.model(
            **backbone.inputs(given, embeds),
            attention_mask=mask, position_ids=positions, cache=cache, use_cache=True, logits_to_keep=1,
        )
        new = output.logits[:, -1].argmax(-1).masked_fill(done, backbone.pad_id)
        ids = torch.cat([ids, new[:, None]], 1)  # (B, new)
        done |= torch.isin(new, ends)
        given = new[:, None]
        embeds = backbone.embed(given)
        mask = F.pad(mask, (0, 1), value=1)
        positions = positions[..., -1:] + 1
    return [_text(backbone, row) for row in ids]


def _text(backbone: Backbone, ids: Tensor) -> str:
    return str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def answer_alone(backbone: Backbone, prompt: Prompt, limit: int = MAX_NEW_TOKENS) -> str:
    """The answer of transformers' own `generate` to one prompt, greedy, under the adapters that are on."""
    return _text(backbone, generate(backbone, prompt, max_new_tokens=limit)[0])


@torch.no_grad()
def likeliest(backbone: Backbone, prompt: Prompt, words: Sequence[str]) -> str:
    """Which of these words is likeliest to begin the answer, each with or without a space before it.

    Raises: BackboneError: the tokenizer has no token of its own for one of them.
    """
    tokens = {word: _tokens_of(backbone, word) for word in words}
    output = backbone.model(
        **backbone.inputs(prompt.input_ids, prompt.inputs_embeds),
        attention_mask=prompt.attention_mask, position_ids=prompt.position_ids, logits_to_keep=1,
    )
    logits = output.logits[0, -1].float()  # (V,)
    return max(words, key=lambda word: float(logits[tokens[word]].max()))


def _tokens_of(backbone: Backbone, word: str) -> list[int]:
    """The tokens that are this word alone, with or without a space. Raises: BackboneError: there is none."""
    encoded = [backbone.tokenizer.encode(text, add_special_tokens=False) for text in (word, f" {word}")]
    found = [ids[0] for ids in encoded if len(ids) == 1 and _text(backbone, torch.tensor(ids)) == word]
    if not found:
        raise BackboneError(f"{backbone.source} has no token that is {word!r}: let it answer")
    return found
