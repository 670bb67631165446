"""The families `lynx` knows, and its models by name, as data: one row a model, a new size is a new row.

`geometry` is the true architecture, typed in from public configurations, so that parameters, memory and
tokens are read off tensors on the meta device without a download (`lynx.backbones.estimate`). What a row
could not be checked against here is said in its note.

No row names a commit, since none could be looked up. Each load resolves the newest commit, once for all
files; the log and the app show it, and every adapter trained on it records it. "NAME@COMMIT" pins one.
"""

from dataclasses import dataclass
from typing import Any

from lynx.backbones.base import Backbone
from lynx.backbones.internvl import InternVL
from lynx.backbones.llava_onevision import LlavaOnevision
from lynx.backbones.qwen2_5_vl import Qwen25VL
from lynx.backbones.qwen3_vl import Qwen3VL
from lynx.backbones.smolvlm import SmolVLM

FAMILIES: dict[str, type[Backbone]] = {
    each.family: each for each in (LlavaOnevision, Qwen25VL, Qwen3VL, InternVL, SmolVLM)
}
"""By `model_type`. Other installed packages may add to them: see `lynx.backbones.loading.extensions`."""

_SIGLIP_SO400M = {
    "model_type": "siglip_vision_model", "num_hidden_layers": 26, "hidden_size": 1152,
    "intermediate_size": 4304, "num_attention_heads": 16, "patch_size": 14, "image_size": 384,
    "vision_use_head": False,
}
_INTERNVIT_300M = {
    "model_type": "internvl_vision", "num_hidden_layers": 24, "hidden_size": 1024,
    "intermediate_size": 4096, "num_attention_heads": 16, "patch_size": [14, 14], "image_size": [448, 448],
    "attention_bias": True,
}
_QWEN_TOWER = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
}
_SMOLVLM_BASE = {
    "num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "patch_size": 16, "image_size": 512,
}
_SMOLVLM_SO400M = {
    "num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 384,
}
_QWEN3_TOWER = {
    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17],
}
_QWEN3_LARGE_TOWER = {
    **_QWEN3_TOWER, "depth": 27, "hidden_size": 1152, "intermediate_size": 4304,
    "deepstack_visual_indexes": [8, 16, 24],
}
_LLM_SIZES = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "vocab_size",
)
"""Names of an LLM's sizes, in the order of the rows' numbers."""


def _llm(kind: str, sizes: tuple[int, ...], **more: Any) -> dict[str, Any]:
    named = dict(zip(_LLM_SIZES, sizes, strict=True))
    return {"model_type": kind, **named, "max_position_embeddings": 32_768, **more}


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
    pixels: tuple[int, int] = (0, 0)  # minimum and maximum, where frames keep their shape: see Preprocessing
    paper: str = ""  # what the paper prints for its added parameters, where that is another number


UNVERIFIED = "geometry typed in from the public configuration; no checkpoint of it was loaded here"
_SIZES_AGREE = f"{UNVERIFIED}, but the size of its files agrees"
_UNSEEN_LICENSE = f"{UNVERIFIED}; its license is that of its sisters on the Hub, look there"


def _llava(size: str, tied: bool, *sizes: int) -> Row:
    text = _llm("qwen2", sizes, tie_word_embeddings=tied)
    geometry = {"vision_config": _SIGLIP_SO400M, "text_config": text, "tie_word_embeddings": tied}
    source = f"llava-hf/llava-onevision-qwen2-{size}-ov-hf"
    return Row(source, "llava_onevision", "apache-2.0", 16, geometry, note=UNVERIFIED, size=(384, 384))


def _qwen(source: str, license: str, tied: bool, *sizes: int, note: str) -> Row:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text = _llm("qwen2_5_vl_text", sizes, max_position_embeddings=128_000, rope_parameters=rope)
    tower = {**_QWEN_TOWER, "out_hidden_size": text["hidden_size"]}
    geometry = {"vision_config": tower, "text_config": text, "tie_word_embeddings": tied}
    pixels = (56 * 56, 28 * 28 * 16_384)
    return Row(f"Qwen/{source}", "qwen2_5_vl", license, 16, geometry, note=note, pixels=pixels)


def _qwen3(size: str, tied: bool, tower: dict[str, Any], *sizes: int) -> Row:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    more = {"head_dim": 128, "max_position_embeddings": 262_144, "rope_parameters": rope}
    text = _llm("qwen3_vl_text", (*sizes, 151_936), **more, tie_word_embeddings=tied)
    tower = {**tower, "out_hidden_size": text["hidden_size"]}
    geometry = {"vision_config": tower, "text_config": text, "tie_word_embeddings": tied}
    pixels = (4096, 25_165_824)  # of all frames of a clip together
    source = f"Qwen/Qwen3-VL-{size}-Instruct"
    return Row(source, "qwen3_vl", "apache-2.0", 16, geometry, note=UNVERIFIED, pixels=pixels)


def _internvl(source: str, license: str, kind: str, *sizes: int, note: str, paper: str = "") -> Row:
    more = {"head_dim": 128, "max_position_embeddings": 40_960} if kind == "qwen3" else {}
    text = _llm(kind, sizes, **more, tie_word_embeddings=False)
    geometry = {"vision_config": _INTERNVIT_300M, "text_config": text, "tie_word_embeddings": False}
    source = f"OpenGVLab/{source}"
    return Row(source, "internvl", license, 16, geometry, note=note, size=(448, 448), paper=paper)


def _internvl3(size: str, *sizes: int, note: str = _SIZES_AGREE) -> Row:
    return _internvl(f"InternVL3-{size}-hf", "qwen", "qwen2", *sizes, 151_674, note=note)


def _internvl35(size: str, *sizes: int, note: str = _SIZES_AGREE) -> Row:
    return _internvl(f"InternVL3_5-{size}-HF", "apache-2.0", "qwen3", *sizes, 151_936, note=note)


def _smolvlm(size: str, frames: int, tower: dict[str, Any], joined: int, *sizes: int) -> Row:
    """joined: patches on a side of a token."""
    text = _llm("llama", sizes, max_position_embeddings=8192, rms_norm_eps=1e-5)
    geometry = {"vision_config": tower, "text_config": text, "scale_factor": joined}
    geometry["tie_word_embeddings"] = False
    source, square = f"HuggingFaceTB/SmolVLM2-{size}-Instruct", (tower["image_size"],) * 2
    return Row(source, "smolvlm", "apache-2.0", frames, geometry, note=UNVERIFIED, size=square)


# Numbers: layers, hidden size, feed-forward size, query heads, key heads, vocabulary (unless all have one).
CATALOG: dict[str, Row] = {
    "llava-onevision-0.5b": _llava("0.5b", True, 24, 896, 4864, 14, 2, 152_000),
    "llava-onevision-7b": _llava("7b", False, 28, 3584, 18_944, 28, 4, 152_128),
    "llava-onevision-72b": _llava("72b", False, 80, 8192, 29_568, 64, 8, 152_064),
    "qwen2.5-vl-3b": _qwen(
        "Qwen2.5-VL-3B-Instruct", "qwen-research", True, 36, 2048, 11_008, 16, 2, 151_936,
        note=f"the paper's Qwen2.5-VL-3B: this repository is transformers-native; {_SIZES_AGREE}",
    ),
    "qwen2.5-vl-7b": _qwen(
        "Qwen2.5-VL-7B-Instruct", "apache-2.0", False, 28, 3584, 18_944, 28, 4, 152_064, note=UNVERIFIED
    ),
    "qwen3-vl-2b": _qwen3("2B", True, _QWEN3_TOWER, 28, 2048, 6144, 16, 8),
    "qwen3-vl-4b": _qwen3("4B", True, _QWEN3_TOWER, 36, 2560, 9728, 32, 8),
    "qwen3-vl-8b": _qwen3("8B", False, _QWEN3_LARGE_TOWER, 36, 4096, 12_288, 32, 8),
    "internvl2.5-4b": _internvl(
        "InternVL2_5-4B", "mit", "qwen2", 36, 2048, 11_008, 16, 2, 151_674,
        note="the paper's InternVL2.5-4B. This repository holds the original layout, which needs code of its "
        "own, and code from the Hub is never run; a transformers-native one of this size was not found (of "
        "2.5 there are OpenGVLab/InternVL2_5-2B-MPO-hf and -8B-MPO-hf). Convert it with transformers' "
        "convert_internvl_weights_to_hf.py and give the folder, or use internvl3-2b, internvl3.5-4b. "
        f"{_SIZES_AGREE[0].upper()}{_SIZES_AGREE[1:]}",
        paper="144.9 M (vision 25.166 M): the original code has one fused linear for q, k and v of the "
        "encoder, which takes one LoRA of 1024 -> 3072; the native class has three linears and takes three",
    ),
    "internvl3-1b": _internvl3("1B", 24, 896, 4864, 14, 2, note=UNVERIFIED),
    "internvl3-2b": _internvl3("2B", 28, 1536, 8960, 12, 2, note=_UNSEEN_LICENSE),
    "internvl3-8b": _internvl3("8B", 28, 3584, 18_944, 28, 4),
    "internvl3-14b": _internvl3("14B", 48, 5120, 13_824, 40, 8, note=_UNSEEN_LICENSE),
    "internvl3.5-1b": _internvl35("1B", 28, 1024, 3072, 16, 8),
    "internvl3.5-2b": _internvl35("2B", 28, 2048, 6144, 16, 8, note=_UNSEEN_LICENSE),
    "internvl3.5-4b": _internvl35("4B", 36, 2560, 9728, 32, 8),
    "internvl3.5-8b": _internvl35("8B", 36, 4096, 12_288, 32, 8, note=_UNSEEN_LICENSE),
    "internvl3.5-14b": _internvl35("14B", 40, 5120, 17_408, 40, 8, note=_UNSEEN_LICENSE),
    "smolvlm2-256m": _smolvlm("256M-Video", 8, _SMOLVLM_BASE, 4, 30, 576, 1536, 9, 3, 49_280),
    "smolvlm2-500m": _smolvlm("500M-Video", 8, _SMOLVLM_BASE, 4, 32, 960, 2560, 15, 5, 49_280),
    "smolvlm2-2.2b": _smolvlm("2.2B", 16, _SMOLVLM_SO400M, 3, 24, 2048, 8192, 32, 32, 49_280),
}

EMBEDDED = "lynx-tiny"
"""The backbone that ships inside the package (`lynx/assets/lynx-tiny`)."""
