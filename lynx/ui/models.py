"""The models that the app keeps, which adapters fit them, and what they can sense. No Gradio."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import lynx
from lynx import modalities
from lynx.errors import LynxError
from lynx.types import VIDEO
from lynx.ui.adapter_policy import ANY_FOLDER, AdapterPolicy
from lynx.ui.types import EMBEDDED, PICTURE, AdapterOption, Sense, Setup

if TYPE_CHECKING:
    from lynx.adapters.format import Adapter
    from lynx.model import Lynx

EMBEDDED_MODELS_KEPT = 4
"""Models of the embedded backbone, with different adapters; of real ones, which fill a machine, just one."""
COMMIT_SHOWN = 8  # digits


class ModelCache:
    """Loaded models by setup, the last few of them.

    A load takes up to minutes. Only what needs that model, or another load, waits for it.

    policy: which adapters may be named; every way to one goes through it.
    on_evicted: told of each setup whose model is let go of, so that nothing else goes on holding it.
    """

    def __init__(self, policy: AdapterPolicy = ANY_FOLDER) -> None:
        self.policy = policy
        self.on_evicted: list[Callable[[Setup], None]] = []
        self._models: OrderedDict[Setup, Lynx] = OrderedDict()
        self._lock = threading.Lock()  # guards the dictionary; held for moments
        self._loading = threading.Lock()  # one load at a time: two may not fit into memory

    def get(self, setup: Setup) -> "Lynx":
        """The loaded model; it takes the place of older ones, which load again when they are asked for.

        Raises LynxError when it cannot be loaded.
        """
        if (model := self._kept(setup)) is not None:
            return model
        with self._loading:
            if (model := self._kept(setup)) is not None:  # loaded for another visitor meanwhile
                return model
            # Folders, not names, are what is loaded: a Hub id must not be read as a folder of the same name.
            from lynx.adapters.format import fetch_adapter

            folders = [self.policy.folder(source) for source in setup.adapters]  # before anything is fetched
            adapters = [
                folder or fetch_adapter(source).folder
                for source, folder in zip(setup.adapters, folders, strict=True)
            ]
            self._make_room(setup)
            model = lynx.load(setup.backbone, adapters, setup.precision)
            with self._lock:
                self._models[setup] = model
            return model

    def _kept(self, setup: Setup) -> "Lynx | None":
        with self._lock:
            if setup in self._models:
                self._models.move_to_end(setup)
            return self._models.get(setup)

    def _make_room(self, setup: Setup) -> None:
        """Let go of models, before another one is loaded."""
        embedded = setup.backbone == EMBEDDED
        most = EMBEDDED_MODELS_KEPT if embedded else 1
        with self._lock:
            alike = [other for other in self._models if (other.backbone == EMBEDDED) == embedded]
            gone = alike[: max(0, len(alike) + 1 - most)]
            for other in gone:
                del self._models[other]
        for other in gone:
            for forget in self.on_evicted:
                forget(other)

    def loaded(self, backbone: str) -> "Lynx | None":
        """A model of that backbone, with whichever adapters; None where there is none."""
        with self._lock:
            return next((model for setup, model in self._models.items() if setup.backbone == backbone), None)

    def senses(self, setup: Setup) -> tuple[Sense, ...]:
        """The senses of a model, which is loaded for it. Raises LynxError when it cannot be."""
        model = self.get(setup)
        names = (VIDEO, *model.adapters)
        return told_apart([sense_of(name, model.modality(name)) for name in names])

    def expected_senses(self, setup: Setup) -> tuple[Sense, ...]:
        """The senses that a setup will have, from its adapters' descriptions: nothing is loaded.

        An adapter that cannot be described is left out: whoever loads it is told why.
        """
        found = [PICTURE]
        for source in setup.adapters:
            try:
                adapter, _ = self._describe(source)
                found.append(sense_of(adapter.name, modalities.get(adapter.modality)))
            except LynxError:
                continue
        return told_apart(found)

    def _describe(self, source: str) -> "tuple[Adapter, str | None]":
        """An adapter and its revision; of one on the Hub only its description is fetched."""
        from lynx.adapters.sharing import describe, describe_hub

        folder = self.policy.folder(source)
        return describe(folder) if folder else describe_hub(source)

    def options(self, backbone: str, sources: Sequence[str]) -> tuple[AdapterOption, ...]:
        """What each adapter is and whether it fits the backbone, loaded or not."""
        from lynx.adapters.sharing import mismatch

        model = self.loaded(backbone)
        found = []
        for source in dict.fromkeys(sources):
            try:
                adapter, revision = self._describe(source)
                reason = mismatch(adapter, model.backbone if model is not None else backbone)
                option = AdapterOption(source, adapter.modality, revision or "", reason)
            except LynxError as error:
                option = AdapterOption(source, reason=str(error))
            found.append(option)
        return tuple(found)

    def without_broken(self, setup: Setup) -> tuple[Setup, tuple[str, ...]]:
        """The setup without adapters whose folders are broken, and of each of those why.

        One broken folder is no reason to have no model at all. What does not fit the backbone, or has to be
        fetched first, stays: whoever asked for it is told when it is loaded.
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
        """What a conversation would need of this machine, in a sentence, before anything of it is loaded.

        Raises LynxError when there is no such backbone, or it cannot be had in that precision here.
        """
        from lynx.backbones.estimate import estimate

        names = [Path(source.partition("@")[0]).name for source in setup.adapters]
        needed = estimate(setup.backbone, senses=names, precision=setup.precision).sentence
        model = self.loaded(setup.backbone)
        commit = model.backbone.revision if model is not None else None
        return f"{needed}; loaded is its commit {commit[:COMMIT_SHOWN]}" if commit else needed


def sense_of(name: str, modality: "modalities.Modality | type[modalities.Modality]") -> Sense:
    """A sense as the page knows it."""
    return Sense(name, modality.label, modality.name, modality.takes)


def told_apart(senses: Sequence[Sense]) -> tuple[Sense, ...]:
    """The senses; where two have one word for people, it stands with their names."""
    labels = [sense.label for sense in senses]
    return tuple(
        sense if labels.count(sense.label) == 1 else replace(sense, label=f"{sense.label} ({sense.name})")
        for sense in senses
    )
