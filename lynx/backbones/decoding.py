"""Text while it is generated: the model runs in a thread of its own, the caller iterates."""

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer



def stream_text(
    tokenizer: PreTrainedTokenizerBase, run: Callable[[TextIteratorStreamer], Tensor], stop: threading.Event
) -> Generator[str, None, Tensor]:
    """Yield the text that `run(streamer)` generates, piece by piece; return what `run` returns.

    An exception in `run` is raised here. The queue is closed when the thread ends, however it ends, so the
    caller cannot wait forever; a caller that leaves early sets `stop` and waits for the thread.
    """
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="lynx-generate") as pool:
        future = pool.submit(run, streamer)
        future.add_done_callback(lambda _: compat.end_stream(streamer))
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            stop.set()
        return future.result()


def split_answer(tokenizer: PreTrainedTokenizerBase, ids: Tensor, steps: Sequence[int]) -> list[str]:
    """The text that each of these places in `ids` (n,) adds; a character is its last token's."""
    texts = [str(tokenizer.decode(ids[: step + 1], skip_special_tokens=True)) for step in steps]
    texts = [*(text.rstrip("\ufffd") for text in texts[:-1]), *texts[-1:]]
    return [text[len(before) :] for before, text in zip(["", *texts], texts, strict=False)]


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
    streamer: "BaseStreamer | None" = None,
    stop: threading.Event | None = None,
) -> Tensor:
    """The ids that stock `generate` gives for a prompt, under the adapters that are on: (B, new), padded.

    temperature: 0 is greedy; above it any token may be drawn.
    cache: filled; a prefix of the prompt that it holds is not computed again.
    stop: set it from another thread to end after the current token.
    """
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    ids: Tensor = backbone.model.generate(
        input_ids=prompt.input_ids,  # a checkpoint may penalise what the prompt says already
        inputs_embeds=prompt.inputs_embeds,
        attention_mask=prompt.attention_mask,
        position_ids=prompt.position_ids,
        cache=cache,
        max_new_tokens=max_new_tokens,
        streamer=streamer,
        stopping_criteria=StoppingCriteriaList([StopOnEvent(stop)] if stop is not None else []),
        pad_token_id=backbone.pad_id,
        **sampling,
    )
    return ids[:, prompt.input_ids.shape[1] :]
