"""What speaks against an answer: words never taught, a clip unlike those in training, a low probability.

A model always answers. These are the signs that it answers what it cannot know, in a sentence each.
"""

import math
from collections.abc import Collection, Mapping

from lynx.adapters.registry import AdaptedBackbone
from lynx.backbones.base import Backbone, words_of
from lynx.evidence.evidence import Evidence
from lynx.types import VIDEO, Stream

WORDS_NAMED = 4
"""Unknown words of a question that are named; of more there is the number."""
UNSURE = 0.5
"""Probability of a short answer below which another one would be as likely."""
SHORT = 3
"""Words of a short answer. A longer one is one of many ways to say the same, each improbable."""


def doubts(
    model: AdaptedBackbone, question: str, streams: Mapping[str, Stream], evidence: Evidence
) -> list[str]:
    """The notes under an answer that say why it may be wrong; none where nothing speaks against it."""
    taught = {word for sense in streams if sense != VIDEO for word in model.adapter(sense).words}
    return [*unknown_words(model.backbone, question, taught), *unfamiliar(model, streams), *unsure(evidence)]


def unknown_words(backbone: Backbone, question: str, taught: Collection[str] = ()) -> list[str]:
    """Words of a question that a backbone of closed vocabulary was never taught.

    taught: those that the adapters which are on have taught it.
    """
    unknown = [word for word in backbone.unknown_words(question) if word not in taught]
    if backbone.words is not None and len(unknown) == len(words_of(question)):
        return ["the question has no word that this model was taught"]
    if not unknown:
        return []
    more = len(unknown) - WORDS_NAMED
    named = ", ".join(unknown[:WORDS_NAMED]) + (f" and {more} more" if more > 0 else "")
    return [f"words this model was never taught: {named}"]


def unfamiliar(model: AdaptedBackbone, streams: Mapping[str, Stream]) -> list[str]:
    """Senses whose tokens lie farther from those in training than nearly all clips there."""
    notes = []
    for sense, stream in streams.items():
        known = model.familiar(sense)
        if known is not None and (distance := known.distance(stream)) > known.limit:
            what = model.backbone.source if sense == VIDEO else f"the adapter {sense!r}"
            label = model.modality(sense).label
            notes.append(
                f"the {label} is unlike what {what} was trained on (distance {distance:.2g}; its own clips "
                f"{known.limit:.2g}): the answer may be made up"
            )
    return notes


def unsure(evidence: Evidence) -> list[str]:
    """A short answer that is less probable than all others together, and what else would be said."""
    if not 0 < len(evidence.words) <= SHORT:
        return []
    probability = math.prod(said.probability for said in evidence.said)
    if probability >= UNSURE:
        return []
    return [f"the model is not sure: this answer has {probability:.0%}{_instead(evidence)}"]


def _instead(evidence: Evidence) -> str:
    """The most probable other token where the answer was least sure of itself."""
    chances = [said.probability for said in evidence.said]
    other, *_ = evidence.candidates[chances.index(min(chances))]
    return f", {other.text!r} in its place {other.probability:.0%}"
