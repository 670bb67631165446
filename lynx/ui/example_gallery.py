"""The examples as rows of small pictures with captions: a component that says which one was chosen.

    gallery = example_gallery(examples, elem_id="examples")
    gallery.choose(handler, chat, ..., trigger_mode="multiple")

    def handler(chat, event: gr.EventData): event.index

A row is one stop of the Tab key; arrow keys go from picture to picture (see example_gallery.js).
"""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from lynx.errors import MediaError
from lynx.ui.examples import ExampleClip

PIXELS = 128  # of a picture's longer side, twice what is shown
SECOND = 1.0  # of the video that is shown
BARS, BAR_HEIGHT = 36, 24  # of the drawing of a sound
SAMPLE_RATE = 8000


def example_gallery(examples: Sequence[ExampleClip], **options: Any) -> gr.HTML:
    """The component. options: of `gr.HTML`."""
    rows = ""
    for title, row in groupby(enumerate(examples), lambda numbered: numbered[1].title):
        items = "".join(_item(index, example) for index, example in row)
        rows += f'<h2>{escape(title)}</h2><div class="row" role="toolbar" aria-label="Examples: '
        rows += f'{escape(title, quote=True)}">{items}</div>'
    return gr.HTML(
        "",
        html_template=f'<section class="gallery">{rows}<p class="credit" hidden></p></section>',
        js_on_load=Path(__file__).with_name("example_gallery.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **options,
    )


def _item(index: int, example: ExampleClip) -> str:
    caption = example.caption or example.folder.name
    caption = caption[:1].upper() + caption[1:]
    return (
        f'<button type="button" class="gallery-item" aria-pressed="false" data-index="{index}" '
        f'data-credit="{escape(example.credit, quote=True)}">'
        f'{_picture(example)}<span>{escape(caption)}</span></button>'
    )


def _picture(example: ExampleClip) -> str:
    """What an example looks like, or the shape of its sound; nothing where it cannot be read."""
    try:
        if example.clip is not None:
            return _frame(example.clip)
        sound = example.media.get("audio")
        return _sound(sound) if sound is not None else ""
    except MediaError:
        return ""


def _frame(clip: Path) -> str:
    from lynx.media.video import read_frames

    pixels = read_frames(clip, [SECOND], PIXELS).pixels[0]  # (3, H, W)
    written = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(written, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{b64encode(written.getvalue()).decode()}">'


def _sound(file: Path) -> str:
    from lynx.media.audio import read_audio

    samples = read_audio(file, SAMPLE_RATE).samples.abs()
    loudness = torch.stack([part.max() for part in samples.tensor_split(BARS)])
    heights = (loudness / loudness.max().clamp(min=1e-6) * BAR_HEIGHT).clamp(min=2).tolist()
    bars = "".join(
        f'<rect x="{2 * i + 0.3:.1f}" y="{(BAR_HEIGHT - height) / 2:.1f}" width="1.4" height="{height:.1f}" '
        'rx=".7"/>'
        for i, height in enumerate(heights)
    )
    return f'<svg viewBox="0 0 {2 * BARS} {BAR_HEIGHT}" aria-hidden="true">{bars}</svg>'
