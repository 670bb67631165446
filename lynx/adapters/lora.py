"""The LoRAs inside one frozen model: added, removed, and switched on only for the length of a `with`.

At rest every LoRA is off and frozen, and the model computes exactly what it did before any was added. PEFT's
own switches turn gradients on as they go; here a LoRA has gradients only where a stage asks for them by name.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import Tensor, nn

from lynx import compat
from lynx.backbones.loading import skeleton
from lynx.compat import PEFT_PREFIX
from lynx.config import LoraSettings
from lynx.types import tensor_bytes


def lora_config(targets: str, settings: LoraSettings) -> LoraConfig:
    """PEFT's description of one LoRA. targets: a regex of full module names."""
    alpha: Any = settings.alpha  # PEFT's annotation is int, but it only divides by r
    dropout = settings.dropout
    return LoraConfig(r=settings.rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)


def merge(
    parts: Sequence[tuple[LoraSettings, Mapping[str, Tensor]]], settings: LoraSettings
) -> dict[str, Tensor]:
    """The sum of LoRAs on the same modules as one of `settings.rank`, under PEFT's names.

    Where their ranks add up to more, the best approximation of that rank (truncated singular value
    decomposition). Raises: ValueError: they add up to less, which would leave rows that are never trained.
    """
    # Not PEFT's `add_weighted_adapter(combination_type="svd")`: that multiplies B A out and decomposes a
    # matrix of (out, in) for every module. The QR of the thin factors leaves one of (R, R), where R is the
    # sum of the ranks.
    if sum(part.rank for part, _ in parts) < settings.rank:
        raise ValueError(f"{len(parts)} LoRAs have fewer rows than the rank {settings.rank} asked for")
    # each update is alpha / r * B A; B takes that factor, divided by the one that the sum will have
    scales = [part.alpha / part.rank * settings.rank / settings.alpha for part, _ in parts]
    merged = {}
    for key in parts[0][1]:
        module, _, matrix = key.removesuffix(".weight").rpartition(".lora_")
        if matrix != "A":
            continue
        a = torch.cat([tensors[f"{module}.lora_A.weight"].float() for _, tensors in parts])  # (R, in)
        bs = [tensors[f"{module}.lora_B.weight"].float() for _, tensors in parts]  # (out, rank) each
        b = torch.cat([scale * each for scale, each in zip(scales, bs, strict=True)], 1)  # (out, R)
        left, b_core = torch.linalg.qr(b)  # (out, R), (R, R)
        right, a_core = torch.linalg.qr(a.T)  # (in, R), (R, R)
        u, s, v = torch.linalg.svd(b_core @ a_core.T, full_matrices=False)
        root = s[: settings.rank].sqrt()  # shared between both factors, so that they train alike
        a = root[:, None] * (v[: len(root)] @ right.T)  # (r, in)
        b = (left @ u[:, : len(root)]) * root  # (out, r)
        more = settings.rank - len(root)  # a module may be narrower than the rank
        merged[f"{module}.lora_A.weight"] = F.pad(a, (0, 0, 0, more))
        merged[f"{module}.lora_B.weight"] = F.pad(b, (0, more))
    return merged


class LoraBank:
    """All LoRAs of a model, which stays a stock transformers object whose linear layers are wrapped."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.settings: dict[str, LoraSettings] = {}
        self._injector: Any = None  # PEFT's `LoraModel`, while there are LoRAs
        self._layers: dict[str, Any] = {}  # the layers that hold LoRAs, by their full names
        self.on: tuple[str, ...] = ()  # the LoRAs that are on now
        self._trained: tuple[str, ...] = ()
        self._digests: dict[str, bytes] = {}  # of weights, until they change

    def __contains__(self, name: str) -> bool:
        return name in self.settings

    def add(self, name: str, targets: str, settings: LoraSettings) -> None:
        """A fresh LoRA (B = 0, so it changes nothing yet) on the modules whose full names match `targets`."""
        if name in self.settings:
            raise ValueError(f"there is a LoRA {name!r} already")
        config = lora_config(targets, settings)
        try:
            self._injector = compat.inject_lora(self.model, self._injector, name, config)
            self.settings[name] = settings
        except BaseException:  # such as running out of memory half-way through the layers
            self._injector = compat.eject_lora(self.model, self._injector, name)
            raise
        finally:
            self._restore_switches()

    def remove(self, name: str) -> None:
        """Take a LoRA out; a layer that has none left becomes the stock layer again."""
        if name in self.on:
            raise ValueError(f"the LoRA {name!r} is on: leave its `with` first")
        self._injector = compat.eject_lora(self.model, self._injector, name)
        del self.settings[name]
        self._digests.pop(name, None)
        self._restore_switches()

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The weights of a LoRA under the names of PEFT's files; not copies."""
        return {
            f"{PEFT_PREFIX}{path}.lora_{matrix}.weight": weight
            for path, layer in self._layers.items()
            for matrix, weight in compat.lora_weights(layer, name).items()
        }

    def fill(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy weights in; `tensors` has exactly the names and shapes of `tensors(name)`."""
        mine = self.tensors(name)
        if mine.keys() != tensors.keys():
            raise ValueError(f"the LoRA {name!r} has other tensors than these")
        self._digests.pop(name, None)
        for key, weight in mine.items():
            weight.data.copy_(tensors[key])

    def digest(self, name: str) -> bytes:
        """A digest of a LoRA's scale and of all its weights, which are read once until they change.

        `fill` and training change them; whoever else writes to `tensors(name)` has to call `fill`.
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
        """Whether a LoRA has these settings and weights, compared in its own precision."""
        mine = self.tensors(name) if self.settings[name] == settings else {}
        return mine.keys() == tensors.keys() and all(w.equal(tensors[key].to(w)) for key, w in mine.items())

    @contextmanager
    def active(self, names: Sequence[str] = (), train: Sequence[str] = ()) -> Iterator[None]:
        """Inside the `with` exactly these LoRAs are on; those of `train` have gradients and dropout too.

        Afterwards the previous LoRAs are on again, even after an error.
        """
        unknown = sorted(set(names) - self.settings.keys()) + sorted(set(train) - set(names))
        if unknown:
            raise ValueError(f"no LoRA {', '.join(unknown)} among {', '.join(self.settings) or 'none'}")
        before = self.on, self._trained
        self._switch(tuple(names), tuple(train))
        try:
            yield
        finally:
            self._switch(*before)

    def _restore_switches(self) -> None:
        """Look the layers up again, and undo what PEFT switched on while it added or removed a LoRA."""
        self._layers = compat.lora_layers(self.model)
        for layer in self._layers.values():
            compat.switch_lora(layer, self.on, self._trained)

    def _switch(self, names: tuple[str, ...], train: tuple[str, ...]) -> None:
        for name in (*train, *self._trained):  # their weights may change
            self._digests.pop(name, None)
        concerned = {*names, *self.on}
        for layer in self._layers.values():
            # every answer switches twice, so layers where nothing changes are skipped
            if not concerned.isdisjoint(compat.lora_names(layer)):
                compat.switch_lora(layer, names, train)
        self.on, self._trained = names, train


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
