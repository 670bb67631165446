"""Generating an answer: the ids that stock `generate` gives, and their text as it is written."""

import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from lynx import compat
from lynx.backbones.base import Backbone
from lynx.backbones.fixed_step import fixed_steps, lora_forwards
from lynx.types import Prompt

logger = logging.getLogger(__name__)

OTHERS = 5
"""Number of other candidates that are kept for each token of an answer."""
SCORES = 2**20
"""Number of scores that are kept until they are looked at together; at least those of one step."""


class StopOnEvent(StoppingCriteria):
    """Ends generation at the next token once the event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """(B,) bool: whether each sequence ends here."""
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


class NextTokens(LogitsProcessor):
    """How probable each generated token was, and which others were; changes nothing.

    transformers runs it behind the checkpoint's own processors (repetition penalty, suppressed tokens), which
    are part of how that model speaks, and before temperature and truncation. So these are the probabilities
    that a greedy answer goes by, also where tokens are drawn.

    Of each token a few numbers are kept. They are computed for several steps at once, whose scores are kept
    until then. Batch size 1.
    """

    def __init__(self) -> None:
        self._scores: list[Tensor] = []  # (1, V) of each step that has not been looked at
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []  # of the steps before, as `of` returns them

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns `scores` (1, V) as they are; input_ids (1, S) end in the token of the step before."""
        if len(self._scores) * scores.shape[1] >= SCORES:
            self._look(input_ids[0, -len(self._scores) :])
        self._scores.append(scores)
        return scores

    def of(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For generated ids (n,): their probabilities (n,); the best others, ids (n, 5); theirs (n, 5)."""
        # On a GPU transformers may have computed a step more than it returns.
        if len(rest := ids[sum(len(said) for said, _, _ in self._found) :]):
            self._look(rest)
        said, others, best = (torch.cat(each)[: len(ids)] for each in zip(*self._found, strict=True))
        return said.exp().cpu(), others.cpu(), best.exp().cpu()

    def _look(self, said: Tensor) -> None:
        """Take what is kept of the next steps, in which these ids (m,) were said."""
        scores = torch.cat(self._scores[: len(said)]).float().log_softmax(dim=-1)  # (m, V)
        best, others = scores.topk(min(OTHERS + 1, scores.shape[1]))  # (m, 6)
        itself = (others == said[:, None]).int()
        rest = itself.argsort(dim=1, stable=True)[:, :OTHERS]  # the token itself comes last
        mine = scores.gather(1, said[:, None])[:, 0]
        self._found.append((mine, others.gather(1, rest), best.gather(1, rest)))
        self._scores.clear()


@torch.no_grad()
def generate(
    backbone: Backbone,
    prompt: Prompt,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    cache: DynamicCache | None = None,
    streamer: TextIteratorStreamer | None = None,
    stop: threading.Event | None = None,
    next_tokens: NextTokens | None = None,
    fixed: bool | None = None,
) -> Tensor:
    """The ids that stock `generate` gives for a prompt, under the adapters that are on: (B, new), padded.

    temperature: 0 is greedy; above it any token may be drawn.
    cache: filled; a prefix of the prompt that it holds is not computed again.
    stop: set it from another thread to end after the current token.
    next_tokens: filled with the probabilities of what is said.
    fixed: whether the decoding steps are those of `fixed_step`, where they can be, which round otherwise than
    stock's; None: on CUDA while an adapter is on, so that without one an answer is stock's bit for bit.
    """
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        # Every option is set: a checkpoint's own generation_config may truncate the distribution.
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    cached = cache.get_seq_length() if cache is not None else 0
    given = backbone.inputs(prompt.input_ids, prompt.inputs_embeds, cached)
    given["input_ids"] = prompt.input_ids  # a checkpoint may penalize repeating the prompt
    decoding: Any = nullcontext()
    if fixed or (fixed is None and backbone.device.type == "cuda" and any(lora_forwards(backbone))):
        cache = cache if cache is not None else DynamicCache(config=backbone.model.config.get_text_config())
        if len(prompt.input_ids) == 1 and bool(prompt.attention_mask.all()):
            decoding = fixed_steps(backbone, cache, prompt.input_ids.shape[1] + max_new_tokens)
        else:
            logger.info("decoding without fixed steps: they are for a single prompt")
    with decoding:
        ids: Tensor = backbone.model.generate(
            **given,
            attention_mask=prompt.attention_mask,
            position_ids=prompt.position_ids,  # without them Qwen silently computes wrong ones for embeddings
            cache=cache,
            max_new_tokens=max_new_tokens,
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([StopOnEvent(stop)] if stop is not None else []),
            logits_processor=LogitsProcessorList([next_tokens] if next_tokens is not None else []),
            pad_token_id=backbone.pad_id,
            **sampling,
        )  # (B, S + new)
    return ids[:, prompt.input_ids.shape[1] :]


def stream_text(
    tokenizer: PreTrainedTokenizerBase, run: Callable[[TextIteratorStreamer], object], stop: threading.Event
) -> Generator[str]:
    """Yield the text that `run(streamer)` generates, piece by piece, without space before the first one.

    `run` has its own thread; its exceptions are raised here. Closing the generator early sets `stop` and
    waits for the thread.
    """
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="lynx-generate") as pool:
        future = pool.submit(run, streamer)
        # The queue is always closed: otherwise a failure would leave the caller waiting.
        future.add_done_callback(lambda _: compat.end_stream(streamer))
        try:
            begun = False
            for piece in streamer:
                text = piece if begun else piece.lstrip()  # SmolVLM's answers begin with a space
                if text:
                    begun = True
                    yield text
        finally:
            stop.set()
        future.result()
