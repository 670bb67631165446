"""A conversation over one set of media: each sense is encoded once, the KV cache goes from turn to turn.

A first answer is bit for bit what stock `generate` gives for the same prompt; later ones take what they
share with the turn before from its cache, which equals a full prefill but for the order of a few sums.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lynx.attention import RowRecorder, recording
from lynx.backbones import Composed, Stream
from lynx.errors import BackboneError, LynxError, MediaError
from lynx.evidence import Evidence, answer_log_prob
from lynx.media import sample_times
from lynx.modalities.video import Video
from lynx.streaming import stream_text

if TYPE_CHECKING:
    from transformers import TextIteratorStreamer

    from lynx.model import Lynx

VIDEO = "video"
TEXT_RESERVE = 512  # tokens kept free for the conversation, or a quarter of a small context


@dataclass(frozen=True)
class Plan:
    """What will be looked at, known before anything is decoded."""

    times: Tensor  # (T,) seconds
    duration: float  # seconds
    tokens: Mapping[str, int]  # per sense
    context: int  # tokens the LLM takes
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """How many moments are looked at."""
        return len(self.times)

    @property
    def total(self) -> int:
        """Tokens of all senses."""
        return sum(self.tokens.values())


def plan(model: "Lynx", media: Mapping[str, Any], frames: int | None = None) -> Plan:
    """Choose the moments, spread evenly over the clip, and count the tokens of every sense.

    frames: how many moments; the backbone's default, or as many as fit its context, where not given.
    Raises: MediaError, AdapterError: a sense that cannot be used. BackboneError: more frames than fit.
    """
    durations = {sense: model.modality(sense).duration(source) for sense, source in media.items()}
    duration = durations.get(VIDEO, max(durations.values(), default=0.0))
    context = model.backbone.context
    room = context - min(TEXT_RESERVE, context // 4)
    n = frames if frames is not None else model.backbone.default_frames
    if n < 1:
        raise BackboneError(f"frames is {n}: at least one moment has to be looked at")
    size = Video().size(media[VIDEO]) if VIDEO in media else None

    def tokens(frames: int) -> dict[str, int]:
        return {sense: model.tokens(sense, frames, size) for sense in media}

    fitting = n
    while fitting and sum(tokens(fitting).values()) > room:
        fitting -= 1
    if not fitting or (fitting < n and frames is not None):
        raise BackboneError(
            f"{n} frames of {', '.join(media)} do not fit {model.backbone.source} ({context} tokens): "
            f"use at most {fitting} frames"
        )
    notes = (f"{fitting} frames instead of {n}: more do not fit the model's {context} tokens",)
    return Plan(
        sample_times(duration, fitting),
        duration,
        tokens(fitting),
        context,
        notes if fitting < n else (),
    )


@dataclass(frozen=True)
class Comparison:
    """The same question with a sense and without it."""

    question: str
    sense: str
    with_sense: str
    without_sense: str


@dataclass(frozen=True)
class _Turn:
    """One answer that is asked for."""

    messages: list[dict[str, str]]
    senses: tuple[str, ...]
    prompt: Composed
    cache: DynamicCache
    baseline: Tensor | None  # of the media, where they are in the cache already
    rows: RowRecorder
    max_new_tokens: int
    temperature: float


@dataclass(frozen=True)
class _Kept:
    """The KV cache of the last turn: which tokens it holds, under which senses, and their baseline."""

    cache: DynamicCache
    ids: list[int]
    senses: tuple[str, ...]
    baseline: Tensor | None


class Session:
    """A conversation about one clip.

    `history` is the conversation; `senses` are switches, one a sense; `streams` what was encoded; `notes`
    what the user should know; `used` the senses of the last answer with their frames and seconds; `evidence`
    what it rests on. A `Session` answers one question at a time.
    """

    def __init__(self, model: "Lynx", media: Mapping[str, Any], *, frames: int | None = None) -> None:
        self.model = model
        self.media = {sense: source for sense, source in media.items() if source is not None}
        self.plan = plan(model, self.media, frames)
        self.senses = dict.fromkeys(self.media, True)
        self.streams: dict[str, Stream] = {}
        self.clear()
        self._kept: _Kept | None = None
        self._busy, self._stop = threading.Lock(), threading.Event()

    def clear(self) -> None:
        """Forget the conversation; the media stay encoded."""
        self.history: list[dict[str, str]] = []
        self.notes = list(self.plan.notes)
        self.used: dict[str, tuple[int, float]] = {}
        self.evidence: Evidence | None = None
        self._answer_ids: Tensor | None = None

    def ask(self, question: str, *, max_new_tokens: int = 128, temperature: float = 0.0) -> str:
        """The answer, which joins the history. temperature: 0 is greedy. Raises: LynxError."""
        with self._answering():
            turn = self._begin(self._with(question), max_new_tokens, temperature)
            return self._finish(turn, self._run(turn))

    def stream(self, question: str, *, max_new_tokens: int = 128, temperature: float = 0.0) -> Iterator[str]:
        """The answer in pieces; it joins the history when the last one has been taken, or after `stop`."""
        with self._answering():
            turn = self._begin(self._with(question), max_new_tokens, temperature)
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

    def compare(self, question: str | None = None, *, without: str, max_new_tokens: int = 128) -> Comparison:
        """Answer a question (the last one where none is given) with and without a sense, outside the history.

        Raises: LynxError where the sense is not on, or there is no question.
        """
        senses = self._on()
        if without not in senses:
            raise LynxError(f"{without!r} is not on: there are {', '.join(senses) or 'no senses'}")
        if question is None and not self.history:
            raise LynxError("there is no question to compare yet")
        messages = self.history[:-1] if question is None else self._with(question)
        with self._answering():
            answers = []
            for chosen in (senses, tuple(sense for sense in senses if sense != without)):
                turn = self._begin(messages, max_new_tokens, 0.0, chosen)
                answers.append(self._text(self._run(turn)))
        return Comparison(messages[-1]["content"], without, *answers)

    def occlusion(self, sense: str, window: tuple[float, float] | None = None) -> float:
        """How much the log-probability of the last answer falls when a sense is hidden.

        window: hide only what lies between these seconds. Hidden tokens become the mean of their stream.
        Above 0: the answer rests on it.
        Raises: LynxError where there is no answer, or the sense was not used for it.
        """
        answer = self._answer_ids
        if answer is None or sense not in self.used:
            raise LynxError(f"there is no answer that used {sense!r} yet")
        stream, senses = self.streams[sense], tuple(self.used)
        start, end = window if window is not None else (-torch.inf, torch.inf)
        hidden = ((stream.times >= start) & (stream.times <= end)).to(stream.tokens.device)
        mean = stream.tokens[~stream.times.isnan()].mean(dim=0)
        blanked = replace(stream, tokens=torch.where(hidden[:, None], mean, stream.tokens))
        with self._answering():
            seen = self._score(answer, senses, self.streams)
            return seen - self._score(answer, senses, {**self.streams, sense: blanked})

    def unknown_words(self, question: str) -> list[str]:
        """Words of the question that the backbone was never taught; none for one that learned open text."""
        known = self.model.backbone.words
        if known is None:
            return []
        words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", question.lower())
        return [word for word in dict.fromkeys(words) if word not in known]

    def encode(self) -> dict[str, Stream]:
        """Read, render and encode every sense that is on and not encoded yet; returns all that are."""
        for sense in self._on():
            if sense not in self.streams:
                frames = self.model.modality(sense).render(self.media[sense], self.plan.times)
                self.streams[sense] = self.model.encode(sense, frames)
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

    def _with(self, question: str) -> list[dict[str, str]]:
        if not question.strip():
            raise LynxError("the question is empty")
        return [*self.history, {"role": "user", "content": question.strip()}]

    def _prompt(
        self, messages: Sequence[dict[str, str]], senses: tuple[str, ...], streams: Mapping[str, Stream]
    ) -> Composed:
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
        self.encode()
        prompt = self._prompt(messages, senses, self.streams)
        behind = max((int(span[-1]) + 1 for span in prompt.spans.values()), default=None)
        rows = RowRecorder(() if behind is None else (behind,))
        cache, baseline = self._take_cache(prompt.input_ids[0].tolist(), senses)
        return _Turn(messages, senses, prompt, cache, baseline, rows, max_new_tokens, temperature)

    def _take_cache(self, ids: list[int], senses: tuple[str, ...]) -> tuple[DynamicCache, Tensor | None]:
        """The last turn's cache, cut to what this prompt shares with it, and its baseline; else an empty one.

        It is taken out of the session: what a failure leaves half filled is never used again.
        """
        kept, self._kept = self._kept, None
        if kept is None or kept.senses != senses:
            return DynamicCache(config=self.model.backbone.model.config.get_text_config()), None
        pairs = zip(kept.ids, ids[:-1], strict=False)  # at least one token has to be computed
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(kept.ids), len(ids) - 1))
        kept.cache.crop(-(len(kept.ids) - shared))
        return kept.cache, kept.baseline

    def _run(self, turn: _Turn, streamer: "TextIteratorStreamer | None" = None) -> Tensor:
        """The new ids (n,)."""
        with self.model.using(*turn.senses), recording(self.model.backbone, text_rows=turn.rows):
            ids = self.model.generate(
                turn.prompt,
                max_new_tokens=turn.max_new_tokens,
                temperature=turn.temperature,
                cache=turn.cache,
                streamer=streamer,
                stop=self._stop,
            )[0]
        held = turn.prompt.input_ids[0].tolist() + ids[:-1].tolist()
        self._kept = _Kept(turn.cache, held, turn.senses, self._baseline(turn))
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
        if unknown := self.unknown_words(question):
            self.notes.append(f"words this model was never taught: {', '.join(unknown)}")
        self._answer_ids = ids
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
        tokenizer = self.model.backbone.tokenizer
        rows, prompt_ids = turn.rows.rows(), turn.prompt.input_ids[0]
        special = torch.tensor(tokenizer.all_special_ids)
        steps = (~torch.isin(ids.cpu(), special)).nonzero().flatten().tolist()
        sinks = torch.zeros(rows.shape[1], dtype=torch.bool)
        sinks[: len(prompt_ids)] = torch.isin(prompt_ids.cpu(), special)
        sinks[0] = True
        for sense, span in turn.prompt.spans.items():
            sinks[span] = self.streams[sense].times.isnan()
        texts = [str(tokenizer.decode(ids[: step + 1], skip_special_tokens=True)) for step in steps]
        pieces = [text[len(before) :] for before, text in zip(["", *texts], texts, strict=False)]
        streams = {sense: self.streams[sense] for sense in turn.senses}
        baseline = self._kept.baseline if self._kept is not None else None
        return Evidence(pieces, rows[steps], turn.prompt.spans, streams, sinks, baseline)
