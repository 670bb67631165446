"""What a document of lmms-eval shows and asks: its messages, as the media of one clip and a dialog about it.

The media are those of the first question: a video, pictures, which become the frames of one, or a sound.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lynx.config import short_repr
from lynx.datasets.base import Turn
from lynx.errors import DataError
from lynx.media.frame_folder import ENDINGS, frames_of
from lynx.modalities.audio import Audio
from lynx.modalities.video import Video
from lynx.types import Frames, MediaSource, Moments, Waveform

Content = Mapping[str, Any]
"""A part of a message: {"type": "text", "text": ...} or {"type": "video", "url": ...}, also image, audio."""
PICTURE_RATE = 1.0
"""Pictures a second where a document has several: lmms-eval does not say their times."""


@dataclass(frozen=True, eq=False)
class Document:
    """A question, with the turns and the media before it.

    video: the clip, or its pictures. sound: a sound of its own; None where it is the clip's.
    moments: the part of the clip that is looked at.
    """

    question: str
    before: tuple[Turn, ...] = ()
    system: str = ""
    video: str | Frames | None = None
    sound: str | Waveform | None = None
    moments: Moments = Moments()

    def source(self, takes: str) -> MediaSource | None:
        """What a sense is read from that takes "video" or "audio"; None where the document has no such."""
        if takes == "video" or (self.sound is None and isinstance(self.video, str)):
            return self.video
        return self.sound

    @property
    def clip(self) -> tuple[Any, ...]:
        """The same for documents about the same media; of those in memory while they are."""
        media = (each if isinstance(each, str) else id(each) for each in (self.video, self.sound))
        return (*media, self.moments)


def of_visuals(text: str, visuals: Iterable[Any] | None) -> Document:
    """The document of a task that gives its text and what it shows apart.

    Raises: DataError: it shows what lynx cannot read.
    """
    content = [_content(each) for each in visuals or ()]
    return of_messages([{"role": "user", "content": [*content, {"type": "text", "text": text}]}])


def _content(visual: Any) -> Content:
    """What a simple task shows, as part of a message: a file by its ending, a dict by its keys, a picture."""
    if isinstance(visual, Mapping):
        return {"type": "audio" if "array" in visual else "video"} | dict(visual)
    if not isinstance(visual, str):
        return {"type": "image", "url": visual}
    ending = Path(visual).suffix.lower()
    if ending in ENDINGS:
        return {"type": "image", "url": visual}
    sound = ending in Audio.suffixes and ending not in Video.suffixes
    return {"type": "audio" if sound else "video", "url": visual}


def of_messages(messages: Sequence[Mapping[str, Any]]) -> Document:
    """The document of messages that end in a question.

    Raises: DataError: they are no such dialog, or show what lynx cannot read, or more than one clip.
    """
    told = [(each["role"], *_split(each["content"])) for each in messages]
    system = told.pop(0)[1] if told and told[0][0] == "system" and not told[0][2] else ""
    roles = [role for role, *_ in told]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        order = ", ".join(roles) or "nobody"
        raise DataError(f"messages of {order}: expected user and assistant in turn, a question at the end")
    if any(shown for _, _, shown in told[1:]):
        raise DataError("media behind the first question: lynx looks at one clip, which stands before it")
    texts = [text for _, text, _ in told]
    before = tuple(Turn(*turn) for turn in zip(texts[:-1:2], texts[1::2], strict=True))
    return Document(texts[-1], before, system, **_media(told[0][2]))


def _split(content: str | Sequence[Content]) -> tuple[str, list[Content]]:
    """The text of a message, a line for each of its parts, and its media."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts = [each["text"] for each in parts if each["type"] == "text"]
    return "\n".join(texts), [_flat(each) for each in parts if each["type"] != "text"]


def _flat(part: Content) -> Content:
    """A medium with its keys at one level: lmms-eval may put a dict where its address stands."""
    inner = part.get("url")
    return {"type": part["type"], **inner} if isinstance(inner, Mapping) else part


def _media(shown: Sequence[Content]) -> dict[str, Any]:
    """The fields of a `Document` that say its media."""
    found: dict[str, Any] = {}
    pictures: list[Any] = [each.get("url") for each in shown if each["type"] == "image"]
    if pictures:
        found["video"] = frames_of(pictures, PICTURE_RATE)
    for each in (each for each in shown if each["type"] != "image"):
        # lmms-eval takes .webm for a sound.
        sound = "array" in each or (each["type"] == "audio" and not str(each.get("url")).endswith(".webm"))
        kind = "sound" if sound else "video"
        if kind in found:
            raise DataError(f"a document shows more than one {kind}: lynx looks at one clip")
        found[kind] = _waveform(each) if "array" in each else _file(each)
        if kind == "video":
            found["moments"] = _part(each)
    return found


def _file(part: Content) -> str:
    path = part.get("url", part.get("path"))
    if not isinstance(path, str):
        raise DataError(f"{part['type']} is {short_repr(path)}: expected the path of a file")
    return path.removeprefix("file://")


def _waveform(part: Content) -> Waveform:
    """A sound in memory: array (n,) or (channels, n), in [-1, 1]."""
    samples = torch.as_tensor(np.asarray(part["array"], dtype=np.float32))
    return Waveform(samples.mean(0) if samples.ndim > 1 else samples, int(part["sampling_rate"]))


def _part(part: Content) -> Moments:
    """The part of a clip that a task shows, in seconds."""
    start, end = (part.get(f"{each}_time", part.get(f"video_{each}")) for each in ("start", "end"))
    return Moments(start=start or 0.0, end=end)
