"""A conversation over one set of media: which senses are on, the history, and the answers.

`Session._generate` makes an answer: encode, compose, generate, evidence. A first answer is bit for
bit what stock `generate` gives for the same prompt; later ones continue a KV cache, which equals a full
prefill up to rounding. If memory runs out, an answer is retried without cached streams and KV caches, then
with half of the frames.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from transformers import DynamicCache, TextIteratorStreamer

from lynx.backbones.attention import RowRecorder, recording
from lynx.backbones.decoding import NextTokens, generate, stream_text
from lynx.backbones.kv_cache import KvCache, prompt_labels
from lynx.backbones.memory import explain_out_of_memory, retry_with_more_room
from lynx.config import short_repr
from lynx.errors import LynxError, MediaError
from lynx.evidence.attention import behind_media
from lynx.evidence.doubts import doubts
from lynx.evidence.evidence import Evidence, answer_evidence
from lynx.evidence.replay import Answered, weights_of
from lynx.modalities.inspection import notes_of
from lynx.streams.budget import part_of, plan
from lynx.streams.encoder import StreamEncoder
from lynx.types import VIDEO, Moments, Stream, is_number

Result = TypeVar("Result")
History = list[dict[str, str]]
Senses = str | Sequence[str]  # one or several


@dataclass(frozen=True)
class Comparison:
    """A question's answer with all senses that are on, and those without one of them, by its name."""

    question: str
    answer: str
    without: Mapping[str, str]


def _answer_options(max_new_tokens: int, temperature: float) -> dict[str, Any]:
    """The options of `decoding.generate`. Raises: LynxError: they are no such numbers."""
    if not (is_number(max_new_tokens) and max_new_tokens == int(max_new_tokens) >= 1):
        raise LynxError(f"max_new_tokens is {short_repr(max_new_tokens)}: expected a whole number, 1 or more")
    if not (is_number(temperature) and temperature >= 0):
        raise LynxError(f"temperature is {short_repr(temperature)}: expected a number, 0 (greedy) or more")
    return {"max_new_tokens": int(max_new_tokens), "temperature": temperature}


class Session:
    """A conversation about one clip, or a part of it. It answers one question at a time.

    moments: which moments are looked at, as asked for; plan: those that are.
    media: the source of each sense; one that has to know which part is looked at is told.
    history: the messages so far, questions and answers in turn.
    senses: a switch for each sense; streams: what was encoded of them.
    notes: what the user should know about the last answer.
    used: the senses of the last answer, each with its number of frames and how many seconds they cover.
    evidence: what the last answer rests on.
    """

    def __init__(
        self, model: StreamEncoder, media: Mapping[str, Any], moments: Moments | None = None
    ) -> None:
        self.model, self.moments = model, moments or Moments()
        self.media = {sense: source for sense, source in media.items() if source is not None}
        self.senses = dict.fromkeys(self.media, True)
        self.streams: dict[str, Stream] = {}
        self._keys: dict[str, str] = {}  # of `streams`
        self._memory_notes: tuple[str, ...] = ()
        self._make_plan()
        if not self.plan.whole:  # a part that is all of it shares the streams of the whole
            self.media = part_of(self.media, (self.plan.start, self.plan.end), self.plan.duration)
        self._busy, self._stop = threading.Lock(), threading.Event()
        self.clear()

    def clear(self) -> None:
        """Forget the conversation; the media stay encoded."""
        self.history: History = []
        self.notes = list(self.plan.notes)
        self.used: dict[str, tuple[int, float]] = {}
        self.evidence: Evidence | None = None
        self._answered_history: History = []  # which ends in the answer that `evidence` is of

    def ask(self, question: str, *, max_new_tokens: int = 128, temperature: float = 0.0) -> str:
        """The answer, which joins the history.

        max_new_tokens: it ends there. temperature: 0 is greedy; above it tokens are drawn.
        Raises: LynxError: no question, or nothing that it could be about: no media, or no sense that is on.
        """
        options = _answer_options(max_new_tokens, temperature)

        def answer() -> str:
            messages, senses = self._messages_with(question), self._senses_asked()
            text, join = self._generate(messages, senses, **options)
            join()
            return text

        with self._answering():
            return self._with_room(answer)

    def stream(self, question: str, *, max_new_tokens: int = 128, temperature: float = 0.0) -> Iterator[str]:
        """The answer in pieces; it joins the history when the last one has been taken, or after `stop`."""
        options = _answer_options(max_new_tokens, temperature)
        with self._answering():
            messages, senses = self._messages_with(question), self._senses_asked()
            joins: list[Callable[[], None]] = []

            def run(streamer: TextIteratorStreamer) -> None:
                joins.append(self._generate(messages, senses, streamer=streamer, **options)[1])

            def begin() -> tuple[str, Generator[str]]:
                self._stop.clear()  # a failed first try has set it
                rest = stream_text(self.model.backbone.tokenizer, run, self._stop)
                return next(rest, ""), rest

            # Retried only up to the first piece: afterwards the reader would see text twice.
            first, rest = self._with_room(begin)
            with closing(rest), explain_out_of_memory():
                if first:
                    yield first
                yield from rest
                joins[-1]()

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self._busy.locked()

    def stop(self) -> None:
        """End the answer that is being written after its current token; what was said stays."""
        self._stop.set()

    def undo(self) -> str:
        """Remove the last question and its answer from the history; returns the question."""
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
        self, question: str | None = None, *, without: Senses | None = None, max_new_tokens: int = 128
    ) -> Comparison:
        """Answer a question (the last one where none is given) again without each sense, outside the history.

        without: the sense, or the senses, that are left out one at a time; all but the video where not given.
        Raises: LynxError: such a sense is not on, no added sense is on, or there is no question.
        """
        options, senses = _answer_options(max_new_tokens, 0.0), self._senses_on()
        if without is None:
            without = [sense for sense in senses if sense != VIDEO]
        left_out = [without] if isinstance(without, str) else list(without)
        if not left_out:
            raise LynxError("no sense beside the video is on: switch one on to see what its absence changes")
        if off := [sense for sense in left_out if sense not in senses]:
            raise LynxError(f"{off[0]!r} is not on: there are {', '.join(senses) or 'no senses'}")
        if question is None and not self.history:
            raise LynxError("there is no question to compare yet")
        messages = self.history[:-1] if question is None else self._messages_with(question)

        def answers() -> list[str]:
            texts = []
            for left in (None, *left_out):
                chosen = tuple(sense for sense in senses if sense != left)
                texts.append(self._generate(messages, chosen, **options)[0])
                with self.model.lock:  # the conversation continues with all senses: keep their cache longest
                    self.model.kv_caches.get(self, senses)
            return texts

        with self._answering():
            whole, *rest = self._with_room(answers)
        return Comparison(messages[-1]["content"], whole, dict(zip(left_out, rest, strict=True)))

    def occlusion(
        self, sense: str, window: tuple[float, float] | None = None,
        region: tuple[float, float, float, float] | None = None,
    ) -> float:
        """How much the log-probability of the last answer falls, in nats, when a sense is hidden.

        window: hide only what lies between these seconds. region: only left, top, right, bottom of its
        pictures, as fractions. Above 0: the answer rests on it.
        Raises: LynxError where there is no answer, or the sense was not used for it.
        """
        if self.evidence is None:
            raise LynxError(f"there is no answer that used {sense!r} yet")
        if self.history != self._answered_history:
            raise LynxError("the last answer is no longer that of the conversation: ask again")
        with self._answering():
            return self.evidence.hidden(None, sense, window, region)

    # --- encode -> compose -> generate -> evidence ------------------------------------------------

    def encode(self) -> dict[str, Stream]:
        """Read, render and encode every sense that is on and not encoded yet; returns all that are."""
        self._with_room(lambda: self._encode(self._senses_on()))
        return self.streams

    def _encode(self, senses: tuple[str, ...]) -> dict[str, str]:
        """Bring `streams` up to date for these senses; returns their keys.

        A stream is identified by its key, not by the sense's name: the adapter of that name may have been
        exchanged, or trained further, since the last question.
        """
        with self.model.lock:
            keys = self._stream_keys(senses)
            if any(self._keys.get(sense, key) != key for sense, key in keys.items()):
                self._make_plan()  # other adapters may want another number of frames
                keys = self._stream_keys(senses)
            for sense, key in keys.items():
                if self._keys.get(sense) != key:
                    self.streams[sense] = self.model.stream(sense, self.media[sense], self.plan.times, key)
                    self._keys[sense] = key
            return keys

    @torch.no_grad()
    def _generate(
        self, messages: History, senses: tuple[str, ...], **options: Any
    ) -> tuple[str, Callable[[], None]]:
        """The answer to the last message, and a function that adds it to the history."""
        model, backbone = self.model, self.model.backbone
        # Under the lock from encoding to the last token: no adapter is exchanged between keys and answer.
        with model.lock, model.using(*senses):
            keys = self._encode(senses)
            streams = {sense: self.streams[sense] for sense in senses}  # tokens (n, D) each
            prompt = backbone.compose(messages, list(streams.values()))  # embeddings (1, S, D)
            loras, weights = model.llm_identity(*senses), weights_of(model, streams)
            labels = prompt_labels(prompt, keys)  # S of them
            known = model.kv_caches.take(self, senses, loras, labels)
            config = backbone.model.config.get_text_config()
            cache = known.cache if known else DynamicCache(config=config)  # (1, Hkv, s, d) a layer, s < S
            rows, said = RowRecorder(behind_media(prompt.spans)), NextTokens()
            with recording(backbone, text_rows=rows):
                new = generate(backbone, prompt, cache=cache, stop=self._stop, next_tokens=said, **options)
            ids = new[0]  # (n,)
            baseline = known.baseline if known else None  # where its position came from the cache
            if (before := rows.prompt_rows()) is not None:
                baseline = before[0]  # (S + n - 1,)
            # The last token was never fed back: the cache holds S + n - 1 positions.
            kept = KvCache(cache, [*labels, *ids[:-1].tolist()], loras, baseline)
            model.kv_caches.keep(self, senses, kept)
        text = str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()

        def join() -> None:
            self.history = [*messages, {"role": "assistant", "content": text}]
            frames = {sense: stream.frames for sense, stream in streams.items()}
            start, end = self.plan.start, self.plan.end
            self.used = {
                sense: (len(shown), max(0.0, min(shown.duration, end) - start))
                for sense, shown in frames.items()
            }
            self.notes = [*self.plan.notes, *notes_of(frames.values())]
            answered = Answered(model, messages, streams, ids, weights)
            attention = rows.rows()  # (n, S + n - 1)
            self.evidence = answer_evidence(prompt, answered, attention, baseline, said.of(ids))
            self.notes += doubts(model, messages[-1]["content"], streams, self.evidence)
            self._answered_history = list(self.history)

        return text, join

    def _messages_with(self, question: str) -> History:
        if not isinstance(question, str):
            raise LynxError(f"the question is {short_repr(question)}: expected a text")
        if not (question := question.strip()):
            raise LynxError("the question is empty")
        try:
            question.encode()
        except UnicodeEncodeError as error:
            raise LynxError(f"the question holds {question[error.start]!r}, half a character") from error
        return [*self.history, {"role": "user", "content": question}]

    def _senses_on(self) -> tuple[str, ...]:
        if unknown := sorted(set(self.senses) - set(self.media)):
            raise MediaError(f"no media for {', '.join(unknown)}: this session has {', '.join(self.media)}")
        return tuple(sense for sense, on in self.senses.items() if on)

    def _senses_asked(self) -> tuple[str, ...]:
        """The senses that are on. Raises: MediaError where there is none: words alone would be guessed at."""
        senses = self._senses_on()
        if not self.media:
            raise MediaError("there is nothing to ask about: give a video, a sound or other media")
        if not senses:
            off = ", ".join(self.senses)
            raise MediaError(f"every sense is switched off ({off}): switch one on to ask about the clip")
        return senses

    def _stream_keys(self, senses: Iterable[str]) -> dict[str, str]:
        return {name: self.model.stream_key(name, self.media[name], self.plan.times) for name in senses}

    def _make_plan(self) -> None:
        planned = plan(self.model, self.media, self.moments)
        self.plan = replace(planned, notes=(*planned.notes, *self._memory_notes))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise LynxError("an answer is being written: wait for it, or stop it first")
        self._stop.clear()
        try:
            yield
        finally:
            self._busy.release()

    def _with_room(self, call: Callable[[], Result]) -> Result:
        make_room = (lambda: self.model.drop_kept(in_use=len(self.streams)), self._halve_frames)
        return retry_with_more_room(call, make_room)

    def _halve_frames(self) -> bool:
        """Use half of the moments from now on; False where there are fewer than two."""
        before = self.plan.frames
        if before < 2 or not self.media:
            return False
        self.model.drop_kept(in_use=0)
        self.streams.clear()
        self._keys.clear()
        self.evidence, self.used = None, {}  # they refer to dropped streams
        self.moments = replace(self.moments, frames=before // 2, fps=None, max_frames=None)
        self._memory_notes = (f"{before // 2} frames instead of {before}: the memory ran out",)
        self._make_plan()
        self.notes = list(self.plan.notes)
        return True
