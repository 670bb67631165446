"""The embedded backbone `lynx-tiny`: a small stock LLaVA-OneVision, and its checkpoint folder."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from lynx.backbones import Preprocessing
from lynx.backbones.llava_onevision import LlavaOnevision
from lynx.world.pretraining.text import vocabulary
from lynx.world.pretraining.tokenizer import build_tokenizer

IMAGE_SIZE = 64
PATCH_SIZE = 8
WIDTH = 128
"""Width of the vision tower."""
FRAMES = 8
"""Frames of a clip that the backbone is trained on."""
MEAN = STD = (0.5, 0.5, 0.5)
NOTE = (
    "lynx-tiny knows only its miniature world: one to three colored shapes that move. "
    "Real recordings need a real backbone."
)


def build_backbone(seed: int) -> tuple[LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast]:
    """A new backbone with random weights, and its tokenizer.

    SigLIP 128 x 4 on 8 x 8 patches, pooled to 4 x 4 tokens a frame; Qwen2 160 x 4.
    """
    tokenizer = build_tokenizer(vocabulary())
    layers: dict[str, Any] = {"num_hidden_layers": 4, "num_attention_heads": 4}
    vision = SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=512, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE,
        vision_use_head=False, **layers,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=160, intermediate_size=480, num_key_value_heads=2,
        max_position_embeddings=8192, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **layers,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.vocab["<image>"],
        video_token_index=tokenizer.vocab["<video>"], image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        vision_feature_select_strategy="full", vision_feature_layer=-1, tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return LlavaOnevisionForConditionalGeneration(config), tokenizer


def trainable_backbone(seed: int) -> LlavaOnevision:
    """The new backbone as a lynx `Backbone`, but with gradients in all its weights."""
    model, tokenizer = build_backbone(seed)
    preprocessing = Preprocessing(MEAN, STD, (IMAGE_SIZE, IMAGE_SIZE))
    backbone = LlavaOnevision(model, tokenizer, preprocessing, source="lynx-tiny", default_frames=FRAMES)
    backbone.model.train().requires_grad_(True)
    return backbone


def save_backbone(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    provenance: dict[str, object],
) -> None:
    """Write the stock checkpoint folder, and beside it `lynx_tiny.json`: taught words, frames, origin."""
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    common = {
        **dict.fromkeys(("do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True),
        "image_mean": list(MEAN), "image_std": list(STD), "resample": 3, "rescale_factor": 1 / 255,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    }
    image = common | {"image_processor_type": "LlavaOnevisionImageProcessor"}
    video = common | {"video_processor_type": "LlavaOnevisionVideoProcessor"}
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": (IMAGE_SIZE // PATCH_SIZE) ** 2,
        "vision_feature_select_strategy": "full",
    }
    tiny = {"frames": FRAMES, "note": NOTE, "training": provenance, "words": vocabulary()}
    contents = {
        "preprocessor_config": image | {"image_grid_pinpoints": [[IMAGE_SIZE] * 2]},
        "video_preprocessor_config": video, "processor_config": processor, "lynx_tiny": tiny,
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
