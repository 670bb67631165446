"""The components of the page and where they stand; `lynx.ui.page` says which handlers they call."""

from typing import Any

import gradio as gr

from lynx.compat import leave_no_stray_file
from lynx.media.side_files import AXES
from lynx.types import VIDEO
from lynx.ui import views
from lynx.ui.edit_bar import edit_bar
from lynx.ui.endpoint_fields import endpoint_fields
from lynx.ui.evidence_view import evidence_viewer
from lynx.ui.example_gallery import example_gallery
from lynx.ui.examples import ExampleClip
from lynx.ui.host_policy import LOCAL, HostPolicy
from lynx.ui.tab_memory import tab_memory
from lynx.ui.types import AUDIO, DEPTH, MAX_NEW_TOKENS, VIEW, WHOLE, Chat, Setup

OWN_TRACK, OTHER_FILE = "the video", "a separate file"
Update = dict[Any, Any]
"""New values of components, which a handler returns."""
PRECISIONS = ("auto", "fp32", "bf16", "int8", "nf4")
PICTURE = {"format": "png", "image_mode": "RGBA"}
PICTURE |= {"show_label": False, "interactive": False, "container": False}
FULLSCREEN = ["fullscreen"]  # the button over a picture


class Layout:
    """All components, as attributes. Built inside a `gr.Blocks`."""

    def __init__(
        self, setup: Setup, backbones: list[str], examples: list[ExampleClip], policy: HostPolicy = LOCAL
    ) -> None:
        self.setup, self.backbones, self.examples, self.policy = setup, backbones, examples, policy
        self.chat = gr.State(Chat("", setup))
        gr.HTML(views.HEADER, elem_id="header")
        self.hint = gr.HTML(views.hint(setup, backbones), elem_id="hint")
        # three places of a grid, see style.css: on a phone they follow one another
        with gr.Row(elem_id="desk", equal_height=False):
            with gr.Column(min_width=0, elem_id="clip"):
                self._clip()
            with gr.Column(min_width=0, elem_id="right"):
                self._conversation()
                with gr.Tabs(elem_id="study"):
                    with gr.Tab("Evidence"):
                        self._evidence()
                    with gr.Tab("Interface") as self.interface:
                        self._interface()
            with gr.Column(min_width=0, elem_id="settings"):
                choices = [("picture", VIDEO)]
                self.senses = gr.CheckboxGroup(
                    choices, value=[VIDEO], label="Senses that are on", elem_id="senses"
                )
                with gr.Accordion(views.MORE, open=False, elem_id="more"):
                    self._more()
                self._model()
                self._seen()
        self.memory = tab_memory(elem_id="memory")
        self.record = gr.Textbox(visible=False, label="record")  # what the tab remembered
        # what `/ask` takes and gives
        self.endpoint = gr.Button(visible=False)
        self.given = endpoint_fields()
        self.answer = gr.Textbox(visible=False, label="answer")

    def _model(self) -> None:
        setup, policy = self.setup, self.policy
        typed = "Hub ids of " + ", ".join(policy.owners) if policy.hosted else "Folders or Hub ids"
        can_type = bool(policy.owners) or not policy.hosted
        with gr.Accordion(views.model_line(setup), open=False, elem_id="model") as self.model:
            with gr.Row():
                self.backbone = gr.Dropdown(
                    views.backbone_choices(self.backbones), value=setup.backbone, label="Backbone",
                    scale=3, min_width=160,
                    info=None if policy.hosted else "A name, a folder or a Hub id",
                    allow_custom_value=not policy.hosted, elem_id="backbone",
                )
                self.precision = gr.Dropdown(
                    list(PRECISIONS), value=setup.precision, label="Precision", info="of its weights",
                    scale=1, min_width=110, elem_id="precision",
                )
            self.adapters = gr.Dropdown(
                list(setup.adapters), value=list(setup.adapters), label="Adapters", multiselect=True,
                info=f"{typed}; type one and press Enter" if can_type else None,
                allow_custom_value=can_type, elem_id="adapters",
            )
            self.several = gr.Checkbox(
                False, label="Two adapters of one sense may be on", container=False, elem_id="several"
            )
            self.offers = gr.HTML(elem_id="offers")
            self.forecast = gr.HTML(elem_id="forecast")
            self.load = gr.Button("Load this model", size="sm", elem_id="load")

    def _clip(self) -> None:
        """What is asked about: the examples, the video, and a sound file where one is heard instead."""
        if self.examples:
            self.gallery = example_gallery(self.examples, elem_id="examples")
        self.video = gr.Video(
            label="Video", sources=["upload", "webcam"], height=190, elem_id="video", buttons=[]
        )
        with gr.Column(visible=False, elem_id="sound-file") as self.sound_place:
            self.audio = gr.Audio(
                label="Sound file", sources=["upload", "microphone"], type="filepath", visible=False,
                elem_id="audio", editable=False, buttons=[],
            )
        self.clip_notes = gr.HTML(elem_id="clip-notes")
        # another value each time: the example that was chosen, that it is to be read, that a clip was opened
        self.picked, self.example, self.opened = gr.State(None), gr.State(""), gr.State("")
        # States of what is folded stand here, since Gradio takes one inside for changed when it first looks
        self.depth_files, self.view_files = gr.State(()), gr.State(())
        # the sound track that is read: a list's value is an error while its choices are another file's
        self.heard = gr.State(None)

    def _more(self) -> None:
        """Which part of the clip, what is recorded beside the video, and what few clips need."""
        with gr.Row(elem_id="part"):
            brief = {"max_lines": 1, "min_width": 110}
            self.start = gr.Textbox(label="From", placeholder="12.5 or 1:30", elem_id="from", **brief)
            self.end = gr.Textbox(label="To", placeholder="the end", elem_id="to", **brief)
        # a place for each kind of file beside the video, shown where a sense of the model takes it
        upload = {"file_count": "multiple", "height": 84, "min_width": 200}
        with gr.Column(visible=False, elem_id="hearing") as hearing:
            tracks = [OWN_TRACK, OTHER_FILE]
            self.sound = gr.Radio(tracks, value=OWN_TRACK, label="Sound comes from", elem_id="sound")
            self.track = gr.Dropdown([], label="Sound track", visible=False, elem_id="track")
        with gr.Row(elem_id="further"):
            with gr.Column(visible=False, min_width=200) as deep:
                self.depth = leave_no_stray_file(gr.File(label=views.DEPTH, elem_id="depth", **upload))
            with gr.Column(visible=False, min_width=200) as around:
                self.views = leave_no_stray_file(gr.File(label=views.VIEWS, elem_id="views", **upload))
                self.offsets = gr.Textbox(
                    placeholder="They begin at (seconds): 0, 0.4", show_label=False, container=False,
                    max_lines=1, visible=False, elem_id="offsets",
                )
        self.places = {AUDIO: hearing, DEPTH: deep, VIEW: around}
        self._advanced()

    def _seen(self) -> None:
        with gr.Accordion(views.SEEN, visible=False, elem_id="seen") as self.seen_box:
            self.seen = gr.Image(elem_id="seen-picture", alt_text=views.SEEN, buttons=FULLSCREEN, **PICTURE)
            self.budget = gr.HTML(elem_id="budget")

    def _advanced(self) -> None:
        """How densely a clip is looked at, what its files do not say, and how an answer is drawn."""
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            # text, since Gradio's numbers become 0 when a folded group is opened
            field = {"max_lines": 1, "min_width": 110}
            with gr.Row():
                self.fps = gr.Textbox(
                    label="Frames a second", placeholder="auto, or 2", elem_id="fps", **field
                )
                self.max_frames = gr.Textbox(
                    label="Most frames", placeholder="auto, or 64", elem_id="max-frames", **field
                )
            with gr.Row():
                self.max_new_tokens = gr.Textbox(
                    label="Most tokens of an answer", placeholder=str(MAX_NEW_TOKENS), elem_id="max-tokens",
                    **field,
                )
                self.temperature = gr.Textbox(
                    label="Temperature", placeholder="0: always the same answer", elem_id="temperature",
                    **field,
                )
            with gr.Row(visible=False) as self.depth_settings:
                self.unit = gr.Dropdown(
                    views.DEPTH_UNITS, value="", label="Depth unit", info="or meters a step, such as 0.001",
                    allow_custom_value=True, min_width=190, elem_id="unit",
                )
                self.up = gr.Dropdown(
                    [("auto", ""), *AXES], value="", label="Up axis", info="of a mesh", min_width=110,
                    elem_id="up",
                )

    def _conversation(self) -> None:
        self.chatbot = gr.Chatbot(
            label="Conversation", height=600, elem_id="chat", buttons=[], feedback_options=None,
            placeholder=views.PLACEHOLDER, group_consecutive_messages=False,
            # messages are HTML: a picture link, a formula or code that somebody typed is never made live
            render_markdown=False, latex_delimiters=[],
        )
        self.notice = gr.HTML(elem_id="notice")
        self.editing = gr.State(None)  # the number of the question that is edited
        self.edit_bar = edit_bar(elem_id="editing")
        with gr.Row(elem_id="asking", equal_height=True):
            self.question = gr.Textbox(
                label="Question", placeholder="Ask about the clip …", show_label=False, container=False,
                scale=8, max_lines=4, min_width=180, elem_id="question",
            )
            size = {"scale": 1, "min_width": 84}
            self.send = gr.Button("Ask", variant="primary", elem_id="send", **size)
            self.stop = gr.Button("Stop", variant="stop", elem_id="stop", **size)
        self.suggestions = gr.Dataset(
            components=[gr.Textbox(visible=False, render=False)], samples=[], type="values", visible=False,
            label="Questions to try", elem_id="suggestions",
        )
        with gr.Row(elem_id="actions"):
            self.retry = gr.Button("Retry", size="sm", min_width=72, elem_id="retry")
            self.clear = gr.Button("Clear", size="sm", min_width=72, elem_id="clear")
            self.saves = {
                kind: gr.Button(f"Save as {label}", size="sm", min_width=96, elem_id=f"save-as-{kind}")
                for kind, label in {"html": "page", "json": "JSON"}.items()
            }
            self.saved = gr.DownloadButton(elem_id="saved")  # which the style sheet hides
            self.compare = gr.Button(views.leave_out(()), size="sm", min_width=170, elem_id="compare")
        self.comparison = gr.HTML(elem_id="comparison")

    def _evidence(self) -> None:
        gr.HTML(views.EVIDENCE_HEADER, elem_id="evidence-header")
        self.shown = gr.State(None)  # the EvidenceView that is looked at
        self.chosen = gr.State(WHOLE)  # the word of it, and the method
        self.problem = gr.State(None)  # why something could not be computed, and for which answer
        self.on_desk = gr.State(None)  # the model and the clip
        self.nothing = gr.HTML(views.nothing_shown(()), elem_id="no-evidence")
        self.which = gr.Dropdown(
            [], label="Answer", visible=False, container=False, filterable=False, elem_id="which"
        )
        with gr.Column(visible=False, elem_id="evidence") as self.evidence:
            self.evidence_view = evidence_viewer(elem_id="evidence-view")
            with gr.Row(elem_id="export"):
                button = {"size": "sm", "min_width": 72}
                gr.HTML("Save", elem_id="save")
                kinds = {"png": "Picture", "csv": "Table", "json": "JSON"}
                self.exports = {
                    kind: gr.Button(label, elem_id=f"save-{kind}", **button) for kind, label in kinds.items()
                }
                self.make_film = gr.Button("Film", elem_id="make-film", **button)
                self.download = gr.DownloadButton(elem_id="download")  # which the style sheet hides
            self.film_notes = gr.HTML(elem_id="film-notes")
            self.film = gr.Video(
                label="The answer as a film", visible=False, interactive=False, height=420, elem_id="film",
                buttons=["download"],
            )

    def _interface(self) -> None:
        gr.HTML(views.INTERFACE_HEADER, elem_id="interface-header")
        self.draw_map = gr.Button("Draw the map of this clip", size="sm", elem_id="draw-map", min_width=220)
        self.map = gr.Image(elem_id="map", visible=False, alt_text=views.MAP, buttons=FULLSCREEN, **PICTURE)
        self.distances = gr.HTML(elem_id="distances")

    def no_map(self) -> Update:
        """Take the map away: it was of another clip."""
        return {self.map: gr.update(value=None, visible=False), self.distances: ""}

    def no_film(self) -> Update:
        """Take the film away: it was of another answer."""
        return {self.film: gr.update(value=None, visible=False), self.film_notes: ""}
