"""Why a file cannot be read as video or sound: cut off, damaged or of another kind, by its first bytes."""

import codecs
from pathlib import Path

HEAD = 4096
"""Bytes that are looked at."""
OTHER_KINDS = {
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"BM": "a picture (BMP)",
    b"II*\0": "a picture (TIFF)",
    b"MM\0*": "a picture (TIFF)",
    b"v/1\x01": "a picture (OpenEXR)",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive or an office document",
    b"\x1f\x8b": "a compressed archive",
    b"7z\xbc\xaf": "a compressed archive",
    b"Rar!": "a compressed archive",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"glTF": "a 3-D mesh",
    b"ply\n": "a 3-D mesh",
    b"\x93NUMPY": "a NumPy array",
}
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"<MPD", b"<asx", b"<ASX", b"<smil", b"[Reference]")
RECORDINGS = {
    b"\x1aE\xdf\xa3": "Matroska",
    b"OggS": "Ogg",
    b"RIFF": "AVI or WAV",
    b"fLaC": "FLAC",
    b"FLV": "FLV",
    b"ID3": "MP3",
    b"GIF8": "GIF",
    b"#!AMR": "AMR",
    b"\x30\x26\xb2\x75": "ASF",
    b"\0\0\x01\xba": "MPEG",
}
BARE = (b"\0\0\0\x01", b"\0\0\x01\xb3", b"\0\0\x01g", b"\0\0\x01\t")
"""How streams of H.264, H.265 and MPEG video without a container begin."""
MAX_BOXES = 1000
"""Boxes of an MP4 that are looked at; a whole one has about five, a fragmented one begins with its moov."""
BOXES = (b"moov", b"mdat", b"ftyp", b"free", b"wide", b"skip", b"moof")


def reason(path: Path) -> str:
    """Why FFmpeg cannot read this file, as the end of a sentence that begins with its name."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        return f"cannot be read: {error.strerror}."
    if kind := _other_kind(head):
        return f"is {kind}, neither video nor sound."
    if head[4:8] in BOXES:
        if _without_index(path):
            return "is cut off: the index of this MP4 (moov), which stands at its end, is missing."
        return "cannot be read as MP4: it is damaged or cut off."
    if head.startswith(BARE):
        return "is a bare video stream, without times: put it into a container, such as MP4, first."
    for magic, name in RECORDINGS.items():
        if head.startswith(magic):
            return f"cannot be read as {name}: it is damaged or cut off."
    return "cannot be read as video or sound: it is damaged, cut off or of another kind."


def _other_kind(head: bytes) -> str | None:
    """What the file is, where its first bytes say that it is no recording."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a picture (WebP)"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif"):
        return "a picture (HEIF)"
    for magic, name in OTHER_KINDS.items():
        if head.startswith(magic):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t")
    if text.startswith(PLAYLISTS) or (text.startswith(b"<?xml") and any(x in text for x in PLAYLISTS)):
        return "a playlist, which only names other files"
    if not head or any(byte < 9 or 13 < byte < 32 for byte in head):
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return None
    return "a text"


def _without_index(path: Path) -> bool:
    """Whether the boxes of an MP4 end before one that says where its frames lie."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        for _ in range(MAX_BOXES):
            if at + 8 > size:
                break
            file.seek(at)
            head = file.read(16)
            length, name = int.from_bytes(head[:4], "big"), head[4:8]
            if name in (b"moov", b"moof"):
                return False
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8:  # to the end of the file, or nonsense
                return True
            at += length
    return True
