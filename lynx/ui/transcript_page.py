"""A conversation as one HTML file that needs nothing else: questions, answers, pictures, evidence. No Gradio.

It asks no other place for anything, and says so to the browser; all texts are escaped.
"""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

from lynx.evidence.methods import ATTRIBUTION
from lynx.evidence.record import find_attribution
from lynx.ui.transcript import model_record, turn_record
from lynx.ui.types import ChatTurn, EvidenceView
from lynx.visualization import explained
from lynx.visualization.bars import amount, draw_bars
from lynx.visualization.drawing import Lane
from lynx.visualization.timeline import timeline

WIDTH = 1400  # pixels of a picture, which is shown half as wide
PER_ROW = 8  # frames
BAR, LETTERS = 44, 1.4  # pixels of a bar; how large letters are
INK = (15, 23, 42)
QUALITY = 82
STYLE = """
body { max-width: 720px; margin: 32px auto; padding: 0 16px; color: #0f172a; background: #fff; }
body { font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 0 0 4px; }
section { border-top: 1px solid #cbd5e1; padding: 20px 0; overflow-wrap: anywhere; }
.said { font-size: 1.2rem; margin: 0 0 8px; white-space: pre-wrap; } h2 { white-space: pre-wrap; }
.about, .note, figcaption { color: #475569; font-size: 0.88rem; margin: 2px 0; }
figure { margin: 14px 0 0; } img { max-width: 100%; display: block; margin-bottom: 6px; }
"""
RULES = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def transcript_page(turns: Sequence[ChatTurn]) -> str:
    """The whole file."""
    said = "".join(map(_section, turns))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{RULES}">'
        '<meta name="viewport" content="width=device-width"><title>A conversation with lynx</title>'
        f"<style>{STYLE}</style></head><body><main><h1>A conversation with lynx</h1>{said}</main></body>"
        "</html>\n"
    )


def _section(turn: ChatTurn) -> str:
    told = turn_record(turn)
    model, clip = model_record(turn.setup), turn.clip.title
    senses = [f"{each['label']}, {each['frames']} frames" for each in told["senses"].values()]
    about = [clip, " + ".join([model["backbone"], *model["adapters"]]), *senses, *["stopped"] * turn.stopped]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in turn.notes)
    return (
        f'<section><h2>{escape(turn.question)}</h2><p class="said">{escape(turn.answer) or "—"}</p>'
        f'<p class="about">{escape(" · ".join(about))}</p>{notes}{_figure(turn.evidence)}</section>'
    )


def _figure(view: EvidenceView | None) -> str:
    """The clip's pictures, and what the whole answer rests on as far as known: bars, and heat on them."""
    if view is None:
        return ""
    record, found = view.record, find_attribution(view.record, view.first[0], ATTRIBUTION)
    if found is None:
        lanes = [
            Lane(sense, about["label"], view.frames[sense], fill=about["spectrogram"])
            for sense, about in record["senses"].items()
        ]
        return f"<figure>{_picture(timeline(lanes, (), WIDTH, PER_ROW, '', LETTERS), 'The clip')}</figure>"
    unit = found["unit"]
    labels = explained.labels_of(record, unit)
    parts = [f"{labels.get(sense, sense)} {amount(value, unit)}" for sense, value in found["totals"].items()]
    bars = draw_bars(found["totals"], labels, unit, WIDTH, BAR, INK)
    lanes, curves = explained.lanes_of(record, found, view.frames), explained.curves_of(record, found)
    below = timeline(lanes, curves, WIDTH, PER_ROW, explained.CURVE_LABELS[unit], LETTERS)
    pictures = _picture(bars, f"In nats: {', '.join(parts)}")
    pictures += _picture(below, "The clip, with heat where the answer rests on it")
    title = ". ".join(filter(None, (explained.heading(found), explained.gained_sentence(found))))
    return f"<figure>{pictures}<figcaption>{escape(title)}</figcaption></figure>"


def _picture(shown: Image.Image, told: str) -> str:
    """A picture on white, as a part of the file."""
    paper = Image.new("RGB", shown.size, "white")
    paper.paste(shown, (0, 0), shown)
    written = BytesIO()
    paper.save(written, "JPEG", quality=QUALITY, optimize=True)
    data = b64encode(written.getvalue()).decode()
    return f'<img alt="{escape(told)}" src="data:image/jpeg;base64,{data}">'
