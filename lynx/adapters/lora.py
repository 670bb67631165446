"""The LoRAs of one frozen model: added, removed, and switched on only for the length of a `with`.

PEFT makes the layers that hold LoRAs, and trains them; they are kept beside the model. In the model stands
the stock linear layer, as it stood before any LoRA was added, and costs what it did.

off       the stock layers
on        the stock layers, whose `forward` adds one pair of products for all LoRAs that are on
training  PEFT's layers, with its dropout; gradients only for the LoRAs that a stage asks for by name
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from cachetools import LRUCache
from peft import LoraConfig
from torch import Tensor, nn

from lynx import compat
from lynx.backbones.loading import skeleton
from lynx.compat import PEFT_PREFIX
from lynx.config import LoraSettings
from lynx.types import tensor_bytes

MAX_BYTES = 2**29
"""Maximum bytes of the matrices that are kept because several LoRAs are on, or because those of one have
another precision than the model."""

SMALL = range(2**12 + 1, 2**17 + 1)
"""How many entries a bf16 matrix has whose product with one token is faster in fp32 on a CPU. Of more than
2^12 entries torch lets oneDNN make the product, where a call takes 11 us; to convert many takes longer."""

Forward = Callable[[Tensor], Tensor]


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


@dataclass(frozen=True)
class Layer:
    """A linear layer that has LoRAs."""

    parent: nn.Module
    name: str  # in its parent
    stock: Any  # the layer itself
    peft: Any  # PEFT's layer around it, which holds the LoRAs

    def put(self, module: nn.Module) -> None:
        """Let one of both stand in the model."""
        setattr(self.parent, self.name, module)


@dataclass(frozen=True)
class Fused:
    """A set of LoRAs that are on together: what each stock layer then computes."""

    forwards: list[tuple[Any, Forward]]
    nbytes: int  # of the matrices that are no LoRA's own


def with_lora(forward: Forward, a: Tensor, b: Tensor, scale: float) -> Forward:
    """`forward` of a layer plus `scale` times b a x. a: (r, in), b: (out, r)."""
    a_t, b_t, width = a.t()[None], b.t()[None], a.shape[1]
    batched = a.dtype is torch.float32  # in bf16 a CPU is slow at products with a transposed matrix
    a_x, b_x = one_token_product(a), one_token_product(b)

    def fused(x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        if x.numel() != width:
            return torch.add(forward(x), F.linear(F.linear(x, a), b), alpha=scale)
        if batched and x.ndim == 3:  # for one token two calls cost less than three
            return torch.baddbmm(forward(x), torch.bmm(x, a_t), b_t, alpha=scale)
        return torch.add(forward(x), b_x(a_x(x)), alpha=scale)

    return fused


def one_token_product(matrix: Tensor) -> Forward:
    """The function of x (..., in), one token, that gives matrix x (..., out). matrix: (out, in)."""
    if matrix.dtype is torch.bfloat16 and matrix.device.type == "cpu" and matrix.numel() in SMALL:
        return lambda x: F.linear(x.float(), matrix.float()).to(x.dtype)
    return lambda x: F.linear(x, matrix)


class LoraBank:
    """All LoRAs of a model; use it under one lock, since they are switched for the whole model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.settings: dict[str, LoraSettings] = {}
        self._injector: Any = None  # PEFT's `LoraModel`, while there are LoRAs
        self._layers: dict[str, Layer] = {}  # by their full names
        self.on: tuple[str, ...] = ()  # the LoRAs that are on now
        self._trained: tuple[str, ...] = ()
        self._digests: dict[str, bytes] = {}  # of weights, until they change
        self._standing: list[tuple[Any, Forward]] = []  # the stock layers that do not compute their own now
        self._fused: LRUCache[tuple[str, ...], Fused] = LRUCache(
            MAX_BYTES, lambda fused: min(fused.nbytes, MAX_BYTES)
        )

    def __contains__(self, name: str) -> bool:
        return name in self.settings

    def add(self, name: str, targets: str, settings: LoraSettings) -> None:
        """A fresh LoRA (B = 0, so it changes nothing yet) on the modules whose full names match `targets`."""
        if name in self.settings:
            raise ValueError(f"there is a LoRA {name!r} already")
        config = lora_config(targets, settings)
        with self._changing():
            try:
                self._injector = compat.inject_lora(self.model, self._injector, name, config)
                self.settings[name] = settings
            except BaseException:  # such as running out of memory half-way through the layers
                self._injector = compat.eject_lora(self.model, self._injector, name)
                raise

    def remove(self, name: str) -> None:
        """Take a LoRA out."""
        if name in self.on:
            raise ValueError(f"the LoRA {name!r} is on: leave its `with` first")
        with self._changing():
            self._injector = compat.eject_lora(self.model, self._injector, name)
            del self.settings[name]
            self._forget(name)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The weights of a LoRA under the names of PEFT's files; not copies."""
        return {
            f"{PEFT_PREFIX}{path}.lora_{matrix}.weight": weight
            for path, layer in self._layers.items()
            for matrix, weight in compat.lora_weights(layer.peft, name).items()
        }

    def fill(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy weights in; `tensors` has exactly the names and shapes of `tensors(name)`."""
        mine = self.tensors(name)
        if mine.keys() != tensors.keys():
            raise ValueError(f"the LoRA {name!r} has other tensors than these")
        with self.active():  # what is computed with now may be a copy of them
            self._forget(name)
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
        with self._as_they_were():
            self._switch(tuple(names), tuple(train))
            yield

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Inside the `with` PEFT's layers stand in the model, where PEFT looks for them, and are off."""
        with self.active():
            for layer in self._layers.values():
                layer.put(layer.peft)
            try:
                yield
            finally:
                self._layers = {}
                for path, peft in compat.lora_layers(self.model).items():
                    parent, _, name = path.rpartition(".")
                    layer = Layer(self.model.get_submodule(parent), name, compat.stock_layer(peft), peft)
                    self._layers[path] = layer
                for layer in self._layers.values():
                    compat.switch_lora(layer.peft, (), ())  # PEFT switches on what it adds
                    layer.put(layer.stock)
                self._fused.clear()

    @contextmanager
    def _as_they_were(self) -> Iterator[None]:
        """After the `with`, in which others may be on, those that were on before it are on again."""
        before = self.on, self._trained
        try:
            yield
        finally:
            self._switch(*before)

    def _forget(self, name: str) -> None:
        """Drop what was made of the weights of a LoRA, which change."""
        self._digests.pop(name, None)
        for names in [names for names in self._fused if name in names]:
            del self._fused[names]

    def _switch(self, names: tuple[str, ...], train: tuple[str, ...]) -> None:
        """From the LoRAs that are on to these; where that fails all are off."""
        for stock, _ in self._standing:
            del vars(stock)["forward"]
        if self._trained:
            self._put_peft(self.on, (), ())
        for name in (*train, *self._trained):  # their weights may change
            self._forget(name)
        self.on, self._trained, self._standing = (), (), []
        if train:
            self._put_peft(names, names, train)
        else:
            self._standing = self._fuse(names)
            for stock, forward in self._standing:
                vars(stock)["forward"] = forward  # found before that of its class
        self.on, self._trained = names, train

    def _put_peft(self, holding: Sequence[str], names: Sequence[str], train: Sequence[str]) -> None:
        """Let PEFT's layers stand where one holds any of `holding`; the stock layers for no names."""
        for layer in self._holding(holding):
            compat.switch_lora(layer.peft, names, train)
            layer.put(layer.peft if names else layer.stock)

    def _holding(self, names: Sequence[str]) -> list[Layer]:
        """The layers that hold any of these LoRAs."""
        layers = self._layers.values()
        return [layer for layer in layers if not set(names).isdisjoint(compat.lora_names(layer.peft))]

    def _fuse(self, names: tuple[str, ...]) -> list[tuple[Any, Forward]]:
        """What the layers that hold any of these LoRAs compute while they are on."""
        if (kept := self._fused.get(names)) is not None:
            return kept.forwards
        forwards, nbytes = [], 0
        for layer in self._holding(names):
            held = [name for name in names if name in compat.lora_names(layer.peft)]
            pairs = [compat.lora_weights(layer.peft, name) for name in held]
            scales = [self.settings[name].alpha / self.settings[name].rank for name in held]
            a, b, scale = pairs[0]["A"].detach(), pairs[0]["B"].detach(), scales[0]  # no copies
            if len(held) > 1:
                a = torch.cat([pair["A"].detach() for pair in pairs])  # (sum of r, in)
                b = torch.cat([s * pair["B"].detach() for s, pair in zip(scales, pairs, strict=True)], dim=1)
                scale = 1.0
            like: Any = layer.stock.weight
            if not like.is_floating_point():  # quantized: it takes what the rest of the model computes in
                like = self.model
            a, b = a.to(like.device, like.dtype), b.to(like.device, like.dtype)
            forwards.append((layer.stock, with_lora(layer.stock.forward, a, b, scale)))
            own = {weight.data_ptr() for weight in pairs[0].values()}
            nbytes += sum(matrix.nbytes for matrix in (a, b) if matrix.data_ptr() not in own)
        self._fused[names] = Fused(forwards, nbytes)
        return forwards


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
