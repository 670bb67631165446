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

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from families import FAMILIES

    recorded = {}
    for family in FAMILIES.values():
        for name, case in family.pixel_cases.items():
            given = family.video_processor(STATISTICS)(frames(*case), return_tensors="pt")
            pixels = given["pixel_values_videos" if "pixel_values_videos" in given else "pixel_values"]
            grid = given.get("video_grid_thw")
            if grid is None:  # frames of one clip
                recorded[f"{family.name}/{name}"] = pixels[0].contiguous()
            else:  # patches, and how they lie
                recorded |= {f"{family.name}/{name}": pixels.contiguous(), f"{family.name}/{name}/grid": grid}
    versions = {name: version(name) for name in ("torch", "transformers")}
    import torchvision

    versions["torchvision"] = torchvision.__version__
    save_file(recorded, Path(__file__).with_name("pixels.safetensors"), metadata=versions)


if __name__ == "__main__":
    main()
