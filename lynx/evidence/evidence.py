"""What an answer rests on, for the whole of it and for each of its words.

What was recorded as the answer was written is there at once: the attention rows, and how probable each token
was. Other methods compute when they are asked for, and the result is kept with the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from lynx.backbones.base import Backbone
from lynx.errors import LynxError
from lynx.evidence.attention import AttentionRows
from lynx.evidence.attribution import Attribution
from lynx.evidence.hiding import Region, Window, occlusion
from lynx.evidence.integrated_gradients import Progress
from lynx.evidence.methods import ATTENTION, ATTRIBUTION, explain
from lynx.evidence.replay import Answered
from lynx.types import Prompt, Stream

END = "end of answer"
"""Text of the token that ends an answer, where it is among the candidates."""

Word = int | str | None
"""A word of an answer by its index in `Evidence.words` or by its letters; None: the whole answer."""


@dataclass(frozen=True)
class Candidate:
    """A token that might have been said at one place of an answer, as text, and its probability (0..1)."""

    text: str
    probability: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one answer rests on.

    tokens: the n answer tokens as text; joined they are the answer.
    attention: recorded as they were generated, the mean over layers and heads.
    answered: what the answer was made from; steps: which of its ids the tokens are.
    said: each token with its probability; candidates: the most probable others at its place.
    """

    tokens: list[str]
    attention: AttentionRows
    answered: Answered | None = None
    steps: tuple[int, ...] = ()
    said: tuple[Candidate, ...] = ()
    candidates: tuple[tuple[Candidate, ...], ...] = ()
    _known: dict[tuple[str, tuple[int, ...]], Attribution] = field(default_factory=dict)

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The tokens of each sense."""
        return self.attention.streams

    @property
    def words(self) -> list[tuple[str, list[int]]]:
        """The answer's words, each with its tokens' indices."""
        words: list[tuple[str, list[int]]] = []
        for index, piece in enumerate(self.tokens):
            if not piece.strip():
                continue
            if words and piece[0].isalnum() and self.tokens[index - 1][-1:].strip():  # goes on with a word
                text, indices = words[-1]
                words[-1] = (text + piece.rstrip(), [*indices, index])
            else:
                words.append((piece.strip(), [index]))
        return words

    def find_word(self, word: Word = None) -> tuple[str | None, tuple[int, ...]]:
        """A word's text, None for the whole answer, and its tokens' indices; of equal words the first.

        Raises: LynxError where there is no such word; it names those there are.
        """
        if word is None:
            return None, tuple(range(len(self.tokens)))
        words, index = self.words, word
        if isinstance(index, str):
            wanted = index.strip().casefold()
            index = next((i for i, (text, _) in enumerate(words) if text.casefold() == wanted), -1)
        if not 0 <= index < len(words):
            there = ", ".join(text for text, _ in words)
            raise LynxError(f"the answer has no word {word!r}; it has {there or 'no words at all'}")
        text, tokens = words[index]
        return text, tuple(tokens)

    def attribution(
        self, word: Word = None, method: str = ATTRIBUTION, progress: Progress | None = None
    ) -> Attribution:
        """What a word rests on, by one of METHODS; computed once and kept. Of an empty answer all is 0.

        progress: called as it is computed, with how many passes are done and how many there are.

        Raises: LynxError: no such word, method or layer, or the adapters have changed since the answer.
        """
        _, tokens = self.find_word(word)
        if (method, tokens) not in self._known:
            if method == ATTENTION:  # recorded
                found = self.attention.attribution(tokens)
            else:
                steps = [self.steps[token] for token in tokens]
                found = explain(self._kept(), self.attention, steps, method, progress)
            self._known[method, tokens] = found
        return self._known[method, tokens]

    def hidden(
        self, word: Word, sense: str, window: Window | None = None, region: Region | None = None
    ) -> float:
        """How much the log-probability of a word falls, in nats, when a sense is hidden.

        window: hide only what lies between these seconds. region: only left, top, right, bottom of its
        pictures, as fractions. Above 0: the word rests on it. Of an empty answer it is 0.
        Raises: LynxError: no such word, the sense was not used, or the adapters have changed since.
        """
        _, tokens = self.find_word(word)
        if sense not in self.streams:
            used = ", ".join(self.streams) or "no sense"
            raise LynxError(f"there is no answer that used {sense!r} here: it used {used}")
        with self._kept().replay() as replay:
            steps = [self.steps[token] for token in tokens]
            return occlusion(replay, steps, sense, window, region) if steps else 0.0

    def _kept(self) -> Answered:
        if self.answered is None:
            raise LynxError("this answer was not kept with its model: there is its attention alone")
        return self.answered

    def share(self, token: int | None = None) -> dict[str, float]:
        """How the attention of a token, or of the answer, divides among the senses and the words ("text").

        The shares sum to 1.
        """
        return self.attention.shares(range(len(self.tokens)) if token is None else [token])


def answer_evidence(
    prompt: Prompt,
    answered: Answered,
    rows: Tensor,
    baseline: Tensor | None,
    likely: tuple[Tensor, Tensor, Tensor],
) -> Evidence:
    """The evidence of an answer of n ids, from what was recorded as it was generated.

    rows: attention (n, S); baseline: see `AttentionRows`. likely: what `NextTokens.of` gives.
    """
    tokenizer, answer = answered.model.backbone.tokenizer, answered.ids
    special = torch.tensor(tokenizer.all_special_ids)
    # Markers such as <|im_end|> are tokens of the answer but not words.
    steps = (~torch.isin(answer.cpu(), special)).nonzero().flatten().tolist()
    sinks = torch.zeros(rows.shape[1], dtype=torch.bool)  # (S,)
    sinks[: prompt.input_ids.shape[1]] = torch.isin(prompt.input_ids[0].cpu(), special)
    sinks[0] = True
    for sense, span in prompt.spans.items():  # its placeholders are special too, but no sinks; newlines are
        sinks[span] = answered.streams[sense].times.isnan()
    # Decoded together, since a space or an accent may depend on the token before. A character made of several
    # tokens belongs to the last of them: until then it is decoded as U+FFFD, which is cut off.
    texts = [str(tokenizer.decode(answer[: step + 1], skip_special_tokens=True)) for step in steps]
    texts = ["", *(text.rstrip("\ufffd") for text in texts[:-1]), *texts[-1:]]
    tokens = [text[len(before) :] for before, text in pairwise(texts)]
    attention = AttentionRows(rows[steps], prompt.spans, answered.streams, sinks, baseline)
    said, candidates = _candidates(answered.model.backbone, answer[steps], *(each[steps] for each in likely))
    return Evidence(tokens, attention, answered, tuple(steps), said, candidates)


def _candidates(
    backbone: Backbone, said: Tensor, chances: Tensor, others: Tensor, theirs: Tensor
) -> tuple[tuple[Candidate, ...], tuple[tuple[Candidate, ...], ...]]:
    """Ids (n,) and (n, 5) with their probabilities, as `Evidence.said` and `Evidence.candidates`."""
    ends = backbone.model.generation_config.eos_token_id  # one, several or None
    ends = {backbone.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    def text_of(token: int) -> str:
        if token in ends:
            return END
        return str(backbone.tokenizer.decode([token])).lstrip(" ").replace("\n", "\u21b5") or "space"

    def named(ids: Tensor, probabilities: Tensor) -> tuple[Candidate, ...]:
        pairs = zip(ids.tolist(), probabilities.tolist(), strict=True)
        return tuple(Candidate(text_of(token), probability) for token, probability in pairs)

    return named(said, chances), tuple(map(named, others, theirs))
