"""Stage 2, interface alignment: train a sense's vision LoRA so that its pseudo-frames land on the interface.

Unpaired: only the sense's own media are looked at, without video, text or LLM. The loss is
L = attention_weight * L_attn + beta * L_stat, whose terms are in `losses.py`; stage 1 gave what they compare
with (`guidance.py`). A batch is counted in pseudo-frames.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lynx import modalities
from lynx.adapters.format import Adapter
from lynx.adapters.saving import describe_backbone, save_adapter
from lynx.backbones import Backbone
from lynx.backbones.attention import recording
from lynx.backbones.memory import checkpointed
from lynx.config import AlignConfig
from lynx.datasets.base import Example
from lynx.datasets.reading import ClipReader, Drawing, clip_reader
from lynx.errors import AdapterError, DataError
from lynx.modalities import Modality
from lynx.model import Lynx
from lynx.training.guidance import Guidance, counted_tokens
from lynx.training.losses import attention_loss, response_distance, statistics_loss
from lynx.training.options import Watch
from lynx.training.trainer import Pass, Trainer, digest_of, seeded
from lynx.types import Frames


class AlignmentLoss:
    """The loss of stage 2 over batches of pixels, on a backbone whose attention it records.

    Keep `listening` open until after the backward pass: with checkpointing the forward pass is computed again
    there, and has to do the same again.
    """

    def __init__(self, backbone: Backbone, guidance: Guidance, config: AlignConfig) -> None:
        guidance.check(backbone)
        self.backbone, self.config = backbone, config
        device, dtype = backbone.device, backbone.dtype
        self._keys = [mean.to(device, dtype) for mean in guidance.keys]  # K_v(l): (W, H, n, d) a layer
        self._values = [mean.to(device, dtype) for mean in guidance.values]  # V_v(l), likewise
        self._mean, self._var = guidance.token_mean.to(device), guidance.token_var.to(device)  # (D,) each
        self._newlines = guidance.stat_newline
        self._distances: dict[int, list[tuple[Tensor, int]]] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the `with` the encoder's attention is compared with the guidance."""
        with recording(self.backbone, vision=self._compare):
            yield

    def __call__(self, pixels: Tensor, clips: int = 1) -> dict[str, Tensor]:
        """Pixels (B, 3, H, W) of pseudo-frames of so many clips -> loss, attention_loss, statistics_loss."""
        self._distances = {}
        tokens, layout = self.backbone.encode(pixels)  # (n, D); `_compare` is called for every layer
        # A recomputed forward pass adds to another dict: what was collected here is final.
        distances, self._distances = self._distances, {}
        # The encoder may take the batch in parts. Sums and counts are added up before the division, so that a
        # frame of a small last part weighs as much as any other.
        layers = [
            sum((total for total, _ in distances[layer]), torch.zeros((), device=tokens.device))
            / sum(count for _, count in distances[layer])
            for layer in sorted(distances)
        ]
        attention = attention_loss(layers, self.config.layer_reduction)
        counted = counted_tokens(tokens, layout, clips if self._newlines else 0)
        statistics = statistics_loss(counted, self._mean, self._var)
        loss = self.config.attention_weight * attention + self.config.beta * statistics
        return {"loss": loss, "attention_loss": attention, "statistics_loss": statistics}

    def _compare(
        self, layer: int, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, output: Tensor
    ) -> None:
        """Record a layer's distance from its reference: query (B, H, n, d), output (B, n, H, d)."""
        # Of the patches that one token is pooled from the released code compares the first, at even rows and
        # columns: a quarter of the work, and no token is left out.
        even = self.config.query_subset == "even"
        queries = self.backbone.even_queries(query.shape[2]).to(query.device) if even else None
        keys, values = self._keys[layer], self._values[layer]
        if keys.shape[-2:] != query.shape[-2:]:
            raise DataError(
                f"layer {layer} sees queries {tuple(query.shape[-2:])}, the guidance has keys "
                f"{tuple(keys.shape[-2:])}: both must be of one resolution"
            )
        project = module.get_submodule(self.backbone.output_projection)  # with its LoRA
        distance = response_distance(query, output, keys, values, project, queries)
        self._distances.setdefault(layer, []).append(distance)


class PicturesAhead:
    """Pixels of a sense in clips, drawn by `reader` in the order in which the passes take them."""

    def __init__(self, backbone: Backbone, sense: Modality, examples: Sequence[Example], frames: int) -> None:
        self.backbone, self.sense, self.examples, self.frames = backbone, sense, examples, frames
        self.reader = ClipReader()  # which draws in this process
        self._drawn: Iterator[dict[str, Frames]] = iter(())

    def expect(self, passes: Iterator[Pass], ahead: int) -> None:
        """Draw the clips of these passes, so many of them ahead."""
        drawings = (self._drawing(index) for _, indices in passes for index in indices)
        self._drawn = self.reader.read(drawings, ahead)

    def take(self, clips: int) -> Tensor:
        """Pixels (B, 3, H, W) of all pseudo-frames of the next clips that are expected."""
        return torch.cat([self._pixels(next(self._drawn)) for _ in range(clips)])

    def of(self, index: int) -> Tensor:
        """Pixels of one clip."""
        return self._pixels(next(self.reader.read([self._drawing(index)], 0)))

    def _drawing(self, index: int) -> Drawing:
        return Drawing({self.sense.name: self.sense}, self.examples[index], self.frames)

    def _pixels(self, drawn: dict[str, Frames]) -> Tensor:
        return self.backbone.pixels(drawn[self.sense.name].pixels)


def align(
    model: Lynx,
    modality: str | Modality,
    examples: Sequence[Example],
    guidance: Guidance,
    config: AlignConfig | None = None,
    out_dir: str | Path = "adapter",
    *,
    name: str | None = None,
    watch: Watch | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a sense's vision LoRA on unpaired media and write it as an adapter; returns the report.

    modality: a name, or a `Modality` with a rendering of its own. name: the adapter's, if not the modality's.
    watch: what is kept of the run, and where it is shown. workers: see `clip_reader`; they change no result.
    The adapter stays loaded. With `steps=0` it is written unaligned: the encoder as it is.

    Raises: AdapterError: an adapter of that name is loaded, or a `lora_B` got no gradient. DataError: the
    guidance is of another backbone, or the data hold no such sense.
    """
    config = config or AlignConfig()
    sense = modalities.get(modality)() if isinstance(modality, str) else modality
    backbone, out_dir = model.backbone, Path(out_dir)
    frames, source = config.frames or backbone.default_frames, describe_backbone(backbone)
    adapter = Adapter(name or sense.name, sense.name, sense.to_dict(), frames=frames, backbone=source)
    loss = AlignmentLoss(backbone, guidance, config)

    pictures = PicturesAhead(backbone, sense, examples, frames)
    with model.lock, ExitStack() as undo, ExitStack() as readers:
        model.add_adapter(adapter)
        undo.callback(model.unload_adapter, adapter.name)
        with seeded(config.seed):
            lora = model.add_lora(adapter.name, "vision", config.lora)
        of: dict[str, Any] = {
            "sense": sense.name,
            "adapter": adapter.name,
            "rendering": sense.to_dict(),
            "guidance": digest_of(guidance.token_mean.tolist()),
            "clips": [examples[0].id, examples[-1].id],  # reading the others may render them
        }
        # those of the first clip say how many clips are closest to so many pseudo-frames
        clips = max(1, round(config.batch_size / len(pictures.of(0))))
        trainer = Trainer(
            model.lora.tensors(lora),
            len(examples),
            lambda indices: loss(pictures.take(len(indices)), len(indices)),
            config,
            out_dir / "training" / "align",
            batch_size=clips,
            of=of,
            watch=watch,
            expect=partial(pictures.expect, ahead=clips),
            progress=progress,
        )
        if (finished := trainer.finished("align", out_dir)) is not None:
            undo.close()
            model.load_adapter(out_dir)
            return finished
        to_draw = trainer.steps * config.accumulate * clips  # in each process
        pictures.reader = readers.enter_context(
            clip_reader(workers, examples, to_draw, backbone.device, trainer.processes.count)
        )
        with loss.listening(), checkpointed(backbone.model, config.checkpointing):
            with model.sensing(adapter.name, train=True):
                report = {"stage": "align", "examples": len(examples), **trainer.run()}
        if report["without_gradient"] and config.beta and config.attention_weight:
            raise AdapterError(f"these weights never got a gradient: {', '.join(report['without_gradient'])}")
        report |= {"guidance_frames": guidance.frames, "config": config.to_dict(), "run": trainer.id}
        model.adapters[adapter.name] = replace(adapter, training={"align": report})
        if trainer.processes.main:
            save_adapter(model, adapter.name, out_dir)
        trainer.finish()
        undo.pop_all()
    return report
