"""`lynx inspect`: what a chat would see and hear of recordings, before a model is asked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx.cli.registry import Options, Parser, Result, command, count, option
from lynx.errors import LynxError

if TYPE_CHECKING:
    from lynx.types import Recording


def _recording_options(parser: Parser) -> None:
    group = parser.add_argument_group("what is known of the recordings")
    group.add_argument("--start", type=float, metavar="S", help="look only at what comes from this second on")
    group.add_argument("--end", type=float, metavar="S", help="look only at what comes before this second")
    text = "meters of one step of integer depth maps, such as 0.0002"
    group.add_argument("--depth-unit", type=float, metavar="METERS", help=text)
    axes = ["x", "y", "z", "-x", "-y", "-z"]
    group.add_argument("--depth-up", choices=axes, metavar="AXIS", help=f"of a mesh: {', '.join(axes)}")
    text = "depth: read videos as depth, too, where nothing in the file says that they are"
    group.add_argument("--as", dest="read_as", choices=["depth"], metavar="SENSE", help=text)


@command(
    "inspect",
    "lynx inspect clip.mp4 --frames 8 --out pictures --json",
    option(
        "files",
        nargs="+",
        metavar="FILE",
        help="a video or sound (clip.mkv#2 takes its sound track 2), depth maps, a mesh, or a folder of them",
    ),
    option("--frames", type=count, default=8, metavar="N", help="moments looked at (default: 8)"),
    _recording_options,
    option(
        "--out",
        type=Path,
        metavar="DIR",
        help="write what is drawn: video_00.png, ..., audio_00.png, ..., depth_00.png, ...; of several files "
        "each into a folder of its name",
    ),
)
def _inspect(options: Options) -> Any:
    """Say what a chat would see and hear of recordings, without a model: tracks, moments, levels, notes.

    Levels (dBFS) are the root mean square of the sound around a moment, in decibels: a full-scale sine has 0,
    silence -120. Of several files JSON is a list, where {"file", "error"} stands for one that cannot be read.
    """
    from lynx.modalities.inspection import inspect

    results: list[Result] = []
    failed: list[str] = []
    several = len(options.files) > 1
    for file, folder in zip(options.files, _folders(options.out, options.files), strict=True):
        try:
            as_depth = options.read_as == "depth"
            recording, moments = _recording(file, options), (options.frames, options.start, options.end)
            seen = inspect(recording, *moments, as_depth=as_depth)
            written = seen.write(folder) if folder else []
        except LynxError as error:
            if not several:
                raise
            failed.append(file)
            results.append({"file": file, "error": " ".join(str(error).split())})
            if not options.json:
                print(f"{file}: cannot be read\n  {'error':<8}  {results[-1]['error']}\n")
            continue
        results.append(seen.to_dict())
        if not options.json:  # a person reads along
            print(seen)
            if folder:
                print(f"  {'written':<8}  {len(written)} pictures in {folder}")
            print(end="\n" * several)
    if failed:
        if options.json:
            print(json.dumps(results))
        raise LynxError(f"{len(failed)} of {len(options.files)} files cannot be read: {', '.join(failed)}")
    if not options.json:
        return {}
    return results if several else results[0]


def _recording(file: str, options: Options) -> "Recording":
    from lynx.types import Recording

    return replace(Recording.of(file), unit=options.depth_unit, up=options.depth_up)


def _folders(out: Path | None, files: list[str]) -> list[Path | None]:
    """Where the pictures of each file go: into `out`, or of several files into folders by their names."""
    if out is None or len(files) == 1:
        return [out] * len(files)
    folders: list[Path | None] = []
    for file in files:
        name = Path(file).resolve().name or "root"
        count = 1 + sum(Path(other).resolve().name == name for other in files[: len(folders)])
        folders.append(out / (name if count == 1 else f"{name} {count}"))
    return folders
