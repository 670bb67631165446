"""Time to the first token of a later question, beside that of the first one about the same clip.

    python -m benchmarks.second_turn [--frames 16] [--vision-layers 1] [--text-layers 1] [--rounds 3]

The geometry of LLaVA-OneVision 0.5B with random weights (SigLIP-so400m 1152 wide, Qwen2 896 wide, 152,000
words) and `frames` frames of video and of sound, 196 tokens each, in processor seconds of one thread. The
true model has 26 and 24 layers: with fewer, other costs weigh more. `ratio` is beside the whole first turn;
`ratio_encoded` beside one about a clip that was encoded when it was chosen, as in the app.
"""

import argparse
from statistics import median
from typing import TYPE_CHECKING

import torch

from benchmarks import cpu_seconds, report

if TYPE_CHECKING:
    from lynx.model import Lynx


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--vision-layers", type=int, default=1)
    parser.add_argument("--text-layers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(options.frames, options.vision_layers, options.text_layers, options.rounds)
    layers = {"vision": options.vision_layers, "text": options.text_layers}
    report("second_turn", frames=options.frames, layers=layers, **figures)


def measure(frames: int, vision_layers: int, text_layers: int, rounds: int) -> dict[str, object]:
    """Median seconds to the first token of the first and of the second question, and their ratio."""
    model = wide_model(vision_layers, text_layers)
    encoding, asking, second = zip(*(turns(model, frames, seed) for seed in range(rounds)), strict=True)
    first = [sum(parts) for parts in zip(encoding, asking, strict=True)]
    return {
        "tokens": sum(model.tokens(sense, frames) for sense in ("video", "audio")),
        "first_s": round(median(first), 3),
        "encoded_s": round(median(asking), 3),
        "second_s": round(median(second), 4),
        "ratio": round(median(b / a for a, b in zip(first, second, strict=True)), 4),
        "ratio_encoded": round(median(b / a for a, b in zip(asking, second, strict=True)), 4),
        "rounds": rounds,
    }


def turns(model: "Lynx", frames: int, seed: int) -> tuple[float, float, float]:
    """Seconds of reading and encoding a clip, and to the first token of the first and the second question."""
    from lynx.types import Frames, Waveform, sample_times

    torch.manual_seed(seed)
    pixels = torch.randint(256, (frames, 3, 360, 640), dtype=torch.uint8)
    video, audio = Frames(pixels, sample_times(8.0, frames), 8.0), Waveform(torch.randn(128_000) / 10, 16_000)
    chat = model.chat(video=video, audio=audio, frames=frames)
    encoding = cpu_seconds(chat.encode)
    first = cpu_seconds(lambda: chat.ask("what happens in the video ?", max_new_tokens=1))
    second = cpu_seconds(lambda: chat.ask("and what is to be heard ?", max_new_tokens=1))
    return encoding, first, second


def wide_model(vision_layers: int, text_layers: int) -> "Lynx":
    """A random LLaVA-OneVision 0.5B with so many layers, and an untrained sense of hearing."""
    from transformers import AutoModelForImageTextToText, LlavaOnevisionConfig

    from lynx.adapters.format import Adapter
    from lynx.backbones import CATALOG, Preprocessing
    from lynx.backbones.attention import ATTENTION
    from lynx.backbones.llava_onevision import LlavaOnevision
    from lynx.config import LoraSettings
    from lynx.model import Lynx
    from tests.checkpoints import LLAVA_TEMPLATE, tokenizer

    words = tokenizer()
    words.chat_template = LLAVA_TEMPLATE
    geometry = CATALOG["llava-onevision-0.5b"].geometry
    config = LlavaOnevisionConfig(
        vision_config={**geometry["vision_config"], "num_hidden_layers": vision_layers},
        text_config={**geometry["text_config"], "num_hidden_layers": text_layers},
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    stock = AutoModelForImageTextToText.from_config(config)
    stock.set_attn_implementation({"vision_config": ATTENTION, "text_config": ATTENTION})
    half = (0.5, 0.5, 0.5)
    model = Lynx(LlavaOnevision(stock, words, Preprocessing(half, half, (384, 384)), source="random"))
    model.add_adapter(Adapter("audio", "audio"))
    for part in ("vision", "llm"):
        model.add_lora("audio", part, LoraSettings(64, 128.0, 0.0))
    return model


if __name__ == "__main__":
    main()
