"""What the machine offers and what is missing: the report of `lynx env`."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import lynx

# what each part of the product needs: the import names of its packages
PARTS = {
    "library": ("torch", "transformers", "peft", "accelerate", "safetensors", "av"),
    "app": ("gradio", "spaces", "moviepy", "matplotlib"),
    "world": ("moviepy",),
    "plots": ("matplotlib",),
    "quantization": ("bitsandbytes",),
}


def report() -> dict[str, Any]:
    """Versions, device, cache folder, ffmpeg, extensions, and what each part of the product misses."""
    import torch

    from lynx.hub import CACHE

    missing = {
        part: [name for name in names if importlib.util.find_spec(name) is None]
        for part, names in PARTS.items()
    }
    extensions = _extensions() if not missing["library"] else {}  # they are imported by what is missing
    if not (embedded := Path(lynx.__file__).parent / "assets" / "lynx-tiny" / "config.json").is_file():
        missing["library"].append(str(embedded))
    return {
        "lynx": lynx.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for names in PARTS.values() for name in names},
        "device": _device(),
        "torch_threads": torch.get_num_threads(),
        "hub_cache": CACHE,
        "ffmpeg": _ffmpeg(),
        "extensions": extensions,
        "missing": missing,
        "ready": not any(missing[part] for part in ("library", "app")),
    }


def _extensions() -> dict[str, Any]:
    """What other installed packages bring, group by group: from where, and why something is left out."""
    from lynx.backbones.loading import extensions as families
    from lynx.evaluation.benchmarks import extensions as benchmarks
    from lynx.modalities import extensions as senses

    return {
        table.group: [
            {
                "name": each.name,
                "package": each.package,
                "version": each.version,
                "path": each.path,
                "left_out": each.problem or None,
            }
            for each in table.added()
        ]
        for table in (senses, families, benchmarks)
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return f"cpu: {platform.machine()}, {os.cpu_count()} cores"


def _ffmpeg() -> str | None:
    """The ffmpeg that moviepy would start, else the system's; reading needs neither, PyAV brings its own."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return shutil.which("ffmpeg")
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())
