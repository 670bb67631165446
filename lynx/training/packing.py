"""Many questions about a clip behind one shared prefix, as if each had been asked alone.

A sequence is [prefix | question 1 + answer | question 2 + answer | ...]: a boolean mask lets a question see
the prefix and itself, and its positions go on from the prefix. So the streams go through the LLM once a clip.
Axis letters: B clips, S sequence, R numbers of an interface token (see `Stream`), Q questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lynx.backbones import Backbone
from lynx.datasets.base import Turn
from lynx.types import Stream

IGNORE = -100


@dataclass(frozen=True)
class Asked:
    """A question in tokens: `prompt` with one placeholder for all streams, `answer` with its end."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Packed:
    """A batch for the LLM; padding, right of a clip's last question, is masked.

    ids: (B, S), a placeholder for each interface token.
    embeds: (B, S, R), words and interface tokens; mask: (B, 1, S, S) bool, True = may be seen.
    positions: (B, S), or (3, B, S) as the family has them.
    labels: (B, S), the next token where it belongs to an answer, else IGNORE.
    questions: (B, S), which question of the batch a token belongs to, counted from 1, else <= 0.
    """

    ids: Tensor
    embeds: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor
    questions: Tensor


class Packer:
    """Tokenizes every question and every answer once, and packs batches of clips."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._prompts: dict[tuple[bool, tuple[str, ...]], list[int]] = {}
        self._answers: dict[str, list[int]] = {}
        self._follow_ups: dict[str, list[int]] = {}

    def ask(self, turn: Turn, with_media: bool = True, context: str = "") -> Asked:
        """A turn in tokens: the prompt is the one a chat composes, the answer ends with the end token.

        context: text before the first question in the same message; such prompts are not cached.
        """
        messages = turn.messages
        known = with_media, tuple(message["content"] for message in messages)
        prompt = self._prompts.get(known) if not context else None
        if prompt is None:
            if context:
                messages[0]["content"] = f"{context} {messages[0]['content']}"
            prompt = self.backbone.prompt_ids(messages, with_media)
            if not context:
                self._prompts[known] = prompt
        if turn.answer not in self._answers:
            self._answers[turn.answer] = self.backbone.answer_ids(turn.answer)
        return Asked(prompt, self._answers[turn.answer])

    def converse(self, turns: Sequence[Turn], with_media: bool = True, context: str = "") -> list[Asked]:
        """Turns without a history of their own as one conversation: a prompt is what the template puts
        behind the answer before.

        Some templates write a past answer's header differently; here it stays as generated.
        """
        asked = [self.ask(turns[0], with_media, context)]
        for turn in turns[1:]:
            if turn.question not in self._follow_ups:
                # A template looks no further back than the answer before, so any answer will do here.
                user = {"role": "user", "content": turn.question}
                told = [user, {"role": "assistant", "content": turn.question}]
                ids = self.backbone.prompt_ids(told, with_media=False)
                end = self.backbone.tokenizer.eos_token_id  # of the answer; a template may append more
                before = len(ids) - ids[::-1].index(end) if end in ids else len(ids)
                follow_up = self.backbone.prompt_ids([*told, user], with_media=False)[before:]
                self._follow_ups[turn.question] = follow_up
            asked.append(Asked(self._follow_ups[turn.question], self.ask(turn, with_media).answer))
        return asked

    def pack(
        self,
        streams: Sequence[Sequence[Stream]],
        turns: Sequence[Sequence[Turn]],
        conversation: bool = False,
        contexts: Sequence[str] = (),
    ) -> Packed:
        """Clips and their questions -> one batch. streams: for each clip those of its senses.

        conversation: a question sees those before it and their answers, instead of the clip alone.
        contexts: for each clip a text before its questions, in place of media or in addition to them.
        """
        rows: list[tuple[list[int], list[int], list[int], Tensor, dict[str, Tensor]]] = []
        number = 0  # of the question, over the whole batch
        for media, questions, context in zip(streams, turns, contexts or [""] * len(turns), strict=True):
            if conversation:
                asked = self.converse(questions, bool(media), context)
            else:
                asked = [self.ask(turn, bool(media), context) for turn in questions]
            prompts = [question.prompt for question in asked]
            shared = len(prompts[0]) - 1 if conversation else shared_length(prompts)
            # one token more than is shared: its position is where every question begins
            ids, spans, places = self.backbone.insert([*prompts[0][:shared], self.backbone.pad_id], media)
            ids, begin = ids[:-1], places[..., -1:]
            parts = [places[..., :-1]]
            labels, numbers = [IGNORE] * len(ids), [0] * len(ids)
            for i, question in enumerate(asked):
                number += 1
                prompt = question.prompt if conversation and i else question.prompt[shared:]
                rest = prompt + question.answer
                ids += rest
                parts.append(begin + torch.arange(len(rest)))
                begin = begin + len(rest) if conversation else begin
                labels += [IGNORE] * (len(prompt) - 1) + [*question.answer, IGNORE]
                numbers += [number] * len(rest)
            rows.append((ids, labels, numbers, torch.cat(parts, dim=-1), spans))
        all_ids, all_labels, all_numbers = (
            pad_sequence([torch.tensor(row[i]) for row in rows], batch_first=True, padding_value=fill)
            for i, fill in enumerate((self.backbone.pad_id, IGNORE, -1))
        )  # (B, S) each
        device, length = self.backbone.device, all_ids.shape[1]
        positions = torch.stack([F.pad(row[3], (0, length - row[3].shape[-1])) for row in rows], -2)
        all_ids = all_ids.to(device)
        embeds = self.backbone.embed(all_ids)  # (B, S, R)
        for b, (*_, spans) in enumerate(rows):
            for stream in streams[b]:
                embeds[b, spans[stream.sense].to(device)] = stream.embeds.to(embeds)  # (n, R)
        seen = all_numbers.to(device)
        mask = attention_mask(seen.clamp(max=0) if conversation else seen)  # a conversation is all prefix
        return Packed(all_ids, embeds, mask, positions.to(device), all_labels.to(device), seen)


def shared_length(prompts: Sequence[list[int]]) -> int:
    """Length of the prompts' common prefix, without the last token of any, which predicts its answer."""
    longest = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0]
    return next((i for i in range(longest) if any(p[i] != first[i] for p in prompts[1:])), longest)


def attention_mask(questions: Tensor) -> Tensor:
    """(B, S) question numbers (0 = prefix, -1 = padding) -> (B, 1, S, S) bool: True = may attend.

    A token attends to earlier tokens of the prefix and of its own question; padding only to padding.
    """
    size = questions.shape[1]
    key, query = questions[:, None, None, :], questions[:, None, :, None]
    causal = torch.ones(size, size, dtype=torch.bool, device=questions.device).tril()
    return causal & ((key == 0) | (key == query))
