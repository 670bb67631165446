"""What a small checkpoint of a family consists of, and what shared tests have to know of its stock model.

A checkpoint has a stock model with random weights, a byte-level tokenizer, a template, a preprocessor.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lynx.backbones.catalog import Row
from lynx.types import Frames

IN_ORDER = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'video' %}{{ 'VIDEO' }}"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""A chat template that writes everything in the order in which it is given."""
HEADS = 4
"""Attention heads of every small tower and LLM."""
LLM = "model.language_model.layers"


class SmallFamily:
    """A family in small. Subclasses say what differs from a tower such as SigLIP's beside a Qwen2."""

    name: str
    special: tuple[str, ...]
    """Special tokens of its tokenizer, beside those of all; the image's and the video's are the last."""
    end = "<|im_end|>"
    """The one that ends an answer."""
    named: dict[str, str] = {}
    """Those that its tokenizer has names for."""
    template: str
    preprocessor: dict[str, Any]
    """What preprocessor_config.json says of the size of frames."""
    variants: dict[str, dict[str, Any]] = {}
    """Further checkpoints that the whole suite runs over: name, and options of `write`."""

    quantizable: dict[str, Any] = {"hidden_size": 64}
    """Options of `write` for an LLM that bitsandbytes takes, which quantizes in blocks of 64."""
    stays_precise: tuple[str, ...] = ("lm_head", "model.vision_tower", "model.multi_modal_projector")
    """What stock's own quantization has to leave alone."""
    larger_tower: dict[str, Any] = {
        "hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 4, "num_hidden_layers": 3,
    }  # fmt: skip
    """Of the vision configuration: a tower whose memory can be measured beside an LLM of width 128."""
    larger_text: dict[str, Any] = {}
    """Of the text configuration, where that width asks for something else."""

    tower = "model.vision_tower.encoder"
    llm = LLM
    """Where the tower's layers are, and the LLM's."""
    short_targets: list[str]
    """LoRA targets of the tower as people shorten them."""
    older_names: dict[str, tuple[str, str]]
    """What earlier versions called `tower` and LLM: by version, or "original" for the authors' own code."""

    frames_per_token = 1
    leading_tokens = 0
    """Tokens in front of the patches in the tower, such as a class token."""
    answers_as_in_history = True
    """Whether the template writes the header of an answer in the history as it does before a new answer."""

    pixel_cases: dict[str, tuple[int, int, int]] = {}
    """Clips (frames, height, width) of which data/pixels.safetensors has what the stock processor makes."""

    def model(self, words: PreTrainedTokenizerFast, tied: bool, **sizes: Any) -> PreTrainedModel:
        """The stock model with random weights. tied: whether the head has the embeddings' weights."""
        raise NotImplementedError

    def write(self, folder: Path, *, seed: int = 0, tied: bool = False, **sizes: Any) -> Path:
        """Write a checkpoint."""
        torch.manual_seed(seed)
        words = self.tokenizer()
        model = self.model(words, tied, **sizes)
        return write(folder, model, words, self.template, self.preprocessor_of(**sizes))

    def preprocessor_of(self, **sizes: Any) -> dict[str, Any]:
        """`preprocessor`, or what it is with these options of `write`."""
        return self.preprocessor

    def true_preprocessor(self, row: Row) -> dict[str, Any]:
        """What `preprocessor` is in a model of that row of the catalog."""
        return {"size": dict(zip(("height", "width"), row.size, strict=True))}

    def tokenizer(
        self, merges: Sequence[tuple[str, str]] = (), size: int = 0
    ) -> PreTrainedTokenizerFast:
        """Byte-level: any text, no unknown token.

        merges: what becomes a token together, in this order. size: with so many tokens at least, of which the
        rest are words that are written and never read.
        """
        alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
        alphabet += [f"Ġw{number}" for number in range(size - len(alphabet) - 3 - len(self.special))]
        core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=list(merges)))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *self.special)
        core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
        return PreTrainedTokenizerFast(
            tokenizer_object=core,
            eos_token=self.end,
            pad_token="<|endoftext|>",
            clean_up_tokenization_spaces=False,
            extra_special_tokens=self.named,
        )

    def prompt(self, messages: list[dict[str, str]], video: str) -> str:
        """The prompt as text, written out by hand: `video` before the first question."""
        text = ""
        for i, message in enumerate(messages):
            media = video if i == 0 else ""
            text += f"<|im_start|>{message['role']}\n{media}{message['content']}<|im_end|>\n"
        return text + "<|im_start|>assistant\n"

    def stock_media(self, backbone: Any, video: Frames) -> tuple[str, dict[str, Tensor]]:
        """The text that the stock processor puts in place of a video, and the tensors it gives with it."""
        raise NotImplementedError

    def stock_inputs(self, backbone: Any, video: Frames, messages: list[dict[str, str]]) -> dict[str, Tensor]:
        """What the stock processor of the family gives for a video and messages, by its own formulas."""
        text, tensors = self.stock_media(backbone, video)
        inputs = backbone.tokenizer(self.prompt(messages, text), return_tensors="pt")
        tensors |= {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        return {name: tensor.to(backbone.device) for name, tensor in tensors.items()}

    def encoded_together(self, backbone: Any, inputs: dict[str, Tensor]) -> Any:
        """The tokens of every clip of a stock batch, from one pass of the tower."""
        return backbone.model.model.get_video_features(inputs["pixel_values_videos"]).pooler_output

    def split_heads(self, backbone: Any, kept: dict[Any, Tensor], layer: int, pixels: Tensor) -> list[Tensor]:
        """Query, key and value (frames, H, n, d) of a layer, as its attention gets them.

        kept: by (layer, "q_proj"), ... or (layer, "qkv"), what these linears gave.
        """
        parts = (kept[layer, part] for part in ("q_proj", "k_proj", "v_proj"))
        return [part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in parts]

    def even_queries(self, backbone: Any, layer: int) -> Tensor:
        """Queries of patches at even rows and columns, from the places of all patches in the sequence."""
        rows, cols = backbone.patch_grid
        place = torch.arange(rows * cols)
        even = (place // cols % 2 == 0) & (place % cols % 2 == 0)
        return even.nonzero().flatten() + self.leading_tokens

    @property
    def recorded_preprocessor(self) -> dict[str, Any]:
        """The size with which data/pixels.safetensors was made."""
        return self.preprocessor_of()

    def video_processor(self, statistics: dict[str, list[float]]) -> Any:
        """The stock video processor, for data/record_pixels.py; needs torchvision."""
        raise NotImplementedError

    def tower_inputs(self, backbone: Any, pixels: Tensor) -> dict[str, Tensor]:
        """What is recorded of a case, by a suffix of its name, as the tower is given it."""
        return {"": pixels}

    @property
    def checkpoints(self) -> dict[str, Callable[..., Path]]:
        """`write` of all its checkpoints, by name."""
        return {self.name: self.write} | {
            name: partial(self.write, **more) for name, more in self.variants.items()
        }


def text_options(words: PreTrainedTokenizerFast, **sizes: Any) -> dict[str, Any]:
    """The options of a small Qwen2."""
    small = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=HEADS)
    more = dict(num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=None)
    ends = dict(eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    return {"vocab_size": len(words), **small, **more, **ends, **sizes}


def write(
    folder: Path,
    model: PreTrainedModel,
    words: PreTrainedTokenizerFast,
    template: str,
    preprocessor: dict[str, Any],
    std: float | None = 0.15,
) -> Path:
    """A checkpoint folder; weights livelier than the default, so that answers depend on inputs."""
    for name, weight in model.named_parameters() if std else ():
        if weight.ndim > 1 and "norm" not in name:
            torch.nn.init.normal_(weight, std=std)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**preprocessor, **statistics}))
    return folder
