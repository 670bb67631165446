"""The true architecture of a catalog model, with random weights, through all that lynx does with it.

    python -m benchmarks.real_size [--backbone llava-onevision-0.5b] [--precision fp32] [--frames 4]

Load, guidance, one alignment step, one tuning step, a chat of two turns with evidence: seconds of each, and
the peak of memory: of each stage on a GPU, so far on a CPU; beside it what `lynx estimate` says of the chat.
Decoding is set beside the limit of the memory's bandwidth: every token reads all of the LLM's weights once.
The checkpoint is made once, in `.cache/benchmarks`.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import CACHE, report

LLAVA = "llava_onevision"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="llava-onevision-0.5b", help="a row of the catalog")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "int8", "nf4"])
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16, help="new tokens of an answer")
    parser.add_argument("--checkpointing", default="off", choices=["off", "non-reentrant"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = checkpoint(options.backbone)
    figures = Figures()
    run(figures, source, options)
    report("real_size", **vars(options), device=device_name(), stages=figures.rows, **figures.more)


class Figures:
    """Seconds and peak memory, stage by stage."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        self.more: dict[str, Any] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is inside."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.rows[name] = {"seconds": round(time.perf_counter() - start, 2), "peak_gb": round(peak(), 2)}


def peak() -> float:
    """GB: of the device's memory since it was last reset where there is one, else resident so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def device_name() -> str:
    """The accelerator, or the CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def checkpoint(name: str) -> Path:
    """A folder with random weights in bf16 of the model's true architecture."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from lynx.backbones import CATALOG
    from tests import checkpoints

    row = CATALOG[name]
    folder = CACHE / name
    if (folder / "preprocessor_config.json").exists():
        return folder
    words = checkpoints.tokenizer(row.family)
    ids, markers = words.convert_tokens_to_ids, checkpoints.SPECIAL[row.family]
    config = AutoConfig.for_model(row.family, **row.geometry)
    config.image_token_id = ids(markers[-2])
    config.video_token_id = ids(markers[-1])
    config.text_config.eos_token_id, config.text_config.bos_token_id = ids("<|im_end|>"), None
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    template, preprocessor = {
        LLAVA: (checkpoints.LLAVA_TEMPLATE, {"size": {"height": 384, "width": 384}}),
        "qwen2_5_vl": (
            checkpoints.QWEN_TEMPLATE,
            {"min_pixels": 128 * 28 * 28, "max_pixels": 768 * 28 * 28},
        ),
        "internvl": (checkpoints.INTERNVL_TEMPLATE, {"size": {"height": 448, "width": 448}}),
    }[row.family]
    return checkpoints.write(folder, model, words, template, preprocessor, std=None)


def run(figures: Figures, source: Path, options: argparse.Namespace) -> None:
    """Every stage once."""
    import lynx
    from lynx.backbones.estimate import estimate
    from lynx.config import AlignConfig, GuideConfig, Sampling, TuneConfig
    from lynx.datasets.sources import open_data
    from lynx.training.alignment import align
    from lynx.training.guidance import guide
    from lynx.training.tuning import tune

    out, precision, frames, tokens = CACHE / "real_size", options.precision, options.frames, options.tokens
    short = {"frames": frames, "steps": 1, "save_every": 0, "resume": False}
    short["checkpointing"] = options.checkpointing
    with figures.stage("load"):
        model = lynx.load(source, precision=precision)
    clips = {senses: open_data("world", n=1, senses=senses) for senses in (("video",), ("audio",))}
    with figures.stage("guidance"):
        guidance = guide(model, clips["video",], GuideConfig(frames=frames), progress=False)
    with figures.stage("alignment_step"):
        config = AlignConfig(batch_size=frames, **short)
        align(model, "audio", clips["audio",], guidance, config, out, progress=False)
    with figures.stage("tuning_step"):
        both = open_data("world", n=1, senses=("video", "audio"))
        few = Sampling(questions=4)
        tune(model, "audio", both, TuneConfig(batch_size=1, **short), out, sampling=few, progress=False)
    example = both[0]
    chat = model.chat(frames=frames, **example.media)
    with figures.stage("first_answer"):
        chat.ask("what sound do you hear ?", max_new_tokens=tokens)
    with figures.stage("second_answer"):
        chat.ask("and what do you see ?", max_new_tokens=tokens)
    with figures.stage("evidence"):
        figures.more["share"] = {k: round(v, 4) for k, v in chat.evidence.share().items()}
    wanted = estimate(source, frames=frames, senses=("audio",), precision=precision)
    figures.more["estimated_gb"] = round(wanted.total / 1e9, 2)
    figures.more |= {"tokens_a_sense": dict(chat.plan.tokens)} | decoding(model, chat, tokens)


def decoding(model: Any, chat: Any, tokens: int) -> dict[str, float]:
    """Tokens a second with an adapter loaded that is off, then with none; the first as share of the limit."""
    embedding = model.backbone.model.get_input_embeddings().weight
    head = model.backbone.model.get_output_embeddings().weight
    # the embedding is looked up, not read through; where it is tied to the head, the head is
    weights = [w for w in model.backbone.model.get_decoder().parameters() if w is not embedding]
    size = sum(weight.nbytes for weight in weights) + head.nbytes
    prompt = chat._prompt(chat.history[:-1], ("video",), chat.streams)

    def seconds(n: int) -> float:
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=n)
        return time.perf_counter() - start

    def rate() -> float:
        seconds(1)
        return tokens / (seconds(tokens + 1) - seconds(1))

    found, limit = rate(), bandwidth(embedding.device)
    for name in list(model.adapters):
        model.unload_adapter(name)
    return {
        "llm_gb": round(size / 1e9, 3),
        "tokens_a_second": round(found, 2),
        "tokens_a_second_of_stock_layers": round(rate(), 2),
        "bandwidth_gb_s": round(limit / 1e9, 1),
        "share_of_bandwidth_limit": round(found * size / limit, 3),
    }


def bandwidth(device: torch.device) -> float:
    """Bytes a second that the device reads: the best of five products of 1 GB with a vector."""
    block, vector = torch.rand(250_000, 1000, device=device), torch.rand(1000, device=device)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        float((block @ vector)[0])
        best = max(best, block.nbytes / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    main()
