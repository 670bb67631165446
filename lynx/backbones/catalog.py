"""The models `lynx` knows by name, as data: one row a model. A new size of a known family is a new row.

`geometry` is the true architecture, typed in from the public configuration, so that parameters can be counted
on the meta device without a download.
"""

from dataclasses import dataclass, field
from typing import Any

_SIGLIP_SO400M = {
    "model_type": "siglip_vision_model",
    "num_hidden_layers": 26,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 384,
    "vision_use_head": False,
}


def _qwen2(
    layers: int, hidden: int, ffn: int, heads: int, kv_heads: int, vocab: int, tied: bool
) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }


@dataclass(frozen=True)
class Row:
    """One known model: where it is, how it may be used, what shape it has."""

    source: str  # a Hub id
    family: str
    licence: str
    default_frames: int
    note: str = ""
    revision: str | None = None
    geometry: dict[str, Any] = field(default_factory=dict)


CATALOG: dict[str, Row] = {
    "llava-onevision-0.5b": Row(
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava_onevision",
        "apache-2.0",
        16,
        geometry={
            "vision_config": _SIGLIP_SO400M,
            "text_config": _qwen2(24, 896, 4864, 14, 2, 152_000, tied=True),
        },
    ),
    "llava-onevision-7b": Row(
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava_onevision",
        "apache-2.0",
        16,
        geometry={
            "vision_config": _SIGLIP_SO400M,
            "text_config": _qwen2(28, 3584, 18_944, 28, 4, 152_128, tied=False),
        },
    ),
    "llava-onevision-72b": Row(
        "llava-hf/llava-onevision-qwen2-72b-ov-hf",
        "llava_onevision",
        "tongyi-qianwen",
        16,
        geometry={
            "vision_config": _SIGLIP_SO400M,
            "text_config": _qwen2(80, 8192, 29_568, 64, 8, 152_064, tied=False),
        },
    ),
}

EMBEDDED = "lynx-tiny"
"""The backbone that ships inside the package (`lynx/assets/lynx-tiny`)."""
