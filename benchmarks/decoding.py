"""What LoRAs cost while an answer is written: a step of decoding, against that of the stock layers.

    python -m benchmarks.decoding [--layers 24] [--hidden 64] [--precision fp32] [--rounds 15]

In one process, in turn: the stock model; lynx with an adapter loaded that is off, with one on, with two on;
the same in PEFT's own layers. Steps of one token behind a prompt, with rows recorded nowhere, on one thread.
Beside it what switching an adapter on and off costs, the first time and later, and what an answer costs whose
steps have fixed shapes (`lynx/backbones/fixed_step.py`), which on a CPU are not captured. `lora_bytes`: how
large an adapter is beside the linear layers that it is on, since a step reads both once.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import ROOT, cpu_seconds, interleaved, report

PROMPT, STEPS = 64, 16
NAMES = ("first", "second")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options)
    report("decoding", **vars(options), **figures)


@torch.no_grad()
def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a step in every arm, and the ratio to the stock model's."""
    import lynx
    from lynx import compat
    from lynx.adapters.lora import lora_config
    from lynx.config import LoraSettings

    sys.path.append(str(ROOT / "tests"))  # where small checkpoints are made
    from checkpoints import llava_onevision

    hidden, settings = options.hidden, LoraSettings(options.rank, 2.0 * options.rank, 0.05)
    source = llava_onevision(folder, hidden=hidden, layers=options.layers, ffn=4 * hidden)
    stock, ours, theirs = (lynx.load(source, precision=options.precision) for _ in range(3))
    bank, injector, peft = ours.lora, None, theirs.backbone.model
    for name in NAMES:
        bank.add(name, ours.backbone.llm_targets, settings)
        config = lora_config(theirs.backbone.llm_targets, settings)
        injector = compat.inject_lora(peft, injector, name, config)

    def wrapped(on: Sequence[str]) -> None:
        for layer in compat.lora_layers(peft).values():
            compat.switch_lora(layer, on, ())

    def lynx_step(on: Sequence[str]) -> float:
        with bank.active(on):
            return step(ours.backbone.model)

    def peft_step(on: Sequence[str]) -> float:
        wrapped(on)
        return step(peft)

    arms: dict[str, Callable[[], float]] = {"stock": lambda: step(stock.backbone.model)}
    for number in range(3):
        arms[f"lynx, {number} on"] = lambda on=NAMES[:number]: lynx_step(on)
        arms[f"peft, {number} on"] = lambda on=NAMES[:number]: peft_step(on)
    rounds = [alternating(arms, number) for number in range(options.rounds + 1)][1:]  # the first warms up
    found = {
        name: {
            "ms": round(1000 * median(each[name] for each in rounds), 3),
            "of_stock": round(median(each[name] / each["stock"] for each in rounds), 3),
        }
        for name in arms
    }
    linears = (layer.weight.nbytes for layer in compat.lora_layers(peft).values())
    size = sum(weight.nbytes for weight in bank.tensors(NAMES[0]).values()) / sum(linears)
    more = {"switching_ms": switching(bank), "fixed_steps": answers(ours, options.rounds)}
    return {"arms": found, "lora_bytes": round(size, 3), **more}


def alternating(arms: dict[str, Callable[[], float]], number: int) -> dict[str, float]:
    """Processor seconds of every arm, in an order that turns from round to round."""
    names = list(arms)
    names = names[number % len(names) :] + names[: number % len(names)]
    return {name: arms[name]() for name in names}


def step(model: Any) -> float:
    """Processor seconds of one step of decoding, the mean of several behind one prompt."""
    from transformers import DynamicCache

    ids = torch.full((1, 1), 5)
    cache = DynamicCache(config=model.config.get_text_config())
    model(input_ids=ids.expand(1, PROMPT), cache=cache, use_cache=True, logits_to_keep=1)

    def steps() -> None:
        for _ in range(STEPS):
            model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)

    return cpu_seconds(steps) / STEPS


def answers(model: Any, rounds: int) -> dict[str, float]:
    """Seconds of answers by stock's steps and by fixed ones, and their ratio, with one LoRA on."""
    prompt = model.backbone.compose([{"role": "user", "content": "what is it ?"}], [])
    model.backbone.model.generation_config.eos_token_id = None  # every answer has all of its tokens

    def answer(fixed: bool) -> None:
        with model.lora.active(NAMES[:1]):
            model.generate(prompt, max_new_tokens=PROMPT, fixed=fixed)

    return interleaved(lambda: answer(False), lambda: answer(True), rounds)


def switching(bank: Any) -> dict[str, float]:
    """Milliseconds of switching LoRAs on and off again: for the first time, and when they are kept."""

    def switch(names: Sequence[str]) -> None:
        with bank.active(names):
            pass

    found = {}
    for names in (NAMES[:1], NAMES):
        bank.fill(NAMES[0], bank.tensors(NAMES[0]))  # forgets what was kept
        found[f"{len(names)} on, first"] = round(1000 * cpu_seconds(lambda on=names: switch(on)), 3)
        found[f"{len(names)} on"] = round(1000 * cpu_seconds(lambda on=names: switch(on)), 3)
    return found


if __name__ == "__main__":
    main()
