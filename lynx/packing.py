"""Many questions about a clip behind one shared prefix, as if each had been asked alone.

A sequence is [prefix | question 1 + answer | question 2 + answer | ...]: a boolean mask lets a question see
the prefix and itself, and its positions go on from the prefix. So the streams go through the LLM once a clip.
Axis letters: B clips, S sequence, D width, Q questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lynx.backbones import Backbone
from lynx.data import Turn

IGNORE = -100


@dataclass(frozen=True)
class Asked:
    """A question in tokens: `prompt` with one placeholder for all streams, `answer` with its end."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Packed:
    """A batch for the LLM; what is right of a clip's last question is padding that nobody sees.

    embeds: (B, S, D); mask: (B, 1, S, S) bool, True = may be seen; positions: (B, S).
    labels: (B, S), the next token where it belongs to an answer, else IGNORE.
    questions: (B, S), which question of the batch a token belongs to, counted from 1, else <= 0.
    """

    embeds: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor
    questions: Tensor


class Packer:
    """Tokenises every question and every answer once, and packs batches of clips."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._prompts: dict[tuple[str, bool], list[int]] = {}
        self._answers: dict[str, list[int]] = {}
        self._follow_ups: dict[str, list[int]] = {}

    def ask(self, turn: Turn, with_media: bool = True) -> Asked:
        """A turn in tokens: the prompt is the one a chat composes, the answer ends as the LLM ends it."""
        tokenizer, known = self.backbone.tokenizer, (turn.question, with_media)
        if known not in self._prompts:
            message = {"role": "user", "content": turn.question}
            self._prompts[known] = self.backbone.prompt_ids([message], with_media)
        if turn.answer not in self._answers:
            ids = tokenizer(turn.answer, add_special_tokens=False)["input_ids"]
            self._answers[turn.answer] = [*ids, tokenizer.eos_token_id]
        return Asked(self._prompts[known], self._answers[turn.answer])

    def converse(self, turns: Sequence[Turn], with_media: bool = True) -> list[Asked]:
        """The turns as one conversation: a prompt is what the chat template puts behind the answer before.

        Some templates write an answer's header otherwise in the history; here it is the one it was given.
        """
        asked = [self.ask(turn, with_media) for turn in turns]
        later = zip(turns[1:], asked[1:], strict=True)
        return asked[:1] + [Asked(self._follow_up(turn.question), first.answer) for turn, first in later]

    def _follow_up(self, question: str) -> list[int]:
        """What the template puts behind an answer for a question; a template does not look further back."""
        if question not in self._follow_ups:
            user = {"role": "user", "content": question}
            told = [user, {"role": "assistant", "content": question}]
            before = len(self.backbone.prompt_ids(told, with_media=False))
            self._follow_ups[question] = self.backbone.prompt_ids([*told, user], with_media=False)[before:]
        return self._follow_ups[question]

    def pack(
        self,
        streams: Sequence[Sequence[Tensor]],
        turns: Sequence[Sequence[Turn]],
        conversation: bool = False,
    ) -> Packed:
        """Clips and their questions -> one batch. streams: for each clip the tokens (n, D) of its senses.

        conversation: a question sees those before it and their answers, instead of the clip alone.
        """
        rows: list[list[list[int]]] = []
        places: list[int] = []
        number = 0
        for media, questions in zip(streams, turns, strict=True):
            if conversation:
                asked = self.converse(questions, with_media=bool(media))
            else:
                asked = [self.ask(turn, with_media=bool(media)) for turn in questions]
            row, place = self._row(asked, sum(len(tokens) for tokens in media), number, conversation)
            rows.append(row)
            places.append(place)
            number += len(asked)
        fill = (self.backbone.pad_id, 0, IGNORE, -1)
        device = self.backbone.device
        ids, positions, labels, numbers = (
            pad_sequence([torch.tensor(row[i]) for row in rows], batch_first=True, padding_value=fill[i])
            for i in range(4)
        )  # (B, S) each
        embeds = self.backbone.model.get_input_embeddings()(ids.to(device)).detach()
        for b, place in enumerate(places):
            if streams[b]:
                tokens = torch.cat(list(streams[b])).to(embeds)  # (n, D)
                embeds[b, place : place + len(tokens)] = tokens
        numbers = numbers.to(device)
        seen = numbers.clamp(max=0) if conversation else numbers  # in a conversation all is prefix
        return Packed(embeds, see(seen), positions.to(device), labels.to(device), numbers)

    def _row(
        self, asked: Sequence[Asked], media: int, first: int, conversation: bool
    ) -> tuple[list[list[int]], int]:
        """(ids, positions, labels, questions) of one clip, and where its streams begin."""
        prompts = [question.prompt for question in asked]
        shared = len(prompts[0]) - 1 if conversation else shared_length(prompts)
        head, place = list(prompts[0][:shared]), 0
        if media:
            place = head.index(self.backbone.placeholder)
            head[place : place + 1] = [self.backbone.placeholder] * media
        ids, positions = head.copy(), list(range(len(head)))
        labels, questions = [IGNORE] * len(head), [0] * len(head)
        for number, question in enumerate(asked, first + 1):
            prompt = question.prompt if conversation and number > first + 1 else question.prompt[shared:]
            rest = prompt + question.answer
            start = len(ids) if conversation else len(head)
            ids += rest
            positions += range(start, start + len(rest))
            labels += [IGNORE] * (len(prompt) - 1) + [*question.answer, IGNORE]
            questions += [number] * len(rest)
        return [ids, positions, labels, questions], place


def shared_length(prompts: Sequence[list[int]]) -> int:
    """With how many tokens all prompts begin; each keeps its last, which predicts its answer, to itself."""
    longest = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0]
    return next((i for i in range(longest) if any(p[i] != first[i] for p in prompts[1:])), longest)


def see(questions: Tensor) -> Tensor:
    """(B, S) question numbers (0 = prefix, -1 = padding) -> (B, 1, S, S) bool: who may see whom.

    A token sees what is before it in the prefix and in its own question; nobody sees padding but itself.
    """
    size = questions.shape[1]
    key, query = questions[:, None, None, :], questions[:, None, :, None]
    causal = torch.ones(size, size, dtype=torch.bool, device=questions.device).tril()
    return causal & ((key == 0) | (key == query))
