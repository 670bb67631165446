"""What stands below an answer: what its words rest on, as a component that draws and listens by itself.

`evidence_html` makes the component's value, a JSON text of plain data and small pictures; the browser draws
it (evidence_view.js and the files beside it) and writes text as text, never as HTML. Two events come back,
each with the word (its index in the record, None for the whole answer) and the method:

    view = evidence_viewer(elem_id="evidence-view")
    view.choose(handler, ..., trigger_mode="multiple")   # at every choice of a word or a method
    view.compute(handler, ..., trigger_mode="multiple")  # where the record lacks that word by that method

    def handler(chat, event: gr.EventData): event.word; event.method

Gradio's other modes drop an event that comes while one is running, or run it with the data of the first.
From the click on, the browser shows that something is being computed, until any new value comes. What the
visitor chose stays as long as the answer is the same: a result that comes late changes no choice.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from io import BytesIO
from itertools import count
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

if TYPE_CHECKING:
    from lynx.evidence.record import Record
    from lynx.types import Frames

HERE = Path(__file__).parent
SCRIPTS = ("evidence_data.js", "evidence_bars.js", "evidence_lanes.js", "evidence_view.js")
"""They share one scope: the body of one function, in this order."""
METHODS = ("attribution", "attention", "hiding")
MAX_SIDE, MIN_SIDE, FEW = 160, 64, 16
"""Pixels of a picture's longer side: the first for up to FEW pictures of a lane, less for more of them."""
BLOCK = 16  # pixels of a JPEG's block: pictures side by side do not bleed into one another
PER_ROW = 8  # pictures
QUALITY = 70
LEVELS = 127  # of a cell's value, above and below 0
_versions = count()


def evidence_viewer(**options: Any) -> gr.HTML:
    """The component; its value comes from `evidence_html`, or is "" for nothing. options: of `gr.HTML`.

    No subclass: Gradio writes a .pyi file beside the code of each, wherever that is installed.
    """
    return gr.HTML(
        "",
        html_template='<section class="evidence" aria-label="What the answer rests on"></section>',
        css_template=(HERE / "evidence_view.css").read_text(encoding="utf-8"),
        js_on_load="\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS),
        apply_default_css=False,
        **options,
    )


def evidence_html(
    record: "Record", frames: "Mapping[str, Frames]", *, chosen: int | None = None,
    method: str = METHODS[0], loading: str = "", part: tuple[float, float] | None = None,
    stretched: Sequence[str] = ("audio",), methods: Sequence[str] = METHODS,
    sentences: Mapping[str, str] | None = None, notice: str = "",
    key: str = "",
) -> str:
    """The value of an `evidence_viewer`: all that it draws, as JSON.

    record: of `lynx.evidence.record`. frames: pictures of each sense of it, of any size. chosen, method: what
    a new answer is shown with. loading: what is being computed now. notice: what could not be computed.
    part: seconds of the recording that were looked at. stretched: senses whose pictures fill their seconds.
    key: tells answers apart that are otherwise equal.
    methods: those that can be chosen; sentences: how far each can be trusted.
    """
    lanes = [lane for sense in record["senses"] if sense in frames for lane in _lanes(sense, frames[sense])]
    for lane in lanes:
        known = record["senses"][lane["sense"]]
        lane |= {"color": known["color"], "fill": lane["sense"] in stretched}
        lane["label"] = lane["label"] or known["label"]
    answer = {key: record[key] for key in ("answer", "tokens", "words", "senses")}
    start, end = part or _span(lanes)
    name = sha256(json.dumps([key, answer, lanes, start, end]).encode()).hexdigest()
    return json.dumps(
        {
            "version": next(_versions),  # so that the browser sees an equal value come
            "name": name,
            **answer,
            "lanes": lanes,
            "start": start,
            "end": end,
            "attributions": [_packed(each, record["senses"]) for each in record["attributions"]],
            "chosen": chosen,
            "method": method,
            "methods": list(methods),
            "sentences": dict(sentences or {}),
            "loading": loading,
            "notice": notice,
        },
        separators=(",", ":"),
    )


def _lanes(sense: str, frames: "Frames") -> list[dict[str, Any]]:
    """One lane, or one for each kind of picture (`Frames.labels`): its pictures and their times."""
    kinds = list(dict.fromkeys(frames.labels))
    lanes = []
    for kind in kinds if len(kinds) > 1 else [None]:
        there = [i for i in range(len(frames)) if kind is None or frames.labels[i] == kind]
        times = frames.times[there].tolist()
        spacing = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else frames.duration
        lanes.append(
            {
                "sense": sense,
                "label": kind,
                "of": len(frames),  # pictures of the sense
                "index": there,  # among them
                "times": [round(time, 4) for time in times],
                "seconds": round(spacing, 4),  # of one picture
                **_sheet(frames.pixels[there]),
            }
        )
    return lanes


def _sheet(pixels: torch.Tensor) -> dict[str, Any]:
    """Pictures (T, 3, H, W) uint8 as one JPEG, PER_ROW in a row."""
    total, _, height, width = pixels.shape
    side = max(MIN_SIDE, min(MAX_SIDE, round(MAX_SIDE * sqrt(FEW / total))))
    scale = min(1.0, side / max(height, width))
    size = [max(1, ceil(edge * scale / BLOCK)) * BLOCK for edge in (height, width)]
    small = torch.cat(
        [
            F.interpolate(picture[None], size, mode="bilinear", antialias=True, align_corners=False)
            for picture in pixels.cpu()
        ]
    )
    columns = min(PER_ROW, total)
    rows = ceil(total / columns)
    sheet = np.zeros((rows * size[0], columns * size[1], 3), dtype=np.uint8)
    for i, picture in enumerate(small):
        top, left = i // columns * size[0], i % columns * size[1]
        sheet[top : top + size[0], left : left + size[1]] = picture.permute(1, 2, 0).numpy()
    written = BytesIO()
    Image.fromarray(sheet).save(written, "JPEG", quality=QUALITY, optimize=True)
    return {
        "sheet": "data:image/jpeg;base64," + b64encode(written.getvalue()).decode(),
        "columns": columns,
        "tile": [size[1], size[0]],  # width, height in the sheet
        "shape": [width, height],  # of the pictures themselves
    }


def _span(lanes: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """First and last second that the pictures show."""
    starts = [lane["times"][0] - lane["seconds"] / 2 for lane in lanes]
    ends = [lane["times"][-1] + lane["seconds"] / 2 for lane in lanes]
    return (round(min(starts), 3), round(max(ends), 3)) if lanes else (0.0, 1.0)


def _packed(attribution: "Record", senses: "Record") -> dict[str, Any]:
    """An attribution in little room: each cell's value as a part of the strongest of its sense, in a byte.

    Sums over a moment are kept exactly: many weak cells add up to what a byte cannot hold.
    """
    maps = {}
    for sense, rows in attribution["values"].items():
        values = np.asarray(rows, dtype=np.float64)  # (moments, rows, columns)
        if not values.size:
            continue
        strongest = float(np.abs(values).max()) or 1.0
        cells = np.rint(values / strongest * LEVELS).astype(np.int8)
        curve: dict[float, float] = {}  # pictures of one moment belong together
        for time, value in zip(senses[sense]["times"], values.sum(axis=(1, 2)).tolist(), strict=True):
            curve[round(time, 4)] = curve.get(round(time, 4), 0.0) + value
        maps[sense] = {
            "strongest": strongest,
            "cells": b64encode(cells.tobytes()).decode(),
            "shape": list(values.shape),
            "times": list(curve),
            "sums": [round(value, 6) for value in curve.values()],
        }
    kept = {key: attribution[key] for key in ("word", "method", "unit", "gained", "missed", "totals")}
    return kept | {"maps": maps}
