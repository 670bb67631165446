"""An answer with all that it was made from, and passes of the LLM over it with other tokens of its media.

`Answered` is kept with the answer; `replay` opens it for a moment, and holds the model for all of it or only
for the length of each pass. Axis letters: B ways to change the prompt, S prompt tokens, n answer tokens,
R numbers of an interface token (see `Stream`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lynx.backbones.memory import explain_out_of_memory
from lynx.errors import LynxError
from lynx.streams.encoder import StreamEncoder
from lynx.streams.key import sense_digest
from lynx.types import Frames, Message, Stream


class Replay:
    """The prompt of an answer followed by the answer, and the same with *blank* media.

    Blank media are what each sense draws where there is nothing: black frames, silence, no return. Their
    token is the mean over the cells of such a picture: the mean of the real tokens would still reveal what
    they show.

    spans: the positions (k,) of each sense's tokens. inputs, blank: (1, S + n, R).
    """

    def __init__(self, answered: "Answered") -> None:
        model, self.streams, self.ids = answered.model, answered.streams, answered.ids
        self.backbone, self._answered, self._is_alone = model.backbone, answered, False
        with torch.no_grad():
            prompt = self.backbone.compose(answered.messages, list(self.streams.values()))
            said = self.backbone.embed(self.ids[None])  # (1, n, R)
            self.inputs = torch.cat([prompt.inputs_embeds, said], dim=1)
            self._all_ids = torch.cat([prompt.input_ids, self.ids[None]], dim=1)  # (1, S + n)
            self.blank = self.inputs.clone()
            for sense, stream in self.streams.items():
                blank = blank_stream(model, stream).embeds.to(self.inputs)
                self.blank[0, prompt.spans[sense].to(self.inputs.device)] = blank
        self.spans = prompt.spans
        self.start = prompt.input_ids.shape[1]  # position of the answer's first token
        self._mask = torch.cat([prompt.attention_mask, torch.ones_like(self.ids[None])], dim=1)  # (1, S + n)
        behind = prompt.position_ids[..., -1:] + 1 + torch.arange(len(self.ids), device=self._mask.device)
        self._positions = torch.cat([prompt.position_ids, behind], dim=-1)  # (.., 1, S + n)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """`Answered.alone` for a pass; nothing more inside another one of this replay."""
        if self._is_alone:
            yield
            return
        with self._answered.alone():
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    def log_probs(self, inputs: Tensor, tokens: Sequence[int]) -> Tensor:
        """Log-probability (B,) of the answer tokens at these indices, together, in nats.

        inputs: (B, S + n, R), which may need gradients. What comes behind the last of the tokens is left out.
        Raises: LynxError where the adapters have changed since the answer.
        """
        count, length = len(inputs), self.start + max(tokens)
        before = torch.tensor(tokens, device=inputs.device) + self.start - 1  # a token is predicted there
        positions = self._positions[..., :length]
        with self.alone():
            logits = self.backbone.model(
                **self.backbone.inputs(self._all_ids[:, :length].expand(count, -1), inputs[:, :length]),
                attention_mask=self._mask[:, :length].expand(count, -1),
                position_ids=positions.expand(*positions.shape[:-2], count, -1),
                logits_to_keep=before,
                use_cache=False,
            ).logits  # (B, tokens, V)
        said = self.ids[list(tokens)][None, :, None].expand(count, -1, 1)  # (B, tokens, 1)
        return logits.float().log_softmax(dim=-1).gather(-1, said).sum((1, 2))


@dataclass(frozen=True, eq=False)
class Answered:
    """An answer (n,) ids, with the conversation that ends in its question and the streams it was about."""

    model: StreamEncoder
    messages: Sequence[Message]
    streams: Mapping[str, Stream]
    ids: Tensor
    origin: tuple[bytes, ...]  # `weights_of` the senses when it was made

    @contextmanager
    def replay(self, shared: bool = False) -> Iterator[Replay]:
        """Passes over this answer. The model is this answer's alone inside the `with`, or, if `shared`, only
        inside each pass: between two of them others may use it, and whether the adapters have changed is
        looked at again.

        Raises: LynxError where these have changed. BackboneError where memory runs out.
        """
        with explain_out_of_memory(), ExitStack() as held:
            with self.alone():
                replay = Replay(self)
            if not shared:
                held.enter_context(replay.alone())
            yield replay

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside the `with` the model is this answer's alone, under the adapters that made it.

        Raises: LynxError where these have changed since.
        """
        with self.model.lock, self.model.using(*self.streams):
            if weights_of(self.model, self.streams) != self.origin:
                raise LynxError("the adapters have changed since this answer: ask again")
            yield


def weights_of(model: StreamEncoder, senses: Mapping[str, object]) -> tuple[bytes, ...]:
    """Digests of everything in the adapters of these senses that decides an answer."""
    own = (sense_digest(model, sense).digest() for sense in senses)
    return (*own, *model.llm_identity(*senses))


def blank_stream(model: StreamEncoder, stream: Stream) -> Stream:
    """The stream of the same moments where its sense shows nothing; newlines stay."""
    token = blank_token(model, stream.sense, stream.frames)
    real = ~stream.times.isnan().to(stream.tokens.device)  # (n,)
    return replace(stream, tokens=torch.where(real[:, None], token.to(stream.tokens), stream.tokens))


def blank_token(model: StreamEncoder, sense: str, frames: Frames) -> Tensor:
    """The token (R,) of a sense where it shows nothing, in pictures as large as these: the mean over cells.

    Where a moment has several kinds of pictures it is the mean over the blank ones of all kinds. A model
    keeps it, so that further words of an answer need no pass of the vision tower.
    """
    with model.lock:
        key = sense_digest(model, sense, blank=list(frames.pixels.shape[-2:])).digest()
        if (token := model.blank_tokens.get(key)) is None:
            blank = model.modality(sense).blank(frames)  # (kinds, 3, H, W)
            moments = torch.zeros(len(blank), dtype=torch.float64)
            encoded = model.encode(sense, Frames(blank, moments, 1.0))
            token = encoded.tokens[~encoded.times.isnan().to(encoded.tokens.device)].mean(dim=0)
            model.blank_tokens[key] = token
        return token
