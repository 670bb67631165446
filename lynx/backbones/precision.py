"""Which device and precision: fp32 or bf16 for the whole model, int8 or nf4 (bitsandbytes) for the LLM."""

from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from lynx.errors import BackboneError

PRECISIONS = ("auto", "fp32", "bf16", "int8", "nf4")


def pick_device(device: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one.

    Raises: BackboneError for a device that is not here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(
            f"device {device!r} cannot be used here: use 'cpu' or 'auto' ({error})"
        ) from error
    return chosen


def dtype_of(precision: str, config: PreTrainedConfig, device: torch.device) -> torch.dtype:
    """The precision of all weights that are not quantised.

    Raises: BackboneError for a name that is none of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise BackboneError(f"precision {precision!r} is unknown: expected one of {', '.join(PRECISIONS)}")
    if precision in ("fp32", "bf16"):
        return torch.float32 if precision == "fp32" else torch.bfloat16
    if device.type == "cpu" or config.dtype is torch.float32:
        return torch.float32
    return torch.bfloat16


def quantisation(precision: str, unquantised: tuple[str, ...]) -> BitsAndBytesConfig | None:
    """The bitsandbytes configuration of int8 and nf4; None for the others.

    unquantised: full module paths; bitsandbytes ignores short ones, and forgets lm_head when given any.
    """
    if precision not in ("int8", "nf4"):
        return None
    options: dict[str, Any] = {"llm_int8_skip_modules": list(unquantised)}
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, **options)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **options)


def ready_for_cpu(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking nf4 weights: that fails for odd sizes and loses gradients."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  (not an attribute mypy knows)
