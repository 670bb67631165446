"""The LoRAs inside one frozen model: added, removed, and switched on only for the length of a `with`.

At rest every LoRA is off and frozen, and the model computes exactly what it did before any was added. PEFT's
own switches turn gradients on as they go; here a LoRA has gradients only where a stage asks for them by name.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lynx.backbones.loading import skeleton
from lynx.compat import PEFT_PREFIX
from lynx.config import LoraSettings
from lynx.types import tensor_bytes


def lora_config(targets: str, settings: LoraSettings) -> LoraConfig:
    """PEFT's description of one LoRA."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT only divides it by r
        lora_dropout=settings.dropout,
        target_modules=targets,
    )


def merge(
    parts: Sequence[tuple[LoraSettings, Mapping[str, Tensor]]], settings: LoraSettings
) -> dict[str, Tensor]:
    """The sum of LoRAs on the same modules as one of `settings.rank`, under PEFT's names.

    Where their ranks together are more, the best of that rank (truncated singular value decomposition, of the
    thin factors alone). Raises: ValueError: the ranks together are less, which would leave rows untrainable.
    """
    if sum(part.rank for part, _ in parts) < settings.rank:
        raise ValueError(f"{len(parts)} LoRAs have fewer rows than the rank {settings.rank} asked for")
    merged = {}
    for key in parts[0][1]:
        module, _, matrix = key.removesuffix(".weight").rpartition(".lora_")
        if matrix != "A":
            continue
        scales = [part.alpha / part.rank * settings.rank / settings.alpha for part, _ in parts]
        a = torch.cat([tensors[f"{module}.lora_A.weight"].float() for _, tensors in parts])  # (R, in)
        b = torch.cat(
            [s * t[f"{module}.lora_B.weight"].float() for s, (_, t) in zip(scales, parts, strict=True)], 1
        )  # (out, R)
        left, b_core = torch.linalg.qr(b)
        right, a_core = torch.linalg.qr(a.T)
        u, s, v = torch.linalg.svd(b_core @ a_core.T, full_matrices=False)
        root = s[: settings.rank].sqrt()
        more = settings.rank - len(root)  # a module may be thinner than the rank asked for
        a, b = root[:, None] * (v[: len(root)] @ right.T), (left @ u[:, : len(root)]) * root
        merged[f"{module}.lora_A.weight"] = F.pad(a, (0, 0, 0, more))
        merged[f"{module}.lora_B.weight"] = F.pad(b, (0, more))
    return merged


class LoraBank:
    """All LoRAs of a model, which stays a stock transformers object whose linear layers are wrapped."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.settings: dict[str, LoraSettings] = {}
        self._injector: LoraModel | None = None
        self._layers: dict[str, LoraLayer] = {}
        self._on: tuple[str, ...] = ()
        self._trained: tuple[str, ...] = ()
        self._digests: dict[str, bytes] = {}  # of weights, until they change

    def __contains__(self, name: str) -> bool:
        return name in self.settings

    @property
    def on(self) -> tuple[str, ...]:
        """The LoRAs that are on now."""
        return self._on

    def add(self, name: str, targets: str, settings: LoraSettings) -> None:
        """A fresh LoRA (B = 0, so it changes nothing yet) on the modules whose full names match `targets`."""
        if name in self.settings:
            raise ValueError(f"there is a LoRA {name!r} already")
        config = lora_config(targets, settings)
        if self._injector is None:
            self._injector = LoraModel(self.model, {name: config}, name)
        else:
            self._injector.peft_config[name] = config
            self._injector.inject_adapter(self.model, name)
        self.settings[name] = settings
        self._settle()

    def remove(self, name: str) -> None:
        """Take a LoRA out; a layer that has none left becomes the stock layer again."""
        if name in self._on:
            raise ValueError(f"the LoRA {name!r} is on: leave its `with` first")
        for path, layer in self._of(name).items():
            layer.delete_adapter(name)
            if not layer.lora_A:
                parent, _, child = path.rpartition(".")
                setattr(self.model.get_submodule(parent), child, layer.get_base_layer())
        del self.settings[name]
        self._digests.pop(name, None)
        if self._injector is not None:
            del self._injector.peft_config[name]
        if not self.settings:
            self._injector = None
            del self.model.peft_config
        self._settle()

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The weights of a LoRA under the names of PEFT's files; not copies."""
        return {
            f"{PEFT_PREFIX}{path}.lora_{matrix}.weight": getattr(layer, f"lora_{matrix}")[name].weight
            for path, layer in self._of(name).items()
            for matrix in "AB"
        }

    def fill(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy weights in; `tensors` has the names and shapes of `tensors(name)`, no more and no less."""
        mine = self.tensors(name)
        if mine.keys() != tensors.keys():
            raise ValueError(f"the LoRA {name!r} has other tensors than these")
        self._digests.pop(name, None)
        for key, weight in mine.items():
            weight.data.copy_(tensors[key])

    def digest(self, name: str) -> bytes:
        """A digest of a LoRA's scale and of all its weights, which are read once until they change.

        They change in `fill` and while it is trained; who writes to `tensors(name)` otherwise, calls `fill`.
        """
        weights = self._digests.get(name)
        if weights is None:
            hashed = hashlib.blake2b(digest_size=16)
            for key, tensor in sorted(self.tensors(name).items()):
                hashed.update(key.encode() + tensor_bytes(tensor))
            weights = hashed.digest()
            if name not in self._trained:
                self._digests[name] = weights
        scale = self.settings[name].alpha / self.settings[name].rank
        return hashlib.blake2b(repr(scale).encode() + weights, digest_size=16).digest()

    def equal(self, name: str, settings: LoraSettings, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a LoRA is of this size and holds these weights, in its own precision."""
        mine = self.tensors(name) if self.settings[name] == settings else {}
        return mine.keys() == tensors.keys() and all(w.equal(tensors[key].to(w)) for key, w in mine.items())

    @contextmanager
    def active(self, names: Sequence[str] = (), train: Sequence[str] = ()) -> Iterator[None]:
        """Inside the `with` exactly these LoRAs are on; those of `train` have gradients and dropout too.

        What was on before is on again afterwards, whatever happens inside.
        """
        unknown = sorted(set(names) - self.settings.keys()) + sorted(set(train) - set(names))
        if unknown:
            raise ValueError(f"no LoRA {', '.join(unknown)} among {', '.join(self.settings) or 'none'}")
        before = self._on, self._trained
        self._switch(tuple(names), tuple(train))
        try:
            yield
        finally:
            self._switch(*before)

    def _of(self, name: str) -> dict[str, LoraLayer]:
        return {path: layer for path, layer in self._layers.items() if name in layer.lora_A}

    def _settle(self) -> None:
        """Find the layers, and undo what PEFT switched on while it added or removed a LoRA."""
        modules = self.model.named_modules()
        self._layers = {path: module for path, module in modules if isinstance(module, LoraLayer)}
        for layer in self._layers.values():
            self._set(layer, self._on, self._trained)

    @staticmethod
    def _set(layer: LoraLayer, names: Sequence[str], train: Sequence[str]) -> None:
        layer.set_adapter(list(names), inference_mode=True)
        layer.set_requires_grad(list(train), True)
        for name, dropout in layer.lora_dropout.items():
            dropout.train(name in train)

    def _switch(self, names: tuple[str, ...], train: tuple[str, ...]) -> None:
        for name in (*train, *self._trained):  # what was remembered is, or may soon be, no longer so
            self._digests.pop(name, None)
        concerned = {*names, *self._on}
        for layer in self._layers.values():
            # switching is on the way of every answer: leave the layers alone for which nothing changes
            if not concerned.isdisjoint(layer.lora_A.keys()):
                self._set(layer, names, train)
        self._on, self._trained = names, train


def count_parameters(name: str, rank: int = 64) -> dict[str, int]:
    """Parameters that one modality adds to a backbone, counted from tensors on the meta device.

    name: as for `skeleton`. Returns {"vision", "llm", "total"}: the LoRA of the vision tower, that of the
    LLM, their sum.
    """
    backbone = skeleton(name)
    with torch.device("meta"):
        loras = LoraBank(backbone.model)
        for part, targets in (("vision", backbone.vision_targets), ("llm", backbone.llm_targets)):
            loras.add(part, targets, LoraSettings(rank, alpha=rank, dropout=0.0))
    counts = {part: sum(t.numel() for t in loras.tensors(part).values()) for part in ("vision", "llm")}
    return {**counts, "total": sum(counts.values())}
