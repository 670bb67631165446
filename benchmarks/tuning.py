"""What a cached epoch of stage 3 costs beside the LLM's own steps.

    python -m benchmarks.tuning [--clips 64] [--rounds 5] [--threads 1]

Ours: an epoch of `tune` after the first, everything included (streams read from disk, questions drawn and
packed, log). Plain: forward, backward and optimizer on the same batches, made beforehand and held in memory.
On a backbone of lynx-tiny's architecture with random weights: the smaller the LLM, the more overhead shows.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks import interleaved, report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.clips, options.rounds)
    report("tuning", clips=options.clips, **figures)


def measure(folder: Path, clips: int, rounds: int) -> dict[str, object]:
    """The ratio, and what the first epoch pays for encoding."""
    import lynx
    from benchmarks import cpu_seconds
    from lynx.adapters.format import Adapter
    from lynx.config import Sampling, TuneConfig
    from lynx.datasets.clips import content_key
    from lynx.datasets.sources import open_data
    from lynx.modalities import get
    from lynx.training.questions import training_clip
    from lynx.training.stream_cache import StreamCache
    from lynx.training.trainer import Trainer, seed_of
    from lynx.training.tuning_loss import TuningLoss, answer_loss
    from lynx.world.pretraining.model import build_backbone, save_backbone

    save_backbone(*build_backbone(0), folder / "backbone", {})
    model = lynx.load(folder / "backbone")
    model.add_adapter(Adapter("audio", "audio", get("audio")().to_dict()))
    config = TuneConfig(batch_size=16, save_every=0, resume=False)
    model.add_lora("audio", "vision", config.lora)
    lora = model.add_lora("audio", "llm", config.lora)
    weights = model.lora.tensors(lora)
    examples = open_data("world", n=clips)
    keys = [content_key(example) for example in examples]
    cache = StreamCache(folder / "streams", model, {"video": "video", "audio": "audio"}, 8)
    encoding = cpu_seconds(lambda: cache.prepare(examples, keys, progress=False))
    found = [training_clip(e, ["audio"], k) for e, k in zip(examples, keys, strict=True)]
    kept = [clip for clip in found if clip]
    loss = TuningLoss(model, ["audio"], kept, cache, Sampling())
    trainer = Trainer(weights, len(kept), loss, config, folder / "run", progress=False)
    batches = []
    for step in range(trainer.steps):
        torch.manual_seed(seed_of(config.seed, "step", step))
        batches.append(loss.packer.pack(*loss.choose(trainer.order.batch(step))))
    optimizer = torch.optim.AdamW(list(weights.values()), lr=config.lr, weight_decay=0.0, fused=True)

    def plain() -> None:
        for batch in batches:
            optimizer.zero_grad()
            answer_loss(model.backbone, batch)[0].backward()
            optimizer.step()

    with model.lora.active([lora], [lora]):
        figures = interleaved(plain, trainer.run, rounds)
    return {"steps": trainer.steps, "encoding_s": round(encoding, 3), "epoch": figures}


if __name__ == "__main__":
    main()
