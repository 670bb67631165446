"""Attention of answer tokens over the senses: the usual overlay, which hardly knows where an answer is from.

The row of an answer token is the LLM's attention at the step that produced it, the mean over layers and
heads. Raw attention has *sinks*: positions that take much of it whatever is asked (the first token, newlines,
chat markers). They are left out of every figure. Where a *baseline* is known (the row of the first token
behind the media, which has seen them and not yet the question), it is subtracted from maps and curves: the
rest is attention because of the question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lynx.backbones.attention import RowRecorder, recording
from lynx.evidence.attribution import TEXT, Attribution
from lynx.evidence.replay import Replay
from lynx.types import Stream


@dataclass(frozen=True, eq=False)
class AttentionRows:
    """The attention of the n tokens of an answer over prompt and answer, S positions.

    rows: (n, S) float32. spans: the positions (k,) of each sense; streams: its tokens.
    sinks: (S,) bool, positions that are left out of every figure.
    baseline: (p,) the row of the first position behind the media, or None.
    """

    rows: Tensor
    spans: Mapping[str, Tensor]
    streams: Mapping[str, Stream]
    sinks: Tensor
    baseline: Tensor | None = None

    def shares(self, tokens: Sequence[int]) -> dict[str, float]:
        """How the mean of these tokens' attention divides among the senses and TEXT: sums to 1."""
        row = self._mean(tokens).masked_fill(self.sinks, 0)
        mass = {sense: float(row[span].sum()) for sense, span in self.spans.items()}
        for span in self.spans.values():
            row[span] = 0
        mass[TEXT] = float(row.sum())
        total = sum(mass.values())
        return {name: value / total if total else 0.0 for name, value in mass.items()}

    def attribution(self, tokens: Sequence[int], method: str = "attention") -> Attribution:
        """The mean of these tokens' attention, above the baseline; its totals are the shares."""
        row, values = self._mean(tokens), {}
        for sense, span in self.spans.items():
            newline = self.streams[sense].times.isnan()
            values[sense] = row[span].masked_fill(newline, 0)
            if self.baseline is not None:
                before = self.baseline[span].masked_fill(newline, 0)
                if before.any():  # scaled to the same sum
                    before = before * (values[sense].sum() / before.sum())
                    values[sense] = (values[sense] - before).clamp(min=0)
        return Attribution(method, "share", values, self.streams, self.shares(tokens))

    def _mean(self, tokens: Sequence[int]) -> Tensor:
        """The mean row (S,) of answer tokens; 0 where there are none."""
        return self.rows[list(tokens)].mean(dim=0) if tokens else self.rows.new_zeros(self.rows.shape[1])


def behind_media(spans: Mapping[str, Tensor]) -> list[int]:
    """The position of the first token behind the media, whose row is the baseline; none without media."""
    return [max(int(span[-1]) + 1 for span in spans.values())] if spans else []


def replayed_attention(
    replay: Replay, recorded: AttentionRows, tokens: Sequence[int], layers: Sequence[int]
) -> AttentionRows:
    """The rows of the answer tokens at these indices, the mean over chosen layers, in their order.

    recorded: of the answer. All layers together give its rows up to rounding: here they come from one pass.
    """
    behind = behind_media(replay.spans)
    recorder = RowRecorder([*predicted_at(replay, tokens), *behind])
    with torch.no_grad(), recording(replay.backbone, text_rows=recorder):
        replay.log_probs(replay.inputs, tokens)
    rows = recorder.prompt_rows(layers)  # (tokens, S), and that of the baseline
    assert rows is not None, "without a cache all positions are recorded"
    sinks, baseline = recorded.sinks[: rows.shape[1]], rows[-1] if behind else None
    return replace(recorded, rows=rows[: len(tokens)], sinks=sinks, baseline=baseline)


def predicted_at(replay: Replay, tokens: Sequence[int]) -> list[int]:
    """The positions at which the answer tokens at these indices are predicted: those before their own."""
    return [replay.start + token - 1 for token in tokens]
