"""An answer's evidence as plain data: written as JSON, sent to the page, kept for earlier answers.

`docs/evidence.md` describes every key. A change of their meaning raises VERSION.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lynx import modalities
from lynx.evidence.attribution import Attribution
from lynx.evidence.evidence import Evidence
from lynx.evidence.methods import ATTRIBUTION, parameters_of
from lynx.evidence.replay import Answered
from lynx.modalities.multi_view import View
from lynx.types import VIDEO, FileSource, Recording, Stream

FORMAT, VERSION = "lynx-evidence", 1
AUDIO = "audio"  # what a `Modality` takes whose pictures are spectrograms
LEAST = 1e-45
"""A probability below it is taken for it, so that its logarithm is a number."""
DIGITS = 7
"""Significant digits of a value."""
Record = dict[str, Any]
"""Of strings, numbers, lists and None only."""


def evidence_record(
    evidence: Evidence, labels: Mapping[str, str], found: Iterable[tuple[int | None, Attribution]] = (),
    *, question: str | None = None, part: tuple[float, float] | None = None,
    files: Mapping[str, Any] | None = None,
) -> Record:
    """The record of an answer; labels: the senses' names for people.

    found: attributions, each with the index of its word in `evidence.words`, None for the whole answer.
    question: by default the one that `evidence.answered` ends in. part: first and last second of what was
    looked at. files: by sense; only a file's name is kept, so that a record can be given away.
    """
    answered = evidence.answered
    if question is None and answered is not None:
        question = answered.messages[-1]["content"]
    record: Record = {
        "format": FORMAT,
        "version": VERSION,
        "question": question,
        "answer": "".join(evidence.tokens).strip(),
        "part": None if part is None else [float(second) for second in part],
        "backbone": None,
        "adapters": [],
        "llm_loras": [],
        "tokens": _tokens(evidence),
        "words": _words(evidence),
        "senses": {
            sense: _sense(sense, stream, labels, answered, (files or {}).get(sense))
            for sense, stream in evidence.streams.items()
        },
        "attributions": [attribution_record(evidence, word, each) for word, each in found],
    }
    return record if answered is None else record | _model(answered)


def attribution_record(evidence: Evidence, word: int | None, attribution: Attribution) -> Record:
    """One of a record's "attributions"; word: its index in `evidence.words`, None for the whole answer."""
    return {
        "word": word,
        "text": None if word is None else evidence.words[word][0],
        "method": attribution.method,
        "parameters": parameters_of(attribution.method),
        "unit": attribution.unit,
        "gained": attribution.gained,
        "missed": attribution.missed,
        "totals": dict(attribution.totals),
        "values": {sense: _numbers(attribution.heatmap(sense)) for sense in attribution.values},
    }


def find_attribution(record: Record, word: int | None = None, method: str = ATTRIBUTION) -> Record | None:
    """The attribution of a word by a method that a record has, None if it has none."""
    there = (each for each in record["attributions"] if (each["word"], each["method"]) == (word, method))
    return next(there, None)


def _characters(evidence: Evidence) -> list[tuple[int, int]]:
    """Where each token begins and ends in the answer, whose first token may begin with a space."""
    whole = "".join(evidence.tokens)
    cut, length, end = len(whole) - len(whole.lstrip()), len(whole.strip()), 0
    places = []
    for text in evidence.tokens:
        start, end = end, end + len(text)
        places.append((min(max(0, start - cut), length), min(max(0, end - cut), length)))
    return places


def _tokens(evidence: Evidence) -> list[Record]:
    places = _characters(evidence)
    tokens: list[Record] = [
        {"text": text, "start": start, "end": end}
        for text, (start, end) in zip(evidence.tokens, places, strict=True)
    ]
    for token, said, others in zip(tokens, evidence.said, evidence.candidates, strict=False):
        token["probability"] = said.probability
        token["log_probability"] = math.log(max(said.probability, LEAST))
        token["others"] = [{"text": other.text, "probability": other.probability} for other in others]
    return tokens


def _words(evidence: Evidence) -> list[Record]:
    places, words = _characters(evidence), []
    for text, indices in evidence.words:
        end = places[indices[-1]][1]
        spaces = len(evidence.tokens[indices[-1]]) - len(evidence.tokens[indices[-1]].rstrip())
        if end == places[-1][1]:  # of the last token the space behind it is no part of the answer
            spaces = 0
        word: Record = {"text": text, "tokens": list(indices), "start": end - spaces - len(text)}
        word["end"] = word["start"] + len(text)
        if evidence.said:
            word["probability"] = math.prod(evidence.said[index].probability for index in indices)
        words.append(word)
    return words


def _sense(
    sense: str, stream: Stream, labels: Mapping[str, str], answered: Answered | None, file: Any
) -> Record:
    """A sense: its name for people, its cells and their moments."""
    name = sense if sense == VIDEO or answered is None else answered.model.adapter(sense).modality
    modality, frames = modalities.find(name), stream.frames
    moments = stream.times[~stream.times.isnan()].unflatten(0, (-1, stream.grid[0] * stream.grid[1]))[:, 0]
    per_moment = -(-len(frames) // len(moments))
    # none where a token stands for all kinds of pictures of its moment
    kinds = list(frames.labels[::per_moment]) if len(set(frames.labels)) > per_moment else None
    return {
        "label": labels.get(sense, sense),
        "modality": name,
        "color": "#{:02x}{:02x}{:02x}".format(*modalities.color_of(sense)),
        "file": _file_name(file),
        "spectrogram": modality is not None and modality.takes == AUDIO,
        "duration": frames.duration,
        "frames": len(frames),
        "size": list(frames.pixels.shape[-2:]),
        "grid": list(stream.grid),
        "times": _numbers(moments),
        "pictures": kinds,
    }


def _file_name(source: Any) -> str | None:
    """The name of a file or folder, without where it lies; None for media in memory."""
    if isinstance(source, View):
        return _file_name(source.clip)
    if isinstance(source, Mapping):  # several clips
        named = map(_file_name, source.values())
        return ", ".join(filter(None, named)) or None
    return Recording.of(source).path.name if isinstance(source, FileSource) else None


def _model(answered: Answered) -> Record:
    """What answered: no folders of the machine it ran on, which are named by their last part."""
    model, backbone = answered.model, answered.model.backbone
    name = backbone.source if backbone.revision else Path(backbone.source).name
    digests, count = dict(zip(answered.streams, answered.origin, strict=False)), len(answered.streams)
    senses = [sense for sense in answered.streams if sense != VIDEO]
    return {
        "backbone": {
            "name": name,
            "revision": backbone.revision,
            "family": backbone.family,
            "precision": str(backbone.dtype).removeprefix("torch."),
            "projector": model.fingerprint["projector"],
        },
        "adapters": [
            {
                "name": model.adapter(sense).name,
                "modality": model.adapter(sense).modality,
                "revision": digests[sense].hex(),
            }
            for sense in senses
        ],
        "llm_loras": [digest.hex() for digest in answered.origin[count:]],
    }


def _numbers(values: Tensor) -> Any:
    """A tensor as nested lists of numbers with DIGITS significant digits."""
    numbers: list[Any] = [float(f"{value:.{DIGITS}g}") for value in values.double().flatten().tolist()]
    for size in reversed(values.shape[1:]):
        numbers = [numbers[at : at + size] for at in range(0, len(numbers), size)]
    return numbers
