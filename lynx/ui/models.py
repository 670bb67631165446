"""The models that the app keeps, which adapters fit them, and what they can sense. No Gradio."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import lynx
from lynx import modalities
from lynx.errors import LynxError
from lynx.types import VIDEO
from lynx.ui.host_policy import LOCAL, HostPolicy, conceal
from lynx.ui.types import EMBEDDED, AdapterOption, Sense, Setup

if TYPE_CHECKING:
    from lynx.adapters.format import Adapter
    from lynx.model import Lynx

AnyModality = modalities.Modality | type[modalities.Modality]
EMBEDDED_MODELS_KEPT = 8
"""Maximum models of the embedded backbone, with different adapters; of other, large ones one is kept."""
COMMIT_SHOWN = 8  # digits


class ModelCache:
    """Loaded models by setup, the last few of them.

    A load takes up to minutes. Only what needs that model, or another load, waits for it.
    policy: what may be named. on_evicted: called with each setup whose model is dropped, so that
    others release it too.
    """

    def __init__(self, policy: HostPolicy = LOCAL) -> None:
        self.policy = policy
        self.on_evicted: list[Callable[[Setup], None]] = []
        self._models: dict[Setup, Lynx] = {}  # the one used last at the end
        self._lock = threading.Lock()  # guards the dictionary; held for moments
        self._loading = threading.Lock()  # one load at a time: two may not fit into memory

    def get(self, setup: Setup) -> "Lynx":
        """The loaded model, which may replace older ones. Raises LynxError when it cannot be loaded."""
        if (model := self._kept(setup)) is not None:
            return model
        backbone = self.policy.backbone(setup.backbone)  # before anything is fetched, or makes room
        folders = [(source, self.policy.folder(source)) for source in setup.adapters]
        with self._loading, self.policy.concealed():
            if (model := self._kept(setup)) is not None:  # loaded for another visitor meanwhile
                return model
            from lynx.adapters.format import fetch_adapter
            from lynx.backbones.quantization import check_precision

            check_precision(setup.precision)
            # folders, not names, are loaded: a Hub id must not be read as a folder of the same name
            most = self.policy.max_adapter_bytes
            adapters = [folder or fetch_adapter(source, max_bytes=most).folder for source, folder in folders]
            # room is made before the load, since two models may not fit into memory
            embedded = setup.backbone == EMBEDDED
            limit = EMBEDDED_MODELS_KEPT if embedded else 1
            with self._lock:
                alike = [other for other in self._models if (other.backbone == EMBEDDED) == embedded]
                gone = alike[: max(0, len(alike) + 1 - limit)]
                for other in gone:
                    del self._models[other]
            for other in gone:
                for forget in self.on_evicted:
                    forget(other)
            model = lynx.load(backbone, adapters, setup.precision)
            with self._lock:
                self._models[setup] = model
            return model

    def _kept(self, setup: Setup) -> "Lynx | None":
        with self._lock:
            if setup in self._models:
                self._models[setup] = self._models.pop(setup)
            return self._models.get(setup)

    def kept(self) -> "tuple[Lynx, ...]":
        """All models that are kept."""
        with self._lock:
            return tuple(self._models.values())

    def loaded(self, backbone: str) -> "Lynx | None":
        """A model of that backbone, with any adapters; None where there is none."""
        with self._lock:
            return next((model for setup, model in self._models.items() if setup.backbone == backbone), None)

    def senses(self, setup: Setup) -> tuple[Sense, ...]:
        """The senses of a model, which is loaded for it. Raises LynxError when it cannot be."""
        model = self.get(setup)
        return as_senses([(name, model.modality(name)) for name in (VIDEO, *model.adapters)])

    def expected_senses(self, setup: Setup) -> tuple[Sense, ...]:
        """The senses that a setup will have, from its adapters' descriptions: nothing is loaded.

        An adapter that cannot be described is left out: loading it says why.
        """
        found: list[tuple[str, AnyModality]] = [(VIDEO, modalities.get(VIDEO))]
        for source in setup.adapters:
            try:
                adapter, _ = self._describe(source)
                found.append((adapter.name, modalities.get(adapter.modality)))
            except LynxError:
                continue
        return as_senses(found)

    def _describe(self, source: str) -> "tuple[Adapter, str | None]":
        """An adapter and its revision; of one on the Hub only its description is fetched."""
        from lynx.adapters.sharing import describe, describe_hub

        folder = self.policy.folder(source)
        with self.policy.concealed():
            return describe(folder) if folder else describe_hub(source)

    def options(self, backbone: str, sources: Sequence[str]) -> tuple[AdapterOption, ...]:
        """What each adapter is and whether it fits the backbone, loaded or not.

        Raises: LynxError: the backbone is not offered.
        """
        from lynx.adapters.sharing import mismatch, shares, trained_on

        model, given = self.loaded(backbone), self.policy.backbone(backbone)
        found = []
        for source in dict.fromkeys(sources):
            try:
                adapter, revision = self._describe(source)
                reason = mismatch(adapter, model.backbone if model is not None else given)
                data, measured = trained_on(adapter), shares(adapter.metrics)
                about = "; ".join(filter(None, (data and f"trained on {data}", measured)))
                option = AdapterOption(source, adapter.modality, revision or "", self._told(reason), about)
            except LynxError as error:
                option = AdapterOption(source, reason=str(error))
            found.append(option)
        return tuple(found)

    def trained_on(self, setup: Setup) -> tuple[str, ...]:
        """What a setup's adapters were trained on, each once; nothing is loaded."""
        from lynx.adapters.sharing import trained_on

        found = []
        for source in setup.adapters:
            with suppress(LynxError):  # loading it says why
                found.append(trained_on(self._describe(source)[0]))
        return tuple(dict.fromkeys(filter(None, found)))

    def one_a_sense(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Of the adapters of one modality the last, in the place of the first: two were not trained to be
        on together. Those that cannot be described stay, since loading them says why."""
        chosen: dict[str, str] = {}
        for source in sources:
            modality = source
            with suppress(LynxError):
                modality = self._describe(source)[0].modality
            chosen[modality] = source
        return tuple(chosen.values())

    def _told(self, text: str) -> str:
        return conceal(text) if self.policy.hosted else text

    def without_broken(self, setup: Setup) -> tuple[Setup, tuple[str, ...]]:
        """The setup without adapters whose folders are broken, and why each of those is left out.

        What does not fit the backbone, or has to be fetched first, stays: loading it says what is wrong.
        """
        if self._kept(setup) is not None:
            return setup, ()
        kept, reasons = [], []
        for source in setup.adapters:
            try:
                if self.policy.folder(source):
                    self._describe(source)
                kept.append(source)
            except LynxError as error:
                reasons.append(f"The adapter {source!r} was left out: {error}")
        return replace(setup, adapters=tuple(kept)), tuple(reasons)

    def forecast(self, setup: Setup) -> str:
        """The estimate of a conversation on this machine, as a sentence; nothing is loaded.

        Raises LynxError for a backbone or an adapter that is not there, or not in that precision.
        """
        from lynx.backbones.estimate import estimate

        backbone = self.policy.backbone(setup.backbone)
        for source in setup.adapters:
            self.policy.folder(source)
        names = [Path(source.partition("@")[0]).name for source in setup.adapters]
        with self.policy.concealed():
            needed = self._told(estimate(backbone, senses=names, precision=setup.precision).sentence)
        model = self.loaded(setup.backbone)
        commit = model.backbone.revision if model is not None else None
        return f"{needed}; loaded is its commit {commit[:COMMIT_SHOWN]}" if commit else needed


def as_senses(named: "Sequence[tuple[str, AnyModality]]") -> tuple[Sense, ...]:
    """Modalities by their adapters' names as the page knows them; where two have one label, with the name."""
    labels = [modality.label for _, modality in named]
    return tuple(
        Sense(name, label if labels.count(label) == 1 else f"{label} ({name})", modality.name, modality.takes)
        for label, (name, modality) in zip(labels, named, strict=True)
    )
