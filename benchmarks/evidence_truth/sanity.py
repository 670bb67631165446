"""Two checks of the library's attribution (J. Adebayo et al., "Sanity Checks for Saliency Maps", 2018,
arXiv 1810.03292): it must depend on the LLM's weights, and on what is asked."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from benchmarks.evidence_truth.measures import mass, on_cells, pointing
from benchmarks.evidence_truth.questions import Case, load, open_session
from lynx.evidence.evidence import Evidence
from lynx.evidence.integrated_gradients import integrated_gradients
from lynx.evidence.methods import ATTRIBUTION
from lynx.evidence.replay import weights_of
from lynx.model import Lynx
from lynx.world.places import places
from lynx.world.questions.types import QUESTION_TYPES
from lynx.world.scene.scene import Item

OF_SHAPES = ("color", "shape", "size", "motion", "back", "distance")
"""Types of questions about one shape, which can be asked about another one of the clip."""


def ranks(values: Tensor) -> Tensor:
    """Ranks of values (k,), equal ones sharing their mean rank: (k,) float64."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[inverse]


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation, -1..1; 0 where one of them is constant."""
    a, b = (ranks(each) - ranks(each).mean() for each in (one, other))
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale else 0.0


@torch.no_grad()
def draw_anew(model: Lynx, seed: int = 0) -> None:
    """Draw all weights of the LLM from the distribution that training begins with: matrices, the embedding
    and the LoRAs normal, with the standard deviation that they had; biases and norms stay."""
    generator = torch.Generator().manual_seed(seed)
    std = float(getattr(model.backbone.model.config.get_text_config(), "initializer_range", 0.02))
    names = dict(model.backbone.model.named_modules())
    for name, module in names.items():
        if "language_model" in name or name.endswith("lm_head") or "embed_tokens" in name:
            if isinstance(module, nn.Linear | nn.Embedding):
                spread = float(module.weight.std()) if "lora_" in name else std
                module.weight.normal_(0, spread, generator=generator)


def agreement(model: Lynx, evidence: Evidence, needed: Sequence[str]) -> dict[str, float]:
    """Rank correlation of the attribution with that of the same answer under an LLM drawn anew: of the needed
    senses' values, and of their sizes."""
    assert evidence.answered is not None
    drawn = _drawn_model()
    streams = evidence.answered.streams
    answered = replace(evidence.answered, model=drawn, origin=weights_of(drawn, streams))
    with answered.replay() as replay:
        values = integrated_gradients(replay, evidence.steps).values
    known = evidence.attribution(None, ATTRIBUTION).values
    one = torch.cat([known[sense] for sense in needed])
    other = torch.cat([values[replay.spans[sense]] for sense in needed])
    return {"signed": spearman(one, other), "size": spearman(one.abs(), other.abs())}


@lru_cache(maxsize=1)
def _drawn_model() -> Lynx:
    """The same model with an LLM drawn anew."""
    model = load.__wrapped__()
    draw_anew(model)
    return model


def follow(model: Lynx, case: Case) -> dict[str, float] | None:
    """Ask the same of another shape: does the map move to it? None where there is none, or the answer is
    wrong, or where both are one.

    pointing: 1 where its strongest cell lies on the other shape and not on the first. mass: 1 where more of
    it lies there than did for the first question.
    """
    item, kind = case.asked.slots.get("item"), QUESTION_TYPES[case.asked.turn.type]
    if not isinstance(item, Item) or kind.name not in OF_SHAPES:
        return None
    for slots, answer in kind.candidates(case.clip.scene):
        other = slots["item"]
        if other is item or not isinstance(other, Item):
            continue
        name = {"shape": other.shape, "color": f"{other.color} shape"}[kind.by[0]]
        turn = replace(case.asked.turn, question=kind.phrasings[0].format(item=name), answer=answer)
        truth = places(replace(case.asked, turn=turn, slots=slots), case.clip)
        session = open_session(model, case.clip.scene, kind.senses)
        if not truth or session.ask(turn.question).strip() != answer or session.evidence is None:
            continue
        ((sense, there),) = truth.items()
        stream = session.evidence.streams[sense]
        before, after = (
            on_cells(evidence.attribution(None, ATTRIBUTION).values[sense], stream)
            for evidence in (case.evidence, session.evidence)
        )
        there = there & ~case.truth[sense]
        if there.any():
            more = mass(after, there) > mass(before, there)
            return {"pointing": pointing(after, there), "mass": float(more)}
    return None
