"""Streams of frozen encoders, encoded once and kept on disk.

One folder for everything that decides what a stream is (backbone, precision, sense, rendering, vision LoRA,
pooling, number of frames), named by its digest; in it safetensors shards whose tensors are named by the
content of the media. Shards are memory-mapped; a run that is killed loses one shard at most. Several
processes, of one run or of several, may write into a folder at once.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from lynx.datasets.base import Example
from lynx.datasets.clips import render_clip
from lynx.errors import DataError, writing
from lynx.model import Lynx
from lynx.streams.key import sense_digest
from lynx.types import VIDEO, Stream

logger = logging.getLogger(__name__)

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

    senses: the name of a sense in the examples' media -> the name by which the model knows it.
    """

    def __init__(self, root: str | Path, model: Lynx, senses: Mapping[str, str], frames: int) -> None:
        self.model, self.senses, self.frames = model, dict(senses), frames
        self.folders = {}
        video = VIDEO in senses  # whose length sets the moments
        for sense, known in self.senses.items():
            # of everything but the media that determines this sense's tokens
            digest = sense_digest(model, known, with_video=video, format=FORMAT, sense=sense, frames=frames)
            self.folders[sense] = Path(root) / digest.hexdigest()
        self._files: list[Any] = []  # open shards; their mapping lives as long as this object
        self._index: dict[tuple[str, str], Any] = {}
        self._seen: set[Path] = set()
        self.refresh()

    def prepare(
        self,
        examples: Sequence[Example],
        keys: Sequence[str],
        part: tuple[int, int] = (0, 1),
        progress: bool = True,
    ) -> int:
        """Encode what is missing of `examples`, whose `content_key`s are `keys`; returns how many that were.

        part: (i, k) does every k-th missing clip from the i-th on: one of k processes.
        Raises: DataError: the disk has no room for them.
        """
        first = {key: i for i, key in reversed(list(enumerate(keys)))}  # clips may repeat
        missing = [
            i
            for i in sorted(first.values())
            if any((sense, keys[i]) not in self._index for sense in self._senses_of(examples[i]))
        ]
        # Checked before encoding, which may take hours.
        backbone = self.model.backbone
        tokens = sum(self.model.tokens(name, self.frames) for name in self.senses.values())
        needed = len(missing) * tokens * backbone.token_width * backbone.dtype.itemsize
        for folder in self.folders.values():
            with writing(folder, DataError):
                folder.mkdir(parents=True, exist_ok=True)
        root = next(iter(self.folders.values())).parent
        free = shutil.disk_usage(root).free
        if needed > free:
            raise DataError(
                f"the streams of {len(missing)} clips take {_size(needed)}, {root} has "
                f"{_size(free)}: give `cache` a folder on a larger disk, or use fewer clips, fewer "
                "frames or pooled tokens"
            )
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
        file = self._index.get((sense, key))
        if file is None:
            raise DataError(f"the clip {key} has no stream of {sense!r} in {self.folders[sense]}")
        tokens, times, cells, duration = (file.get_tensor(key + part) for part in PARTS)
        rows, cols = (cells.amax(0) + 1).tolist()
        known = self.senses[sense]
        marks = self.model.placement(known), self.model.type_embedding(known)
        return Stream(sense, tokens, times, cells, (rows, cols), None, *marks, float(duration))

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
