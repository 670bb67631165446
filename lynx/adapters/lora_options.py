"""Which of PEFT's LoRAs are computed here: the plain one, and of every other setting why it is refused.

A setting is let through only where it is known not to change what is computed: PEFT's next release may bring
settings that nobody here has heard of.
"""

import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import regex

from lynx.adapters.lora import lora_config
from lynx.config import LoraSettings, short_repr
from lynx.errors import AdapterError

PEFT_CONFIG = "adapter_config.json"
MAX_RANK, MAX_ALPHA = 2**16, 1e6
"""Largest rank and alpha of a LoRA that is read, far above any that was trained."""
MAX_PATTERN, PATTERN_SECONDS = 10_000, 2.0
"""Characters of a pattern in `target_modules`, and the time that matching all modules with it may take."""
MAX_REPEATS = 10_000
"""Product of the counts in a pattern, such as {2,8}: compiling takes longer with it and cannot be stopped."""
_COUNT = re.compile(r"\{(\d{1,5})(?:,(\d{0,5}))?\}")
_UNUSUAL = re.compile(r"\{|\(\?(?![:=!]|<[=!])")
"""In what is left without the counts: recursion, flags, matches that need not be exact."""

FREE = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "base_model_name_or_path", "revision", "peft_type",
    "inference_mode", "task_type", "peft_version", "auto_mapping",
}  # fmt: skip
"""Settings that may have any value here (`check_targets` looks at `target_modules`); every other one but
`init_lora_weights` has to be PEFT's default."""
PLAIN_INITS = ("gaussian", "orthogonal")
"""First values of the two matrices alone, which the trained ones have replaced; so do true and false."""
_CONVERT = (
    "convert it to a plain LoRA with PEFT's save_pretrained(path_initial_model_for_weight_conversion="
    "FOLDER), where FOLDER holds the untrained adapter"
)
_RESIDUAL = ("PEFT takes the LoRA's first values out of the base weights, which lynx leaves alone", _CONVERT)
_RETRAIN = "train it with init_lora_weights=True"
_INITS = {
    "pissa": _RESIDUAL,
    "olora": _RESIDUAL,
    "corda": _RESIDUAL,
    "lora_ga": _RESIDUAL,
    "loftq": ("PEFT replaces the base weights by quantized ones, which lynx leaves alone", _RETRAIN),
    "eva": (
        "PEFT gives every layer a rank of its own, from the data",
        "where its rank_pattern is empty, set init_lora_weights to true: the weights are in the file",
    ),
}
"""Ways to begin, by how their names start: what PEFT does then, and what to do."""
_OPTIONS = {
    "use_dora": "scales every row of the updated weights to a trained length (DoRA)",
    "rank_pattern": "gives some layers other ranks",
    "alpha_pattern": "gives some layers other scales",
    "modules_to_save": "replaces whole layers of the backbone",
    "trainable_token_indices": "replaces embeddings of some tokens",
    "bias": "trains biases of the backbone, too",
    "lora_bias": "adds biases to the LoRA",
    "layer_replication": "repeats layers of the backbone",
    "fan_in_fan_out": "is for layers whose weights are stored transposed",
    "target_parameters": "adapts parameters that are no linear layers",
    "layers_to_transform": "leaves layers out",
    "layers_pattern": "leaves layers out",
    "exclude_modules": "leaves layers out",
    "megatron_config": "is for layers of Megatron",
    "use_qalora": "pools the inputs of quantized layers (QALoRA)",
    "kasa_config": "takes singular values out of the base weights (KaSA)",
    "use_bdlora": "keeps only blocks of the matrices (BD-LoRA)",
    "arrow_config": "chooses between several LoRAs for every token (Arrow)",
    "alora_invocation_tokens": "is on behind certain tokens only (aLoRA)",
}
"""Settings that compute something else, and what that is."""


def parse_settings(content: Mapping[str, Any], folder: Path) -> LoraSettings:
    """The size of the LoRA that an `adapter_config.json` describes. Raises: AdapterError: another kind."""
    options: list[Any] = [content.get(key) for key in ("r", "lora_alpha", "lora_dropout")]
    rank, alpha, dropout = options[0], options[1], 0 if options[2] is None else options[2]
    said = f"r is {short_repr(rank)}, lora_alpha {short_repr(alpha)}, lora_dropout {short_repr(dropout)}"
    # `type`, since True is an int too
    if type(rank) is not int or type(alpha) not in (int, float) or type(dropout) not in (int, float):
        expected = "a whole number and two numbers"
        raise AdapterError(f"{folder}/{PEFT_CONFIG} does not describe a LoRA: {said}; expected {expected}")
    if content.get("peft_type") != "LORA" or not 1 <= rank <= MAX_RANK:
        kind = short_repr(content.get("peft_type"))
        raise AdapterError(f"{folder} is {kind} of rank {rank}, expected a LORA of rank 1 to {MAX_RANK}")
    if not (abs(alpha) <= MAX_ALPHA and 0 <= dropout < 1):  # both false for nan
        raise AdapterError(f"{folder}: {said} are no LoRA's")
    settings = LoraSettings(rank, float(alpha), float(dropout))
    _check_init(content.get("init_lora_weights"), folder)
    plain = lora_config("", settings).to_dict()
    for key in sorted(content.keys() - FREE - {"init_lora_weights"}):
        value = content[key]
        default = plain.get(key)
        if not (_is_empty(key, value, plain) or (type(value) is type(default) and value == default)):
            raise AdapterError(_refusal(key, value, settings, folder))
    return settings


def check_targets(targets: Any, modules: Iterable[Iterable[str]], folder: Path) -> None:
    """Whether PEFT would put its LoRA on all modules that there are weights for; it ignores other weights.

    targets: `target_modules` of an `adapter_config.json`. modules: of each module the names that it may be
    matched by. Raises: AdapterError: PEFT would leave one out, or `targets` is neither a list nor a pattern.
    """
    said = f"{folder}/{PEFT_CONFIG} has target_modules {short_repr(targets)}"
    advice = "list all modules that it was trained on"
    texts = targets if isinstance(targets, list) else [targets]
    if not targets or not all(isinstance(text, str) for text in texts):
        raise AdapterError(f"{said}, expected names of modules or a pattern: {advice}")
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return
    try:
        if isinstance(targets, str):
            _check_pattern(targets)
        deadline = time.monotonic() + PATTERN_SECONDS
        left_out = [names for names in map(tuple, modules) if not _is_target(names, targets, deadline)]
    except (regex.error, ValueError, TimeoutError, RecursionError, OverflowError) as error:
        raise AdapterError(f"{said}, a pattern that cannot be used ({error}): {advice}") from error
    if left_out:
        raise AdapterError(
            f"{said}, which leaves out {len(left_out)} modules that its file has weights for, such as "
            f"{short_repr(left_out[0][0])}, and PEFT ignores those weights: {advice}; one that shall do "
            "nothing has a lora_B of zeros"
        )


def _check_pattern(pattern: str) -> None:
    """Raises: ValueError where compiling a pattern, which nothing can stop, could take long."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"it has {len(pattern):,} characters, at most {MAX_PATTERN:,} are read")
    counts = [max(1, int(least), int(most or 1)) for least, most in _COUNT.findall(pattern)]
    if _UNUSUAL.search(_COUNT.sub("", pattern)) or math.prod(counts) > MAX_REPEATS:
        raise ValueError(f"it repeats more than {MAX_REPEATS:,} times, or has flags or other unusual groups")


def _is_target(names: tuple[str, ...], targets: str | list[str], deadline: float) -> bool:
    """Whether PEFT adapts a module: a list has ends of names, a pattern is of whole names."""
    if isinstance(targets, list):
        return any(f".{name}".endswith(f".{target}") for name in names for target in targets)
    # not `re`, which cannot be stopped: a pattern of a few characters can keep it busy for years
    left = max(deadline - time.monotonic(), 1e-3)
    return any(regex.fullmatch(targets, name, timeout=left) is not None for name in names)


def _is_empty(key: str, value: Any, plain: Mapping[str, Any]) -> bool:
    """Whether a value says nothing. Not 0: `layers_to_transform: 0` is the first layer, and so is false.

    plain: PEFT's defaults. An empty object is nothing only where it is the default: `kasa_config: {}` asks
    for that method with its own defaults.
    """
    if value is False:
        return key != "layers_to_transform"
    if value == {}:
        return plain.get(key) == {} or (key not in plain and not key.endswith("_config"))
    return value is None or (isinstance(value, str | list) and not value)


def _check_init(init: Any, folder: Path) -> None:
    if init is None or isinstance(init, bool):
        return
    name = init.lower() if isinstance(init, str) else ""
    if name in PLAIN_INITS:
        return
    found = next((known for start, known in _INITS.items() if name.startswith(start)), None)
    effect, advice = found or ("lynx does not know what is computed", f"{_CONVERT}, or {_RETRAIN}")
    said = f"{folder}/{PEFT_CONFIG} has init_lora_weights {short_repr(init)}"
    raise AdapterError(f"{said}, with which {effect}: {advice}")


def _refusal(key: str, value: Any, settings: LoraSettings, folder: Path) -> str:
    """The sentence on a setting that is not PEFT's default."""
    asks = f"{folder}/{PEFT_CONFIG} asks for {key} {short_repr(value)}, which"
    if key == "use_rslora":
        alpha = settings.alpha * math.sqrt(settings.rank)
        return f"{asks} scales by alpha / sqrt(r): set it to false and lora_alpha to {alpha:.9g}"
    if key in _OPTIONS:
        return f"{asks} {_OPTIONS[key]}; lynx does not do that: train a plain LoRA without it"
    return f"{asks} lynx does not do: train a plain LoRA without it"
