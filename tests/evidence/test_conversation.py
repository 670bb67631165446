"""Evidence of a conversation: of its last answer, of earlier ones, and when what they rest on has changed."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from lynx import LynxError

QUESTION = "what is it ?"


def test_evidence_covers_the_answer_the_senses_and_their_grids(chat):
    answer = chat.ask("what is it ?", max_new_tokens=8)
    evidence = chat.evidence
    assert "".join(evidence.tokens).strip() == answer
    assert sum(evidence.share(0).values()) == pytest.approx(1) and set(evidence.share()) == {
        "video",
        "audio",
        "text",
    }
    times, values = evidence.attribution(0, "attention").curve("audio")
    assert torch.allclose(times, chat.plan.times) and values.shape == (6,)
    assert evidence.attribution(None, "attention").heatmap("video").shape == (6, 4, 4)
    first = evidence.attention.baseline
    chat.ask("and now ?", max_new_tokens=8)
    assert torch.equal(chat.evidence.attention.baseline, first)  # they were not computed again


def test_occlusion_measures_what_hiding_a_sense_does_to_the_answer(chat):
    with pytest.raises(LynxError, match="no answer"):
        chat.occlusion("audio")
    chat.ask("what is it ?", max_new_tokens=8)
    whole = chat.occlusion("audio")
    parts = [chat.occlusion("audio", window) for window in ((0.0, 2.0), (2.0, 4.0))]
    assert whole != 0 and parts[0] != parts[1]
    assert chat.occlusion("audio", (9.0, 10.0)) == 0
    audio = chat.evidence.streams["audio"]
    black = replace(audio.frames, pixels=torch.zeros_like(audio.frames.pixels))
    blank = chat.model.encode("audio", black).tokens[:-1].mean(dim=0).expand_as(audio.tokens[:-1])
    chat.evidence.answered.streams["audio"] = replace(audio, tokens=torch.cat([blank, audio.tokens[-1:]]))
    assert chat.occlusion("audio") == pytest.approx(0, abs=1e-4)  # what is black already cannot be hidden


def test_occlusion_is_of_the_answer_that_ends_the_history(chat):
    chat.ask("what is it ?", max_new_tokens=4)
    chat.undo()
    with pytest.raises(LynxError, match="ask again"):
        chat.occlusion("audio")
    chat.ask("what is it ?", max_new_tokens=4)
    chat.history = [dict(message) for message in chat.history]  # as the app keeps it
    assert chat.occlusion("audio") != 0


METHODS = ("attribution", "attention", "attention:late", "gradient_x_attention", "hiding")


def found(evidence, method, word=None):
    """All figures of an attribution that is computed anew."""
    fresh = replace(evidence, _known={})
    each = fresh.attribution(word, method)
    values = torch.cat(list(each.values.values()))
    return torch.cat([values, torch.tensor(list(each.totals.values()))])


@pytest.mark.parametrize("method", METHODS)
def test_the_evidence_of_an_earlier_answer_stays_what_it_was(chat, method):
    chat.ask(QUESTION, max_new_tokens=4)
    first, before = chat.evidence, found(chat.evidence, method)
    chat.senses["audio"] = False
    chat.ask("and now ?", max_new_tokens=4)
    chat.undo()
    chat.clear()
    assert chat.evidence is None
    assert torch.equal(found(first, method), before) and before.any()
    chat.senses["audio"] = True
    chat.ask("why ?", max_new_tokens=4)
    assert not torch.equal(found(chat.evidence, method), before)


def test_an_answer_s_words_are_explained_as_they_were_asked_about(chat):
    """The second answer's prompt has the first turn, of which a KV cache was continued."""
    chat.ask(QUESTION, max_new_tokens=4)
    chat.ask("and now ?", max_new_tokens=4)
    evidence = chat.evidence
    whole = evidence.attribution(None, "hiding")
    with evidence.answered.replay() as replay:
        assert replay.start == evidence.attention.rows.shape[1] - len(evidence.answered.ids) + 1
    assert whole.gained == pytest.approx(evidence.attribution().gained, abs=1e-3)
    assert chat.occlusion("audio") == evidence.hidden(None, "audio")
    assert chat.occlusion("audio") == pytest.approx(whole.totals["audio"], abs=1e-3)


def test_an_answer_of_other_adapters_can_no_longer_be_explained_but_its_attention_stays(model, chat):
    chat.ask(QUESTION, max_new_tokens=4)
    evidence, before = chat.evidence, found(chat.evidence, "attention")
    layers = found(evidence, "attention:0")
    lora = model.lora_name("audio", "llm")
    weights = {name: weight.clone() for name, weight in model.lora.tensors(lora).items()}
    model.lora.fill(lora, {name: -weight for name, weight in weights.items()})
    for method in ("attribution", "attention:0", "gradient_x_attention", "hiding"):
        with pytest.raises(LynxError, match="adapters have changed"):
            found(evidence, method)
    with pytest.raises(LynxError, match="adapters have changed"):
        evidence.hidden(0, "audio")
    model.lora.fill(lora, weights)
    assert torch.equal(found(evidence, "attention:0"), layers)
    model.unload_adapter("audio")
    with pytest.raises(LynxError, match="audio"):
        found(evidence, "attention:0")
    assert torch.equal(found(evidence, "attention"), before)


def test_half_of_the_frames_are_tried_without_the_streams_of_the_answer_before(chat, monkeypatch):
    chat.ask(QUESTION, max_new_tokens=2)
    chat.evidence.attribution(0, "attention:0")
    kept = weakref.ref(chat.evidence.streams["audio"])
    from lynx import session

    alive, generate = [], session.generate

    def full(backbone, prompt, **options):
        if chat.plan.frames == 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        gc.collect()
        alive.append(kept())
        return generate(backbone, prompt, **options)

    monkeypatch.setattr(session, "generate", full)
    chat.ask("and now ?", max_new_tokens=2)
    assert chat.plan.frames == 3 and alive == [None]
    assert chat.evidence.streams["audio"].steps == 3 and found(chat.evidence, "hiding").any()
