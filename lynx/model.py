"""A frozen Video LLM with the senses that were added to it: encode, generate, chat."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lynx.backbones import load_backbone
from lynx.backbones.decoding import generate
from lynx.session import Session
from lynx.streams.encoder import StreamEncoder
from lynx.types import Moments, Prompt


class Lynx(StreamEncoder):
    """A frozen Video LLM and its adapters; `AdaptedBackbone` adds them, `StreamEncoder` encodes media."""

    def generate(self, prompt: Prompt, **options: Any) -> Tensor:
        """`decoding.generate` under the adapters that are on: the new ids (B, new) of a prompt."""
        with self.lock:
            return generate(self.backbone, prompt, **options)

    def chat(
        self, *, frames: int | None = None, fps: float | None = None, max_frames: int | None = None,
        start: float = 0.0, end: float | None = None, **media: Any,
    ) -> Session:
        """A conversation about one clip: one keyword a sense, `chat(video="clip.mp4", audio="clip.mp4")`.

        frames: how many moments are looked at; the backbone's default where not given. fps: that many a
        second instead, max_frames at most.
        start, end: the seconds of the recording that are looked at; all of it where not given.
        Raises: MediaError, AdapterError: a sense that cannot be used is never left out in silence.
        BackboneError: frames that do not fit the context, or are none.
        """
        return Session(self, media, Moments(frames, fps, max_frames, start, end))


def load(
    source: str | Path = "lynx-tiny",
    adapters: Sequence[str | Path] = (),
    precision: str = "auto",
    device: str = "auto",
) -> Lynx:
    """Load a backbone and its adapters: see `load_backbone` and `Lynx.load_adapter`."""
    model = Lynx(load_backbone(source, precision, device))
    for adapter in adapters:
        model.load_adapter(adapter)
    return model
