"""Text while it is generated: the model runs in a thread of its own, the caller iterates."""

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, TextIteratorStreamer


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
        future.add_done_callback(lambda _: streamer.text_queue.put(streamer.stop_signal))
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
