"""Stage 2, interface alignment: train a sense's vision LoRA so that its pseudo-frames land on the interface.

Unpaired: only the sense's own media are looked at, without video, text or LLM. The loss is
attention_weight * L_attn + beta * L_stat (`losses.py`); batches are counted in pseudo-frames, and every frame
weighs the same however the encoder splits them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lynx import modalities
from lynx.adapters.format import Adapter
from lynx.adapters.saving import describe_backbone, save_adapter
from lynx.backbones import Backbone
from lynx.backbones.attention import recording
from lynx.config import AlignConfig
from lynx.datasets.base import Example
from lynx.datasets.clips import render_clip
from lynx.errors import AdapterError, DataError
from lynx.modalities import Modality
from lynx.model import Lynx
from lynx.training.guidance import Guidance
from lynx.training.losses import attention_loss, response_distance, statistics_loss
from lynx.training.trainer import Trainer, checkpointed, digest_of, seeded


class AlignmentLoss:
    """The loss of stage 2 over batches of pixels, on a backbone whose attention it listens to.

    Keep `listening` open until after the backward pass: with checkpointing the forward pass is computed again
    there, and has to do the same again.
    """

    def __init__(self, backbone: Backbone, guidance: Guidance, config: AlignConfig) -> None:
        guidance.check(backbone)
        self.backbone, self.config = backbone, config
        device = backbone.device
        self._keys = [mean.to(device, backbone.dtype) for mean in guidance.keys]
        self._values = [mean.to(device, backbone.dtype) for mean in guidance.values]
        self._mean, self._var = guidance.token_mean.to(device), guidance.token_var.to(device)
        self._sums: dict[int, list[tuple[Tensor, int]]] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the `with` the encoder's attention is compared with the guidance."""
        with recording(self.backbone, vision=self._tap):
            yield

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Pixels of a batch of pseudo-frames -> loss, attention_loss, statistics_loss: scalars."""
        self._sums = {}
        tokens, layout = self.backbone.encode(pixels)
        # A recomputed forward pass adds to another dict: these sums are final.
        sums, self._sums = self._sums, {}
        layers = [
            sum((total for total, _ in sums[i]), torch.zeros((), device=tokens.device))
            / sum(count for _, count in sums[i])
            for i in sorted(sums)
        ]
        attention = attention_loss(layers, self.config.layer_reduction)
        on_frames = (layout.frame >= 0).to(tokens.device)
        statistics = statistics_loss(tokens[on_frames], self._mean, self._var)
        loss = self.config.attention_weight * attention + self.config.beta * statistics
        return {"loss": loss, "attention_loss": attention, "statistics_loss": statistics}

    def _tap(
        self, layer: int, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, output: Tensor
    ) -> None:
        even = self.config.query_subset == "even"
        queries = self.backbone.even_queries(query.shape[2]).to(query.device) if even else None
        keys, values = self._keys[layer], self._values[layer]
        if keys.shape[-2:] != query.shape[-2:]:
            raise DataError(
                f"layer {layer} sees queries {tuple(query.shape[-2:])}, the guidance has keys "
                f"{tuple(keys.shape[-2:])}: both must be of one resolution"
            )
        distance = response_distance(query, output, keys, values, output_projection(module), queries)
        self._sums.setdefault(layer, []).append(distance)


def output_projection(attention: nn.Module) -> nn.Module:
    """The module that mixes the heads, LoRA included, under whichever name its family gives it."""
    for name in ("out_proj", "proj", "projection_layer", "o_proj"):
        module = getattr(attention, name, None)
        if isinstance(module, nn.Module):
            return module
    raise AdapterError(f"{type(attention).__name__} has no output projection that is known here")


def align(
    model: Lynx,
    modality: str | Modality,
    examples: Sequence[Example],
    guidance: Guidance,
    config: AlignConfig | None = None,
    out_dir: str | Path = "adapter",
    *,
    name: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a sense's vision LoRA on unpaired media and write it as an adapter; returns the report.

    modality: a name, or a `Modality` with a rendering of its own. name: the adapter's, if not the modality's.
    The adapter stays loaded. With `steps=0` it is written unaligned: the encoder as it is.

    Raises:
        AdapterError: an adapter of that name is loaded, or a `lora_B` got no gradient.
        DataError: the guidance is of another backbone, or the data hold no such sense.
    """
    config = config or AlignConfig()
    sense = modalities.get(modality)() if isinstance(modality, str) else modality
    adapter = Adapter(
        name or sense.name,
        sense.name,
        sense.to_dict(),
        frames=config.frames or model.backbone.default_frames,
        backbone=describe_backbone(model.backbone),
    )
    loss = AlignmentLoss(model.backbone, guidance, config)
    with model.lock, ExitStack() as undo:
        model.add_adapter(adapter)
        undo.callback(model.unload_adapter, adapter.name)
        with seeded(config.seed):
            lora = model.add_lora(adapter.name, "vision", config.lora)
        of = {
            "sense": sense.name,
            "adapter": adapter.name,
            "rendering": sense.to_dict(),
            "guidance": digest_of(guidance.token_mean.tolist()),
            "clips": [examples[0].id, examples[-1].id],  # the others may have to be drawn
        }
        trainer = _trainer(model, lora, sense, examples, loss, Path(out_dir), progress, of)
        if (finished := trainer.finished("align", Path(out_dir))) is not None:
            undo.close()
            model.load_adapter(out_dir)
            return finished
        with loss.listening(), checkpointed(model.backbone.model, config.checkpointing):
            with model.sensing(adapter.name, train=True):
                report = {"stage": "align", "examples": len(examples), **trainer.run()}
        if report["without_gradient"] and config.beta and config.attention_weight:
            raise AdapterError(f"these weights never got a gradient: {', '.join(report['without_gradient'])}")
        report |= {"guidance_frames": guidance.frames, "config": config.to_dict(), "run": trainer.id}
        model.adapters[adapter.name] = replace(adapter, training={"align": report})
        if trainer.accelerator.is_main_process:
            save_adapter(model, adapter.name, out_dir)
        trainer.finish()
        undo.pop_all()
    return report


def _trainer(
    model: Lynx,
    lora: str,
    sense: Modality,
    examples: Sequence[Example],
    loss: AlignmentLoss,
    folder: Path,
    progress: bool,
    of: Mapping[str, Any],
) -> Trainer:
    """A trainer whose batches are as many clips as come closest to `batch_size` pseudo-frames."""
    backbone, config = model.backbone, loss.config
    asked = config.frames or backbone.default_frames

    def pixels(index: int) -> Tensor:
        return backbone.pixels(render_clip({sense.name: sense}, examples[index], asked)[sense.name].pixels)

    per_clip = len(pixels(0))
    return Trainer(
        model.lora.tensors(lora),
        len(examples),
        lambda indices: loss(torch.cat([pixels(index) for index in indices])),
        config,
        folder / "training" / "align",
        batch_size=max(1, round(config.batch_size / per_clip)),
        of=of,
        progress=progress,
    )
