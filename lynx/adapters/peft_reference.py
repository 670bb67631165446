"""What PEFT itself computes with a LoRA of a checkpoint: the reference that an import is compared with.

One layer at a time is copied and given to PEFT with the checkpoint's own settings, so that whatever PEFT does
to base weights happens to the copy, and no second model is held in memory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from torch import Tensor, nn

from lynx.compat import PEFT_PREFIX, copy_without_hooks
from lynx.errors import AdapterError


def lora_outputs(
    config: Mapping[str, Any], name: str, pair: tuple[Tensor, Tensor], source: Path,
    module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor,
) -> Tensor:  # fmt: skip
    """A forward hook, once its first four arguments are given: PEFT's output (..., out) in place of `output`.

    config: of the checkpoint. name: of the layer in the checkpoint. pair: A (r, in) and B (out, r).
    Raises: AdapterError: PEFT cannot load this, or leaves the layer as it is.
    """
    name = name.removeprefix(PEFT_PREFIX)
    a, b = pair
    tensors = {f"{PEFT_PREFIX}{name}.lora_A.weight": a, f"{PEFT_PREFIX}{name}.lora_B.weight": b}
    try:
        # as `PeftModel.from_pretrained` reads it
        peft_config = LoraConfig.from_peft_type(**config)
        if not isinstance(peft_config.target_modules, list | set):
            # a pattern is of full names, and those of a checkpoint begin as the model it was trained in
            peft_config.target_modules = {name}
        model: nn.Module = PeftModel(_alone(name, module), peft_config)
        loaded: Any = set_peft_model_state_dict(model, tensors)
        if left := loaded.unexpected_keys:
            raise AdapterError(f"PEFT takes {left[0]} of {source} for no tensor of a LoRA")
        layer = model.get_submodule(f"{PEFT_PREFIX}{name}")
        with torch.no_grad():
            found: Tensor = layer.eval()(*inputs)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise AdapterError(f"PEFT itself does not load {name!r} of {source}: {error}") from error
    return found.to(output.dtype)


def _alone(name: str, module: nn.Module) -> nn.Module:
    """A model of nothing but a copy of `module`, under its name."""
    root = parent = nn.Module()
    *levels, last = name.split(".")
    for level in levels:
        child = nn.Module()
        parent.add_module(level, child)
        parent = child
    parent.add_module(last, copy_without_hooks(module))
    return root
