"""Whether the clips that are asked about were tuned on: what was selected on a set is not measured on it.

An adapter keeps digests of the recordings that it was tuned on (`lynx.adapters.tuned_on`). Every question is
counted by what its clip was, in the predictions and in the scores.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

from lynx.adapters.tuned_on import HELD_OUT, NEW, TRAINED
from lynx.datasets.base import Example
from lynx.evaluation.predictions import Prediction
from lynx.model import Lynx
from lynx.streams.key import recording_digests
from lynx.types import VIDEO

TUNED_ON = "tuned_on"
"""The key of the counts in a report."""
NO_RECORD = "no_record"


def tuning_role(model: Lynx, example: Example, senses: Sequence[str]) -> str:
    """What a clip was for the adapters of these senses: TRAINED for one of them, else HELD_OUT, else NEW; ""
    where none of them says what it was tuned on."""
    known = [model.tuned_on[name] for name in _adapters(model, senses) if name in model.tuned_on]
    return reduce(or_, known).role(recording_digests(example.media, example.key)) if known else ""


def overlap(model: Lynx, predictions: Iterable[Prediction], senses: Sequence[str]) -> dict[str, Any]:
    """For a report: questions about recordings that were tuned on, and about ones that were held out while
    tuning; the adapters that do not say what they were tuned on."""
    return {TUNED_ON: counted(predictions), NO_RECORD: _unsaid(model, senses)}


def overlap_of_recordings(model: Lynx, examples: Iterable[Example], senses: Sequence[str]) -> dict[str, Any]:
    """The same of recordings that are asked one question each."""
    found = Counter(tuning_role(model, example, senses) for example in examples)
    return {TUNED_ON: _in_order(found), NO_RECORD: _unsaid(model, senses)}


def counted(predictions: Iterable[Prediction]) -> dict[str, int]:
    """How many questions are about recordings of each kind, where that is known."""
    return _in_order(Counter({each.answered.id: each.answered.tuned_on for each in predictions}.values()))


def _in_order(found: Mapping[str, int]) -> dict[str, int]:
    return {role: found.get(role, 0) for role in (TRAINED, HELD_OUT, NEW)}


def _unsaid(model: Lynx, senses: Sequence[str]) -> list[str]:
    tuned = [name for name in _adapters(model, senses) if model.llm_loras(name)]
    return [name for name in tuned if name not in model.tuned_on]


def warnings_of(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures has to know of an `overlap`."""
    questions = report.get(TUNED_ON, {})
    told = []
    if count := questions.get(TRAINED):
        text = f"{count} questions are about recordings that the adapter was tuned on"
        told.append(f"{text}: they measure what it remembers, not what it can do")
    if count := questions.get(HELD_OUT):
        text = f"{count} questions are about recordings that were held out while the adapter was tuned"
        told.append(f"{text}: if weights or settings were chosen by them, measure it on others")
    unsaid = report.get(NO_RECORD, ())
    return [*told, *(f"the adapter {name} does not say which recordings it was tuned on" for name in unsaid)]


def _adapters(model: Lynx, senses: Sequence[str]) -> list[str]:
    return sorted({model.adapter(sense).name for sense in senses if sense != VIDEO})
