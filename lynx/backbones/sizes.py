"""What a checkpoint says of itself in numbers: how frames become pixels, and how large its parts are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocessing:
    """How uint8 frames become pixels: read from the checkpoint's own JSON, never from class defaults."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] = (0, 0)  # (height, width), where all frames have one
    pixels: tuple[int, int] = (0, 0)  # minimum and maximum pixels of a frame, where it keeps its shape; of
    # Qwen3-VL those of all frames of a clip together
    longer_side: int = 0  # of a frame in pixels, where it is resized to this before it is resized to `size`
    capped: bool = False  # whether a frame's share of a limit of tokens bounds its pixels as well
    video_tokens: int | None = None  # that limit, where it is not the stock processor's own


@dataclass(frozen=True)
class VisionSizes:
    """Sizes of a vision tower, for memory estimates and fingerprints."""

    hidden: int  # width of its tokens
    inner: int  # width inside its feed-forward layers
    patch: int  # pixels on a side of a patch
    frames_per_patch: int = 1
    gated: bool = False  # whether its feed-forward layers have a gate beside up and down


@dataclass(frozen=True)
class TextSizes:
    """Sizes of an LLM, for memory estimates and fingerprints."""

    layers: int
    hidden: int
    inner: int
    kv_heads: int
    head_dim: int
