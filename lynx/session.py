"""A conversation over one set of media: each sense is encoded once, the KV cache goes from turn to turn.

A first answer is bit for bit what stock `generate` gives for the same prompt; later ones take what they share
with an answer before from its cache, which equals a full prefill but for the order of a few sums. Where
memory runs out there is one more try with half of the frames.
"""

import logging
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache

from lynx.backbones.attention import RowRecorder, recording
from lynx.backbones.decoding import generate, split_answer, stream_text
from lynx.backbones.kv_cache import Kept, KvCaches, Label
from lynx.backbones.memory import TOO_MUCH, memory_errors_are_said, out_of_memory
from lynx.errors import BackboneError, LynxError, MediaError
from lynx.evidence.attention import Evidence, answer_log_prob
from lynx.streams.budget import Plan, plan
from lynx.streams.encoder import StreamEncoder
from lynx.types import VIDEO, Frames, Prompt, Stream, sample_times

if TYPE_CHECKING:
    from transformers import TextIteratorStreamer

__all__ = ["Comparison", "Plan", "Session", "plan"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Comparison:
    """A question answered with all senses that are on, and by name without each of some."""

    question: str
    answer: str
    without: Mapping[str, str]


@dataclass(frozen=True)
class _Turn:
    """One answer that is asked for."""

    messages: list[dict[str, str]]
    senses: tuple[str, ...]
    prompt: Prompt
    labels: list[Label]
    loras: tuple[str, ...]
    cache: DynamicCache
    baseline: Tensor | None  # of the media, where they are in the cache already
    rows: RowRecorder
    max_new_tokens: int
    temperature: float


class Session:
    """A conversation about one clip.

    `history` is the conversation; `senses` are switches, one a sense; `streams` what was encoded; `notes`
    what the user should know; `used` the senses of the last answer with their frames and seconds; `evidence`
    what it rests on. A `Session` answers one question at a time.
    """

    def __init__(self, model: StreamEncoder, media: Mapping[str, Any], *, frames: int | None = None) -> None:
        self.model = model
        self.media = {sense: source for sense, source in media.items() if source is not None}
        self.plan = plan(model, self.media, frames)
        self.senses = dict.fromkeys(self.media, True)
        self.streams: dict[str, Stream] = {}
        self.clear()
        self._caches = KvCaches()
        self._busy, self._stop = threading.Lock(), threading.Event()

    def clear(self) -> None:
        """Forget the conversation; the media stay encoded."""
        self.history: list[dict[str, str]] = []
        self.notes = list(self.plan.notes)
        self.used: dict[str, tuple[int, float]] = {}
        self.evidence: Evidence | None = None
        self._answer_ids: Tensor | None = None
        self._answered: list[dict[str, str]] = []  # the history that ends in that answer

    def ask(self, question: str, *, max_new_tokens: int = 128, temperature: float = 0.0) -> str:
        """The answer, which joins the history. temperature: 0 is greedy. Raises: LynxError."""

        def answer() -> str:
            turn = self._begin(self._with(question), max_new_tokens, temperature)
            return self._finish(turn, self._run(turn))

        with self._answering():
            return self._within_memory(answer)

    def stream(self, question: str, *, max_new_tokens: int = 128, temperature: float = 0.0) -> Iterator[str]:
        """The answer in pieces; it joins the history when the last one has been taken, or after `stop`."""

        def begin() -> tuple[str, Generator[str]]:
            self._stop.clear()  # a stream that fails sets it
            pieces = self._pieces(self._with(question), max_new_tokens, temperature)
            return next(pieces, ""), pieces

        with self._answering():
            first, pieces = self._within_memory(begin)  # nothing is said twice
            with closing(pieces), memory_errors_are_said():
                if first:
                    yield first
                yield from pieces

    def _pieces(
        self, messages: list[dict[str, str]], max_new_tokens: int, temperature: float
    ) -> Generator[str]:
        turn = self._begin(messages, max_new_tokens, temperature)
        tokenizer = self.model.backbone.tokenizer
        ids = yield from stream_text(tokenizer, lambda streamer: self._run(turn, streamer), self._stop)
        self._finish(turn, ids)

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self._busy.locked()

    def stop(self) -> None:
        """End the answer that is being written after its current token; what was said stays."""
        self._stop.set()

    def undo(self) -> str:
        """Take the last question and its answer out of the history; returns the question."""
        if not self.history:
            raise LynxError("there is no question to take back yet")
        question = self.history[-2]["content"]
        del self.history[-2:]
        return question

    def retry(self, *, max_new_tokens: int = 128, temperature: float = 0.0) -> str:
        """Answer the last question again, under the senses that are on now."""
        before = list(self.history)
        try:
            return self.ask(self.undo(), max_new_tokens=max_new_tokens, temperature=temperature)
        except LynxError:
            self.history = before
            raise

    def compare(
        self,
        question: str | None = None,
        *,
        without: str | Sequence[str] | None = None,
        max_new_tokens: int = 128,
    ) -> Comparison:
        """Answer a question (the last one where none is given) again without each sense, outside the history.

        without: the sense, or the senses, that are left out one at a time; all that are on beside the video
        where not given.
        Raises: LynxError where such a sense is not on, there is none, or there is no question.
        """
        senses = self._on()
        if without is None:
            without = [sense for sense in senses if sense != VIDEO]
        left_out = [without] if isinstance(without, str) else list(without)
        if not left_out:
            raise LynxError("no sense beside the video is on: switch one on to see what its absence changes")
        if off := [sense for sense in left_out if sense not in senses]:
            raise LynxError(f"{off[0]!r} is not on: there are {', '.join(senses) or 'no senses'}")
        if question is None and not self.history:
            raise LynxError("there is no question to compare yet")
        messages = self.history[:-1] if question is None else self._with(question)

        def answer(chosen: tuple[str, ...]) -> str:
            said = self._text(self._run(self._begin(messages, max_new_tokens, 0.0, chosen)))
            self._caches.touch(senses)  # the conversation goes on with these
            return said

        def answers() -> Comparison:
            whole = answer(senses)
            rest = {left: answer(tuple(sense for sense in senses if sense != left)) for left in left_out}
            return Comparison(messages[-1]["content"], whole, rest)

        with self._answering():
            return self._within_memory(answers)

    def occlusion(self, sense: str, window: tuple[float, float] | None = None) -> float:
        """How much the log-probability of the last answer falls when a sense is hidden.

        window: hide only what lies between these seconds. Hidden tokens become the mean token of black
        (pseudo-)frames, which are silence to the ear: the stream's own mean would still tell what it is of.
        Above 0: the answer rests on it.
        Raises: LynxError where there is no answer, or the sense was not used for it.
        """
        if (answer := self._answer_ids) is None or sense not in self.used:
            raise LynxError(f"there is no answer that used {sense!r} yet")
        if self.history != self._answered:
            raise LynxError("the last answer is no longer that of the conversation: ask again")
        stream, senses = self.streams[sense], tuple(self.used)
        start, end = window if window is not None else (-torch.inf, torch.inf)
        hidden = ((stream.times >= start) & (stream.times <= end)).to(stream.tokens.device)
        with self._answering(), memory_errors_are_said():
            blanked = replace(stream, tokens=torch.where(hidden[:, None], self._blank(sense), stream.tokens))
            seen = self._score(answer, senses, self.streams)
            return seen - self._score(answer, senses, {**self.streams, sense: blanked})

    def _blank(self, sense: str) -> Tensor:
        """The mean token (D,) of two black frames of that sense."""
        height, width = self.streams[sense].frames.pixels.shape[-2:]
        black = Frames(torch.zeros(2, 3, height, width, dtype=torch.uint8), sample_times(1.0, 2), 1.0)
        stream = self.model.encode(sense, black)
        return stream.tokens[~stream.times.isnan()].mean(dim=0)

    def unknown_words(self, question: str) -> list[str]:
        """Words of the question that the backbone was never taught; none for one that learned open text."""
        known = self.model.backbone.words
        if known is None:
            return []
        words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", question.lower())
        return [word for word in dict.fromkeys(words) if word not in known]

    def encode(self) -> dict[str, Stream]:
        """Read, render and encode every sense that is on and not encoded yet; returns all that are."""
        return self._within_memory(self._encode)

    def _encode(self) -> dict[str, Stream]:
        for sense in self._on():
            if sense not in self.streams:
                self.streams[sense] = self.model.stream(sense, self.media[sense], self.plan.times)
        return self.streams

    def _on(self) -> tuple[str, ...]:
        unknown = sorted(set(self.senses) - set(self.media))
        if unknown:
            raise MediaError(f"no media for {', '.join(unknown)}: this session has {', '.join(self.media)}")
        return tuple(sense for sense, on in self.senses.items() if on)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise LynxError("an answer is being written: wait for it, or stop it first")
        self._stop.clear()
        try:
            yield
        finally:
            self._busy.release()

    def _within_memory(self, call: Callable[[], Result]) -> Result:
        """What `call` returns; where memory runs out, what is kept makes room first, then half of the frames.

        Raises: BackboneError where that is still too much.
        """
        ways = iter((self._let_go, self._halve))
        room = True
        while room:
            try:
                return call()
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                logger.warning("memory ran out: %s", error)
            # outside of the `except`: by now what failed has let go of its tensors
            room = any(way() for way in ways)
        raise BackboneError(TOO_MUCH)

    def _let_go(self) -> bool:
        """Drop what is only kept for later; False where there was nothing."""
        with self.model.lock:
            kept = len(self._caches) > 0 or len(self.model.streams) > len(self.streams)
            self._caches.clear()
            self.model.streams.clear()
        return kept

    def _halve(self) -> bool:
        """Look at half of the moments from here on; False where there is one or none."""
        before = self.plan.frames
        if before < 2 or not self.media:
            return False
        self._let_go()
        self.streams.clear()
        self._answer_ids, self.used = None, {}  # they were about streams that are gone
        self.plan = plan(self.model, self.media, before // 2)
        note = f"{before // 2} frames instead of {before}: the memory ran out"
        self.plan, self.notes = replace(self.plan, notes=(note,)), [note]
        return True

    def _with(self, question: str) -> list[dict[str, str]]:
        if not question.strip():
            raise LynxError("the question is empty")
        return [*self.history, {"role": "user", "content": question.strip()}]

    def _prompt(
        self, messages: Sequence[dict[str, str]], senses: tuple[str, ...], streams: Mapping[str, Stream]
    ) -> Prompt:
        with torch.no_grad():
            return self.model.backbone.compose(messages, [streams[sense] for sense in senses])

    def _begin(
        self,
        messages: list[dict[str, str]],
        max_new_tokens: int,
        temperature: float,
        senses: tuple[str, ...] | None = None,
    ) -> _Turn:
        senses = self._on() if senses is None else senses
        self._encode()
        prompt = self._prompt(messages, senses, self.streams)
        behind = max((int(span[-1]) + 1 for span in prompt.spans.values()), default=None)
        rows = RowRecorder(() if behind is None else (behind,))
        labels, loras = self._labels(prompt), self.model.llm_loras(*senses)
        kept = self._caches.take(senses, loras, labels)
        cache = (
            kept.cache if kept else DynamicCache(config=self.model.backbone.model.config.get_text_config())
        )
        baseline = kept.baseline if kept else None
        return _Turn(
            messages, senses, prompt, labels, loras, cache, baseline, rows, max_new_tokens, temperature
        )

    @staticmethod
    def _labels(prompt: Prompt) -> list[Label]:
        labels: list[Label] = prompt.input_ids[0].tolist()
        for sense, span in prompt.spans.items():
            for number, place in enumerate(span.tolist()):
                labels[place] = (sense, number)
        return labels

    def _run(self, turn: _Turn, streamer: "TextIteratorStreamer | None" = None) -> Tensor:
        """The new ids (n,)."""
        with self.model.using(*turn.senses), recording(self.model.backbone, text_rows=turn.rows):
            ids = generate(
                self.model.backbone,
                turn.prompt,
                max_new_tokens=turn.max_new_tokens,
                temperature=turn.temperature,
                cache=turn.cache,
                streamer=streamer,
                stop=self._stop,
            )[0]
        labels = [*turn.labels, *ids[:-1].tolist()]
        self._caches.keep(turn.senses, Kept(turn.cache, labels, turn.loras, self._baseline(turn)))
        return ids

    @staticmethod
    def _baseline(turn: _Turn) -> Tensor | None:
        rows = [turn.rows.row_at(position) for position in turn.rows.positions]
        return rows[0] if rows and rows[0] is not None else turn.baseline

    def _finish(self, turn: _Turn, ids: Tensor) -> str:
        answer = self._text(ids)
        question = turn.messages[-1]["content"]
        self.history = [*turn.messages, {"role": "assistant", "content": answer}]
        self.used = {
            sense: (len(self.streams[sense].frames), self.streams[sense].frames.duration)
            for sense in turn.senses
        }
        self.notes = list(self.plan.notes)
        self.notes += [note for sense in turn.senses for note in self.streams[sense].frames.notes]
        if unknown := self.unknown_words(question):
            self.notes.append(f"words this model was never taught: {', '.join(unknown)}")
        self._answer_ids, self._answered = ids, list(self.history)
        self.evidence = self._evidence(turn, ids)
        return answer

    @torch.no_grad()
    def _score(self, answer: Tensor, senses: tuple[str, ...], streams: Mapping[str, Stream]) -> float:
        """The log-probability of the last answer (n,) with these streams."""
        backbone = self.model.backbone
        prompt = self._prompt(self.history[:-1], senses, streams)
        embeds = backbone.model.get_input_embeddings()(answer[None])  # (1, n, D)
        mask = torch.cat([prompt.attention_mask, torch.ones_like(answer[None])], dim=1)
        behind = prompt.position_ids[..., -1:] + 1 + torch.arange(len(answer), device=mask.device)
        with self.model.using(*senses):
            logits = backbone.model(
                inputs_embeds=torch.cat([prompt.inputs_embeds, embeds], dim=1),
                attention_mask=mask,
                position_ids=torch.cat([prompt.position_ids, behind], dim=-1),
                logits_to_keep=len(answer) + 1,
            ).logits
        return answer_log_prob(logits[0], answer)

    def _text(self, ids: Tensor) -> str:
        return str(self.model.backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _evidence(self, turn: _Turn, ids: Tensor) -> Evidence:
        tokenizer, rows = self.model.backbone.tokenizer, turn.rows.rows()
        special = torch.tensor(tokenizer.all_special_ids)
        steps = (~torch.isin(ids.cpu(), special)).nonzero().flatten().tolist()
        sinks = torch.zeros(rows.shape[1], dtype=torch.bool)
        sinks[: turn.prompt.input_ids.shape[1]] = torch.isin(turn.prompt.input_ids[0].cpu(), special)
        sinks[0] = True
        for sense, span in turn.prompt.spans.items():
            sinks[span] = self.streams[sense].times.isnan()
        streams = {sense: self.streams[sense] for sense in turn.senses}
        said = split_answer(tokenizer, ids, steps)
        return Evidence(said, rows[steps], turn.prompt.spans, streams, sinks, self._baseline(turn))
