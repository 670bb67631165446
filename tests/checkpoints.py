"""Small checkpoints of the stock classes with random weights: they stand for the real ones in tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from lynx.adapters import Adapter
from lynx.config import LoraSettings
from lynx.media import Frames, Waveform

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template of llava-hf's checkpoints, without images."""

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level: any text, no unknown token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def llava_onevision(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 48,
    layers: int = 2,
    tied: bool = True,
    side: int = 28,
    ffn: int = 80,
) -> Path:
    """Write a random LLaVA-OneVision checkpoint of a few layers; frames of `side` px in patches of 4."""
    torch.manual_seed(seed)
    words = tokenizer()
    ids = words.convert_tokens_to_ids
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=56, num_hidden_layers=layers + 1, num_attention_heads=4,
        image_size=side, patch_size=4, vision_use_head=False,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(words), hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=tied,
        bos_token_id=None, eos_token_id=ids("<|im_end|>"), pad_token_id=ids("<|endoftext|>"),
    )  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text, tie_word_embeddings=tied,
        image_token_index=ids("<image>"), video_token_index=ids("<video>"),
    )  # fmt: skip
    model = LlavaOnevisionForConditionalGeneration(config)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "norm" not in name:  # livelier than the default: answers depend on inputs
            torch.nn.init.normal_(weight, std=0.15)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    preprocessor = {"size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def render(messages: list[dict[str, str]]) -> str:
    """The prompt as text, written out by hand: one video before the first question."""
    text = ""
    for i, message in enumerate(messages):
        video = "<video>" if i == 0 else ""
        text += f"<|im_start|>{message['role']} {video}\n{message['content']}<|im_end|>"
    return text + "<|im_start|>assistant\n"


def random_adapter(
    model: Any, name: str, modality: str = "audio", parts: Sequence[str] = ("vision", "llm"), **more: Any
) -> None:
    """Register an adapter whose LoRAs are random and strong enough to change every answer."""
    model.add_adapter(Adapter(name, modality, **more))
    for part in parts:
        lora = model.add_lora(name, part, LoraSettings(4, 8.0, 0.1))
        generator = torch.Generator().manual_seed(len(model.adapters))
        for weight in model.lora.tensors(lora).values():
            weight.data.normal_(std=0.3, generator=generator)


def clip(n: int = 8, height: int = 50, width: int = 70, seed: int = 0) -> Frames:
    """`n` frames of noise, two a second."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)
    return Frames(pixels, torch.arange(n).double() / 2, n / 2)


def sound(seconds: float = 4.0, seed: int = 0) -> Waveform:
    """Noise at 16 kHz."""
    return Waveform(
        torch.randn(int(seconds * 16000), generator=torch.Generator().manual_seed(seed)) * 0.1, 16000
    )
