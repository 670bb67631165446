"""The senses by name. A new one is a file in this folder and a line in REGISTRY.

Other installed packages add theirs by entry points of the group `lynx.modalities`: docs/modalities.md.
"""

from lynx.config import Extensions
from lynx.errors import DataError
from lynx.modalities.audio import Audio
from lynx.modalities.base import Color, Modality
from lynx.modalities.depth import Depth
from lynx.modalities.high_fps import HighFps
from lynx.modalities.multi_view import MultiView
from lynx.modalities.released import ReleasedAudio as ReleasedAudio  # found by their style
from lynx.modalities.released import ReleasedDepth as ReleasedDepth
from lynx.modalities.video import Video

REGISTRY: dict[str, type[Modality]] = {
    modality.name: modality for modality in (Video, Audio, Depth, HighFps, MultiView)
}
OTHER_COLORS: tuple[Color, ...] = ((101, 163, 13), (185, 28, 28), (146, 64, 14), (14, 116, 144))
"""For senses that bring no color, and for adapters with a name of their own."""


extensions = Extensions("lynx.modalities", REGISTRY, Modality, ("name", "label", "takes", "Rendering"))


def find(name: str) -> type[Modality] | None:
    """The modality of that name; None when there is none."""
    found: type[Modality] | None = extensions.find(name)
    return found


def get(name: str) -> type[Modality]:
    """The modality of that name. Raises DataError when there is none."""
    modality = find(name)
    if modality is None:
        known = f"There is no modality {name!r}; known are {', '.join(sorted(extensions.all()))}."
        raise DataError(" ".join(filter(None, [known, extensions.problem(name)])))
    return modality


def color_of(name: str) -> Color:
    """The color of a sense in all pictures, by the name of its modality or of its adapter."""
    modality = find(name)
    if modality is not None and modality.color is not None:
        return modality.color
    return OTHER_COLORS[sum(name.encode()) % len(OTHER_COLORS)]
