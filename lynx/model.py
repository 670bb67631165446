"""A backbone with the senses that were added to it. Adapters act only inside `with`, under one lock."""

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache, StoppingCriteriaList

from lynx import modalities
from lynx.adapters.format import Adapter, read_adapter, resolve_adapter
from lynx.adapters.lora import LoraBank
from lynx.backbones import Backbone, load_backbone
from lynx.backbones.decoding import StopOnEvent
from lynx.config import LoraSettings
from lynx.errors import AdapterError
from lynx.modalities import Modality
from lynx.streams.key import StreamStore, join, shown, stream_key
from lynx.types import VIDEO, Frames, Prompt, Stream, TokenLayout

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

    from lynx.session import Session

__all__ = ["Lynx", "Stream", "load"]

logger = logging.getLogger(__name__)


class Lynx:
    """A frozen Video LLM and its adapters.

    What changes the state of the model is a context manager that holds `lock` and restores what it found. A
    *sense* is "video", the name of a loaded adapter, or a modality that exactly one loaded adapter brings.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.lora = LoraBank(backbone.model)
        self.adapters: dict[str, Adapter] = {}
        self.type_embeddings: dict[str, Tensor] = {}
        self._loras: dict[tuple[str, str], str] = {}
        self.streams = StreamStore()
        self.lock = threading.RLock()

    def load_adapter(self, source: str | Path) -> Adapter:
        """Add a trained adapter from a folder or a Hub id; it stays off until it is used.

        Raises: AdapterError: not an adapter, of another backbone, unsafe; the model stays as it was.
        """
        files = read_adapter(resolve_adapter(source), self.backbone)
        with self.lock:
            adapter = self.add_adapter(files.adapter)
            for part, (settings, tensors) in files.parts.items():
                if part == "llm" and (twin := self._twin(settings, tensors)):
                    self._loras[adapter.name, part] = twin
                else:
                    self.lora.fill(self.add_lora(adapter.name, part, settings), tensors)
            if files.type_embedding is not None:
                self.type_embeddings[adapter.name] = files.type_embedding.to(self.backbone.device)
        return adapter

    def _twin(self, settings: LoraSettings, tensors: Mapping[str, Tensor]) -> str | None:
        """The LLM LoRA that is the same, of an adapter that was tuned together with this one."""
        known = dict.fromkeys(lora for (_, part), lora in self._loras.items() if part == "llm")
        return next((lora for lora in known if self.lora.equal(lora, settings, tensors)), None)

    def add_adapter(self, adapter: Adapter) -> Adapter:
        """Register an adapter that has no LoRA yet; `add_lora` gives it one."""
        modalities.get(adapter.modality).from_dict(dict(adapter.rendering))
        self.check_placement(adapter)
        with self.lock:
            if adapter.name in self.adapters:
                raise AdapterError(
                    f"an adapter named {adapter.name!r} is loaded already: unload it first, or rename one"
                )
            self.adapters[adapter.name] = adapter
        return adapter

    def check_placement(self, adapter: Adapter) -> None:
        """Raises: AdapterError where the family cannot put the adapter's tokens where it asks for."""
        if adapter.placement not in self.backbone.placements:
            raise AdapterError(
                f"the adapter {adapter.name!r} asks for the placement {adapter.placement!r}; the family "
                f"{self.backbone.family!r} can do {', '.join(self.backbone.placements)}"
            )

    def add_lora(self, name: str, part: str, settings: LoraSettings) -> str:
        """A fresh LoRA for the "vision" or "llm" part of a registered adapter; returns its name in `lora`."""
        targets = {"vision": self.backbone.vision_targets, "llm": self.backbone.llm_targets}
        name = self.adapter(name).name
        with self.lock:
            if (name, part) in self._loras:
                raise ValueError(f"the adapter {name!r} has a LoRA for its {part} part already")
            lora = f"{name}_{part}"
            while lora in self.lora:  # an adapter of that name went, another one still shares its LoRA
                lora += "_"
            self.lora.add(lora, targets[part], settings)
            self._loras[name, part] = lora
        return lora

    def share_llm(self, name: str, others: Sequence[str]) -> None:
        """Let other adapters use the LLM LoRA of `name` in place of their own; together it is on once."""
        with self.lock:
            lora = self._loras[self.adapter(name).name, "llm"]
            for other in (self.adapter(each).name for each in others):
                if self._loras.get((other, "llm")) != lora:
                    self.remove_lora(other, "llm")
                    self._loras[other, "llm"] = lora

    def remove_lora(self, name: str, part: str) -> None:
        """Take a part of an adapter away, if it has it; a LoRA goes with the last adapter that uses it."""
        with self.lock:
            lora = self._loras.pop((name, part), None)
            if lora is not None and lora not in self._loras.values():
                self.lora.remove(lora)

    def unload_adapter(self, name: str) -> None:
        """Take an adapter out of the model, its LoRAs included."""
        with self.lock:
            self.adapter(name)
            for part in self.parts(name):
                self.remove_lora(name, part)
            self.type_embeddings.pop(name, None)
            del self.adapters[name]

    def parts(self, name: str) -> tuple[str, ...]:
        """Which of "vision" and "llm" an adapter has."""
        return tuple(part for part in ("vision", "llm") if (name, part) in self._loras)

    def lora_name(self, name: str, part: str) -> str:
        """The name in `lora` of a part that an adapter has; those tuned together share one for the LLM."""
        return self._loras[name, part]

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
        with self.lock, self.lora.active(self.llm_loras(*senses)):
            yield

    def llm_loras(self, *senses: str) -> tuple[str, ...]:
        """The LoRAs that are on in the LLM while these senses are used."""
        names = (self.adapter(sense).name for sense in senses if sense != VIDEO)
        return tuple(dict.fromkeys(self._loras[n, "llm"] for n in names if (n, "llm") in self._loras))

    @contextmanager
    def sensing(self, sense: str, train: bool = False) -> Iterator[None]:
        """Inside the `with` that sense's vision LoRA is on ("video": none); `train` gives it gradients."""
        with self.lock:
            lora = None if sense == VIDEO else self._loras.get((self.adapter(sense).name, "vision"))
            names = [lora] if lora else []
            with self.lora.active(names, names if train else ()):
                yield

    def encode(self, sense: str, frames: Frames) -> Stream:
        """(Pseudo-)frames of one clip -> the stream of that sense, through its vision LoRA; no gradients."""
        return self._stream(sense, frames, *self._tokens(sense, frames.pixels))

    def stream(self, sense: str, source: Any, times: Tensor) -> Stream:
        """The stream of a sense in a recording at `times` (T,) seconds; its frames are small, to be shown.

        The last ones are kept in `streams`: what is there is neither read nor encoded again.
        Raises: MediaError, AdapterError: the source cannot be that sense.
        """
        with self.lock:
            key = stream_key(self, sense, source, times)
            stream = self.streams.get(key)
            if stream is None:
                stream = self._sense(sense, source, times)
                self.streams.put(key, stream)
            return stream

    def _sense(self, sense: str, source: Any, times: Tensor) -> Stream:
        """Read, draw and encode in parts: of a long clip no two parts of large frames are held at once."""
        parts, seen = [], []
        for frames in self.modality(sense).parts(source, times, self.backbone.frames_per_pass):
            parts.append(self._tokens(sense, frames.pixels))
            seen.append(shown(frames))
            del frames  # before the next ones are made
        whole = replace(
            seen[-1],
            pixels=torch.cat([part.pixels for part in seen]),
            times=torch.cat([part.times for part in seen]),
            labels=sum((part.labels for part in seen), ()),
        )
        return self._stream(sense, whole, *join(parts, len(seen[0])))

    def _tokens(self, sense: str, frames: Tensor) -> tuple[Tensor, TokenLayout]:
        """Of frames (T, 3, H, W) uint8, whose pixels are made part by part."""
        pixels, size = self.backbone.pixels, self.backbone.frames_per_pass
        if sense == VIDEO:
            pixels = self.backbone.video_pixels
        with self.sensing(sense), torch.no_grad():
            return join([self.backbone.encode(pixels(part)) for part in frames.split(size)], size)

    def _stream(self, sense: str, frames: Frames, tokens: Tensor, layout: TokenLayout) -> Stream:
        times, marks = layout.seconds(frames.times), (self.placement(sense), self.type_embedding(sense))
        stream = Stream(sense, tokens, times, layout.cell, layout.grid, frames, *marks)
        return stream if sense == VIDEO else pool(stream, self.adapter(sense).token_pooling)

    def placement(self, sense: str) -> str:
        """Where the sense's tokens stand in time and space, one of PLACEMENTS."""
        return "continue" if sense == VIDEO else self.adapter(sense).placement

    def type_embedding(self, sense: str) -> Tensor | None:
        """The vector (D,) that the LLM gets added to the sense's tokens, if its adapter has one."""
        return None if sense == VIDEO else self.type_embeddings.get(self.adapter(sense).name)

    def tokens(self, sense: str, frames: int, size: tuple[int, int] | None = None) -> int:
        """How many tokens a stream of that many (pseudo-)frames will have; size: (H, W) of the video's."""
        if sense == VIDEO:
            return self.backbone.tokens(frames, size)
        rows, columns = self.backbone.token_grid
        steps, newlines = divmod(self.backbone.tokens(frames), rows * columns)
        pooling = self.adapter(sense).token_pooling
        if pooling in ("halves", "bands"):
            steps = min(2, steps)
        return steps * {"space": 1, "bands": rows}.get(pooling, rows * columns) + newlines

    @torch.no_grad()
    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        cache: Cache | None = None,
        streamer: "BaseStreamer | None" = None,
        stop: threading.Event | None = None,
    ) -> Tensor:
        """The ids that stock `generate` gives for a prompt, under the adapters that are on: (B, new), padded.

        temperature: 0 is greedy; above it any token may be drawn.
        cache: filled; a prefix of the prompt that it holds is not computed again.
        stop: set it from another thread to end after the current token.
        """
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        with self.lock:
            ids: Tensor = self.backbone.model.generate(
                input_ids=prompt.input_ids,  # a checkpoint may penalise what the prompt says already
                inputs_embeds=prompt.inputs_embeds,
                attention_mask=prompt.attention_mask,
                position_ids=prompt.position_ids,
                cache=cache,
                max_new_tokens=max_new_tokens,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([StopOnEvent(stop)] if stop is not None else []),
                pad_token_id=self.backbone.pad_id,
                **sampling,
            )
        return ids[:, prompt.input_ids.shape[1] :]

    def chat(self, *, frames: int | None = None, **media: Any) -> "Session":
        """A conversation about one clip: one keyword a sense, `chat(video="clip.mp4", audio="clip.mp4")`.

        frames: how many moments are looked at; the backbone's default where not given.
        Raises: MediaError, AdapterError: a sense that cannot be used is never left out in silence.
        """
        from lynx.session import Session

        return Session(self, media, frames=frames)


def pool(stream: Stream, how: str) -> Stream:
    """A stream pooled in one of POOLINGS; newlines stay.

    space: one token a moment, the mean over its cells. halves: the means of every cell over the earlier and
    over the later half of the moments, of which the earlier has one more if they are odd. bands: of these
    the means over every row of cells, which in a spectrogram is a band of frequencies.
    """
    if how == "none":
        return stream
    newline = stream.times.isnan()
    tokens = stream.tokens[~newline.to(stream.tokens.device)].unflatten(0, (-1, math.prod(stream.grid)))
    times, cells = (part[~newline].unflatten(0, tokens.shape[:2]) for part in (stream.times, stream.cells))
    grid = stream.grid
    if how == "space":
        tokens, times = tokens.mean(dim=1, keepdim=True), times[:, :1]
        cells, grid = torch.zeros_like(cells[:, :1]), (1, 1)
    else:
        tokens, times = (
            torch.stack([half.mean(dim=0) for half in part.tensor_split(min(2, len(part)))])
            for part in (tokens, times)
        )
        cells = cells[: len(tokens)]
    if how == "bands":
        tokens = tokens.unflatten(1, grid).mean(dim=2)
        times, cells = times[:, :: grid[1]], cells[:, :: grid[1]]
        grid = (grid[0], 1)
    return replace(
        stream,
        tokens=torch.cat([tokens.flatten(0, 1), stream.tokens[newline.to(stream.tokens.device)]]),
        times=torch.cat([times.flatten(), stream.times[newline]]),
        cells=torch.cat([cells.flatten(0, 1), stream.cells[newline]]),
        grid=grid,
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
