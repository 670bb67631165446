"""The interface to every family of Video LLMs: frames -> pixels -> tokens; messages -> LLM inputs.

A `Backbone` wraps a *stock* transformers model, frozen and in eval mode, whose attention runs through
`lynx.backbones.attention`. A family overrides what its architecture decides (pixels, encode, positions,
module names) and nothing else. Axis letters: T frames, D width of the LLM, R numbers of an interface token,
n tokens, S sequence.
"""

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from cachetools import LRUCache
from jinja2 import TemplateError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lynx.backbones.familiarity import FamiliarTokens
from lynx.backbones.sizes import Preprocessing, TextSizes, VisionSizes
from lynx.compat import PEFT_PREFIX
from lynx.errors import BackboneError
from lynx.types import VIDEO, Message, Prompt, Stream, TokenLayout, tensor_bytes

TEXT_RESERVE = 512
"""Tokens of the context kept free for the conversation; at most a quarter of the context."""


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, each once, as a closed vocabulary counts them."""
    return list(dict.fromkeys(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())))


def _as_bytes(text: str, **options: Any) -> dict[str, list[int]]:
    """In place of the tokenizer that a skeleton has not."""
    return {"input_ids": list(text.encode())}


class Backbone(ABC):
    """A frozen Video LLM of one family."""

    family: ClassVar[str]
    """The `model_type` of its configuration."""
    relatives: ClassVar[Mapping[str, str]] = {}
    """Advice for similar `model_type`s, which are refused."""
    vision_targets: str
    """A regex of full module names, as `llm_targets` is: a list of suffixes would hit the wrong towers."""
    output_projection: str
    """Name, in a vision attention module, of the linear that mixes the heads at the end."""
    llm_targets: ClassVar[str] = (
        r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    )
    unquantized: ClassVar[tuple[str, ...]]
    """Full paths of what stays in full precision when the LLM is quantized."""
    original_names: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Module names of the family's original code -> names here, for importing its checkpoints. Both are
    endings, "*" is a layer's number; a fused module has several names, in the order of its rows."""
    chat_template: ClassVar[str | None] = None
    """The prompt's template, where the stock processor puts one in the place of the checkpoint's."""
    before_answer: ClassVar[str] = ""
    """What the model writes before the text of an answer; a chat's history has it in the template."""
    placements: ClassVar[tuple[str, ...]] = ("continue", "parallel")
    """Which of PLACEMENTS the family can do."""
    axes: ClassVar[tuple[int, ...]] = ()
    """Shape of one token's position: () for a number, (3,) for time, row and column."""
    usual_frames: ClassVar[int] = 16
    """How many moments are looked at where neither the user nor the catalog nor the checkpoint says it."""
    frames_per_pass: ClassVar[int] = 16
    """Maximum number of frames that go through the tower at once, so that memory does not grow with the clip.
    Even, since some families merge two frames; a frame's tokens depend on no other frames than those that it
    is merged with, so that several clips may share a pass."""

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
        unexpected: Sequence[str] = (),
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.source = source
        self.revision = revision
        self.default_frames = default_frames
        self.words = words
        self.unexpected = tuple(unexpected)  # tensors of its files that the model has no place for
        self.familiar: FamiliarTokens | None = None  # of the video, where its checkpoint has them
        self.steps: LRUCache[Any, Any] = LRUCache(4)  # of decoding, see `fixed_step`
        if any(preprocessing.size):
            patch = self.vision_sizes(model.config).patch
            grid = tuple(side // patch for side in preprocessing.size)
            if grid != self.patch_grid:
                raise BackboneError(
                    f"the preprocessor JSON of {source} makes frames of {preprocessing.size} pixels, that "
                    f"is {grid} patches; its tower takes {self.patch_grid}: expected the files of one model"
                )
        if self.used_layers is not None:  # a LoRA on a layer that nothing reads would never get a gradient
            numbers = "|".join(map(str, range(self.used_layers)))
            self.vision_targets = self.vision_targets.replace(r"\d+", f"({numbers})", 1)

    @property
    def used_layers(self) -> int | None:
        """How many of the tower's first layers its tokens depend on, where the projector reads inner ones
        (`vision_feature_layer`); None: all.
        """
        chosen = getattr(self.model.config, "vision_feature_layer", -1)
        if chosen == -1:
            return None
        layers = self.model.config.vision_config.num_hidden_layers
        each = [chosen] if isinstance(chosen, int) else chosen
        return max(layer if layer >= 0 else layers + 1 + layer for layer in each)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of what is never quantized."""
        return self.interface_weights()[0].dtype

    @property
    def width(self) -> int:
        """D, the LLM's width."""
        return self.text_sizes(self.model.config).hidden

    @property
    def token_width(self) -> int:
        """R, how many numbers an interface token has: D, where the LLM takes nothing beside it."""
        return self.width

    @property
    def pad_id(self) -> int:
        """Id of the token that pads a batch; it is always masked."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id)

    @property
    def context(self) -> int:
        """The longest sequence the LLM was made for, in tokens."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def media_context(self) -> int:
        """Tokens of the context that the senses may take; the rest is kept for the conversation."""
        return self.context - min(TEXT_RESERVE, self.context // 4)

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that the backbone was never taught; none for a backbone with open vocabulary."""
        known = self.words
        return [word for word in words_of(text) if known is not None and word not in known]

    def lora_shapes(self, part: str, rank: int) -> dict[str, tuple[int, int]]:
        """Name, as in PEFT's files, and shape of every tensor of a LoRA on the "vision" or "llm" part."""
        targets = {"vision": self.vision_targets, "llm": self.llm_targets}[part]
        shapes = {}
        for name, module in self.model.named_modules():
            if re.fullmatch(targets, name):
                shapes[f"{PEFT_PREFIX}{name}.lora_A.weight"] = (rank, int(module.in_features))
                shapes[f"{PEFT_PREFIX}{name}.lora_B.weight"] = (int(module.out_features), rank)
        return shapes

    @classmethod
    def vision_sizes(cls, config: Any) -> VisionSizes:
        """Sizes of the vision tower, from the model's configuration: overridden for other field names."""
        vision = config.vision_config
        # InternVL has (height, width) where SigLIP has one number; patches are square in both.
        patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        return VisionSizes(vision.hidden_size, vision.intermediate_size, patch)

    @classmethod
    def text_sizes(cls, config: Any) -> TextSizes:
        """Sizes of the LLM, from the model's configuration: overridden for other field names."""
        text = config.get_text_config()
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        sizes = (text.num_hidden_layers, text.hidden_size, text.intermediate_size)
        return TextSizes(*sizes, text.num_key_value_heads, head_dim)

    def frame_pixels(self, size: tuple[int, int] | None, frames: int) -> int:
        """How many pixels of one frame of so many the tower takes; size: as in `tokens`."""
        return math.prod(self.preprocessing.size)

    def pixels(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 -> (T', 3, h, w) at the one resolution of guidance and of all pseudo-frames.

        T' is T except in a family that merges frames, which pads them to a multiple.
        """
        return self.resize(frames, self.preprocessing.size)

    def resize(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """(T, 3, H, W) uint8 -> (T, 3, *size) normalized, in the model's precision and on its device.

        The resize works on uint8 on the CPU, as the stock video processors' does.
        """
        frames = frames.cpu()
        if tuple(frames.shape[-2:]) != size:
            frames = F.interpolate(frames, size, mode="bicubic", align_corners=False, antialias=True)
        values = (self.preprocessing.mean, self.preprocessing.std)
        mean, std = (torch.tensor(x, dtype=torch.float32).view(3, 1, 1) * 255 for x in values)
        return ((frames.float() - mean) / std).to(self.device, self.dtype)

    def video_pixels(self, frames: Tensor, total: int | None = None) -> Tensor:
        """`pixels` of the RGB video, bit-equal to the stock video processor's.

        total: how many frames the whole clip has, where these are a part of it.
        """
        return self.pixels(frames)

    @abstractmethod
    def encode(self, pixels: Tensor) -> tuple[Tensor, TokenLayout]:
        """Pixels of one clip -> its interface tokens (n, R), with whichever LoRA is on; keeps gradients."""

    def stock_inputs(self, pixels: Tensor, stream: Stream, ids: Tensor) -> dict[str, Tensor]:
        """What stock's own `forward` takes in place of a video's stream, beside ids (B, S) and their mask."""
        return {"pixel_values_videos": pixels[None]}

    @abstractmethod
    def tokens(self, frames: int, size: tuple[int, int] | None = None) -> int:
        """Number of tokens that `encode` gives for that many frames, known before anything is read.

        size: (height, width) of the RGB video's frames; None stands for pseudo-frames.
        """

    def captions(self, times: Tensor) -> int:
        """Number of tokens between the video's frames, which `tokens` does not count; times: (T,) seconds."""
        return 0

    @abstractmethod
    def vision_attention_modules(self) -> list[nn.Module]:
        """The vision tower's attention modules in layer order."""

    def text_attention_modules(self) -> list[nn.Module]:
        """The LLM's attention modules in layer order."""
        decoder: Any = self.model.get_decoder()
        return [layer.self_attn for layer in decoder.layers]

    @abstractmethod
    def even_queries(self, length: int) -> Tensor:
        """Which of the `length` queries of a vision layer are of patches at even rows and columns."""

    def windows(self, layer: int) -> int:
        """Into how many windows a vision layer divides a pseudo-frame; its attention is within them."""
        return 1

    def interface_weights(self) -> list[Tensor]:
        """The projector's weights: they define the token interface, and are never quantized."""
        model: Any = self.model
        return list(model.model.multi_modal_projector.parameters())

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches of a frame, in a tower that takes one square."""
        vision: Any = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    @property
    @abstractmethod
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of one pseudo-frame."""

    @property
    @abstractmethod
    def placeholder(self) -> int:
        """The token id that a clip's tokens stand in for."""

    @property
    def marker(self) -> int:
        """The token id that the chat template puts where the media belong."""
        return self.placeholder

    def media_ids(self, streams: Sequence[Stream]) -> tuple[list[int], dict[str, list[int]]]:
        """Token ids that stand for the media in the prompt, and each sense's indices among them."""
        ids: list[int] = []
        places: dict[str, list[int]] = {}
        for stream in streams:
            places[stream.sense] = list(range(len(ids), len(ids) + len(stream.tokens)))
            ids += [self.placeholder] * len(stream.tokens)
        return ids, places

    def positions(self, length: int, spans: Mapping[str, Tensor], streams: Sequence[Stream]) -> Tensor:
        """Position ids (S,), or (3, S), of a prompt of that many tokens whose media stand at `spans`."""
        positions = torch.zeros(*self.axes, length, dtype=torch.long)  # (S,) or (3, S)
        done = 0  # tokens that have a position
        next_position = 0  # after everything so far
        begins: dict[str, int] = {}  # by placement, where a stream begins; "continue" has no entry
        for stream in streams:
            first, last = int(spans[stream.sense][0]), int(spans[stream.sense][-1]) + 1
            begin = begins.get(stream.placement, next_position)
            positions[..., done:first] = begin + torch.arange(first - done)  # text that introduces the stream
            start = begin + first - done
            places = spans[stream.sense] - first
            positions[..., first:last] = start + self.inner_positions(stream, places)
            done, next_position = last, max(next_position, start + self.extent(stream, places))
            # The first stream decides for all: "share" begins with it, "parallel" right behind the video.
            begins = begins or {"share": start, "parallel": next_position if stream.sense == VIDEO else start}
        positions[..., done:] = next_position + torch.arange(length - done)
        return positions

    def inner_positions(self, stream: Stream, places: Tensor) -> Tensor:
        """Position ids (length,), or (3, length), from a stream's first token to its last, from 0 on.

        places: (n,) where its tokens stand there, the first at 0; there may be words between them.
        """
        return torch.arange(int(places[-1]) + 1)

    def extent(self, stream: Stream, places: Tensor) -> int:
        """How many positions a stream takes up before the text goes on; places: as in `inner_positions`."""
        return int(places[-1]) + 1

    def fingerprint(self) -> dict[str, int | str]:
        """The identity that adapters check: the backbone's sizes, and a digest of the projector's weights.

        The digest is of bf16 values, so that it is the same in every precision.
        """
        vision, text = self.vision_sizes(self.model.config), self.text_sizes(self.model.config)
        digest = hashlib.sha256()
        for weight in self.interface_weights():
            digest.update(tensor_bytes(weight.to(torch.bfloat16)))
        inner = self.used_layers is not None
        return {
            "vision_layers": len(self.vision_attention_modules()),
            "vision_hidden": vision.hidden,
            "text_layers": text.layers,
            "text_hidden": text.hidden,
            "projector": digest.hexdigest()[:16],
            **({"vision_feature_layer": str(self.model.config.vision_feature_layer)} if inner else {}),
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
        try:
            text: Any = self.tokenizer.apply_chat_template(
                blocks,
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=messages[-1]["role"] == "user",
            )
        except (TypeError, TemplateError) as error:
            raise BackboneError(
                f"the chat template of {self.source} cannot write this conversation ({error}): expected one "
                "that takes contents as lists of texts and videos, as that of the whole model does; a "
                "template of its language model takes texts alone"
            ) from error
        ids = self.text_ids(text)
        for token, expected in {self.placeholder: 0, self.marker: int(with_media)}.items():
            if ids.count(token) != expected:
                name = self.tokenizer.convert_ids_to_tokens(token)
                raise BackboneError(
                    f"the conversation holds {name!r} {ids.count(token)} times, expected {expected}: it "
                    "stands for the media and must not be written in a message"
                )
        return ids

    def answer_ids(self, answer: str) -> list[int]:
        """The token ids by which the model would give that answer to a prompt, its end included."""
        return [*self.text_ids(self.before_answer + answer), self.tokenizer.eos_token_id]

    def text_ids(self, text: str) -> list[int]:
        """The token ids of a text; without a tokenizer its bytes, which are as many or more."""
        split: Any = self.tokenizer if self.tokenizer is not None else _as_bytes
        ids: list[int] = split(text, add_special_tokens=False)["input_ids"]
        return ids

    def insert(
        self, ids: list[int], streams: Sequence[Stream]
    ) -> tuple[list[int], dict[str, Tensor], Tensor]:
        """A prompt's ids with the media at their marker: ids (S), the senses' spans, positions (.., S)."""
        spans: dict[str, Tensor] = {}
        if streams:
            start = ids.index(self.marker)
            media, places = self.media_ids(streams)
            spans = {sense: torch.tensor(at) + start for sense, at in places.items()}
            ids = [*ids[:start], *media, *ids[start + 1 :]]
        return ids, spans, self.positions(len(ids), spans, streams)

    def compose(self, messages: Sequence[Message], streams: Sequence[Stream] = ()) -> Prompt:
        """Messages and streams -> one prompt (B = 1), all streams where the template has a video.

        The number of placeholders is taken from the encoded tensors, so the two cannot disagree.

        Raises: BackboneError: a message contains the placeholder, or the prompt exceeds the context.
        """
        ids, spans, positions = self.insert(self.prompt_ids(messages, with_media=bool(streams)), streams)
        if len(ids) >= self.context:
            limit = f"{self.source} takes fewer than {self.context}"
            advice = "use fewer frames, or a shorter question"
            raise BackboneError(f"the prompt has {len(ids)} tokens, {limit}: {advice}")
        input_ids = torch.tensor([ids], device=self.device)
        embeds = self.embed(input_ids)
        for stream in streams:
            embeds[0, spans[stream.sense].to(self.device)] = stream.embeds.to(embeds)  # (n, R)
        positions = positions.unsqueeze(-2).to(self.device)  # (1, S) or (3, 1, S)
        return Prompt(input_ids, embeds, torch.ones_like(input_ids), positions, spans)

    def embed(self, ids: Tensor) -> Tensor:
        """Words (B, S) as rows (B, S, R), among which interface tokens can be put."""
        embeds: Tensor = self.model.get_input_embeddings()(ids)  # (B, S, D)
        missing = self.token_width - embeds.shape[-1]
        return F.pad(embeds, (0, missing)) if missing else embeds

    def inputs(self, ids: Tensor, embeds: Tensor, cached: int = 0) -> dict[str, Any]:
        """What the model's `forward` and `generate` take of these positions, beside masks and position ids.

        ids: (B, S); embeds: (B, S, R) words and interface tokens. cached: how many of them a cache holds,
        where they are given all the same, as to `generate`.
        """
        return {"inputs_embeds": embeds}

    def decoder_inputs(self, ids: Tensor, embeds: Tensor) -> dict[str, Any]:
        """The same for the LLM without its head (`get_decoder()`)."""
        return {"inputs_embeds": embeds}
