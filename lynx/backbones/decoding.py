"""Generating an answer: the ids that stock `generate` gives, and their text as it is written."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from lynx import compat
from lynx.backbones.base import Backbone
from lynx.types import Prompt


class StopOnEvent(StoppingCriteria):
    """Ends generation at the next token once the event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """(B,) bool: whether each sequence ends here."""
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


@torch.no_grad()
def generate(
    backbone: Backbone,
    prompt: Prompt,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    cache: Cache | None = None,
    streamer: TextIteratorStreamer | None = None,
    stop: threading.Event | None = None,
) -> Tensor:
    """The ids that stock `generate` gives for a prompt, under the adapters that are on: (B, new), padded.

    temperature: 0 is greedy; above it any token may be drawn.
    cache: filled; a prefix of the prompt that it holds is not computed again.
    stop: set it from another thread to end after the current token.
    """
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        # Every option is set: a checkpoint's own generation_config may truncate the distribution.
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    ids: Tensor = backbone.model.generate(
        input_ids=prompt.input_ids,  # a checkpoint may penalize repeating the prompt
        inputs_embeds=prompt.inputs_embeds,
        attention_mask=prompt.attention_mask,
        position_ids=prompt.position_ids,  # without them Qwen silently computes wrong ones for embeddings
        cache=cache,
        max_new_tokens=max_new_tokens,
        streamer=streamer,
        stopping_criteria=StoppingCriteriaList([StopOnEvent(stop)] if stop is not None else []),
        pad_token_id=backbone.pad_id,
        **sampling,
    )  # (B, S + new)
    return ids[:, prompt.input_ids.shape[1] :]


def stream_text(
    tokenizer: PreTrainedTokenizerBase, run: Callable[[TextIteratorStreamer], object], stop: threading.Event
) -> Generator[str]:
    """Yield the text that `run(streamer)` generates, piece by piece.

    `run` has its own thread; its exceptions are raised here. Closing the generator early sets `stop` and
    waits for the thread.
    """
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="lynx-generate") as pool:
        future = pool.submit(run, streamer)
        # The queue is always closed: otherwise a failure would leave the caller waiting.
        future.add_done_callback(lambda _: compat.end_stream(streamer))
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            stop.set()
        future.result()
