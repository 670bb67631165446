"""What stages 1 and 2 cost beside the encoder they record, at the width of SigLIP-so400m.

    python -m benchmarks.alignment [--layers 2] [--frames 1] [--rounds 5] [--threads 1]

Guidance against a plain forward pass of the encoder; an alignment step against a plain forward and backward
pass with the same LoRA and optimizer. Random weights; 1152 wide, 16 heads, 27 x 27 patches, a few layers.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import ROOT, interleaved, report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        source = wide_backbone(Path(folder), options.layers)
        figures = measure(source, options.frames, options.rounds)
    report("alignment", layers=options.layers, frames=options.frames, **figures)


def wide_backbone(folder: Path, layers: int) -> Path:
    """A random LLaVA-OneVision with the encoder of the real ones, but few layers, and hardly any LLM."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    sys.path.append(str(ROOT / "tests"))  # where small checkpoints are made
    import families

    small = families.FAMILIES["llava_onevision"]
    words = small.tokenizer()
    ids = words.convert_tokens_to_ids
    vision = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=layers, num_attention_heads=16,
        image_size=384, patch_size=14, vision_use_head=False,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(words), hidden_size=896, intermediate_size=896, num_hidden_layers=1,
        num_attention_heads=14, num_key_value_heads=2,
    )  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text,
        image_token_index=ids("<image>"), video_token_index=ids("<video>"),
    )  # fmt: skip
    model = LlavaOnevisionForConditionalGeneration(config)
    size = {"size": {"height": 384, "width": 384}}
    return families.base.write(folder, model, words, small.template, size, std=None)


def measure(source: Path, frames: int, rounds: int) -> dict[str, object]:
    """Both ratios."""
    import lynx
    from lynx.adapters.format import Adapter
    from lynx.adapters.saving import describe_backbone
    from lynx.backbones.attention import recording
    from lynx.config import AlignConfig
    from lynx.training.alignment import AlignmentLoss
    from lynx.training.guidance import Accumulator

    model = lynx.load(source)
    backbone, config = model.backbone, AlignConfig()
    pixels = backbone.pixels(torch.randint(256, (frames, 3, 384, 384), dtype=torch.uint8))
    accumulator = Accumulator([1] * len(backbone.vision_attention_modules()))

    @torch.no_grad()
    def encode() -> None:
        backbone.encode(pixels)

    @torch.no_grad()
    def guide() -> None:
        with recording(backbone, vision=accumulator.add_attention):
            tokens, layout = backbone.encode(pixels)
        accumulator.add_tokens(tokens[layout.frame >= 0])

    guidance_cost = interleaved(encode, guide, rounds)
    loss = AlignmentLoss(backbone, accumulator.result(describe_backbone(backbone)), config)
    model.add_adapter(Adapter("audio", "audio"))
    lora = model.add_lora("audio", "vision", config.lora)
    weights = list(model.lora.tensors(lora).values())
    optimizer = torch.optim.AdamW(weights, lr=1e-6)

    def step(value: torch.Tensor) -> None:
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    def train() -> None:
        step(backbone.encode(pixels)[0].square().mean())

    def align() -> None:
        with loss.listening():
            step(loss(pixels)["loss"])

    with model.sensing("audio", train=True):
        return {"guidance": guidance_cost, "alignment": interleaved(train, align, rounds)}


if __name__ == "__main__":
    main()
