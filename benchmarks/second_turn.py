"""Time to the first token of a later question, beside that of the first one about the same clip.

    python -m benchmarks.second_turn [--frames 16] [--vision-layers 1] [--text-layers 1] [--rounds 3]

The geometry of LLaVA-OneVision 0.5B with random weights (SigLIP-so400m 1152 wide, Qwen2 896 wide, 152,000
words) and `frames` frames of video and of sound, 196 tokens each, in processor seconds of one thread. The
true model has 26 and 24 layers: with fewer, other costs weigh more. `ratio` is beside the whole first turn;
`ratio_encoded` beside one about a clip that was encoded when it was chosen, as in the app. `frames_encoded`
are those that went through the tower until the first answer and behind it; `one_pass` is the time of encoding
the frames of both senses, without a LoRA, in one pass, beside that in two, and `one_pass_differs` how far its
tokens are from theirs, as a part of the largest.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import ROOT, cpu_seconds, interleaved, report

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
    encoding, asking, second, encoded = zip(
        *(turns(model, frames, seed) for seed in range(rounds)), strict=True
    )
    first = [sum(parts) for parts in zip(encoding, asking, strict=True)]
    return {
        "tokens": sum(model.tokens(sense, frames) for sense in ("video", "audio")),
        "first_s": round(median(first), 3),
        "encoded_s": round(median(asking), 3),
        "second_s": round(median(second), 4),
        "ratio": round(median(b / a for a, b in zip(first, second, strict=True)), 4),
        "ratio_encoded": round(median(b / a for a, b in zip(asking, second, strict=True)), 4),
        "frames_encoded": encoded[0],
        **together(model, frames, rounds),
        "rounds": rounds,
    }


def together(model: "Lynx", frames: int, rounds: int) -> dict[str, float]:
    """What one pass of the frames of two senses saves, and changes."""
    backbone = model.backbone
    pixels = backbone.pixels(torch.randint(256, (2 * frames, 3, *backbone.preprocessing.size)).byte())

    @torch.no_grad()
    def encode(each: int) -> torch.Tensor:  # (n, D), without newlines
        parts = map(backbone.encode, pixels.split(each))
        return torch.cat([tokens[layout.frame >= 0] for tokens, layout in parts])

    apart, one = encode(frames), encode(2 * frames)
    worst = float((one - apart).abs().max() / apart.abs().max())
    ratio = interleaved(lambda: encode(frames), lambda: encode(2 * frames), rounds)["ratio"]
    return {"one_pass": ratio, "one_pass_differs": worst}


def turns(model: "Lynx", frames: int, seed: int) -> tuple[float, float, float, tuple[int, int]]:
    """Seconds of reading and encoding a clip, and to the first token of the first and the second question.

    Behind them how many frames went through the tower until the first answer, and behind it.
    """
    from lynx.types import Frames, Waveform, sample_times

    torch.manual_seed(seed)
    pixels = torch.randint(256, (frames, 3, 360, 640), dtype=torch.uint8)
    video, audio = Frames(pixels, sample_times(8.0, frames), 8.0), Waveform(torch.randn(128_000) / 10, 16_000)
    chat = model.chat(video=video, audio=audio, frames=frames)
    with frames_encoded(model.backbone) as passes:
        encoding = cpu_seconds(chat.encode)
        first = cpu_seconds(lambda: chat.ask("what happens in the video ?", max_new_tokens=1))
        before = sum(passes)
        second = cpu_seconds(lambda: chat.ask("and what is to be heard ?", max_new_tokens=1))
    return encoding, first, second, (before, sum(passes) - before)


@contextmanager
def frames_encoded(backbone: Any) -> Iterator[list[int]]:
    """How many frames go through the tower at each pass inside the `with`."""
    found, encode = [], backbone.encode

    def counted(pixels: torch.Tensor) -> Any:
        found.append(len(pixels))
        return encode(pixels)

    backbone.encode = counted
    try:
        yield found
    finally:
        del backbone.encode


def wide_model(vision_layers: int, text_layers: int) -> "Lynx":
    """A random LLaVA-OneVision 0.5B with so many layers, and an untrained sense of hearing."""
    from transformers import AutoModelForImageTextToText, LlavaOnevisionConfig

    from lynx.adapters.format import Adapter
    from lynx.backbones import CATALOG, Preprocessing
    from lynx.backbones.attention import ATTENTION
    from lynx.backbones.llava_onevision import LlavaOnevision
    from lynx.config import LoraSettings
    from lynx.model import Lynx

    sys.path.append(str(ROOT / "tests"))  # where small checkpoints are made
    import families

    small = families.FAMILIES["llava_onevision"]
    words = small.tokenizer()
    words.chat_template = small.template
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
