"""Records what the stock video processors make of small frames: `python record_pixels.py WHEEL_FOLDER`.

The stock processors need torchvision, whose compiled part does not load beside a CPU build of torch;
WHEEL_FOLDER is its wheel unpacked (`pip download --no-deps torchvision==0.28.0`, `unzip`). Resizing and
normalising need none of the compiled operators: they are declared here and never called. The frames are noise
from seed 0 of torch's generator, made again by the test. The versions are in the file's metadata.
"""

import re
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

STATISTICS = {"image_mean": [0.48, 0.45, 0.40], "image_std": [0.26, 0.25, 0.27]}
LLAVA = {"wide": (2, 50, 70), "tall": (2, 90, 31), "exact": (2, 28, 28), "small": (2, 9, 12)}
INTERNVL = {"wide": (3, 50, 70), "exact": (2, 32, 32), "small": (1, 9, 12)}
QWEN = {
    "odd": (3, 50, 70),
    "single": (1, 30, 20),
    "exact": (2, 32, 24),
    "tall": (2, 90, 31),
    "small": (2, 9, 7),
}
"""Cases by name: (frames, height, width)."""
PIXELS = (16 * 16, 40 * 40)
"""The least and the most pixels of a frame of Qwen's, in patches of 4."""


def frames(count: int, height: int, width: int) -> torch.Tensor:
    """Noise (T, 3, H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


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

    from transformers import InternVLVideoProcessor, LlavaOnevisionVideoProcessor, Qwen2VLVideoProcessor

    llava = LlavaOnevisionVideoProcessor(size={"height": 28, "width": 28}, **STATISTICS)
    internvl = InternVLVideoProcessor(size={"height": 32, "width": 32}, **STATISTICS)
    least, most = PIXELS
    qwen = Qwen2VLVideoProcessor(
        size={"shortest_edge": least, "longest_edge": most},
        patch_size=4,
        cap_pixels_per_frame=False,
        **STATISTICS,
    )
    recorded = {}
    for family, processor, cases in (
        ("llava_onevision", llava, LLAVA),
        ("internvl", internvl, INTERNVL),
        ("qwen2_5_vl", qwen, QWEN),
    ):
        for name, case in cases.items():
            given = processor(frames(*case), return_tensors="pt")
            pixels = given["pixel_values_videos"]
            recorded[f"{family}/{name}"] = (pixels if family == "qwen2_5_vl" else pixels[0]).contiguous()
            if family == "qwen2_5_vl":
                recorded[f"{family}/{name}/grid"] = given["video_grid_thw"]
    versions = {name: version(name) for name in ("torch", "transformers")}
    import torchvision

    versions["torchvision"] = torchvision.__version__
    save_file(recorded, Path(__file__).with_name("pixels.safetensors"), metadata=versions)


if __name__ == "__main__":
    main()
