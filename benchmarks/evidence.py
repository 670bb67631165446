"""What evidence costs: recording attention as an answer is written, and attribution of a word afterwards.

    python -m benchmarks.evidence [--tokens 64] [--rounds 15] [--frames 2] [--answers 16]

Recording: an answer as a chat generates it, with the attention rows and the probabilities of its tokens,
against stock generation with stock sdpa, the same number of tokens behind the same prompt, in turn, in one
process; for lynx-tiny, and for a random backbone nearer to the size of a real one (12 layers x 512, 1,800
tokens).

Attribution: integrated gradients of an answer's first token, in forward passes of its prompt (no cache, the
logits of one position), in processor time, both in turn in one process: for lynx-tiny with all senses, and
for the true geometry of LLaVA-OneVision-0.5B with random weights and few frames (`--frames 0` leaves it out:
it takes 6 GB and minutes). Every point costs the same, so that a run of 3 points tells what 9 of 8 intervals
cost; how many points an answer takes is counted on lynx-tiny's first answers about validation clips.

Beside it the peak of memory of a fresh process that answers, and of one that answers and explains a word: of
the device where there is a GPU, else resident, with interpreter and libraries. It is counted from when the
model is loaded: what loading takes for a moment, up to twice the weights, would hide both.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks import ROOT, interleaved, report

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
    parser.add_argument("--answers", type=int, default=16, help="whose points are counted")
    parser.add_argument("--only", choices=["recording", "attribution"])
    parser.add_argument("--peak", choices=["answer", "attribution"], help=argparse.SUPPRESS)
    parser.add_argument("--source", default="lynx-tiny", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(json.dumps(peak_of(options.source, options.frames, options.peak)))
        return
    if options.only != "attribution":
        report("evidence", recording=recording_costs(options.tokens, options.rounds))
    if options.only != "recording":
        report("evidence", attribution=attribution_costs(options.rounds, options.frames, options.answers))


# --- recording attention --------------------------------------------------------------------------


def recording_costs(tokens: int, rounds: int) -> dict[str, Any]:
    """Of both backbones."""
    sys.path.append(str(ROOT / "tests"))  # where small checkpoints are made
    from checkpoints import llava_onevision

    small = measure("lynx-tiny", None, tokens, 5 * rounds)
    with tempfile.TemporaryDirectory() as folder:
        source = llava_onevision(Path(folder), hidden=512, layers=12, ffn=2048)
        large = measure(str(source), 110, tokens, max(3, rounds // 3))
    return {"lynx-tiny": small, "12 layers x 512": large}


def measure(source: str, frames: int | None, tokens: int, rounds: int) -> dict[str, Any]:
    """Ratio of a generation that records to stock's."""
    import lynx
    from lynx.backbones.attention import ATTENTION, RowRecorder, recording
    from lynx.backbones.decoding import NextTokens, generate
    from lynx.evidence.attention import behind_media
    from lynx.types import Frames, Prompt, sample_times

    model = lynx.load(source)
    backbone, stock = model.backbone, model.backbone.model
    n = frames or backbone.default_frames
    pixels = torch.randint(256, (n, 3, 64, 64), dtype=torch.uint8)
    stream = model.encode("video", Frames(pixels, sample_times(4.0, n), 4.0))
    prompt: Prompt = backbone.compose([{"role": "user", "content": "what happens ?"}], [stream])
    stock.generation_config.eos_token_id = None  # every answer has all of its tokens

    def attend(implementation: str) -> None:
        stock.set_attn_implementation({"vision_config": implementation, "text_config": implementation})

    def plain() -> None:
        attend("sdpa")
        ids = stock.generate(
            **backbone.inputs(prompt.input_ids, prompt.inputs_embeds) | {"input_ids": prompt.input_ids},
            attention_mask=prompt.attention_mask,
            position_ids=prompt.position_ids,
            pad_token_id=backbone.pad_id,
            do_sample=False,
            max_new_tokens=tokens,
        )
        assert ids.shape[1] == prompt.input_ids.shape[1] + tokens

    def recorded() -> None:
        attend(ATTENTION)
        rows, said, stop = RowRecorder(behind_media(prompt.spans)), NextTokens(), threading.Event()
        with recording(backbone, text_rows=rows):
            ids = generate(backbone, prompt, max_new_tokens=tokens, stop=stop, next_tokens=said)
        rows.prompt_rows()
        assert len(rows.rows()) == len(said.of(ids[0])[0]) == tokens

    figures = interleaved(plain, recorded, rounds)
    return {"prompt_tokens": prompt.input_ids.shape[1], "new_tokens": tokens, **figures}


# --- attribution ----------------------------------------------------------------------------------


def attribution_costs(rounds: int, frames: int, answers: int) -> dict[str, Any]:
    """Of lynx-tiny with all senses, and of the true geometry."""
    points = points_used(answers)
    found = {"lynx-tiny": passes("lynx-tiny", 0, rounds, points) | peaks("lynx-tiny", 0)}
    if frames:
        from benchmarks.real_size import checkpoint

        source = str(checkpoint(REAL))
        found[REAL] = peaks(source, frames) | passes(source, frames, max(2, rounds // 5), points)
    return {"mean_points": round(points, 2), "answers": answers, **found}


def ask(model: Any, frames: int, number: int = 0, split: str = "test") -> Any:
    """A conversation that has its first answer; frames: of the video, 0 for all senses and the default."""
    from lynx.datasets.sources import open_data

    senses = ("video",) if frames else ("video", *SENSES)
    example = open_data("world", n=number + 1, seed=7, split=split, senses=senses)[number]
    chat = model.chat(frames=frames or None, **example.media)
    chat.ask(example.turns[0].question, max_new_tokens=4)
    return chat


def load(source: str, frames: int) -> Any:
    """The model in fp32, with all senses where the frames are not given."""
    import lynx

    return lynx.load(source, [] if frames else [f"adapters/{sense}" for sense in SENSES], precision="fp32")


def points_used(answers: int) -> float:
    """Gradients that the attribution of an answer's first token takes, the mean over answers of lynx-tiny."""
    from lynx.evidence.integrated_gradients import integrated_gradients

    model, used = load("lynx-tiny", 0), []
    for number in range(answers):
        with ask(model, 0, number, "validation").evidence.answered.replay() as replay:
            used.append(integrated_gradients(replay, [0]).points)
        model.drop_kept(in_use=0)
    return mean(used)


def passes(source: str, frames: int, rounds: int, points: float) -> dict[str, Any]:
    """Processor time of one point, of all points of 8 intervals, and of the mean of points, in passes."""
    from lynx.evidence.integrated_gradients import STEPS, integrated_gradients

    with ask(load(source, frames), frames).evidence.answered.replay() as replay:

        @torch.no_grad()
        def forward() -> None:
            for _ in range(3):
                replay.log_probs(replay.inputs, [0])

        figures = interleaved(forward, lambda: integrated_gradients(replay, [0], steps=2), rounds)
        one = figures.pop("ratio")
        return {
            "prompt_tokens": replay.start,
            "passes_of_a_point": one,
            f"passes_of_{STEPS}_steps": round((STEPS + 1) * one, 2),
            "passes_on_average": round(points * one, 2),
            **figures,
        }


def peaks(source: str, frames: int) -> dict[str, Any]:
    """Peak memory of two fresh processes, in MB, and their ratio."""
    found = {}
    for what in ("answer", "attribution"):
        arguments = ["--source", source, "--frames", str(frames), "--peak", what]
        command = [sys.executable, "-m", "benchmarks.evidence", *arguments]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[what] = json.loads(output.splitlines()[-1])
    ratio = round(found["attribution"] / found["answer"], 3)
    return {f"peak_mb_of_{what}": round(size / 2**20) for what, size in found.items()} | {"peak_ratio": ratio}


def peak_of(source: str, frames: int, what: str) -> int:
    """Peak bytes of this process in an answer, or in the attribution of one of its tokens too."""
    from lynx.evidence.integrated_gradients import integrated_gradients

    model = load(source, frames)
    forget_peak()
    answered = ask(model, frames).evidence.answered
    if what == "attribution":
        with answered.replay() as replay:
            integrated_gradients(replay, [0])
    return peak()


RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def forget_peak() -> None:
    """Count the peak of memory from now on; resident memory only where the system can (Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif RESET.exists():
        RESET.write_text("5")


def peak() -> int:
    """Peak bytes since `forget_peak`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if RESET.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
