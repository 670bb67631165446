"""A frozen backbone and the adapters added to it. Adapters act only inside `with`, under one lock."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from torch import Tensor

from lynx import modalities
from lynx.adapters.format import Adapter, read_adapter, resolve_adapter
from lynx.adapters.lora import LoraBank
from lynx.adapters.tuned_on import TunedOn
from lynx.backbones import Backbone
from lynx.backbones.familiarity import FamiliarTokens
from lynx.config import LoraSettings
from lynx.errors import AdapterError
from lynx.modalities import Modality
from lynx.types import VIDEO


class AdaptedBackbone:
    """A backbone with adapters, all off until they are used.

    Context managers that hold `lock` switch adapters on and restore the previous state. A *sense* is "video",
    the name of a loaded adapter, or a modality that exactly one loaded adapter brings.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.lora = LoraBank(backbone.model)
        self.adapters: dict[str, Adapter] = {}
        self.type_embeddings: dict[str, Tensor] = {}
        self.familiar_tokens: dict[str, FamiliarTokens] = {}  # by adapter
        self.tuned_on: dict[str, TunedOn] = {}  # by adapter, where that is known
        self._loras: dict[tuple[str, str], str] = {}  # (adapter, part) -> name in `lora`; some share one
        self.lock = threading.RLock()

    @cached_property
    def fingerprint(self) -> dict[str, int | str]:
        """The backbone's fingerprint, computed once since its weights are frozen."""
        return self.backbone.fingerprint()

    def load_adapter(self, source: str | Path) -> Adapter:
        """Add a trained adapter from a folder or a Hub id; it stays off until it is used.

        Raises: AdapterError: not an adapter, of another backbone, unsafe; the model stays as it was.
        """
        files = read_adapter(resolve_adapter(source), self.backbone)
        with self.lock, ExitStack() as undo:
            adapter = self.add_adapter(files.adapter)
            undo.callback(self.unload_adapter, adapter.name)
            for part, (settings, tensors) in files.parts.items():
                # Adapters tuned together have the same LLM LoRA. It is kept once and shared, since applied
                # twice it would count double.
                llm = {lora for (_, other), lora in self._loras.items() if part == other == "llm"}
                shared = next((lora for lora in llm if self.lora.equal(lora, settings, tensors)), None)
                if shared is not None:
                    self._loras[adapter.name, part] = shared
                else:
                    self.lora.fill(self.add_lora(adapter.name, part, settings), tensors)
            if files.type_embedding is not None:
                self.type_embeddings[adapter.name] = files.type_embedding.to(self.backbone.device)
            if files.familiar is not None:
                self.familiar_tokens[adapter.name] = files.familiar
            if files.tuned_on is not None:
                self.tuned_on[adapter.name] = files.tuned_on
            undo.pop_all()
        return adapter

    def add_adapter(self, adapter: Adapter) -> Adapter:
        """Register an adapter that has no LoRA yet; `add_lora` gives it one."""
        modalities.get(adapter.modality).from_dict(dict(adapter.rendering))
        self.check_placement(adapter)
        with self.lock:
            if adapter.name in self.adapters:
                name = f"an adapter named {adapter.name!r}"
                raise AdapterError(f"{name} is loaded already: unload it first, or rename one")
            self.adapters[adapter.name] = adapter
        return adapter

    def check_placement(self, adapter: Adapter) -> None:
        """Raises: AdapterError where the family does not support the adapter's placement."""
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
            while lora in self.lora:  # of a removed adapter of that name, still shared by another
                lora += "_"
            self.lora.add(lora, targets[part], settings)
            self._loras[name, part] = lora
        return lora

    def share_llm(self, name: str, others: Sequence[str]) -> None:
        """Share the LLM LoRA of `name` with other adapters, in place of their own; it is applied once."""
        with self.lock:
            lora = self._loras[self.adapter(name).name, "llm"]
            for other in (self.adapter(each).name for each in others):
                if self._loras.get((other, "llm")) != lora:
                    self.remove_lora(other, "llm")
                    self._loras[other, "llm"] = lora

    def remove_lora(self, name: str, part: str) -> None:
        """Remove a part of an adapter, if it has it; its LoRA goes with the last adapter that uses it."""
        with self.lock:
            lora = self._loras.pop((name, part), None)
            if lora is not None and lora not in self._loras.values():
                self.lora.remove(lora)

    def unload_adapter(self, name: str) -> None:
        """Remove an adapter and its LoRAs from the model."""
        with self.lock:
            self.adapter(name)
            for part in self.parts(name):
                self.remove_lora(name, part)
            self.type_embeddings.pop(name, None)
            self.familiar_tokens.pop(name, None)
            self.tuned_on.pop(name, None)
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

    def familiar(self, sense: str) -> FamiliarTokens | None:
        """What the clips of a sense looked like in training; None where that is not known."""
        if sense == VIDEO:
            return self.backbone.familiar
        return self.familiar_tokens.get(self.adapter(sense).name)

    @contextmanager
    def using(self, *senses: str) -> Iterator[None]:
        """Inside the `with` the LLM LoRAs of these senses are on, together; with none, the stock model."""
        with self.lock, self.lora.active(self.llm_loras(*senses)):
            yield

    def llm_loras(self, *senses: str) -> tuple[str, ...]:
        """The LoRAs that are on in the LLM while these senses are used."""
        names = (self.adapter(sense).name for sense in senses if sense != VIDEO)
        return tuple(dict.fromkeys(self._loras[n, "llm"] for n in names if (n, "llm") in self._loras))

    def llm_identity(self, *senses: str) -> tuple[bytes, ...]:
        """Digests of the LLM LoRAs that these senses switch on: of their weights, not of their names."""
        return tuple(self.lora.digest(lora) for lora in self.llm_loras(*senses))

    @contextmanager
    def sensing(self, sense: str, train: bool = False) -> Iterator[None]:
        """Inside the `with` that sense's vision LoRA is on ("video": none); `train` gives it gradients."""
        with self.lock:
            lora = None if sense == VIDEO else self._loras.get((self.adapter(sense).name, "vision"))
            names = [lora] if lora else []
            with self.lora.active(names, names if train else ()):
                yield

    def placement(self, sense: str) -> str:
        """The placement of the sense's tokens, one of PLACEMENTS."""
        return "continue" if sense == VIDEO else self.adapter(sense).placement

    def type_embedding(self, sense: str) -> Tensor | None:
        """The vector (D,) added to the sense's tokens before the LLM, if its adapter has one."""
        return None if sense == VIDEO else self.type_embeddings.get(self.adapter(sense).name)
