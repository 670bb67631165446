"""The methods by which an answer's evidence is computed from passes over it, by name."""

import math
from collections.abc import Sequence

from lynx.errors import LynxError
from lynx.evidence.attribution import TEXT, Attribution
from lynx.evidence.integrated_gradients import Progress, integrated_gradients
from lynx.evidence.replay import Answered

ATTRIBUTION, ATTENTION = "attribution", "attention"
METHODS = (ATTRIBUTION, ATTENTION)


def explain(
    answered: Answered, tokens: Sequence[int], method: str, progress: Progress | None = None
) -> Attribution:
    """What the tokens at these indices of the answer's ids rest on; progress: told of the passes done.

    Raises: LynxError: no such method.
    """
    if method != ATTRIBUTION:
        raise LynxError(f"there is no method {method!r} of evidence: expected one of {', '.join(METHODS)}")
    with answered.replay(shared=True) as replay:
        found = integrated_gradients(replay, tokens, progress=progress)
        spans = replay.spans
        vocabulary = answered.model.backbone.model.get_input_embeddings().num_embeddings
    by_sense = {sense: found.values[span] for sense, span in spans.items()}
    totals = {sense: float(mine.sum()) for sense, mine in by_sense.items()}
    totals[TEXT] = found.blank + len(tokens) * math.log(vocabulary)
    gained = found.real - found.blank
    return Attribution(method, "nats", by_sense, answered.streams, totals, gained, found.missed)
