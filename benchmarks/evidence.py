"""What recording evidence costs: generation that records attention rows against the same with stock sdpa.

    python -m benchmarks.evidence [--tokens 64] [--rounds 15]

Both runs generate the same number of tokens behind the same prompt of a clip, in turn, in one process; for
lynx-tiny, and for a random backbone nearer to the size of a real one (12 layers x 512, 1,800 tokens).
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import interleaved, report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)

    from tests.checkpoints import llava_onevision

    small = measure("lynx-tiny", None, options.tokens, 5 * options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        source = llava_onevision(Path(folder), hidden=512, layers=12, ffn=2048)
        large = measure(str(source), 110, options.tokens, max(3, options.rounds // 3))
    report("evidence", **{"lynx-tiny": small, "12 layers x 512": large})


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


if __name__ == "__main__":
    main()
