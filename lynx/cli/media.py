"""`lynx inspect`: what a chat would see and hear of recordings, before a model is asked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx.cli.registry import Options, Parser, Result, command, count, option, rate, usage
from lynx.errors import LynxError

if TYPE_CHECKING:
    from lynx.types import FileSource, Recording


def recording_options(parser: Parser, *names: str) -> None:
    """What belongs to a recording; `recording` reads it. names: further ones of the option of a rate."""
    from lynx.compat import accept_negative_axes
    from lynx.media.side_files import AXES, parse_unit, parse_up

    accept_negative_axes(parser)
    group = parser.add_argument_group("what the recordings do not say themselves")
    text = "frames a second of a folder of pictures or depth maps, whose names count them; default: what "
    text += "times.txt or the names say, else one a second"
    group.add_argument("--folder-fps", *names, type=rate, metavar="X", help=text)
    text = "meters of one step of integer depth maps, such as 0.001, or a unit, a sensor or a data set: mm, "
    text += "tum, d405, l515, ...; default: what depth.json beside them says, else as the adapter was trained"
    group.add_argument("--depth-unit", type=usage(parse_unit), metavar="M", help=text)
    text = f"axis of a mesh that points up: {', '.join(AXES)}; default: its format's"
    group.add_argument("--depth-up", type=usage(parse_up), metavar="AXIS", help=text)


def recording(source: "FileSource", options: Options) -> "Recording":
    """A file or folder with what the options say of it."""
    from lynx.types import Recording

    known = {"unit": options.depth_unit, "up": options.depth_up, "fps": options.folder_fps}
    return replace(Recording.of(source), **known)


def _part_options(parser: Parser) -> None:
    from lynx.types import seconds_of

    group = parser.add_argument_group("moments that are looked at, evenly spread")
    group.add_argument("--frames", type=count, default=8, metavar="N", help="how many; default: 8")
    text = "first second that is looked at, such as 12.5 or 1:30; default: 0"
    group.add_argument("--start", type=usage(seconds_of), metavar="S", help=text)
    text = "last second that is looked at; default: the recording's end"
    group.add_argument("--end", type=usage(seconds_of), metavar="S", help=text)


@command(
    "inspect",
    "lynx inspect clip.mp4 --frames 8 --out pictures --json",
    option(
        "files",
        nargs="+",
        metavar="FILE",
        help="a video or sound (clip.mkv#2 takes its sound track 2), depth maps, a mesh, or a folder of them",
    ),
    _part_options,
    lambda parser: recording_options(parser, "--fps"),
    option(
        "--as",
        dest="read_as",
        choices=["depth"],
        metavar="SENSE",
        help="depth: read videos as depth, too, where nothing in the file says that they are",
    ),
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
            moments = options.frames, options.start, options.end
            seen = inspect(recording(file, options), *moments, as_depth=as_depth)
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
