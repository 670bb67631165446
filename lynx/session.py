"""A conversation over one set of media: which senses are on, the history, and the answers.

The way of an answer stands in `Session._generate`: encode each sense once, compose one prompt, generate with
what the KV cache already holds, record the attention. A first answer is bit for bit what stock `generate`
gives for the same prompt; later ones continue a cache, which equals a full prefill but for the order of a few
sums. Where memory runs out, there is one more try without what is only kept for later, then one with half of
the frames.
"""

import re
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lynx.backbones.attention import RowRecorder, recording
from lynx.backbones.decoding import generate, stream_text
from lynx.backbones.kv_cache import KvCache, Label
from lynx.backbones.memory import explain_out_of_memory, retry_with_more_room
from lynx.errors import LynxError, MediaError
from lynx.evidence.attention import Evidence, answer_evidence
from lynx.evidence.hiding import answer_score, hide
from lynx.streams.budget import Plan, plan
from lynx.streams.encoder import StreamEncoder
from lynx.types import VIDEO, Message, Prompt, Stream

if TYPE_CHECKING:
    from transformers import TextIteratorStreamer

__all__ = ["Comparison", "Plan", "Session", "plan"]


@dataclass(frozen=True)
class Comparison:
    """A question answered with all senses that are on, and by name without each of some."""

    question: str
    answer: str
    without: Mapping[str, str]


@dataclass(frozen=True)
class _Answer:
    """What the model generated for a prompt, and what was recorded meanwhile."""

    prompt: Prompt
    streams: dict[str, Stream]
    ids: Tensor  # (n,)
    text: str
    rows: RowRecorder
    baseline: Tensor | None  # (S,) or longer, or what an earlier answer recorded
    origin: tuple[Any, ...]  # what decides it beside the words: LLM LoRAs by weights, streams by keys


@dataclass(frozen=True)
class _Last:
    """What `occlusion` needs of the last answer: little, since it lives as long as the conversation."""

    ids: Tensor  # (n,)
    history: list[dict[str, str]]  # which ends in it
    origin: tuple[Any, ...]


class Session:
    """A conversation about one clip. It answers one question at a time.

    history: the messages so far, questions and answers in turn.
    senses: a switch for each sense; streams: what was encoded of them.
    notes: what the user should know about the last answer.
    used: the senses of the last answer, each with its number of frames and its seconds.
    evidence: what the last answer rests on.
    """

    def __init__(self, model: StreamEncoder, media: Mapping[str, Any], *, frames: int | None = None) -> None:
        self.model = model
        self.media = {sense: source for sense, source in media.items() if source is not None}
        self.senses = dict.fromkeys(self.media, True)
        self.streams: dict[str, Stream] = {}
        self.plan = plan(model, self.media, frames)
        self._frames = frames  # as asked for; half of what was planned once memory ran out
        self._memory_notes: tuple[str, ...] = ()
        self._keys: dict[str, str] = {}  # of `streams`
        self._busy, self._stop = threading.Lock(), threading.Event()
        self.clear()

    def clear(self) -> None:
        """Forget the conversation; the media stay encoded."""
        self.history: list[dict[str, str]] = []
        self.notes = list(self.plan.notes)
        self.used: dict[str, tuple[int, float]] = {}
        self.evidence: Evidence | None = None
        self._last: _Last | None = None

    # --- questions --------------------------------------------------------------------------------

    def ask(self, question: str, *, max_new_tokens: int = 128, temperature: float = 0.0) -> str:
        """The answer, which joins the history. temperature: 0 is greedy. Raises: LynxError."""

        def answer() -> str:
            messages = self._with(question)
            return self._finish(messages, self._generate(messages, self._on(), max_new_tokens, temperature))

        with self._answering():
            return retry_with_more_room(answer, (self._drop_kept, self._halve_frames))

    def stream(self, question: str, *, max_new_tokens: int = 128, temperature: float = 0.0) -> Iterator[str]:
        """The answer in pieces; it joins the history when the last one has been taken, or after `stop`."""

        def pieces() -> Generator[str]:
            messages, senses = self._with(question), self._on()
            found: list[_Answer] = []

            def run(streamer: "TextIteratorStreamer") -> Tensor:
                found.append(self._generate(messages, senses, max_new_tokens, temperature, streamer))
                return found[0].ids

            yield from stream_text(self.model.backbone.tokenizer, run, self._stop)
            self._finish(messages, found[0])

        def begin() -> tuple[str, Generator[str]]:
            self._stop.clear()  # the stream of a first try that failed has set it
            rest = pieces()
            return next(rest, ""), rest

        with self._answering():
            # Tried again only up to the first piece: afterwards the reader would be told things twice.
            first, rest = retry_with_more_room(begin, (self._drop_kept, self._halve_frames))
            with closing(rest), explain_out_of_memory():
                if first:
                    yield first
                yield from rest

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
            said = self._generate(messages, chosen, max_new_tokens).text
            with self.model.lock:  # the conversation goes on with all: their cache is the last to be dropped
                self.model.kv_caches.get(self, senses)
            return said

        def answers() -> Comparison:
            whole = answer(senses)
            rest = {left: answer(tuple(sense for sense in senses if sense != left)) for left in left_out}
            return Comparison(messages[-1]["content"], whole, rest)

        with self._answering():
            return retry_with_more_room(answers, (self._drop_kept, self._halve_frames))

    def occlusion(self, sense: str, window: tuple[float, float] | None = None) -> float:
        """How much the log-probability of the last answer falls, in nats, when a sense is hidden.

        window: hide only what lies between these seconds. Above 0: the answer rests on it.
        Raises: LynxError where there is no answer, or the sense was not used for it.
        """
        last, model = self._last, self.model
        if last is None or sense not in self.used:
            raise LynxError(f"there is no answer that used {sense!r} yet")
        if self.history != last.history:
            raise LynxError("the last answer is no longer that of the conversation: ask again")
        with self._answering(), explain_out_of_memory(), model.lock:
            keys = {name: self._key(name) for name in self.used}
            if (model.llm_identity(*keys), keys) != last.origin:
                raise LynxError("the adapters have changed since the last answer: ask again")
            seen = {name: self.streams[name] for name in self.used}
            hidden = {**seen, sense: hide(model, seen[sense], window)}
            question = self.history[:-1]
            return answer_score(model, question, seen, last.ids) - answer_score(
                model, question, hidden, last.ids
            )

    def unknown_words(self, question: str) -> list[str]:
        """Words of the question that the backbone was never taught; none for one that learned open text."""
        known = self.model.backbone.words
        if known is None:
            return []
        words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", question.lower())
        return [word for word in dict.fromkeys(words) if word not in known]

    # --- encode -> compose -> generate -> evidence ------------------------------------------------

    def encode(self) -> dict[str, Stream]:
        """Read, render and encode every sense that is on and not encoded yet; returns all that are."""

        def encoded() -> dict[str, Stream]:
            self._encode(self._on())
            return self.streams

        return retry_with_more_room(encoded, (self._drop_kept, self._halve_frames))

    def _encode(self, senses: tuple[str, ...]) -> dict[str, str]:
        """Bring `streams` up to date for these senses; returns their keys.

        A stream is known by all that decides its tokens, never by the sense's name: the adapter of that name
        may have been exchanged, or trained further, since the last question.
        """
        with self.model.lock:
            keys = {sense: self._key(sense) for sense in senses}
            if any(self._keys.get(sense, key) != key for sense, key in keys.items()):
                # The plan was made for what was there before: other adapters may fit other numbers of frames.
                new = plan(self.model, self.media, self._frames)
                self.plan = replace(new, notes=(*new.notes, *self._memory_notes))
                keys = {sense: self._key(sense) for sense in senses}
            for sense, key in keys.items():
                if self._keys.get(sense) != key:
                    self.streams[sense] = self.model.stream(sense, self.media[sense], self.plan.times)
                    self._keys[sense] = key
            return keys

    def _key(self, sense: str) -> str:
        return self.model.stream_key(sense, self.media[sense], self.plan.times)

    @torch.no_grad()
    def _generate(
        self,
        messages: Sequence[Message],
        senses: tuple[str, ...],
        max_new_tokens: int,
        temperature: float = 0.0,
        streamer: "TextIteratorStreamer | None" = None,
    ) -> _Answer:
        """The answer to the last message, with these senses; the history stays as it is."""
        model, backbone = self.model, self.model.backbone
        # Under the lock from encoding to the last token: no adapter is exchanged between keys and answer.
        with model.lock, model.using(*senses):
            keys = self._encode(senses)
            streams = {sense: self.streams[sense] for sense in senses}  # tokens (n, D) each
            prompt = backbone.compose(messages, list(streams.values()))  # embeddings (1, S, D)

            loras, labels = model.llm_identity(*senses), self._labels(prompt, keys)  # S labels
            known = model.kv_caches.take(self, senses, loras, labels)
            cache = (
                known.cache if known else DynamicCache(config=backbone.model.config.get_text_config())
            )  # (1, Hkv, s, d) a layer, s < S
            # The token behind the media has seen them and not yet the question: the baseline of the evidence.
            behind = max((int(span[-1]) + 1 for span in prompt.spans.values()), default=None)
            rows = RowRecorder(() if behind is None else (behind,))
            with recording(backbone, text_rows=rows):
                ids = generate(
                    backbone,
                    prompt,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    cache=cache,
                    streamer=streamer,
                    stop=self._stop,
                )[0]  # (1, n) -> (n,)
            # Where that position came from the cache, its row was recorded when the cache was filled.
            baseline = rows.row_at(behind) if behind is not None else None  # (S + n - 1,)
            if baseline is None and known:
                baseline = known.baseline
            # The last token was chosen and never read: the cache holds S + n - 1 positions.
            kept = KvCache(cache, [*labels, *ids[:-1].tolist()], loras, baseline)
            model.kv_caches.keep(self, senses, kept)
        text = str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return _Answer(prompt, streams, ids, text, rows, baseline, (loras, keys))

    @staticmethod
    def _labels(prompt: Prompt, keys: Mapping[str, str]) -> list[Label]:
        """What stands at each position of a prompt, where placeholders alone would all look alike."""
        labels: list[Label] = prompt.input_ids[0].tolist()
        for sense, span in prompt.spans.items():
            for number, position in enumerate(span.tolist()):
                labels[position] = (keys[sense], number)
        return labels

    def _finish(self, messages: list[dict[str, str]], answer: _Answer) -> str:
        """Let an answer join the history, with what is to be said about it."""
        self.history = [*messages, {"role": "assistant", "content": answer.text}]
        frames = {sense: stream.frames for sense, stream in answer.streams.items()}
        self.used = {sense: (len(shown), shown.duration) for sense, shown in frames.items()}
        self.notes = [*self.plan.notes, *(note for shown in frames.values() for note in shown.notes)]
        if unknown := self.unknown_words(messages[-1]["content"]):
            self.notes.append(f"words this model was never taught: {', '.join(unknown)}")
        self.evidence = answer_evidence(
            self.model.backbone.tokenizer,
            answer.prompt,
            answer.ids,
            answer.rows.rows(),  # (n, S + n - 1)
            answer.streams,
            answer.baseline,
        )
        self._last = _Last(answer.ids, list(self.history), answer.origin)
        return answer.text

    def _with(self, question: str) -> list[dict[str, str]]:
        if not question.strip():
            raise LynxError("the question is empty")
        return [*self.history, {"role": "user", "content": question.strip()}]

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

    # --- where memory runs out --------------------------------------------------------------------

    def _drop_kept(self) -> bool:
        """Drop what the model keeps only for later; False where there was nothing."""
        with self.model.lock:
            kept = len(self.model.kv_caches) > 0 or len(self.model.streams) > len(self.streams)
            self.model.kv_caches.clear()
            self.model.streams.clear()
        return kept

    def _halve_frames(self) -> bool:
        """Look at half of the moments from here on; False where there is one or none."""
        before = self.plan.frames
        if before < 2 or not self.media:
            return False
        self._drop_kept()
        self.streams.clear()
        self._keys.clear()
        self._last, self.used = None, {}  # they were about streams that are gone
        self._frames = before // 2
        self._memory_notes = (f"{before // 2} frames instead of {before}: the memory ran out",)
        halved = plan(self.model, self.media, self._frames)
        self.plan = replace(halved, notes=(*halved.notes, *self._memory_notes))
        self.notes = list(self.plan.notes)
        return True
