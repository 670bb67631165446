"""Decoding on a GPU, beside the limit of its memory's bandwidth: one command of less than ten minutes.

    python -m benchmarks.gpu [--backbones llava-onevision-0.5b qwen3-vl-2b] [--precisions bf16 nf4]

Of each backbone (the true architecture with random weights, made once in `.cache/benchmarks`) and precision,
in a process of its own: tokens a second of stock `generate`, of lynx without an adapter and with one, in
PEFT's layers and in ours, with and without fixed steps; the share of the limit, which is the device's
bandwidth over the bytes of weights that a token reads; what capturing a step takes; memory. Then
`tests/test_cuda.py`. Cases are printed as they end, so that a run that is cut short has told something.

Without a CUDA device it says so, and does the same with small checkpoints of the families on the CPU.
"""

import argparse
import gc
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import ROOT, report
from benchmarks.real_size import checkpoint, device_name

RUN_S, CASE_S, TESTS_S = 570, 150, 120
"""Seconds that the whole run takes at most, a case of it, and that are left for the tests."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["llava-onevision-0.5b", "llava-onevision-7b", "qwen3-vl-2b", "smolvlm2-500m"]
    parser.add_argument("--backbones", nargs="+", default=names, help="rows of the catalog")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "nf4"])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-tests", action="store_true", help="leave tests/test_cuda.py out")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(case(*options.case, options)))
        return
    cuda = torch.cuda.is_available()
    if not cuda:
        print("no CUDA device here: small checkpoints on the CPU; mind no figures", file=sys.stderr)
        options.precisions, options.no_tests = ["fp32", "nf4"], True
        options.frames, options.tokens, options.rounds = 2, min(options.tokens, 8), 1
    end = time.monotonic() + RUN_S
    found: dict[str, Any] = {}
    for precision, name in itertools.product(options.precisions, options.backbones):
        asked = name, precision, options
        found[f"{name}, {precision}"] = figures = in_own_process(*asked, end) if cuda else case(*asked)
        print(f"{name}, {precision}: {json.dumps(figures)}", file=sys.stderr, flush=True)
    tests = "not run" if options.no_tests else cuda_tests(end)
    limit = round(bandwidth(torch.device("cuda" if cuda else "cpu")) / 1e9, 1)
    report("gpu", device=device_name(), bandwidth_gb_s=limit, cases=found, test_cuda=tests)


def in_own_process(name: str, precision: str, options: argparse.Namespace, end: float) -> dict[str, Any]:
    """The figures of one case, or why there are none. end: when the whole run has to be over."""
    numbers = [f"--{key}={getattr(options, key)}" for key in ("frames", "tokens", "rank", "rounds")]
    command = [sys.executable, "-m", "benchmarks.gpu", *numbers, "--case", name, precision]
    lines, problem = output(command, min(CASE_S, end - TESTS_S - time.monotonic()))
    figures: dict[str, Any] = {"failed": problem} if problem else json.loads(lines[-1])
    return figures


def cuda_tests(end: float) -> list[str]:
    """What the tests that need a GPU say at their end, with those that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "tests/test_cuda.py"]
    lines, problem = output(command, end - time.monotonic())
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return failed + (lines[-1:] or [problem])


def output(command: list[str], limit: float) -> tuple[list[str], str]:
    """The lines that a command prints, and why it failed, if it did; limit: seconds."""
    if limit <= 0:
        return [], "no time was left"
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return [], f"took over {limit:.0f} s"
    return done.stdout.strip().splitlines(), done.stderr.strip()[-600:] if done.returncode else ""


def case(name: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """One backbone in one precision."""
    import lynx

    with tempfile.TemporaryDirectory() as folder:
        source = checkpoint(name) if torch.cuda.is_available() else small_checkpoint(name, Path(folder))
        start = time.perf_counter()
        model = lynx.load(source, precision=precision)
        figures = {"load_s": round(time.perf_counter() - start, 1)} | decoding(model, options)
    del model
    gc.collect()
    return figures | {"gb_when_it_is_gone": memory(torch.cuda.memory_allocated)}


def small_checkpoint(name: str, folder: Path) -> Path:
    """Of the family of a row of the catalog, as wide as bitsandbytes' blocks."""
    sys.path.append(str(ROOT / "tests"))  # where small checkpoints are made
    import families

    from lynx.backbones import CATALOG

    small = families.FAMILIES[CATALOG[name].family]
    return small.write(folder, **small.quantizable)


@torch.no_grad()
def decoding(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second in every arm, with its share of the bandwidth limit; time and memory of the steps."""
    from lynx.config import LoraSettings
    from lynx.types import Frames, sample_times

    backbone, frames = model.backbone, options.frames
    pixels = torch.randint(256, (frames, 3, 384, 384), dtype=torch.uint8)
    stream = model.encode("video", Frames(pixels, sample_times(4.0, frames), 4.0))
    prompt = backbone.compose([{"role": "user", "content": "what happens ?"}], [stream])
    backbone.model.generation_config.eos_token_id = None  # every answer has all of its tokens
    model.lora.add("llm", backbone.llm_targets, LoraSettings(options.rank, 2.0 * options.rank, 0.0))
    lora = model.lora.tensors("llm")
    for weight in lora.values():
        weight.data.normal_(std=0.01)
    limit = bandwidth(backbone.device)
    adapter = sum(weight.numel() for weight in lora.values()) * backbone.dtype.itemsize

    def rate(on: list[str], peft: list[str], fixed: bool) -> float:
        """Tokens a second behind the first, which the prompt gives."""

        def answer(tokens: int) -> float:
            with model.lora.active(on, peft):
                return wall(lambda: model.generate(prompt, max_new_tokens=tokens, fixed=fixed))

        answer(options.tokens)  # warms up, and captures
        one = median(answer(1) for _ in range(options.rounds))
        return (options.tokens - 1) / (median(answer(options.tokens) for _ in range(options.rounds)) - one)

    arms = {}
    for name, on, peft, fixed in (
        ("stock generate", [], [], False),
        ("lynx", [], [], True),
        ("an adapter in PEFT's layers, stock's steps", ["llm"], ["llm"], False),
        ("lynx, an adapter, stock's steps", ["llm"], [], False),
        ("lynx, an adapter", ["llm"], [], True),
    ):
        found, read = rate(on, peft, fixed), bytes_a_token(backbone) + (adapter if on else 0)
        arms[name] = {"tokens_s": round(found, 1), "share_of_limit": round(found * read / limit, 3)}
    used = [step for step in backbone.steps.values() if step is not None]
    return {
        "prompt_tokens": prompt.input_ids.shape[1],
        "weights_gb_a_token": float(f"{bytes_a_token(backbone) / 1e9:.3g}"),
        "arms": arms,
        "fixed_steps": f"{len(used)} in use, {sum(step.graph is not None for step in used)} captured",
        "capture_s": round(capture_seconds(model, prompt), 3),
        "peak_gb": memory(torch.cuda.max_memory_allocated),
    }


def capture_seconds(model: Any, prompt: Any) -> float:
    """What the first answer of three tokens takes more than the next."""

    def answer() -> float:
        return wall(lambda: model.generate(prompt, max_new_tokens=3, fixed=True))

    model.backbone.steps.clear()
    return answer() - answer()


def bytes_a_token(backbone: Any) -> int:
    """Bytes of the weights that one token reads: the LLM's and the head's, not those it looks up."""
    model = backbone.model
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    weights = [weight for weight in model.get_decoder().parameters() if weight is not embedding]
    states = [getattr(weight, "quant_state", None) for weight in weights]  # of nf4: a scale a block
    scales = sum(state.absmax.nbytes for state in states if state is not None)
    return int(sum(weight.nbytes for weight in weights) + head.nbytes + scales)


def wall(run: Callable[[], object]) -> float:
    """Seconds of a call, with what it left to the device."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def bandwidth(device: torch.device) -> float:
    """Bytes a second that the device's memory moves, read and written: the best of ten copies."""
    source = torch.rand(2**28 if device.type == "cuda" else 2**24, device=device)  # 1 GB
    copy = torch.empty_like(source)
    return 2 * source.nbytes / min(wall(lambda: copy.copy_(source)) for _ in range(10))


def memory(read: Callable[[], int]) -> float | None:
    """GB of the device; None on a CPU."""
    return round(read() / 1e9, 2) if torch.cuda.is_available() else None


if __name__ == "__main__":
    main()
