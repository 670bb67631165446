"""More of the same sounds: recordings a little faster or slower and in other surroundings.

A few hundred recordings teach their own speed, pitch and silence along with what they are of. A variant is as
good an example of its kind. How it differs depends on its seed alone.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lynx.datasets.base import Example
from lynx.datasets.clips import content_key
from lynx.errors import DataError
from lynx.media.audio import read_audio
from lynx.modalities.audio import AudioRendering
from lynx.types import MediaSource, Waveform

AUDIO = "audio"
VERSION = 1
"""Version of the variants: raise it with every change, so that kept streams are made again."""
SPEED = 1.2
"""How much faster, and so higher, or slower a variant is at most."""
SHORT = 1.5
"""Seconds; a longer recording may begin anywhere in itself, a shorter one has up to SILENCE around it."""
SILENCE = 0.15
NOISE = (-70.0, -40.0)
"""Decibels of the noise that is added, relative to the loudest sample."""


@dataclass(frozen=True)
class Varied(Mapping[str, MediaSource]):
    """The medium of a recording, changed when it is asked for."""

    source: Path
    seed: int

    def __getitem__(self, sense: str) -> MediaSource:
        if sense != AUDIO:
            raise KeyError(sense)
        rate = AudioRendering().sample_rate
        return Waveform(vary(read_audio(self.source, rate).samples, rate, self.seed), rate)

    def __iter__(self) -> Iterator[str]:
        return iter((AUDIO,))

    def __len__(self) -> int:
        return 1


def with_variants(examples: Sequence[Example], count: int, seed: int = 0) -> list[Example]:
    """All examples, and `count - 1` variants of each that is a sound file and nothing else.

    Raises: DataError: none is.
    """
    variants = [
        _variant(example, number, f"{seed} {example.id} {number}")
        for example in examples
        if set(example.media) == {AUDIO} and isinstance(example.media[AUDIO], str | Path)
        for number in range(1, count)
    ]
    if count > 1 and not variants:
        raise DataError("variants are made of sound files without pictures, and there are none in these data")
    return [*examples, *variants]


def _variant(example: Example, number: int, name: str) -> Example:
    media = Varied(Path(str(example.media[AUDIO])), random.Random(name).getrandbits(63))
    key = f"{content_key(example)}-variant{VERSION}-{media.seed}"
    return replace(example, id=f"{example.id}#{number}", media=media, key=key)


def vary(samples: Tensor, rate: int, seed: int) -> Tensor:
    """Samples (n,) at `rate` Hz -> (m,): another speed, another beginning or silence around, some noise."""
    draw = random.Random(seed).uniform
    speed = SPEED ** draw(-1, 1)
    length = max(1, round(len(samples) / speed))
    changed = F.interpolate(samples[None, None], length, mode="linear", align_corners=True)[0, 0]
    if length > SHORT * rate:
        changed = changed.roll(round(draw(0, length)))
    else:
        changed = F.pad(changed, (round(draw(0, SILENCE) * rate), round(draw(0, SILENCE) * rate)))
    level = float(changed.abs().max()) * 10 ** (draw(*NOISE) / 20)
    noise = torch.randn(len(changed), generator=torch.Generator().manual_seed(seed))
    return (changed + level * noise).clamp(-1, 1)
