"""What tests are made of: small checkpoints of the stock classes, adapters, clips, damaged files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import families
import torch

from lynx.adapters.format import Adapter
from lynx.config import LoraSettings
from lynx.types import Frames, Prompt, Waveform

FAMILIES: dict[str, Callable[..., Path]] = {name: each.write for name, each in families.FAMILIES.items()}
VARIANTS: dict[str, Callable[..., Path]] = {
    name: write for each in families.FAMILIES.values() for name, write in each.checkpoints.items()
}
"""The families, and those of their checkpoints that differ within one."""
llava_onevision, qwen2_5_vl, internvl = (
    FAMILIES[name] for name in ("llava_onevision", "qwen2_5_vl", "internvl")
)


def stock_inputs(backbone: Any, video: Frames, messages: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    """What the stock processor of a backbone's family gives for a video and messages."""
    return families.of(backbone).stock_inputs(backbone, video, messages)


def arguments(backbone: Any, prompt: Prompt) -> dict[str, Any]:
    """What the stock model is called with for a prompt."""
    given = backbone.inputs(prompt.input_ids, prompt.inputs_embeds)
    return {**given, "attention_mask": prompt.attention_mask, "position_ids": prompt.position_ids}


def followed(backbone: Any, prompt: Prompt, ids: torch.Tensor) -> Prompt:
    """A prompt with an answer's ids (n,) behind it."""
    more = ids[None].to(prompt.input_ids)
    behind = prompt.position_ids[..., -1:] + 1 + torch.arange(len(ids), device=more.device)
    return Prompt(
        torch.cat([prompt.input_ids, more], 1),
        torch.cat([prompt.inputs_embeds, backbone.embed(more)], 1),
        torch.cat([prompt.attention_mask, torch.ones_like(more)], 1),
        torch.cat([prompt.position_ids, behind], -1),
        prompt.spans,
    )


def random_adapter(
    model: Any, name: str, modality: str = "audio", parts: Sequence[str] = ("vision", "llm"), **more: Any
) -> None:
    """Register an adapter whose LoRAs are random and strong enough to change every answer."""
    model.add_adapter(Adapter(name, modality, **more))
    for part in parts:
        lora = model.add_lora(name, part, LoraSettings(4, 8.0, 0.1))
        generator = torch.Generator().manual_seed(len(model.adapters))
        for weight in model.lora.tensors(lora).values():
            weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))


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


_OURS, _PEFT = "lynx_config.json", "adapter_config.json"
JSON_DAMAGES = {  # file, what replaces or joins its content, the reason
    "a rank without end": (_PEFT, '"r": Infinity', "r is inf, expected a finite number"),
    "a rank that overflows": (_PEFT, '"r": 1e400', "r is inf, expected a finite number"),
    "a rank that is not a number": (_PEFT, '"r": NaN', "r is nan"),
    "a rank beyond 64 bits": (_PEFT, f'"r": {10**400}', r"r is 1000.*below 2\^63"),
    "a rank that python does not read": (_PEFT, f'"r": {"9" * 9000}', "cannot read"),
    "a huge rank": (_PEFT, '"r": 1000000000000', "rank 1000000000000, expected a LORA of rank 1 to"),
    "a rank in a list": (_PEFT, '"r": [4]', r"r is \[4\]"),
    "a rank that is a truth": (_PEFT, '"r": true', "r is True"),
    "half a rank": (_PEFT, '"r": 4.5', "r is 4.5"),
    "a scale without end": (_PEFT, '"lora_alpha": -Infinity', "lora_alpha is -inf"),
    "a huge scale": (_PEFT, '"lora_alpha": 1e300', "alpha 1e\\+300"),
    "a dropout of a wrong type": (_PEFT, '"lora_dropout": {"a": 1}', "lora_dropout {'a': 1}"),
    "lists without end": (_PEFT, "[" * 100_000, "nested deeper than"),
    "objects without end": (_PEFT, '"x": ' + '{"x": ' * 500 + "1" + "}" * 500, "nested deeper than"),
    "a list": (_PEFT, "[1]", "holds a list"),
    "nothing": (_PEFT, "", "cannot read"),
    "bytes that are no text": (_PEFT, b"\xff\xfe{}", "cannot read"),
    "half a character": (_OURS, '"metrics": {"n": "\\ud800"}', "control characters"),
    "an escape sequence": (_OURS, '"metrics": {"n": "\\u001b[2J"}', "control characters"),
    "megabytes": (_OURS, '"metrics": {"n": "' + "x" * 1_100_000 + '"}', r"most 1 MB \(LYNX_MAX_JSON_BYTES\)"),
    "a deep description": (_OURS, "{" * 3 + "[" * 100_000, "cannot read|nested deeper than"),
    "a metric without end": (_OURS, '"metrics": {"with": {"n": Infinity}}', "metrics.with.n is inf"),
    "a metric that is a list": (_OURS, '"metrics": {"with": [1, 2]}', r"metrics.with is \[1, 2\]"),
    "metrics in a list": (_OURS, '"metrics": [0.9]', "expected an object"),
    "a metric's name in two lines": (_OURS, '"metrics": {"a\\nb": 1}', "printable characters"),
    "a rendering of a wrong type": (_OURS, '"rendering": {"n_mels": "32"}', "n_mels of audio is '32'"),
    "half a row of pixels": (_OURS, '"rendering": {"n_mels": 32.5}', "n_mels of audio is 32.5"),
    "a rendering that takes the memory": (_OURS, '"rendering": {"n_mels": 1000000000}', "must lie between"),
    "moments without end": (_OURS, '"frames": 1000000000', "expected 1 to 100,000 moments"),
    "a rendering in a list": (_OURS, '"rendering": {"n_mels": [32]}', "n_mels of audio is"),
    "a name in two lines": (_OURS, '"name": "audio\\nb"', "cannot name"),
    "a modality in two lines": (_OURS, '"modality": "au\\ndio"', "no modality"),
    "a backbone in two lines": (_OURS, '"backbone": {"source": "a\\nb"}', "backbone.source is"),
    "a backbone in a list": (_OURS, '"backbone": {"source": ["a"]}', "backbone.source is"),
    "a format without end": (_OURS, '"format": Infinity', "format is inf"),
}
"""Values in an adapter's JSON that its reader must survive."""


def damage_json(folder: Path, case: str) -> None:
    """Put one of JSON_DAMAGES into an adapter's folder; of a name that stands twice the last value counts."""
    file, text, _ = JSON_DAMAGES[case]
    path = folder / file if file == _OURS else folder / "llm" / file
    if isinstance(text, bytes):
        path.write_bytes(text)
    elif text.startswith('"'):
        path.write_text(f"{path.read_text().rstrip()[:-1]}, {text}}}")
    else:
        path.write_text(text)
