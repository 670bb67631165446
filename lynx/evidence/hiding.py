"""How much an answer needs a sense (occlusion): hide it, and see how probable the same answer still is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lynx.streams.encoder import StreamEncoder
from lynx.types import Frames, Message, Stream, sample_times


def occlusion(
    model: StreamEncoder,
    messages: Sequence[Message],
    streams: Mapping[str, Stream],
    answer: Tensor,
    sense: str,
    window: tuple[float, float] | None = None,
) -> float:
    """How much the log-probability of an answer (n,) ids falls, in nats, when a sense shows nothing.

    window: hide only what lies between these seconds. Hidden tokens are replaced by the mean token of black
    (pseudo-)frames, for sound silence: the mean of its own tokens would still reveal the content.
    """
    stream = streams[sense]
    height, width = stream.frames.pixels.shape[-2:]
    black = Frames(torch.zeros(2, 3, height, width, dtype=torch.uint8), sample_times(1.0, 2), 1.0)
    blank = model.encode(sense, black)
    blank_token = blank.tokens[~blank.times.isnan()].mean(dim=0)  # (n, D) -> (D,)
    start, end = window if window is not None else (-torch.inf, torch.inf)
    hidden = (stream.times >= start) & (stream.times <= end)  # (n,); never a newline, whose time is NaN
    tokens = torch.where(hidden.to(stream.tokens.device)[:, None], blank_token, stream.tokens)
    without = {**streams, sense: replace(stream, tokens=tokens)}
    whole, rest = (answer_score(model, messages, each, answer) for each in (streams, without))
    return whole - rest


@torch.no_grad()
def answer_score(
    model: StreamEncoder, messages: Sequence[Message], streams: Mapping[str, Stream], answer: Tensor
) -> float:
    """The log-probability of an answer (n,) ids to a conversation about these streams, in nats."""
    backbone = model.backbone
    prompt = backbone.compose(messages, list(streams.values()))
    embeds = backbone.model.get_input_embeddings()(answer[None])  # (1, n, D)
    mask = torch.cat([prompt.attention_mask, torch.ones_like(answer[None])], dim=1)  # (1, S + n)
    behind = prompt.position_ids[..., -1:] + 1 + torch.arange(len(answer), device=mask.device)
    with model.using(*streams):
        logits = backbone.model(
            inputs_embeds=torch.cat([prompt.inputs_embeds, embeds], dim=1),  # (1, S + n, D)
            attention_mask=mask,
            position_ids=torch.cat([prompt.position_ids, behind], dim=-1),  # (.., 1, S + n)
            logits_to_keep=len(answer) + 1,
        ).logits  # (1, n + 1, V)
    return answer_log_prob(logits[0], answer)


def answer_log_prob(logits: Tensor, answer: Tensor) -> float:
    """Log-probability of an answer (n,) ids. logits: (>= n + 1, V), the last of prompt + answer."""
    n = len(answer)
    # Logits predict the next token, so those of the last token are left out.
    scores = logits[-n - 1 : -1].float().log_softmax(dim=-1)  # (n, V)
    return float(scores.gather(1, answer[:, None]).sum())
