"""Records what the stock video processor makes of small frames: `python record_pixels.py WHEEL_FOLDER`.

The stock processor needs torchvision, whose compiled part does not load beside a CPU build of torch;
WHEEL_FOLDER is its wheel unpacked (`pip download --no-deps torchvision==0.28.0`, `unzip`). Resizing and
normalising need none of the compiled operators: they are declared here and never called. Recorded with
torch 2.13.0, torchvision 0.28.0 and transformers 5.23.0. The frames are noise from seed 0 of torch's
generator, made again by the test.
"""

import re
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZES = {"wide": (50, 70), "tall": (90, 31), "exact": (28, 28), "small": (9, 12)}  # (height, width)


def main() -> None:
    """Write pixels.safetensors beside this file."""
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(folder))
    library = torch.library.Library("torchvision", "DEF")
    text = "".join(path.read_text() for path in (folder / "torchvision").rglob("*.py"))
    names = set(re.findall(r"torch\.ops\.torchvision\.(\w+)", text)) | set(
        re.findall(r'"torchvision::(\w+)"', text)
    )
    for name in sorted(names | set(re.findall(r'@register_meta\("(\w+)"', text))):
        library.define(f"{name}(Tensor x) -> Tensor")

    from transformers import LlavaOnevisionVideoProcessor

    processor = LlavaOnevisionVideoProcessor(
        size={"height": 28, "width": 28}, image_mean=[0.48, 0.45, 0.40], image_std=[0.26, 0.25, 0.27]
    )
    recorded = {}
    for name, (height, width) in SIZES.items():
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
        recorded[name] = processor(frames, return_tensors="pt")["pixel_values_videos"][0].contiguous()
    save_file(recorded, Path(__file__).with_name("pixels.safetensors"))


if __name__ == "__main__":
    main()
