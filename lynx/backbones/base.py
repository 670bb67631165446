"""What every family of Video LLMs does for lynx: frames -> pixels -> tokens; messages -> LLM inputs.

A `Backbone` wraps a *stock* transformers model, frozen and in eval mode, whose attention runs through
`lynx.attention`. A family overrides what its architecture decides (pixels, encode, positions, module names)
and nothing else. Axis letters: T frames, D width, n tokens, S sequence.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lynx.errors import BackboneError

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}; media belong to the first user message."""


@dataclass(frozen=True)
class Preprocessing:
    """How uint8 frames become pixels: read from the checkpoint's own JSON, never from class defaults."""

    size: tuple[int, int]  # (height, width)
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class TokenLayout:
    """Where each token of an encoded stream comes from; -1 marks a token of no frame, such as a newline."""

    frame: Tensor  # (n,) int
    cell: Tensor  # (n, 2) int, row and column
    grid: tuple[int, int]  # rows, columns


@dataclass(frozen=True)
class Stream:
    """The tokens of one sense in one clip, with the second and the grid cell each of them stands for."""

    sense: str
    tokens: Tensor  # (n, D)
    times: Tensor  # (n,) seconds, NaN for a newline
    cells: Tensor  # (n, 2) int, -1 for a newline
    grid: tuple[int, int]
    frames: Any  # lynx.media.Frames: the uint8 (pseudo-)frames as the model sees them


@dataclass(frozen=True)
class Composed:
    """One prompt, ready for the LLM. `spans` says which positions each sense holds (of a single prompt)."""

    input_ids: Tensor  # (B, S)
    inputs_embeds: Tensor  # (B, S, D)
    attention_mask: Tensor  # (B, S)
    position_ids: Tensor  # (B, S)
    spans: dict[str, slice] = field(default_factory=dict)


class Backbone(ABC):
    """A frozen Video LLM of one family."""

    family: ClassVar[str]
    vision_targets: ClassVar[
        str
    ]  # regexes of full module names: a list of suffixes would hit the wrong towers
    llm_targets: ClassVar[str]
    unquantised: ClassVar[
        tuple[str, ...]
    ]  # full paths of what stays in full precision when the LLM is quantised

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        preprocessing: Preprocessing,
        *,
        source: str,
        revision: str | None = None,
        default_frames: int = 16,
        words: frozenset[str] | None = None,
        note: str = "",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.source = source
        self.revision = revision
        self.default_frames = default_frames
        self.words = words
        self.note = note

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of what is never quantised."""
        return self.interface_weights()[0].dtype

    @property
    def pad_id(self) -> int:
        """The token that fills a batch; it is masked wherever it stands."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id)

    @property
    def context(self) -> int:
        """The longest sequence the LLM was made for, in tokens."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @abstractmethod
    def pixels(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 -> what the vision tower takes, bit-equal to the stock video processor."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> tuple[Tensor, TokenLayout]:
        """Pixels of one clip -> its interface tokens (n, D), with whichever LoRA is on; keeps gradients."""

    @abstractmethod
    def tokens(self, frames: int) -> int:
        """How many tokens `encode` gives for that many frames: the budget, known before anything is read."""

    @abstractmethod
    def vision_attention_modules(self) -> list[nn.Module]:
        """The vision tower's attention modules in layer order."""

    @abstractmethod
    def text_attention_modules(self) -> list[nn.Module]:
        """The LLM's attention modules in layer order."""

    @abstractmethod
    def even_queries(self) -> Tensor:
        """Indices, in a vision layer's sequence, of the patches at even rows and columns of the grid."""

    @abstractmethod
    def interface_weights(self) -> list[Tensor]:
        """The projector's weights: they define the token interface, and are never quantised."""

    @property
    @abstractmethod
    def placeholder(self) -> int:
        """The token id that a clip's tokens stand in for."""

    def positions(self, attention_mask: Tensor) -> Tensor:
        """Position ids for prompts with this mask (B, S)."""
        return (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 0)

    def fingerprint(self) -> dict[str, int | str]:
        """What an adapter must find again: sizes, and a digest of the projector, whatever the precision."""
        vision, text = self.model.config.vision_config, self.model.config.get_text_config()
        digest = hashlib.sha256()
        for weight in self.interface_weights():
            digest.update(
                weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
            )
        return {
            "vision_layers": vision.num_hidden_layers,
            "vision_hidden": vision.hidden_size,
            "text_layers": text.num_hidden_layers,
            "text_hidden": text.hidden_size,
            "projector": digest.hexdigest()[:16],
        }

    def prompt_ids(self, messages: Sequence[Message], with_media: bool) -> list[int]:
        """Token ids of the messages under the checkpoint's chat template, one placeholder for the media."""
        blocks: list[dict[str, Any]] = []
        media_due = with_media
        for message in messages:
            content = [{"type": "text", "text": message["content"]}]
            if media_due and message["role"] == "user":
                content, media_due = [{"type": "video"}, *content], False
            blocks.append({"role": message["role"], "content": content})
        text = self.tokenizer.apply_chat_template(
            blocks, tokenize=False, add_generation_prompt=messages[-1]["role"] == "user"
        )
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids.count(self.placeholder) != int(with_media):
            marker = self.tokenizer.convert_ids_to_tokens(self.placeholder)
            raise BackboneError(
                f"the conversation holds {marker!r} {ids.count(self.placeholder)} times, expected "
                f"{int(with_media)}: it stands for the media and must not be written in a message"
            )
        return ids

    def compose(self, messages: Sequence[Message], streams: Sequence[Stream] = ()) -> Composed:
        """Messages and streams -> one prompt (B = 1), all streams where the template has a video.

        The number of placeholders is taken from the encoded tensors, so the two cannot disagree.

        Raises: BackboneError: a message contains the placeholder, or the prompt exceeds the context.
        """
        ids = self.prompt_ids(messages, with_media=bool(streams))
        spans: dict[str, slice] = {}
        if streams:
            start = end = ids.index(self.placeholder)
            for stream in streams:
                spans[stream.sense] = slice(end, end + len(stream.tokens))
                end += len(stream.tokens)
            ids[start : start + 1] = [self.placeholder] * (end - start)
        if len(ids) >= self.context:
            raise BackboneError(
                f"the prompt has {len(ids)} tokens, {self.source} takes fewer than {self.context}: "
                "use fewer frames"
            )
        input_ids = torch.tensor([ids], device=self.device)
        embeds: Tensor = self.model.get_input_embeddings()(input_ids)
        if streams:
            media = torch.cat([stream.tokens.to(embeds) for stream in streams])  # (n, D)
            embeds = embeds.masked_scatter((input_ids == self.placeholder)[..., None], media)
        mask = torch.ones_like(input_ids)
        return Composed(input_ids, embeds, mask, self.positions(mask), spans)

    def collate(self, prompts: Sequence[Composed]) -> Composed:
        """Several prompts -> one left-padded batch (without spans)."""
        length = max(prompt.input_ids.shape[1] for prompt in prompts)
        pad = (
            self.tokenizer.pad_token_id
            if self.tokenizer.pad_token_id is not None
            else self.tokenizer.eos_token_id
        )
        pad_ids = torch.full((1, length), pad, device=self.device)
        pad_embeds = self.model.get_input_embeddings()(pad_ids)
        ids, embeds, masks = [], [], []
        for prompt in prompts:
            gap = length - prompt.input_ids.shape[1]
            ids.append(torch.cat([pad_ids[:, :gap], prompt.input_ids], dim=1))
            embeds.append(torch.cat([pad_embeds[:, :gap], prompt.inputs_embeds], dim=1))
            masks.append((torch.arange(length, device=self.device) >= gap).long()[None])
        mask = torch.cat(masks)
        return Composed(torch.cat(ids), torch.cat(embeds), mask, self.positions(mask))
