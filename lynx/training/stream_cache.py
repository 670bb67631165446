"""Streams of frozen encoders, encoded once and kept on disk, or encoded whenever a step needs them.

On disk there is one folder for everything that decides what a stream is (backbone, precision, sense,
rendering, vision LoRA, pooling, number of frames), named by its digest; in it safetensors shards, whose
tensors are named by the content of the media. Shards are memory-mapped; a run that is killed loses one shard
at most. Several processes, of one run or of several, may write into a folder at once.

What a batch needs and is not on disk is drawn ahead by workers and encoded together, short clips in one pass.
Such a stream is that of the disk to rounding, since a product of matrices may add up in another order when it
has more rows. Which clips go together is decided by the batch alone, so a batch always has the same bits.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import tee
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
from lynx.datasets.clips import naming
from lynx.datasets.reading import ClipReader, Drawing
from lynx.errors import DataError, writing
from lynx.model import Lynx
from lynx.streams.key import sense_digest
from lynx.types import VIDEO, Frames, Stream

logger = logging.getLogger(__name__)

Keeping = Literal["auto", "disk", "off"]
"""Where streams are: on disk, nowhere (off), or on disk where they leave half of it free (auto)."""
SHARE_OF_DISK = 0.5
RECENT = 16
"""Maximum streams that are remembered where one is asked for at a time: a clip is asked several things."""
CLIPS_PER_SHARD = 256
AHEAD = 4
"""Clips that are drawn ahead while streams are written to disk."""
FORMAT = 3
PARTS = ("", "/times", "/cells", "/duration")
"""The tensors of a stream: tokens (N, R) under the clip's key, second (N,) and cell (N, 2) of each, seconds
() of the whole recording."""


Shown = Sequence[tuple[str, Sequence[str]]]
"""What a batch shows: of each clip the content key, and some of its senses."""


def _size(count: int) -> str:
    """Bytes for people: GB, and MB below 0.1 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"


class StreamCache:
    """The streams of clips of `frames` frames, as `model` encodes them now, kept under `root`.

    senses: the name of a sense in the examples' media -> the name by which the model knows it. keep: where
    they are; "auto" becomes "disk" or "off" when it is known how many are missing (`prepare`). What lies on
    disk already is read in any case. `reader` draws what is encoded; in this process unless it is replaced.
    """

    def __init__(
        self, root: str | Path, model: Lynx, senses: Mapping[str, str], frames: int, keep: Keeping = "disk"
    ) -> None:
        self.model, self.senses, self.frames, self.keep = model, dict(senses), frames, keep
        self.reader = ClipReader()
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
        drawn = self.reader.read((self._drawing(examples[i]) for i in mine), AHEAD)
        for start in range(0, len(mine), CLIPS_PER_SHARD):
            self._write_shards([keys[i] for i in mine[start : start + CLIPS_PER_SHARD]], drawn, bar)
        bar.close()
        return len(mine)

    def stream(self, sense: str, key: str) -> Stream:
        """The stream of a sense in the clip with this content key, without its frames.

        Raises: DataError: it has not been prepared.
        """
        if (sense, key) not in self._index and (sense, key) not in self._recent:
            asked = [(key, [sense])]
            self._recent.update(self._encoded(asked, self.reader.read(self._missing(asked), 0)))
        return self._marked(sense, self._recent.get((sense, key)) or self._read(sense, key))

    def batches(self, shown: Iterable[Shown], ahead: int) -> Iterator[list[list[Stream]]]:
        """The streams of each batch in turn, clip by clip, without their frames.

        What is not on disk is drawn while the batches before are used, `ahead` clips at most, and is encoded
        anew each time. Raises: DataError: a clip has not been prepared. MediaError: it cannot be drawn.
        """
        batches, to_draw = tee(shown)
        drawn = self.reader.read((each for batch in to_draw for each in self._missing(batch)), ahead)
        for batch in batches:
            encoded = self._encoded(batch, drawn)
            yield [
                [self._marked(s, encoded.get((s, key)) or self._read(s, key)) for s in senses]
                for key, senses in batch
            ]

    def _read(self, sense: str, key: str) -> Stream:
        """A stream from disk."""
        file = self._index[sense, key]
        tokens, times, cells, duration = (file.get_tensor(key + part) for part in PARTS)
        rows, cols = (cells.amax(0) + 1).tolist()
        return Stream(sense, tokens, times, cells, (rows, cols), None, duration=float(duration))

    def _marked(self, sense: str, stream: Stream) -> Stream:
        """A stream with what its adapter says of its place now."""
        known = self.senses[sense]
        placement, embedding = self.model.placement(known), self.model.type_embedding(known)
        return replace(stream, placement=placement, type_embedding=embedding)

    def _not_on_disk(self, batch: Shown) -> dict[str, list[str]]:
        """Key -> senses that have to be encoded; a clip may come twice."""
        found: dict[str, dict[str, None]] = {}
        for key, senses in batch:
            lacking = [sense for sense in senses if (sense, key) not in self._index]
            if lacking and key not in self._examples:
                folder = self.folders[lacking[0]]
                raise DataError(f"the clip {key} has no stream of {lacking[0]!r} in {folder}")
            if lacking:
                found.setdefault(key, {}).update(dict.fromkeys(lacking))
        return {key: list(senses) for key, senses in found.items()}

    def _missing(self, batch: Shown) -> list[Drawing]:
        return [self._drawing(self._examples[key], only) for key, only in self._not_on_disk(batch).items()]

    def _encoded(
        self, batch: Shown, drawn: Iterator[dict[str, Frames]]
    ) -> dict[tuple[str, str], Stream]:
        """What a batch needs and is not on disk, by sense and key: clips of a sense go together."""
        missing = self._not_on_disk(batch)
        pictures = {key: next(drawn) for key in missing}
        streams: dict[tuple[str, str], Stream] = {}
        for sense, known in self.senses.items():
            keys = [key for key, senses in missing.items() if sense in senses]
            encoded = self.model.encode_clips(known, [pictures[key].pop(sense) for key in keys])
            for key, stream in zip(keys, encoded, strict=True):
                tokens = stream.tokens.cpu()  # where those from disk are
                streams[sense, key] = replace(stream, sense=sense, tokens=tokens, frames=None)
        return streams

    def _drawing(self, example: Example, only: Sequence[str] | None = None) -> Drawing:
        """What is to be drawn of an example: all of its senses that are known here, or some of them."""
        modalities = {each: self.model.modality(self.senses[each]) for each in self._senses_of(example)}
        return Drawing(modalities, example, self.frames, None if only is None else tuple(only))

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
        self, keys: Sequence[str], drawn: Iterator[dict[str, Frames]], bar: Any
    ) -> None:
        """Encode the next clips, which have these keys, one by one: a stream on disk has no neighbors."""
        shards: dict[str, dict[str, Tensor]] = {sense: {} for sense in self.senses}
        for key in keys:
            for sense, frames in next(drawn).items():
                stream = self.model.encode(self.senses[sense], frames)
                duration = torch.tensor(stream.duration, dtype=torch.float64)
                found = (stream.tokens, stream.times, stream.cells, duration)
                for part, tensor in zip(PARTS, found, strict=True):
                    shards[sense][key + part] = tensor.cpu().contiguous()
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
