"""Streams of frozen encoders, encoded once and kept on disk, or encoded whenever a step needs them.

Which of both changes no bit of a stream. On disk there is one folder for everything
that decides what a stream is (backbone, precision, sense, rendering, vision LoRA, pooling, number of frames),
named by its digest; in it safetensors shards whose tensors are named by the content of the media. Shards are
memory-mapped; a run that is killed loses one shard at most. Several processes, of one run or of several, may
write into a folder at once.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import torch
from cachetools import LRUCache
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from lynx.datasets.base import Example
from lynx.datasets.clips import naming, render_clip
from lynx.errors import DataError, writing
from lynx.model import Lynx
from lynx.streams.key import sense_digest
from lynx.types import VIDEO, Stream

logger = logging.getLogger(__name__)

Keeping = Literal["auto", "disk", "off"]
"""Where streams are: on disk, nowhere (off), or on disk where they leave half of it free (auto)."""
SHARE_OF_DISK = 0.5
RECENT = 16
"""Maximum streams that are remembered where they are encoded as needed: a clip is asked several things."""
CLIPS_PER_SHARD = 256
FORMAT = 3
PARTS = ("", "/times", "/cells", "/duration")
"""The tensors of a stream: tokens (N, R) under the clip's key, second (N,) and cell (N, 2) of each, seconds
() of the whole recording."""


def _size(count: int) -> str:
    """Bytes for people: GB, and MB below 0.1 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"


class StreamCache:
    """The streams of clips of `frames` frames, as `model` encodes them now, kept under `root`.

    senses: the name of a sense in the examples' media -> the name by which the model knows it. keep: where
    they are; "auto" becomes "disk" or "off" when it is known how many are missing (`prepare`). What lies on
    disk already is read in any case.
    """

    def __init__(
        self, root: str | Path, model: Lynx, senses: Mapping[str, str], frames: int, keep: Keeping = "disk"
    ) -> None:
        self.model, self.senses, self.frames, self.keep = model, dict(senses), frames, keep
        self.folders = {}
        video = VIDEO in senses  # whose length sets the moments
        for sense, known in self.senses.items():
            # of everything but the media that determines this sense's tokens
            digest = sense_digest(model, known, with_video=video, format=FORMAT, sense=sense, frames=frames)
            self.folders[sense] = Path(root) / digest.hexdigest()
        self._files: list[Any] = []  # open shards; their mapping lives as long as this object
        self._index: dict[tuple[str, str], Any] = {}
        self._seen: set[Path] = set()
        self._examples: dict[str, Example] = {}  # by key, of which streams are encoded as needed
        self._recent: LRUCache[tuple[str, str], Stream] = LRUCache(RECENT)
        self.refresh()

    def prepare(
        self,
        examples: Sequence[Example],
        keys: Sequence[str],
        part: tuple[int, int] = (0, 1),
        progress: bool = True,
    ) -> int:
        """Encode what is missing of `examples`, whose `content_key`s are `keys`; returns how many that were.

        With `keep` "off" nothing is encoded before it is asked for.
        part: (i, k) does every k-th missing clip from the i-th on: one of k processes.
        Raises: DataError: the disk has no room for them.
        """
        first = {key: i for i, key in reversed(list(enumerate(keys)))}  # clips may repeat
        missing = [
            i
            for i in sorted(first.values())
            if any((sense, keys[i]) not in self._index for sense in self._senses_of(examples[i]))
        ]
        if self.keep != "disk":  # with "auto" another process may come to another choice
            self._examples = {keys[i]: examples[i] for i in missing}
        if self.keep != "off":
            for folder in self.folders.values():
                with writing(folder, DataError):
                    folder.mkdir(parents=True, exist_ok=True)
            self._choose_place([examples[i] for i in missing])  # before encoding, which may take hours
        if self.keep == "off":
            return 0
        mine = missing[part[0] :: part[1]]
        bar = tqdm(mine, desc="encode", unit="clip", disable=None if progress else True)
        for start in range(0, len(mine), CLIPS_PER_SHARD):
            self._write_shards(examples, keys, mine[start : start + CLIPS_PER_SHARD], bar)
        bar.close()
        return len(mine)

    def stream(self, sense: str, key: str) -> Stream:
        """The stream of a sense in the clip with this content key, without its frames.

        Raises: DataError: it has not been prepared.
        """
        known = self.senses[sense]
        if (file := self._index.get((sense, key))) is not None:
            tokens, times, cells, duration = (file.get_tensor(key + part) for part in PARTS)
            rows, cols = (cells.amax(0) + 1).tolist()
            stream = Stream(sense, tokens, times, cells, (rows, cols), None, duration=float(duration))
        elif key in self._examples:
            stream = self._encoded(sense, key)
        else:
            raise DataError(f"the clip {key} has no stream of {sense!r} in {self.folders[sense]}")
        placement, embedding = self.model.placement(known), self.model.type_embedding(known)
        return replace(stream, placement=placement, type_embedding=embedding)

    def _encoded(self, sense: str, key: str) -> Stream:
        """The stream of a sense in a clip, encoded now unless it was a moment ago; without its frames."""
        if (kept := self._recent.get((sense, key))) is None:
            example = self._examples[key]
            modalities = {each: self.model.modality(self.senses[each]) for each in self._senses_of(example)}
            drawn = render_clip(modalities, example, self.frames, only=sense)[sense]
            encoded = self.model.encode(self.senses[sense], drawn)
            tokens = encoded.tokens.cpu()  # where those from disk are
            kept = self._recent[sense, key] = replace(encoded, sense=sense, tokens=tokens, frames=None)
        return kept

    def _bytes(self, examples: Sequence[Example]) -> int:
        """Bytes of these clips' tokens; a sense has as many pictures of a moment as in the first of them."""
        width = self.model.backbone.token_width * self.model.backbone.dtype.itemsize
        sizes: dict[str, int] = {}
        total = 0
        for example in examples:
            for sense in self._senses_of(example):
                if sense not in sizes:
                    known = self.senses[sense]
                    with naming(example):
                        pictures = self.model.modality(known).pictures(example.media[sense])
                    sizes[sense] = self.model.tokens(known, self.frames, pictures=pictures) * width
                total += sizes[sense]
        return total

    def _choose_place(self, missing: Sequence[Example]) -> None:
        """Whether these clips' streams are kept. Raises: DataError: they have to be, and do not fit."""
        root = next(iter(self.folders.values())).parent
        needed, free = self._bytes(missing), shutil.disk_usage(root).free
        if self.keep == "auto":
            self.keep = "disk" if needed <= SHARE_OF_DISK * free else "off"
            place = "are kept there" if self.keep == "disk" else "are encoded whenever they are needed"
            logger.info(
                "the streams of %d clips take %s, %s has %s free: they %s",
                len(missing), _size(needed), root, _size(free), place,
            )  # fmt: skip
        elif needed > free:
            raise DataError(
                f"the streams of {len(missing)} clips take {_size(needed)}, {root} has "
                f"{_size(free)}: give `cache_dir` a folder on a larger disk, keep none with `cache` off, or "
                "use fewer clips, fewer frames or pooled tokens"
            )

    def _senses_of(self, example: Example) -> list[str]:
        there = set(example.media)  # `in` would make a lazy mapping render
        return [sense for sense in self.senses if sense in there]

    def _write_shards(
        self, examples: Sequence[Example], keys: Sequence[str], indices: Sequence[int], bar: Any
    ) -> None:
        shards: dict[str, dict[str, Tensor]] = {sense: {} for sense in self.senses}
        for i in indices:
            senses = self._senses_of(examples[i])
            modalities = {sense: self.model.modality(self.senses[sense]) for sense in senses}
            clips = render_clip(modalities, examples[i], self.frames)
            for sense in senses:
                stream = self.model.encode(self.senses[sense], clips[sense])
                duration = torch.tensor(stream.duration, dtype=torch.float64)
                found = (stream.tokens, stream.times, stream.cells, duration)
                for part, tensor in zip(PARTS, found, strict=True):
                    shards[sense][keys[i] + part] = tensor.cpu().contiguous()
            bar.update()
        for sense, tensors in shards.items():
            if not tensors:  # no clip of this share has the sense
                continue
            name = hashlib.blake2b("".join(tensors).encode(), digest_size=8).hexdigest()
            # Another run may encode the same clips now: each writes a file of its own, then swaps it in.
            partial = self.folders[sense] / f"{name}-{uuid4().hex}.part"
            with writing(self.folders[sense], DataError, (SafetensorError,)):
                save_file(tensors, partial)
                partial.replace(self.folders[sense] / f"{name}.safetensors")
        self.refresh()

    def refresh(self) -> None:
        """Open new shards, including those of other processes."""
        for sense, folder in self.folders.items():
            for path in sorted(folder.glob("*.safetensors")):
                if path in self._seen:
                    continue
                try:
                    file = safe_open(path, "pt")
                except SafetensorError as error:
                    raise DataError(f"{path} is damaged ({error}): remove it, it is made anew") from error
                self._seen.add(path)
                self._files.append(file)
                self._index |= {(sense, key.partition("/")[0]): file for key in file.keys()}  # noqa: SIM118
