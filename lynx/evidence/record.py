"""An answer's evidence as plain data: written as JSON, sent to the page, kept for earlier answers.

`docs/evidence.md` describes every key. A change of their meaning raises VERSION.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from lynx.evidence.attribution import Attribution
from lynx.evidence.evidence import Evidence
from lynx.modalities import color_of

FORMAT, VERSION = "lynx-evidence", 1
Record = dict[str, Any]
"""Of strings, numbers, lists and None only."""


def evidence_record(
    evidence: Evidence, labels: Mapping[str, str], found: Iterable[tuple[int | None, Attribution]] = ()
) -> Record:
    """The record of an answer; labels: the senses' names for people.

    found: attributions, each with the index of its word in `evidence.words`, None for the whole answer.
    """
    tokens: list[Record] = [{"text": text} for text in evidence.tokens]
    for token, said, others in zip(tokens, evidence.said, evidence.candidates, strict=False):
        token["probability"] = said.probability
        token["others"] = [{"text": other.text, "probability": other.probability} for other in others]
    senses = {}
    for sense, stream in evidence.streams.items():
        moments = stream.times[~stream.times.isnan()].unflatten(0, (-1, stream.grid[0] * stream.grid[1]))
        senses[sense] = {
            "label": labels.get(sense, sense),
            "color": "#{:02x}{:02x}{:02x}".format(*color_of(sense)),
            "grid": list(stream.grid),
            "times": moments[:, 0].tolist(),
        }
    return {
        "format": FORMAT,
        "version": VERSION,
        "answer": "".join(evidence.tokens).strip(),
        "tokens": tokens,
        "words": [{"text": text, "tokens": list(indices)} for text, indices in evidence.words],
        "senses": senses,
        "attributions": [attribution_record(word, each) for word, each in found],
    }


def attribution_record(word: int | None, attribution: Attribution) -> Record:
    """One of a record's "attributions"; values: by sense, [moment][row][column]."""
    return {
        "word": word,
        "method": attribution.method,
        "unit": attribution.unit,
        "gained": attribution.gained,
        "missed": attribution.missed,
        "totals": dict(attribution.totals),
        "values": {
            sense: attribution.heatmap(sense).round(decimals=6).tolist() for sense in attribution.values
        },
    }
