"""Uploaded files in the form that the library reads: one recording of depth, and further clips with offsets.

Several files, or a .zip of a folder, become a folder that is named after its content, so that the same upload
is the same recording.
"""

import errno
import hashlib
import math
import re
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from lynx.config import LIMITS, amount
from lynx.errors import MediaError
from lynx.media.maps import MAPS
from lynx.media.mesh import MESHES
from lynx.media.side_files import SETTINGS
from lynx.modalities.depth import Depth
from lynx.ui.background import aside
from lynx.ui.visitors import own_folder

KEPT_SECONDS = 3600.0  # since the last use; Gradio keeps the upload itself as long
BUSY_SECONDS = 120.0  # since the last use: it may be read right now, and is not dropped for another upload
COPIED_BYTES = 2**20  # at a time
SINGLE_FILES = Depth.suffixes  # each a recording by itself
KNOWN_SUFFIXES = (".txt", ".json", *SINGLE_FILES)
SIDE_FILES = ("times.txt", "intrinsic_depth.txt", "intrinsics.txt", SETTINGS)  # of a folder
ZIP_ERRORS = (BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)
"""Errors of zipfile for archives that are damaged, encrypted, or packed in an unknown way."""
NOT_STORED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a disk that is full, or may not be written."""
EXPECTED = (
    "give 16-bit PNGs with their text files, a .zip of them, a .npy stack, a gray video, or one map, mesh or "
    f"point cloud ({' '.join(MESHES)})"
)

Contents = Mapping[PurePosixPath, Callable[[], IO[bytes]]]
"""Files by their place in a folder, to be opened."""
Fill = Callable[[Sequence[Path], Path, Callable[[int], None]], None]
"""Writes uploads to a folder, and says before how many bytes they will be."""


class Uploads:
    """A temporary folder of recordings put together from uploads; deleted when the process ends."""

    def __init__(self) -> None:
        self._temporary = own_folder("uploads")
        self._kept, self._drafts = Path(self._temporary.name, "kept"), Path(self._temporary.name, "drafts")
        self._kept.mkdir()
        self._drafts.mkdir()
        self._lock = Lock()  # guards only what is kept: drafts are filled without it
        self._sizes: dict[Path, int] = {}  # bytes of what is kept, and of drafts once they are known
        self._owners: dict[Path, set[str]] = {}  # visitors who have it

    def depth(self, files: Sequence[str], visitor: str = "") -> str | None:
        """The file or folder that `lynx.media.depth` reads for these uploads; None where there are none.

        visitor: whose they are; what is unpacked is deleted when all who have it are forgotten.
        Raises MediaError when they are not one recording of depth, damaged or too large, or the disk is full.
        """
        if not files:
            return None
        paths = [Path(file) for file in files]
        if gone := [path.name for path in paths if not path.is_file()]:
            raise MediaError(f"{gone[0]!r} is no longer here: upload it again.")
        if len(paths) > LIMITS.max_files:
            most = LIMITS.say("max_files")
            raise MediaError(f"{len(paths):,} files are too many: at most {most} are read.")
        kinds = {path.suffix.lower() for path in paths}
        if unknown := sorted(kinds - {*KNOWN_SUFFIXES, ".zip"}):
            raise MediaError(f"{unknown[0] or 'A file without an ending'} is no depth: {EXPECTED}.")
        if len(paths) > 1 and ".zip" in kinds:
            raise MediaError("A .zip is a whole recording: upload it without other files.")
        if len(paths) == 1 and kinds <= {*SINGLE_FILES}:
            return str(paths[0])
        name = paths[0].name if len(paths) == 1 else f"{len(paths)} files"
        return self._keep(paths, name, _unzip if kinds == {".zip"} else _gather, visitor)

    def forget(self, visitor: str) -> None:
        """Delete what no other visitor has."""
        with self._lock:
            for place, owners in list(self._owners.items()):
                if visitor in owners:
                    owners.discard(visitor)
                    if not owners:
                        self._delete(place)

    def _delete(self, place: Path) -> int:
        """Delete a recording; returns its bytes."""
        shutil.rmtree(place, ignore_errors=True)
        self._owners.pop(place, None)
        return self._sizes.pop(place, 0)

    def _keep(self, paths: Sequence[Path], name: str, fill: Fill, visitor: str) -> str:
        """The recording in a folder of that name, which is filled unless the same files were here before."""
        with _stored(name):
            digest = hashlib.blake2b(digest_size=12)
            for path in sorted(paths, key=lambda path: path.name):
                with path.open("rb") as opened:
                    digest.update(path.name.encode() + hashlib.file_digest(opened, "blake2b").digest())
            place = self._kept / digest.hexdigest()
            with self._lock:
                self._drop(lambda age: age > KEPT_SECONDS)
                if place.is_dir():
                    place.touch()
                    self._owners.setdefault(place, set()).add(visitor)
                    return str(_recording(place / name))
            with self._draft() as draft:
                make_room = partial(self._make_room, draft, name, visitor)
                aside(fill, paths, draft / "whole" / name, make_room)
                with self._lock:
                    if not place.is_dir():  # else the same files were uploaded twice at the same time
                        (draft / "whole").rename(place)
                        self._sizes[place] = self._sizes.pop(draft)
                    self._owners.setdefault(place, set()).add(visitor)
                    place.touch()
            return str(_recording(place / name))

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """A folder to fill, which is deleted with what is still in it."""
        with tempfile.TemporaryDirectory(dir=self._drafts, ignore_cleanup_errors=True) as folder:
            try:
                yield Path(folder)
            finally:
                with self._lock:
                    self._sizes.pop(Path(folder), None)
                    self._owners.pop(Path(folder), None)

    def _make_room(self, draft: Path, name: str, visitor: str, size: int) -> None:
        """Drop the oldest unused recordings until a draft has room. Raises MediaError where it has none."""
        if size > LIMITS.max_unpacked_bytes:
            most = LIMITS.say("max_unpacked_bytes")
            raise MediaError(f"{name!r} holds {amount(size, 'bytes')}: at most {most} are read.")
        with self._lock:
            self._sizes[draft], self._owners[draft] = size, {visitor}
            if visitor:  # not an example of the app's own
                self._make_room_of(visitor, name, size)
            over = sum(self._sizes.values()) - LIMITS.max_shelf_bytes
            if over > 0:
                self._drop(lambda age: age > BUSY_SECONDS, over)
            if sum(self._sizes.values()) > LIMITS.max_shelf_bytes:
                most = LIMITS.say("max_shelf_bytes")
                raise MediaError(
                    f"There is no room for the {amount(size, 'bytes')} of {name!r} now: the uploads of all "
                    f"visitors have {most}. Try again in a few minutes, or with less."
                )

    def _make_room_of(self, visitor: str, name: str, size: int) -> None:
        """The same within what one visitor has."""

        def mine() -> dict[Path, int]:
            return {place: self._sizes.get(place, 0) for place, who in self._owners.items() if visitor in who}

        if (over := sum(mine().values()) - LIMITS.max_visitor_bytes) > 0:
            alone = [place for place in mine() if self._owners[place] == {visitor}]
            self._drop(lambda age: age > BUSY_SECONDS, over, alone)
        if sum(mine().values()) > LIMITS.max_visitor_bytes:
            most = LIMITS.say("max_visitor_bytes")
            raise MediaError(
                f"There is no room for the {amount(size, 'bytes')} of {name!r} beside your other uploads "
                f"now: a visitor has {most}. Try again in a few minutes, or with less."
            )

    def _drop(
        self, old: Callable[[float], bool], bytes_: float = math.inf, among: Sequence[Path] | None = None
    ) -> None:
        """Delete recordings whose seconds since their last use are `old`, oldest first, `bytes_` or more."""
        now = time.time()
        places = [place for place in self._kept.iterdir() if among is None or place in among]
        ages = {place: now - place.stat().st_mtime for place in places}
        for place in sorted(ages, key=lambda place: -ages[place]):
            if bytes_ <= 0 or not old(ages[place]):
                break
            bytes_ -= self._delete(place)

    def as_one_file(self, recording: Path) -> str:
        """A recording of depth as one file that could be uploaded: itself, or a .zip of its folder.

        Raises MediaError where it cannot be written.
        """
        if recording.is_file():
            return str(recording)
        folder = recording.parent if recording.name == "depth" else recording
        target = self._kept / folder.name / f"{folder.name}_depth.zip"
        if not target.is_file():
            with _stored(folder.name), self._draft() as draft:
                with ZipFile(draft / target.name, "w") as archive:
                    for pattern in (*(f"depth/*{kind}" for kind in MAPS), "pose/*.txt", "*.txt", SETTINGS):
                        for path in sorted(folder.glob(pattern)):
                            archive.write(path, path.relative_to(folder))
                with self._lock:
                    target.parent.mkdir(exist_ok=True)
                    (draft / target.name).replace(target)
                    self._sizes[target.parent] = target.stat().st_size
        return str(target)


@contextmanager
def _stored(name: str) -> Iterator[None]:
    """Turns errors of the disk inside the `with` into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise MediaError(f"{name!r} cannot be kept on this server: {reason}. Try again later.") from error


def further_views(files: Sequence[str], offsets: str | None) -> tuple[tuple[str, float], ...]:
    """The clips, each with the second of the video at which it begins.

    offsets: one number for each, such as "0, 0.4"; all begin with the video where there are none.
    Raises MediaError when that is something else.
    """
    given = (offsets or "").strip()
    try:
        seconds = [float(word) for word in re.split(r"[\s,;]+", given)] if given else [0.0] * len(files)
    except ValueError:
        seconds = []
    if files and (len(seconds) != len(files) or not all(map(math.isfinite, seconds))):
        example = ", ".join(f"{0.4 * number:g}" for number in range(len(files)))
        wanted = f"at one number of seconds for each of the {len(files)}, such as {example!r}"
        raise MediaError(f"Further views begin {wanted}, not at {given!r}.")
    return tuple(zip(files, seconds, strict=False))


def _gather(files: Sequence[Path], folder: Path, make_room: Callable[[int], None]) -> None:
    """Raises MediaError for two files of one name, and for a text that belongs to no map."""
    maps = {path.stem for path in files if path.suffix.lower() in MAPS}
    contents: dict[PurePosixPath, Callable[[], IO[bytes]]] = {}
    for path in files:
        name = PurePosixPath(path.name)
        if name in contents:
            raise MediaError(f"Two files are called {path.name!r}: upload a .zip of their folder instead.")
        pose = name.suffix.lower() == ".txt" and name.stem in maps
        if name.suffix.lower() in (".txt", ".json") and not pose and path.name not in SIDE_FILES:
            raise MediaError(
                f"{path.name!r} belongs to no depth map: a pose is called like its map, and of other texts "
                f"{', '.join(SIDE_FILES)} are read."
            )
        contents[name] = partial(path.open, "rb")
    size = sum(path.stat().st_size for path in files)
    make_room(size)
    _fill(contents, folder, size)


class _Archive(FileIO):
    """A .zip whose list of entries, which zipfile reads and parses as one piece, is not too long."""

    def read(self, size: int | None = -1) -> bytes:
        most = LIMITS.max_entry_list_bytes
        whole = size is None or not 0 <= size <= most
        data = super().read(most + 1 if whole else size)
        if len(data) > most:
            raise MediaError(
                f"{Path(str(self.name)).name!r} has a list of entries above "
                f"{LIMITS.say('max_entry_list_bytes')}: zip the recording's folder alone."
            )
        return data


def _unzip(files: Sequence[Path], folder: Path, make_room: Callable[[int], None]) -> None:
    """Raises MediaError for an archive that cannot be read, or should not be."""
    name = files[0].name
    try:
        with _Archive(files[0]) as opened, ZipFile(opened) as archive:
            members = _members(archive, name)
            # outer folders that hold everything are dropped, except the maps' depth/
            around = 0
            for level in zip(*(path.parts[:-1] for path in members), strict=False):
                if len(set(level)) != 1 or level[0] == "depth":
                    break
                around += 1
            inside = [PurePosixPath(*path.parts[around:]) for path in members]
            size = sum(member.file_size for member in members.values())
            make_room(size)
            opened_later = [partial(archive.open, member) for member in members.values()]
            _fill(dict(zip(inside, opened_later, strict=True)), folder, size)
    except ZIP_ERRORS as error:
        if isinstance(error, OSError) and error.errno in NOT_STORED:
            raise
        raise MediaError(f"{name!r} cannot be unpacked: it is damaged, encrypted or no .zip.") from error


def _members(archive: ZipFile, name: str) -> dict[PurePosixPath, ZipInfo]:
    """The entries to read. Raises MediaError for paths that lead out of the archive, and for too much."""
    wanted: list[tuple[PurePosixPath, ZipInfo]] = []
    size = 0
    for member in archive.infolist():
        plain = member.filename.replace("\\", "/")
        # before a path is built: a thousand folders in each of a thousand names are a million strings
        if len(plain) > LIMITS.max_name or plain.count("/") > LIMITS.max_folders:
            most = f"{LIMITS.say('max_folders')} and {LIMITS.say('max_name')}"
            raise MediaError(
                f"{name!r} holds a file in {plain.count('/'):,} folders with a name of {len(plain):,} "
                f"characters: at most {most} are read. Zip the recording alone."
            )
        path = PurePosixPath(plain)
        if path.is_absolute() or ".." in path.parts:
            way_out = f"{member.filename!r}, which leads out of it"
            raise MediaError(f"{name!r} holds {way_out}: zip a plain folder.")
        if plain.endswith("/") or path.suffix.lower() not in KNOWN_SUFFIXES or path.parts[0] == "__MACOSX":
            continue
        # zipfile bounds what it unpacks at a time for these two alone: 64 kB of bzip2 may be a gigabyte
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise MediaError(
                f"{name!r} is packed with method {member.compress_type}: zip it with the usual one, Deflate."
            )
        size += member.file_size  # what is unpacked is never more than an archive says of it
        wanted.append((path, member))
    if size > LIMITS.max_unpacked_bytes or len(wanted) > LIMITS.max_files:
        most = f"{LIMITS.say('max_files')} of {LIMITS.say('max_unpacked_bytes')}"
        raise MediaError(
            f"{name!r} unpacks to {len(wanted):,} files of {amount(size, 'bytes')}: at most {most} are read."
        )
    return dict(wanted)


def _fill(contents: Contents, folder: Path, room: int) -> None:
    """Write files in ScanNet's form: maps that lie loose go to depth/, and what is called like one to pose/.

    room: bytes that were announced for all of them. Raises MediaError where they are more, or no recording.
    """
    loose = {path.stem for path in contents if len(path.parts) == 1 and path.suffix.lower() in MAPS}
    folder.mkdir(parents=True)
    for path, opened in contents.items():
        place = path.with_suffix(path.suffix.lower())
        if len(path.parts) == 1 and path.stem in loose and place.suffix in (*MAPS, ".txt"):
            place = ("depth" if place.suffix in MAPS else "pose") / place
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened() as source, target.open("wb") as copy:
            while piece := source.read(COPIED_BYTES):
                room -= len(piece)
                if room < 0:
                    raise MediaError(f"{folder.name!r} is damaged: it holds more than it says.")
                copy.write(piece)
    _recording(folder)


def _recording(folder: Path) -> Path:
    """The folder, or the file in it that is a recording by itself. Raises MediaError where there is none."""
    if any(path.suffix in MAPS for path in folder.glob("depth/*")):
        return folder
    alone = [path for path in folder.iterdir() if path.suffix in SINGLE_FILES]
    if len(alone) != 1:
        raise MediaError(f"{folder.name!r} is not one recording of depth: {EXPECTED}.")
    return folder if alone[0].suffix in MESHES and (folder / "pose").is_dir() else alone[0]
