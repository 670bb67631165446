"""The families `lynx` knows, and its models by name, as data: one row a model, a new size is a new row.

`geometry` is the true architecture, typed in from public configurations, so that parameters, memory and
tokens are read off tensors on the meta device without a download (`lynx.backbones.estimate`). What a row
could not be checked against here is said in its note.

No row names a commit: none could be looked up where the catalog was written, and none is made up. What is
newest is found at each load, once for all files; the log and the app say which commit that is, and every
adapter trained on it records it. "NAME@COMMIT" stays at one.
"""

from dataclasses import dataclass
from typing import Any

from lynx.backbones.base import Backbone
from lynx.backbones.internvl import InternVL
from lynx.backbones.llava_onevision import LlavaOnevision
from lynx.backbones.qwen2_5_vl import Qwen25VL

FAMILIES: dict[str, type[Backbone]] = {
    family.family: family for family in (LlavaOnevision, Qwen25VL, InternVL)
}
"""By `model_type`. Other installed packages may add to them: see `lynx.backbones.loading.extensions`."""

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
_INTERNVIT_300M = {
    "model_type": "internvl_vision",
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "attention_bias": True,
    "image_size": [448, 448],
    "patch_size": [14, 14],
}
_QWEN_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}


def _llm(
    kind: str, layers: int, hidden: int, ffn: int, heads: int, kv_heads: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 32_768,
        **more,
    }


def _llava(tied: bool, *sizes: int) -> dict[str, Any]:
    """sizes: as in `_llm`, from layers on."""
    text = _llm("qwen2", *sizes, tie_word_embeddings=tied)
    return {"vision_config": _SIGLIP_SO400M, "text_config": text, "tie_word_embeddings": tied}


def _qwen(tied: bool, *sizes: int) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    more = {"max_position_embeddings": 128_000, "rope_parameters": rope}
    text = _llm("qwen2_5_vl_text", *sizes) | more
    tower = {**_QWEN_TOWER, "out_hidden_size": text["hidden_size"]}
    return {"vision_config": tower, "text_config": text, "tie_word_embeddings": tied}


def _internvl(kind: str, *sizes: int) -> dict[str, Any]:
    more = {"head_dim": 128, "max_position_embeddings": 40_960} if kind == "qwen3" else {}
    text = _llm(kind, *sizes) | more | {"tie_word_embeddings": False}
    return {"vision_config": _INTERNVIT_300M, "text_config": text, "tie_word_embeddings": False}


@dataclass(frozen=True)
class Row:
    """One known model: where it is, how it may be used, what shape it has, how it takes pixels."""

    source: str  # a Hub id
    family: str
    license: str
    default_frames: int
    geometry: dict[str, Any]
    note: str = ""
    revision: str | None = None  # None: the newest; "NAME@REVISION" asks for another
    size: tuple[int, int] = (0, 0)  # (height, width) of a frame, where all have one
    pixels: tuple[int, int] = (0, 0)  # least and most pixels of a frame, where it keeps its shape
    paper: str = ""  # what the paper prints for its added parameters, where that is another number


UNVERIFIED = "geometry typed in from the public configuration; no checkpoint of it was loaded here"
_SIZES_AGREE = f"{UNVERIFIED}, but the size of its files agrees"
_LLAVA_SIZE, _INTERN_SIZE, _QWEN_PIXELS = (384, 384), (448, 448), (56 * 56, 28 * 28 * 16_384)


def _llava_row(size: str, geometry: dict[str, Any]) -> Row:
    source = f"llava-hf/llava-onevision-qwen2-{size}-ov-hf"
    return Row(source, "llava_onevision", "apache-2.0", 16, geometry, note=UNVERIFIED, size=_LLAVA_SIZE)


def _intern_row(source: str, license: str, geometry: dict[str, Any], note: str = _SIZES_AGREE) -> Row:
    return Row(f"OpenGVLab/{source}", "internvl", license, 16, geometry, note=note, size=_INTERN_SIZE)


_QWEN_LICENSE = "qwen"
_UNSEEN_LICENSE = f"{UNVERIFIED}; its license is that of its sisters on the Hub, look there"

CATALOG: dict[str, Row] = {
    "llava-onevision-0.5b": _llava_row("0.5b", _llava(True, 24, 896, 4864, 14, 2, 152_000)),
    "llava-onevision-7b": _llava_row("7b", _llava(False, 28, 3584, 18_944, 28, 4, 152_128)),
    "llava-onevision-72b": _llava_row("72b", _llava(False, 80, 8192, 29_568, 64, 8, 152_064)),
    "qwen2.5-vl-3b": Row(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "qwen2_5_vl",
        "qwen-research",
        16,
        _qwen(True, 36, 2048, 11_008, 16, 2, 151_936),
        note=f"the paper's Qwen2.5-VL-3B: this repository is transformers-native; {_SIZES_AGREE}",
        pixels=_QWEN_PIXELS,
    ),
    "qwen2.5-vl-7b": Row(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "qwen2_5_vl",
        "apache-2.0",
        16,
        _qwen(False, 28, 3584, 18_944, 28, 4, 152_064),
        note=UNVERIFIED,
        pixels=_QWEN_PIXELS,
    ),
    "internvl2.5-4b": Row(
        "OpenGVLab/InternVL2_5-4B",
        "internvl",
        "mit",
        16,
        _internvl("qwen2", 36, 2048, 11_008, 16, 2, 151_674),
        note="the paper's InternVL2.5-4B. This repository holds the original layout, which needs code of its "
        "own, and code from the Hub is never run; a transformers-native one of this size was not found (of "
        "2.5 there are OpenGVLab/InternVL2_5-2B-MPO-hf and -8B-MPO-hf). Convert it with transformers' "
        "convert_internvl_weights_to_hf.py and give the folder, or use internvl3-2b, internvl3.5-4b. "
        f"{_SIZES_AGREE[0].upper()}{_SIZES_AGREE[1:]}",
        size=_INTERN_SIZE,
        paper="144.9 M (vision 25.166 M): the original code has one fused linear for q, k and v of the "
        "encoder, which takes one LoRA of 1024 -> 3072; the native class has three linears and takes three",
    ),
    "internvl3-1b": _intern_row(
        "InternVL3-1B-hf", _QWEN_LICENSE, _internvl("qwen2", 24, 896, 4864, 14, 2, 151_674), UNVERIFIED
    ),
    "internvl3-2b": _intern_row(
        "InternVL3-2B-hf", _QWEN_LICENSE, _internvl("qwen2", 28, 1536, 8960, 12, 2, 151_674), _UNSEEN_LICENSE
    ),
    "internvl3-8b": _intern_row(
        "InternVL3-8B-hf", _QWEN_LICENSE, _internvl("qwen2", 28, 3584, 18_944, 28, 4, 151_674)
    ),
    "internvl3-14b": _intern_row(
        "InternVL3-14B-hf",
        _QWEN_LICENSE,
        _internvl("qwen2", 48, 5120, 13_824, 40, 8, 151_674),
        _UNSEEN_LICENSE,
    ),
    "internvl3.5-1b": _intern_row(
        "InternVL3_5-1B-HF", "apache-2.0", _internvl("qwen3", 28, 1024, 3072, 16, 8, 151_936)
    ),
    "internvl3.5-2b": _intern_row(
        "InternVL3_5-2B-HF", "apache-2.0", _internvl("qwen3", 28, 2048, 6144, 16, 8, 151_936), _UNSEEN_LICENSE
    ),
    "internvl3.5-4b": _intern_row(
        "InternVL3_5-4B-HF", "apache-2.0", _internvl("qwen3", 36, 2560, 9728, 32, 8, 151_936)
    ),
    "internvl3.5-8b": _intern_row(
        "InternVL3_5-8B-HF",
        "apache-2.0",
        _internvl("qwen3", 36, 4096, 12_288, 32, 8, 151_936),
        _UNSEEN_LICENSE,
    ),
    "internvl3.5-14b": _intern_row(
        "InternVL3_5-14B-HF",
        "apache-2.0",
        _internvl("qwen3", 40, 5120, 17_408, 40, 8, 151_936),
        _UNSEEN_LICENSE,
    ),
}

EMBEDDED = "lynx-tiny"
"""The backbone that ships inside the package (`lynx/assets/lynx-tiny`)."""
