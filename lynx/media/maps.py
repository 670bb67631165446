"""Single depth maps and arrays of them from files: PNG, TIFF, EXR, PFM; .npy and .npz.

Everything is checked against what a file declares before it is decoded. No pickle, no native reader but
those of Pillow; that of TIFF runs in a worker.
"""

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from PIL import Image

from lynx.config import LIMITS, amount
from lynx.errors import MediaError
from lynx.media.exr import read_exr
from lynx.media.mesh_limits import BROKEN
from lynx.media.worker import call

PICTURES = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
"""Pillow's names of the kinds of pictures that hold a depth map."""
MAPS = (*PICTURES, ".exr", ".pfm", ".pgm")
"""Endings of files that hold one depth map each."""
ARRAYS = (".npy", ".npz")
"""Endings of files that hold a stack of maps, or one."""
DAMAGED = "it is damaged or of another kind"


def check_size(name: str, height: int, width: int) -> None:
    """Raises MediaError for a map with more pixels than are read."""
    small = max(height, width) <= LIMITS.max_side and height * width <= LIMITS.max_pixels
    if min(height, width) < 1 or not small:
        most = f"sides of up to {LIMITS.say('max_side')} and maps of up to {LIMITS.say('max_pixels')}"
        raise MediaError(f"{name!r} has {width} x {height} pixels: {most} are read. Make it smaller.")


def read_map(path: Path) -> np.ndarray:
    """(H, W) integers or floats, as stored. Raises MediaError when it is no depth map, or damaged."""
    try:
        if path.stat().st_size > LIMITS.max_map_bytes:
            most = LIMITS.say("max_map_bytes")
            raise MediaError(f"{path.name!r} is above {most}: depth maps of up to that are read.")
        kind = path.suffix.lower()
        if kind == ".exr":
            values = read_exr(path.read_bytes(), path.name, check_size)
        elif kind == ".pgm":
            values = _read_pgm(path.read_bytes(), path.name)
        elif kind == ".pfm":
            values = _read_pfm(path.read_bytes(), path.name)
        elif kind == ".png":
            values = _read_picture(path)
        else:  # libtiff, which crashed on damaged files before
            values = call(_read_picture, path, about=repr(path.name))
    except (*BROKEN, zlib.error, Image.DecompressionBombError) as error:
        what = path.suffix[1:].upper()
        raise MediaError(f"{path.name!r} cannot be read as a {what}: {DAMAGED}.") from error
    return values


def map_form(path: Path) -> tuple[int, int, str]:
    """Height, width and kind ("f", or another for integers) of a map; of a picture without decoding it."""
    kind = path.suffix.lower()
    if kind in PICTURES:
        try:
            with Image.open(path, formats=[PICTURES[kind]]) as image:
                return image.height, image.width, "f" if image.mode == "F" else "u"
        except (*BROKEN, Image.DecompressionBombError):
            pass  # `read_map` says why
    values = read_map(path)
    return *values.shape, values.dtype.kind


def _read_picture(path: Path) -> np.ndarray:
    with Image.open(path, formats=[PICTURES[path.suffix.lower()]]) as image:
        check_size(path.name, image.height, image.width)
        if (pages := getattr(image, "n_frames", 1)) != 1:
            raise MediaError(f"{path.name!r} holds {pages} pictures: save each depth map in a file.")
        values = np.asarray(image)
    if values.ndim != 2:
        raise MediaError(
            f"{path.name!r} is no depth map but a picture in color ({image.mode}): 16-bit gray is read. If "
            "its 24 bits encode depth, save that as 16-bit millimeters or as a .npy in meters."
        )
    if values.dtype.itemsize == 1:
        raise MediaError(
            f"{path.name!r} is no depth map but a picture of 8 bits ({image.mode}), which have no unit: "
            "16-bit gray is read."
        )
    return values


def _read_pfm(data: bytes, name: str) -> np.ndarray:
    """Portable float map: rows from the bottom to the top; a negative scale means little-endian."""
    head = re.match(rb"P([fF])\s+(\d{1,9})\s+(\d{1,9})\s+([-+.\deE]{1,32})[\r]?[\s]", data[:256])
    if head is None:
        raise ValueError("no header")
    if head[1] == b"F":
        raise MediaError(f"{name!r} is no depth map but a picture in color (PF): gray (Pf) is read.")
    width, height = int(head[2]), int(head[3])
    check_size(name, height, width)
    order = "<f4" if float(head[4]) < 0 else ">f4"
    values = np.frombuffer(data, order, width * height, head.end())
    return np.flipud(values.reshape(height, width)).astype(np.float32)


def _read_pgm(data: bytes, name: str) -> np.ndarray:
    """Portable gray map of 16 bits; its values are those stored, not shares of the largest."""
    number = rb"(?:\s|#[^\n]*\n)+(\d{1,9})"
    head = re.match(b"P5" + 3 * number + rb"\s", data[:4096])
    if head is None:
        raise ValueError("no header")
    width, height, most = map(int, head.groups())
    check_size(name, height, width)
    if most < 256:
        raise MediaError(f"{name!r} is no depth map but a picture of 8 bits: 16-bit gray is read.")
    values = np.frombuffer(data, ">u2", width * height, head.end())
    return values.reshape(height, width).astype(np.uint16)


def open_array(path: Path) -> np.ndarray:
    """The stack of maps (T, H, W) in a .npy, which stays on the disk, or an .npz: one array, or "depth".

    Raises MediaError when it is none, or damaged, or its maps are too large.
    """
    name, kind = path.name, path.suffix.lower()
    try:
        if kind == ".npz":
            stack = _from_archive(path)
        else:
            stack = np.lib.format.open_memmap(path, mode="r")  # no archive, no pickle
    except (*BROKEN, BadZipFile, zlib.error, NotImplementedError) as error:
        raise MediaError(f"{name!r} cannot be read as a {kind} array of numbers: {DAMAGED}.") from error
    stack = stack[None] if stack.ndim == 2 else stack
    if stack.ndim != 3 or not stack.size:
        shape = "x".join(map(str, stack.shape)) + " values" if stack.ndim else "one value"
        raise MediaError(f"{name!r} holds {shape}; depth is a stack of maps (T, H, W).")
    if stack.dtype.kind not in "uif":
        raise MediaError(
            f"{name!r} holds values of the type {str(stack.dtype)[:40]}; depth is 16-bit integers or floats."
        )
    check_size(name, *stack.shape[1:])
    return stack


def _from_archive(path: Path) -> np.ndarray:
    with ZipFile(path) as archive:
        arrays = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(arrays) != 1 and "depth" not in arrays:
            found = ", ".join(sorted(arrays)[:8])[:100]
            raise MediaError(
                f"{path.name!r} holds {len(arrays)} arrays ({found}): one, or one called 'depth', is read."
            )
        info = arrays["depth"] if "depth" in arrays else next(iter(arrays.values()))
        if info.file_size > LIMITS.max_map_bytes:
            raise MediaError(
                f"{path.name!r} unpacks to {amount(info.file_size, 'bytes')}; at most "
                f"{LIMITS.say('max_map_bytes')} are read: save it as a .npy, which is not read as a whole."
            )
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            readers: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, fortran, dtype = readers[version](file)
            count = int(np.prod([1, *shape], dtype=object))
            if dtype.hasobject or not 0 <= count * dtype.itemsize <= info.file_size:
                raise ValueError("it declares more than it holds")
            values = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
