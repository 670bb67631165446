"""The senses by name. A new one is a file in this folder and a line in REGISTRY."""

from lynx.errors import DataError
from lynx.modalities.audio import Audio
from lynx.modalities.base import Modality
from lynx.modalities.depth import Depth
from lynx.modalities.high_fps import HighFps
from lynx.modalities.multi_view import MultiView
from lynx.modalities.video import Video

REGISTRY: dict[str, type[Modality]] = {
    modality.name: modality for modality in (Video, Audio, Depth, HighFps, MultiView)
}


def get(name: str) -> type[Modality]:
    """The modality of that name. Raises DataError when there is none."""
    if name not in REGISTRY:
        raise DataError(f"There is no modality {name!r}; known are {', '.join(sorted(REGISTRY))}.")
    return REGISTRY[name]
