"""Which device and precision: fp32 or bf16 for the whole model, int8 or nf4 (bitsandbytes) for the LLM.

Only the LLM's linear layers are quantized. Encoder, projector and lm_head define the token interface and keep
bf16 or fp32; `check_quantized` checks it, also for checkpoints that are saved quantized.
"""

import importlib.util
import re
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig

from lynx import compat
from lynx.errors import BackboneError

PRECISIONS = ("auto", "fp32", "bf16", "int8", "nf4")
QUANTIZED = ("int8", "nf4")
_KINDS = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}
"""The classes of bitsandbytes, which is an optional package: names, not imports."""
_DEVICES = ("cpu", "cuda", "xpu")
"""Types of devices for which bitsandbytes has kernels."""


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
        advice = "use 'cpu' or 'auto'"
        raise BackboneError(f"device {device!r} cannot be used here: {advice} ({error})") from error
    return chosen


def check_precision(precision: str) -> None:
    """Raises: BackboneError: none of PRECISIONS."""
    if precision not in PRECISIONS:
        raise BackboneError(f"precision {precision!r} is unknown: expected one of {', '.join(PRECISIONS)}")


def pick_precision(precision: str, config: PreTrainedConfig, source: str) -> str:
    """The precision to load in: what was asked for, or what the checkpoint is quantized to already.

    Raises: BackboneError: none of PRECISIONS; quantized otherwise than asked for, or not by bitsandbytes.
    """
    check_precision(precision)
    own = getattr(config, "quantization_config", None)
    if own is None:
        return precision
    values = own if isinstance(own, dict) else own.to_dict()
    method, kind = str(values.get("quant_method", "bitsandbytes")), values.get("bnb_4bit_quant_type", "fp4")
    if method == "bitsandbytes" and values.get("load_in_8bit"):
        saved = "int8"
    elif method == "bitsandbytes" and values.get("load_in_4bit") and kind == "nf4":
        saved = "nf4"
    else:
        found = f"{method} ({kind})" if method == "bitsandbytes" else method
        raise BackboneError(f"{source!r} is quantized with {found}; lynx reads bitsandbytes' int8 and nf4")
    if precision not in ("auto", saved):
        raise BackboneError(
            f"{source!r} is saved in {saved} and cannot be loaded in {precision}: use {saved} or auto, or "
            "the checkpoint it was made from"
        )
    return saved


def check_device(precision: str, device: torch.device) -> None:
    """Check that a device can run a quantized LLM. Raises: BackboneError naming the alternatives."""
    if precision not in QUANTIZED:
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError(f"{precision} needs bitsandbytes: pip install 'lynx[quant]', or use bf16 or fp32")
    if device.type not in _DEVICES:
        raise BackboneError(
            f"{precision} runs on {', '.join(_DEVICES)}, not on {device.type!r}: use bf16 or fp32 there, or "
            "device='cpu'"
        )
    if device.type == "cuda" and precision == "int8":
        if (found := torch.cuda.get_device_capability(device)) < (7, 5):
            version = ".".join(map(str, found))
            raise BackboneError(
                f"int8 needs a GPU of compute capability 7.5, this one has {version}: use nf4 or fp32"
            )


def dtype_of(precision: str, config: PreTrainedConfig, device: torch.device) -> torch.dtype:
    """The precision of all weights that are not quantized.

    auto: bf16, unless the checkpoint is saved in fp32, or this is a CPU that has no instructions for bf16.
    """
    if precision in ("fp32", "bf16"):
        return torch.float32 if precision == "fp32" else torch.bfloat16
    if config.dtype is torch.float32:
        return torch.float32
    if device.type == "cpu" and (precision in QUANTIZED or compat.cpu_bf16() is None):
        return torch.float32
    return torch.bfloat16


def describe_auto(device: torch.device) -> str:
    """What the precision "auto" is on a device, and why."""
    saved, has = "fp32 where the checkpoint is saved in it, else bf16", compat.cpu_bf16()
    if device.type != "cpu":
        return saved
    return f"{saved}: this CPU has {has}" if has else "fp32: this CPU has neither AVX512-BF16 nor AMX"


def quantization_config(
    precision: str, unquantized: tuple[str, ...], dtype: torch.dtype
) -> BitsAndBytesConfig:
    """The bitsandbytes configuration of int8 or nf4.

    unquantized: full module paths; bitsandbytes ignores short ones, and forgets lm_head when given any.
    dtype: in which 4-bit layers compute; bitsandbytes' default is float32 for every model.
    """
    options: dict[str, Any] = {"llm_int8_skip_modules": list(unquantized)}
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, **options)
    options |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return BitsAndBytesConfig(load_in_4bit=True, **options)


def check_quantized(model: nn.Module, precision: str, llm_targets: str, source: str) -> None:
    """Check that exactly the LLM's linear layers are quantized, and all else is bf16 or fp32.

    llm_targets: the regex of the full names of those layers.
    Raises: BackboneError naming a module that is not as it should be.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        expected = _KINDS[precision] if re.fullmatch(llm_targets, name) else "full precision"
        found = kind if kind in _KINDS.values() else "full precision"
        if found != expected:
            raise BackboneError(
                f"{name} of {source!r} is in {found}, expected {expected}: in {precision} the LLM's linear "
                "layers are quantized and nothing else, since encoder, projector and lm_head make the tokens "
                "that adapters are trained on"
            )
        if found == "full precision":
            for key, weight in module.named_parameters(recurse=False):
                if weight.dtype not in (torch.bfloat16, torch.float32):
                    raise BackboneError(
                        f"{name}.{key} of {source!r} is in {str(weight.dtype).removeprefix('torch.')}, "
                        "expected bfloat16 or float32"
                    )
