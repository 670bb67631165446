"""Which model: handlers of the panel that chooses a backbone and its adapters, and loads them."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

import gradio as gr

from lynx.errors import LynxError
from lynx.ui import views
from lynx.ui.engine import Engine
from lynx.ui.examples import adapter_folders
from lynx.ui.layout import Layout, Update
from lynx.ui.types import AUDIO, DEPTH, Chat, Setup


class ModelPanel:
    """Its handlers."""

    def __init__(self, ui: Layout, engine: Engine) -> None:
        self.ui, self.models, policy = ui, engine.models, engine.models.policy
        self.offered = tuple(policy.adapters) if policy.hosted else adapter_folders()

    def on_load(self, chat: Chat, request: gr.Request | None = None) -> Update:
        """A visitor arrives: give the conversation a key, the session's, and say what the model can sense."""
        setup, left_out = self.models.without_broken(self.ui.setup)
        update = self.set_up(self.named(chat, request), setup)
        if left_out and not update[self.ui.notice]:
            update[self.ui.notice] = views.notice(" ".join(map(views.sentence, left_out)))
        return update

    @staticmethod
    def named(chat: Chat, request: gr.Request | None) -> Chat:
        """With a key where it has none: the session's."""
        return replace(chat, key=chat.key or getattr(request, "session_hash", None) or uuid4().hex)

    def on_setup(
        self, backbone: str | None, precision: str, adapters: list[str] | None, chat: Chat
    ) -> Update:
        """Load another model; when that fails the one before stays."""
        update = self.set_up(chat, chosen_setup(backbone, precision, adapters))
        if update[self.ui.chat] != chat:
            update[self.ui.suggestions] = gr.update(visible=False)  # they were about the senses before
        return update

    def set_up(self, chat: Chat, setup: Setup, before: Setup | None = None) -> Update:
        """Load a model into a conversation; when that fails the one before stays. before: see `Chat`."""
        ui = self.ui
        try:
            senses = self.models.senses(setup)
        except LynxError as error:
            offered = self._choose(setup.backbone, setup.adapters)
            return {ui.chat: chat, ui.notice: views.notice(error), **offered}
        chat = replace(chat, setup=setup, senses=senses, before=before)
        choices = views.sense_choices(senses)
        return {
            ui.chat: chat,
            ui.senses: gr.update(choices=choices, value=[sense.name for sense in senses]),
            ui.compare: gr.update(value=views.leave_out(senses), interactive=len(senses) > 1),
            ui.notice: "",
            ui.hint: views.hint(setup, ui.backbones, self.models.trained_on(setup)),
            ui.model: gr.update(label=views.model_line(setup, senses)),
            **{place: gr.update(visible=kind in chat.places) for kind, place in ui.places.items()},
            # who loads two of one sense, here or when the app is started, keeps them
            ui.several: True if self.models.one_a_sense(setup.adapters) != setup.adapters else gr.skip(),
            ui.sound_place: gr.update(visible=AUDIO in chat.places),
            ui.depth_settings: gr.update(visible=DEPTH in chat.places),
            **self._choose(setup.backbone, setup.adapters),
        }

    def on_choose(self, backbone: str | None, chosen: list[str] | None, several: bool = False) -> Update:
        """Say which adapters fit a backbone before it is loaded; those that do not cannot be chosen.

        Of two of one sense the one that was chosen last is kept, unless several may be on.
        """
        setup = chosen_setup(backbone, "auto", chosen)
        kept = list(setup.adapters if several else self.models.one_a_sense(setup.adapters))
        update = self._choose(setup.backbone, kept)
        if gone := [source for source in setup.adapters if source not in kept]:
            update[self.ui.offers] = views.replaced(gone) + update[self.ui.offers]
        return update

    def _choose(self, backbone: str, chosen: Sequence[str]) -> Update:
        ui = self.ui
        try:
            options = self.models.options(backbone, (*chosen, *self.offered))
        except LynxError as error:  # no such backbone is offered
            return {ui.adapters: gr.skip(), ui.offers: views.notice(error)}
        fitting = [option.source for option in options if not option.reason]
        adapters = gr.update(choices=fitting, value=[source for source in chosen if source in fitting])
        return {ui.adapters: adapters, ui.offers: views.adapter_options(options)}

    def on_plan(self, backbone: str | None, precision: str, adapters: list[str] | None) -> str:
        """Say what a model would need of this machine before it is loaded."""
        try:
            return views.forecast(self.models.forecast(chosen_setup(backbone, precision, adapters)))
        except LynxError as error:
            return views.notice(error)


def chosen_setup(backbone: str | None, precision: str, adapters: list[str] | None) -> Setup:
    """The setup that the components' values stand for, whether there is such a model or not."""
    return Setup(str(backbone or "").strip(), precision, tuple(map(str, adapters or ())))
