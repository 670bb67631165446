"""What evidence costs: recording attention as an answer is written, and attribution of a word afterwards.

    python -m benchmarks.evidence [--tokens 64] [--rounds 15] [--frames 2]

Recording: generation that records attention rows against the same with stock sdpa, the same number of
tokens behind the same prompt, in turn, in one process; for lynx-tiny, and for a random backbone nearer to the
size of a real one (12 layers x 512, 1,800 tokens).

Attribution: integrated gradients of an answer's first token with all 8 steps, in processor time of one
forward pass of its prompt, both in turn in one process; for lynx-tiny with all senses, and for the true
geometry of LLaVA-OneVision-0.5B with random weights and a few frames (`--frames 0` leaves it out: it takes
6 GB and minutes). Beside it the peak of memory of a fresh process that answers, and of one that answers and
explains a word: of the device where there is a GPU, else resident, with interpreter and libraries.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import interleaved, report

REAL = "llava-onevision-0.5b"
SENSES = ("audio", "depth", "high_fps", "multi_view")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--frames", type=int, default=2, help=f"of {REAL}; 0 leaves it out")
    parser.add_argument("--only", choices=["recording", "attribution"])
    parser.add_argument("--peak", choices=["answer", "attribution"], help=argparse.SUPPRESS)
    parser.add_argument("--source", default="lynx-tiny", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(json.dumps(peak_of(options.source, options.frames, options.peak)))
        return
    figures: dict[str, Any] = {}
    if options.only != "attribution":
        figures["recording"] = recording_costs(options.tokens, options.rounds)
    if options.only != "recording":
        figures["attribution"] = attribution_costs(options.rounds, options.frames)
    report("evidence", **figures)


# --- recording attention --------------------------------------------------------------------------


def recording_costs(tokens: int, rounds: int) -> dict[str, Any]:
    """Of both backbones."""
    from tests.checkpoints import llava_onevision

    small = measure("lynx-tiny", None, tokens, 5 * rounds)
    with tempfile.TemporaryDirectory() as folder:
        source = llava_onevision(Path(folder), hidden=512, layers=12, ffn=2048)
        large = measure(str(source), 110, tokens, max(3, rounds // 3))
    return {"lynx-tiny": small, "12 layers x 512": large}


def measure(source: str, frames: int | None, tokens: int, rounds: int) -> dict[str, Any]:
    """Ratio of a generation that records to stock sdpa's."""
    import lynx
    from lynx.backbones.attention import ATTENTION, RowRecorder, recording
    from lynx.types import Frames, Prompt, sample_times

    model = lynx.load(source)
    backbone = model.backbone
    n = frames or backbone.default_frames
    pixels = torch.randint(256, (n, 3, 64, 64), dtype=torch.uint8)
    stream = model.encode("video", Frames(pixels, sample_times(4.0, n), 4.0))
    prompt: Prompt = backbone.compose([{"role": "user", "content": "what happens ?"}], [stream])
    stock = backbone.model

    def generate(implementation: str) -> None:
        stock.set_attn_implementation({"vision_config": implementation, "text_config": implementation})
        ids = stock.generate(
            inputs_embeds=prompt.inputs_embeds,
            attention_mask=prompt.attention_mask,
            position_ids=prompt.position_ids,
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
        )
        assert ids.shape[1] == tokens

    def recorded() -> None:
        rows = RowRecorder()
        with recording(backbone, text_rows=rows):
            generate(ATTENTION)
        assert rows.rows().shape[0] == tokens

    figures = interleaved(lambda: generate("sdpa"), recorded, rounds)
    return {"prompt_tokens": prompt.input_ids.shape[1], "new_tokens": tokens, **figures}


# --- attribution ----------------------------------------------------------------------------------


def attribution_costs(rounds: int, frames: int) -> dict[str, Any]:
    """Of lynx-tiny with all senses, and of the true geometry."""
    found = {"lynx-tiny": passes("lynx-tiny", 0, rounds) | peaks("lynx-tiny", 0)}
    if frames:
        from benchmarks.real_size import checkpoint

        source = str(checkpoint(REAL))
        found[REAL] = peaks(source, frames) | passes(source, frames, max(2, rounds // 8))
    return found


def conversation(source: str, frames: int) -> Any:
    """One that has its first answer; frames: of the video, 0 for all senses and the default."""
    import lynx
    from lynx.datasets.sources import open_data

    senses = () if frames else SENSES
    model = lynx.load(source, [f"adapters/{sense}" for sense in senses], precision="fp32")
    example = open_data("world", n=1, seed=7, split="test", senses=("video", *senses))[0]
    chat = model.chat(frames=frames or None, **example.media)
    chat.ask(example.turns[0].question, max_new_tokens=4)
    return chat


def passes(source: str, frames: int, rounds: int) -> dict[str, Any]:
    """Processor time of an attribution in forward passes of the prompt, all 8 steps and as it comes."""
    from lynx.evidence.integrated_gradients import STEPS, integrated_gradients

    with conversation(source, frames).evidence.answered.replay() as replay:

        @torch.no_grad()
        def forward() -> None:
            replay.log_probs(replay.inputs, [0])

        figures = interleaved(forward, lambda: integrated_gradients(replay, [0]), rounds)
        ratio = figures.pop("ratio")
        return {"prompt_tokens": replay.start, "steps": STEPS, "forward_passes": ratio, **figures}


def peaks(source: str, frames: int) -> dict[str, Any]:
    """Peak memory of two fresh processes, in MB, and their ratio."""
    found = {}
    for what in ("answer", "attribution"):
        arguments = ["--source", source, "--frames", str(frames), "--peak", what]
        command = [sys.executable, "-m", "benchmarks.evidence", *arguments]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[what] = json.loads(output.splitlines()[-1])
    ratio = round(found["attribution"] / found["answer"], 3)
    return {f"peak_mb_of_{what}": round(size / 2**20) for what, size in found.items()} | {"peak_ratio": ratio}


def peak_of(source: str, frames: int, what: str) -> int:
    """Peak bytes of this process after an answer, or after the attribution of one of its tokens too."""
    from lynx.evidence.integrated_gradients import integrated_gradients

    answered = conversation(source, frames).evidence.answered
    if what == "attribution":
        with answered.replay() as replay:
            integrated_gradients(replay, [0])
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
