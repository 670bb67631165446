"""What an answer rests on: attention of each answer token over the senses, over time and over space.

The row of an answer token is the LLM's attention at the step that produced it, the mean over layers and
heads. Raw attention has *sinks*: positions that take much of it whatever is asked (the first token, newlines,
chat markers). They are left out of every figure. Where a *baseline* is known (the row of the first token
behind the media, which has seen them and not yet the question), it is subtracted from maps and curves: the
rest is attention because of the question. All of this is an indication; hiding a sense and measuring the
answer again (`lynx.evidence.hiding`) is the check.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lynx.types import Prompt, Stream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT = "text"
"""Name of the share that the words of the conversation take."""

Index = int | Sequence[int] | None
"""An answer token, several of them (their mean), or None for the whole answer."""


@dataclass(frozen=True)
class Evidence:
    """Attention of one answer over its prompt.

    tokens: the n answer tokens as text; joined they are the answer.
    rows: (n, S) float32, the attention of each; S covers the prompt and the answer.
    spans: the positions of each sense in the prompt; streams: its tokens.
    sinks: (S,) bool, positions that are left out of every figure.
    baseline: (p,) the row of the first position behind the media, or None.
    """

    tokens: list[str]
    rows: Tensor
    spans: dict[str, Tensor]
    streams: dict[str, Stream]
    sinks: Tensor
    baseline: Tensor | None = None

    @property
    def words(self) -> list[tuple[str, list[int]]]:
        """The answer's words, each with its tokens' indices."""
        words: list[tuple[str, list[int]]] = []
        for index, piece in enumerate(self.tokens):
            if not piece.strip():
                continue
            if words and piece[0].isalnum() and self.tokens[index - 1][-1:].strip():  # goes on with a word
                text, indices = words[-1]
                words[-1] = (text + piece.rstrip(), [*indices, index])
            else:
                words.append((piece.strip(), [index]))
        return words

    def share(self, token: Index = None) -> dict[str, float]:
        """How the attention divides among the senses and the words ("text"); the shares sum to 1."""
        row = self._row(token).masked_fill(self.sinks, 0)
        mass = {sense: float(row[span].sum()) for sense, span in self.spans.items()}
        for span in self.spans.values():
            row[span] = 0
        mass[TEXT] = float(row.sum())
        total = sum(mass.values())
        return {name: value / total if total else 0.0 for name, value in mass.items()}

    def curve(self, token: Index, sense: str, *, baseline: bool = True) -> tuple[Tensor, Tensor]:
        """Attention to a sense over time: times (T,) seconds, values (T,)."""
        stream = self.streams[sense]
        times = stream.times[~stream.times.isnan()][:: math.prod(stream.grid)]
        return times, self.heatmap(token, sense, baseline=baseline).sum(dim=(1, 2))

    def heatmap(self, token: Index, sense: str, *, baseline: bool = True) -> Tensor:
        """Attention over time and space, above the baseline unless told otherwise: (T, rows, cols)."""
        stream, span = self.streams[sense], self.spans[sense]
        seen = ~stream.times.isnan()
        values = self._row(token)[span][seen]
        if baseline and self.baseline is not None and (before := self.baseline[span][seen]).any():
            values = (values - before * (values.sum() / before.sum())).clamp(min=0)  # scaled to the same sum
        return values.view(-1, *stream.grid)

    def frame_maps(self, token: Index, sense: str, *, baseline: bool = True) -> Tensor:
        """The heat map of every (pseudo-)frame: (T, rows, cols); frames that share tokens share it."""
        maps, count = self.heatmap(token, sense, baseline=baseline), len(self.streams[sense].frames)
        return maps[torch.arange(count) // -(-count // len(maps))]

    def _row(self, token: Index) -> Tensor:
        """The attention (S,) of a token, or the mean of several."""
        if not len(self.rows):  # an answer without words has no rows
            return self.rows.new_zeros(self.rows.shape[1])
        if token is None:
            return self.rows.mean(dim=0)
        return self.rows[[token] if isinstance(token, int) else list(token)].mean(dim=0)


def answer_evidence(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Prompt,
    answer: Tensor,
    rows: Tensor,
    streams: dict[str, Stream],
    baseline: Tensor | None = None,
) -> Evidence:
    """The evidence of an answer (n,) ids, from the attention rows (n, S) recorded as it was generated."""
    special = torch.tensor(tokenizer.all_special_ids)
    # Markers such as <|im_end|> are tokens of the answer but not words.
    steps = (~torch.isin(answer.cpu(), special)).nonzero().flatten().tolist()
    sinks = torch.zeros(rows.shape[1], dtype=torch.bool)  # (S,)
    sinks[: prompt.input_ids.shape[1]] = torch.isin(prompt.input_ids[0].cpu(), special)
    sinks[0] = True
    for sense, span in prompt.spans.items():  # its placeholders are special too, but no sinks; newlines are
        sinks[span] = streams[sense].times.isnan()
    # Decoded together, since a space or an accent may depend on the token before. A character made of several
    # tokens belongs to the last of them: until then it is decoded as U+FFFD, which is cut off.
    texts = [str(tokenizer.decode(answer[: step + 1], skip_special_tokens=True)) for step in steps]
    texts = ["", *(text.rstrip("\ufffd") for text in texts[:-1]), *texts[-1:]]
    tokens = [text[len(before) :] for before, text in pairwise(texts)]
    return Evidence(tokens, rows[steps], prompt.spans, streams, sinks, baseline)
