"""A backbone with the senses that were added to it. Adapters act only inside `with`, under one lock."""

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache, StoppingCriteria, StoppingCriteriaList

from lynx import modalities
from lynx.adapters import Adapter, read_adapter, resolve_adapter
from lynx.backbones import Backbone, Composed, Stream, load_backbone
from lynx.config import LoraSettings
from lynx.errors import AdapterError
from lynx.lora import LoraBank
from lynx.media import Frames
from lynx.modalities import Modality

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

    from lynx.chat import Session

__all__ = ["Lynx", "Stream", "load"]

logger = logging.getLogger(__name__)

VIDEO = "video"
"""The sense that needs no adapter."""


class _Stop(StoppingCriteria):
    """Ends generation at the next token once the event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


class Lynx:
    """A frozen Video LLM and its adapters.

    What changes the state of the model is a context manager that holds `lock` and restores what it found. A
    *sense* is "video", the name of a loaded adapter, or a modality that exactly one loaded adapter brings.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.lora = LoraBank(backbone.model)
        self.adapters: dict[str, Adapter] = {}
        self.lock = threading.RLock()

    def load_adapter(self, source: str | Path) -> Adapter:
        """Add a trained adapter from a folder or a Hub id; it stays off until it is used.

        Raises: AdapterError: not an adapter, of another backbone, unsafe; the model stays as it was.
        """
        files = read_adapter(resolve_adapter(source), self.backbone)
        with self.lock:
            adapter = self.add_adapter(files.adapter)
            for part, (settings, tensors) in files.parts.items():
                self.add_lora(adapter.name, part, settings)
                self.lora.fill(f"{adapter.name}_{part}", tensors)
        return adapter

    def add_adapter(self, adapter: Adapter) -> Adapter:
        """Register an adapter that has no LoRA yet; `add_lora` gives it one."""
        modalities.get(adapter.modality).from_dict(dict(adapter.rendering))
        if adapter.placement not in self.backbone.placements:
            raise AdapterError(
                f"the adapter {adapter.name!r} asks for the placement {adapter.placement!r}; the family "
                f"{self.backbone.family!r} can do {', '.join(self.backbone.placements)}"
            )
        with self.lock:
            if adapter.name in self.adapters:
                raise AdapterError(
                    f"an adapter named {adapter.name!r} is loaded already: unload it first, or rename one"
                )
            self.adapters[adapter.name] = adapter
        return adapter

    def add_lora(self, name: str, part: str, settings: LoraSettings) -> str:
        """A fresh LoRA for the "vision" or "llm" part of a registered adapter; returns its name in `lora`."""
        targets = {"vision": self.backbone.vision_targets, "llm": self.backbone.llm_targets}
        with self.lock:
            self.lora.add(f"{self.adapter(name).name}_{part}", targets[part], settings)
        return f"{name}_{part}"

    def unload_adapter(self, name: str) -> None:
        """Take an adapter out of the model, its LoRAs included."""
        with self.lock:
            self.adapter(name)
            for part in self.parts(name):
                self.lora.remove(f"{name}_{part}")
            del self.adapters[name]

    def parts(self, name: str) -> tuple[str, ...]:
        """Which of "vision" and "llm" an adapter has."""
        return tuple(part for part in ("vision", "llm") if f"{name}_{part}" in self.lora)

    def adapter(self, sense: str) -> Adapter:
        """The adapter of that name, else the only one of that modality.

        Raises: AdapterError where there is none, or more than one.
        """
        if sense in self.adapters:
            return self.adapters[sense]
        found = [adapter for adapter in self.adapters.values() if adapter.modality == sense]
        if len(found) == 1:
            return found[0]
        loaded = ", ".join(self.adapters) or "none"
        if found:
            raise AdapterError(f"several adapters bring {sense!r} ({loaded}): name the one you mean")
        raise AdapterError(f"no adapter for {sense!r} is loaded (loaded: {loaded}): load one first")

    def modality(self, sense: str) -> Modality:
        """The modality of a sense, with the rendering its adapter was trained with."""
        if sense == VIDEO:
            return modalities.get(VIDEO)()
        adapter = self.adapter(sense)
        return modalities.get(adapter.modality).from_dict(dict(adapter.rendering))

    @contextmanager
    def using(self, *senses: str) -> Iterator[None]:
        """Inside the `with` the LLM LoRAs of these senses are on, together; with none, the stock model."""
        with self.lock:
            names = [f"{self.adapter(sense).name}_llm" for sense in senses if sense != VIDEO]
            with self.lora.active([name for name in names if name in self.lora]):
                yield

    @contextmanager
    def sensing(self, sense: str, train: bool = False) -> Iterator[None]:
        """Inside the `with` that sense's vision LoRA is on ("video": none); `train` gives it gradients."""
        with self.lock:
            names = [] if sense == VIDEO else [f"{self.adapter(sense).name}_vision"]
            names = [name for name in names if name in self.lora]
            with self.lora.active(names, names if train else ()):
                yield

    def encode(self, sense: str, frames: Frames) -> Stream:
        """(Pseudo-)frames of one clip -> the stream of that sense, through its vision LoRA; no gradients."""
        with self.sensing(sense), torch.no_grad():
            pixels = self.backbone.video_pixels if sense == VIDEO else self.backbone.pixels
            tokens, layout = self.backbone.encode(pixels(frames.pixels))
        times, placement = layout.seconds(frames.times), self.placement(sense)
        stream = Stream(sense, tokens, times, layout.cell, layout.grid, frames, placement)
        if sense != VIDEO and self.adapter(sense).token_pooling == "space":
            return pool_space(stream)
        return stream

    def placement(self, sense: str) -> str:
        """Where the sense's tokens stand in time and space, one of PLACEMENTS."""
        return "continue" if sense == VIDEO else self.adapter(sense).placement

    def tokens(self, sense: str, frames: int, size: tuple[int, int] | None = None) -> int:
        """How many tokens a stream of that many (pseudo-)frames will have; size: (H, W) of the video's."""
        if sense == VIDEO:
            return self.backbone.tokens(frames, size)
        tokens = self.backbone.tokens(frames)
        if self.adapter(sense).token_pooling == "space":
            steps, newlines = divmod(tokens, math.prod(self.backbone.token_grid))
            return steps + newlines
        return tokens

    @torch.no_grad()
    def generate(
        self,
        prompt: Composed,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        cache: Cache | None = None,
        streamer: "BaseStreamer | None" = None,
        stop: threading.Event | None = None,
    ) -> Tensor:
        """The ids that stock `generate` gives for a prompt, under the adapters that are on: (B, new), padded.

        temperature: 0 is greedy. cache: filled; a prefix of the prompt that it holds is not computed again.
        stop: set it from another thread to end after the current token.
        """
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature}
        with self.lock:
            ids: Tensor = self.backbone.model.generate(
                inputs_embeds=prompt.inputs_embeds,
                attention_mask=prompt.attention_mask,
                position_ids=prompt.position_ids,
                cache=cache,
                max_new_tokens=max_new_tokens,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([_Stop(stop)] if stop is not None else []),
                pad_token_id=self.backbone.pad_id,
                **sampling,
            )
        return ids

    def chat(self, *, frames: int | None = None, **media: Any) -> "Session":
        """A conversation about one clip: one keyword a sense, `chat(video="clip.mp4", audio="clip.mp4")`.

        frames: how many moments are looked at; the backbone's default where not given.
        Raises: MediaError, AdapterError: a sense that cannot be used is never left out in silence.
        """
        from lynx.chat import Session

        return Session(self, media, frames=frames)


def pool_space(stream: Stream) -> Stream:
    """One token a moment of the stream, the mean over its cells; a newline stays."""
    newline = stream.times.isnan()
    cells = math.prod(stream.grid)
    pooled = stream.tokens[~newline.to(stream.tokens.device)].unflatten(0, (-1, cells)).mean(dim=1)
    return replace(
        stream,
        tokens=torch.cat([pooled, stream.tokens[newline.to(stream.tokens.device)]]),
        times=torch.cat([stream.times[~newline][::cells], stream.times[newline]]),
        cells=torch.cat([stream.cells.new_zeros(len(pooled), 2), stream.cells[newline]]),
        grid=(1, 1),
    )


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
