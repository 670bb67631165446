"""Batches of the world's training: many questions behind one prefix, or one after the other as a chat."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from lynx.datasets.base import Turn
from lynx.training.packing import IGNORE, see


@dataclass(frozen=True)
class Packed:
    """ids, positions, labels (shifted already): (B, S) int64; mask: (B, 1, S, S) bool, True = may be seen."""

    ids: Tensor
    positions: Tensor
    labels: Tensor
    mask: Tensor


class Packer:
    """Tokenises questions once and packs them behind a prefix."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.pad = tokenizer.pad_token_id
        self._known: dict[str, list[int]] = {}

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, remembered."""
        if text not in self._known:
            self._known[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._known[text]

    def pack(
        self, prefixes: Sequence[list[int]], turns: Sequence[Sequence[Turn]], conversation: bool
    ) -> Packed:
        """Pack the turns of each clip behind its prefix, side by side or as a conversation."""
        rows = [
            self._row(prefix, questions, conversation)
            for prefix, questions in zip(prefixes, turns, strict=True)
        ]
        ids, positions, segments, labels = (
            pad_sequence([torch.tensor(row[i]) for row in rows], batch_first=True, padding_value=fill)
            for i, fill in enumerate((self.pad, 0, -1, IGNORE))
        )
        return Packed(ids, positions, labels, see(segments))

    def _row(self, prefix: list[int], turns: Sequence[Turn], conversation: bool) -> tuple[list[int], ...]:
        ids, positions = list(prefix), list(range(len(prefix)))
        segments, labels = [0] * len(prefix), [IGNORE] * len(prefix)
        for number, turn in enumerate(turns, 1):
            head = "<|im_start|>user " if conversation and number > 1 else ""
            question = self.tokens(f"{head}{turn.question}<|im_end|><|im_start|>assistant")
            answer = self.tokens(f"{turn.answer}<|im_end|>")
            start = len(ids) if conversation else len(prefix)
            ids += question + answer
            positions += range(start, start + len(question) + len(answer))
            segments += [0 if conversation else number] * (len(question) + len(answer))
            labels += [IGNORE] * (len(question) - 1) + answer + [IGNORE]
        return ids, positions, segments, labels
