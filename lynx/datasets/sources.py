"""Where examples come from: a table of sources, each one function, named by an import string.

Import strings allow a source to live above this room (the miniature world), and load only what is used. A new
source is one function and one row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from lynx.datasets.base import Example, Wanted
from lynx.errors import DataError


@dataclass(frozen=True)
class DataSource:
    """How a source is read: import strings, "module:function"."""

    open: str  # of `(name, path, wanted) -> examples`, which heeds all of `wanted`
    groups: str = ""  # of `(name, path) -> names` of the folds that can be held out; "" where there are none


SOURCES = {
    "jsonl": DataSource("lynx.datasets.jsonl:open_jsonl"),
    "instruct": DataSource("lynx.datasets.instruct:open_instruct"),
    "world": DataSource("lynx.world.dataset:open_world"),
    "labelled": DataSource(
        "lynx.datasets.labelled_recordings:open_recordings", "lynx.datasets.labelled_recordings:groups_of"
    ),
    "avsd": DataSource("lynx.datasets.avsd:AVSD.open"),
    "avqa": DataSource("lynx.datasets.avqa:AVQA.open"),
    "music-avqa": DataSource("lynx.datasets.music_avqa:MUSIC_AVQA.open"),
    "scanqa": DataSource("lynx.datasets.scanqa:SCANQA.open"),
    "sqa3d": DataSource("lynx.datasets.sqa3d:SQA3D.open"),
    "video-mme": DataSource("lynx.datasets.video_mme:VIDEO_MME.open"),
    "mvbench": DataSource("lynx.datasets.mvbench:MVBENCH.open"),
    "mlvu": DataSource("lynx.datasets.mlvu:MLVU.open"),
    "ego-exo": DataSource("lynx.datasets.ego_exo:EGO_EXO.open"),
    "avut": DataSource("lynx.datasets.avut:AVUT.open"),
}
MOVED = ("esc10", "digits")
"""Sources with questions of their own that are part of the recipe of adapters/sounds now."""


def open_data(
    name: str, path: str | Path | None = None, *, split: str = "train", seed: int = 0, n: int | None = None,
    senses: Sequence[str] | None = None, focus: Sequence[str] = (), types: Sequence[str] = (),
    held_out: Sequence[str] = (), missing: bool = False,
) -> Sequence[Example]:
    """The examples of the source `name`, all but "world" with a path.

    At most `n`, drawn by `seed`. With `senses` only examples that have all of them, and no other media:
    `senses=("audio",)` is unpaired audio. With `focus` only those with a question of one of these types.
    With `types` no questions of other types.
    held_out: folds of "labelled" recordings: the split "train" is all others, "test" is these.
    missing: also examples whose files are missing, for `lynx.datasets.checking` to find with what is damaged.

    Raises: DataError: unknown source, unreadable or missing file, no such fold, or nothing left.
    """
    if name in MOVED:
        raise DataError(
            f"{name!r} is part of the recipe of adapters/sounds, see recipes/real_sounds/README.md; any "
            "folder of recordings with a label each is read as 'labelled'"
        )
    if name not in SOURCES:
        raise DataError(f"there is no data source {name!r}; known are {', '.join(sorted(SOURCES))}")
    if held_out and not SOURCES[name].groups:
        grouped = [other for other, source in SOURCES.items() if source.groups]
        raise DataError(f"{name!r} has no folds to hold out; {' and '.join(grouped)} have")
    chosen = tuple(senses) if senses is not None else None
    wanted = Wanted(split, seed, n, chosen, tuple(focus), tuple(types), tuple(held_out), missing)
    opener: Callable[[str, str | Path | None, Wanted], Sequence[Example]] = resolve_name(SOURCES[name].open)
    examples = opener(name, path, wanted)
    if not len(examples):
        needed = f" with {' and '.join(senses)}" if senses else ""
        raise DataError(f"the source {name!r} has no {split} examples{needed}; check the path and the senses")
    return examples


def groups_of(name: str, path: str | Path | None) -> list[str]:
    """The folds of a source that can be held out; a source that knows no such groups has none."""
    if name not in SOURCES or not SOURCES[name].groups:
        return []
    found: list[str] = resolve_name(SOURCES[name].groups)(name, path)
    return found
