"""The named methods: what each gives, that they agree where they must, and what they refuse."""

from dataclasses import replace

import pytest
import torch
from checkpoints import clip
from transformers import LlavaOnevisionForConditionalGeneration

from lynx import LynxError
from lynx.errors import BackboneError
from lynx.evidence import gradient_attention
from lynx.evidence.attention import replayed_attention
from lynx.evidence.methods import ATTENTION, METHODS, THIRDS, explain, find_method, layers_of, parameters_of

QUESTION = "what is it ?"


def rows_of(evidence, layers, tokens=(0, 1)):
    """The attention of these layers, by a pass over prompt and answer."""
    with evidence.answered.replay() as replay:
        return replayed_attention(replay, evidence.attention, tokens, layers)


def test_attention_of_a_pass_over_the_answer_is_the_attention_recorded_as_it_was_written(talk):
    for question in (QUESTION, "and now ?"):  # the second continues a KV cache
        talk.ask(question, max_new_tokens=6)
        evidence = talk.evidence
        for word in (None, 0, len(evidence.words) - 1):
            steps = [evidence.steps[token] for token in evidence.find_word(word)[1]]
            found = explain(evidence.answered, evidence.attention, steps, ATTENTION)
            recorded = evidence.attribution(word, ATTENTION)
            assert dict(found.totals) == pytest.approx(dict(recorded.totals), abs=1e-5)
            for sense, values in recorded.values.items():
                assert torch.allclose(found.values[sense], values, atol=1e-6) and values.any()


def test_the_mean_over_single_layers_is_the_mean_over_all(talk):
    talk.ask(QUESTION, max_new_tokens=4)
    count = len(talk.model.backbone.text_attention_modules())
    single = [rows_of(talk.evidence, [layer]) for layer in range(count)]
    whole = rows_of(talk.evidence, range(count))
    for name in ("rows", "baseline"):
        each = torch.stack([getattr(rows, name) for rows in single])
        assert torch.allclose(each.mean(0), getattr(whole, name), atol=1e-6)
        assert not torch.allclose(each[0], each[-1], atol=1e-3)


def test_a_choice_of_layers_is_shown_above_its_own_baseline(chat):
    chat.ask(QUESTION, max_new_tokens=4)
    count = len(chat.model.backbone.text_attention_modules())
    tokens = chat.evidence.find_word()[1]
    for part in ("0", "1", *THIRDS):
        rows = rows_of(chat.evidence, layers_of(part, count), tokens)
        found = chat.evidence.attribution(None, f"attention:{part}")
        for sense, values in rows.attribution(tokens).values.items():
            assert torch.allclose(found.values[sense], values, atol=1e-6)
            assert values.sum() < replace(rows, baseline=None).attribution(tokens).values[sense].sum()
        assert dict(found.totals) == pytest.approx(rows.shares(tokens), abs=1e-5)


def test_thirds_of_the_layers_cover_all_of_them_and_none_is_empty():
    for count in range(1, 40):
        early, middle, late = (list(layers_of(third, count)) for third in THIRDS)
        assert early[0] == 0 and late[-1] == count - 1 and len(early) == len(late) == -(-count // 3)
        assert sorted({*early, *middle, *late}) == list(range(count)) == list(layers_of("", count))
        if count % 3 == 0:
            assert early + middle + late == list(range(count))


@pytest.mark.parametrize("layer", [None, 0, 1])
def test_gradient_x_attention_is_what_eager_attention_and_autograd_give(folder, model, layer):
    chat = model.chat(video=clip(), frames=4)  # without LoRAs
    chat.ask(QUESTION, max_new_tokens=6)
    evidence, tokens = chat.evidence, [1, 3]
    with evidence.answered.replay() as replay:
        inputs, ids, start = replay.inputs.clone(), replay.ids, replay.start
    eager = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    length = start + max(evidence.steps[token] for token in tokens)
    found = eager(inputs_embeds=inputs[:, :length].requires_grad_(), output_attentions=True)
    at = [start + evidence.steps[token] - 1 for token in tokens]
    said = ids[[evidence.steps[token] for token in tokens]]
    score = found.logits[0, at].log_softmax(-1).gather(-1, said[:, None]).sum()
    gradients = torch.autograd.grad(score, found.attentions)
    each = [(a * g).detach().clamp(min=0)[0][:, at] for a, g in zip(found.attentions, gradients, strict=True)]
    chosen = each if layer is None else [each[layer]]
    row = torch.stack(chosen).sum((0, 1, 2)).masked_fill(evidence.attention.sinks[:length], 0)
    row = row / row.sum()
    method = "gradient_x_attention" + ("" if layer is None else f":{layer}")
    steps = [evidence.steps[token] for token in tokens]
    result = explain(evidence.answered, evidence.attention, steps, method)
    span = evidence.attention.spans["video"]
    assert torch.allclose(result.values["video"], row[span], atol=1e-5) and row[span].max() > 1e-3
    assert result.totals["video"] == pytest.approx(float(row[span].sum()), abs=1e-5)
    assert sum(result.totals.values()) == pytest.approx(1)


def test_every_method_of_the_table_works_in_every_family(talk):
    talk.ask(QUESTION, max_new_tokens=3)
    for method in METHODS:
        found = talk.evidence.attribution(0, method)
        assert (found.method, found.unit) == (method, METHODS[method].unit)
        assert set(found.totals) == {"video", "audio", "text"} and set(found.values) == {"video", "audio"}
        for sense, values in found.values.items():
            newline = talk.evidence.streams[sense].times.isnan()
            assert values.shape == newline.shape and values.isfinite().all() and not values[newline].any()
            assert values.any() and found.heatmap(sense).shape[1:] == talk.evidence.streams[sense].grid
        assert (found.unit == "nats") == (found.gained is not None)
        assert talk.evidence.attribution(0, method) is found, "it is kept"


def test_the_table_says_what_each_method_shows():
    for name, method in METHODS.items():
        assert method.name == name and find_method(name) is method
        assert method.shows.endswith(".") and method.label and method.unit in ("nats", "share")
    assert len({method.label for method in METHODS.values()}) == len(METHODS)
    assert find_method("attention:3").label == "attention, layer 3"
    assert find_method("gradient_x_attention:late").unit == "share"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("rollout", "no method 'rollout'.*attribution.*hiding"),
        ("attention:", "no method 'attention:'"),
        ("attention:last", "no method 'attention:last'"),
        ("attention:-1", "no method 'attention:-1'"),
        ("hiding:2", "no method 'hiding:2'"),
        ("attention:2", "no layer 2: this model has 2, 0 to 1"),
        ("gradient_x_attention:9", "no layer 9: this model has 2, 0 to 1"),
        (f"attention:{'9' * 5000}", "no method"),
    ],
)
def test_a_method_or_layer_that_is_not_there_is_an_error(chat, method, message):
    chat.ask(QUESTION, max_new_tokens=2)
    with pytest.raises(LynxError, match=message):
        chat.evidence.attribution(0, method)


def test_every_method_says_what_it_is_computed_with():
    assert parameters_of("attribution")["steps"] == 8 and parameters_of("hiding")["parts"] == 256
    layers = {name: parameters_of(name)["layers"] for name in ("attention:late", "gradient_x_attention:3")}
    assert layers == {"attention:late": "late", "gradient_x_attention:3": 3}
    assert all(parameters_of(name) for name in METHODS)


def test_gradients_that_do_not_fit_are_refused_before_the_process_is_ended(chat, monkeypatch):
    chat.ask(QUESTION, max_new_tokens=2)
    monkeypatch.setattr(gradient_attention, "free_bytes", lambda _: 1000)
    with pytest.raises(BackboneError, match=r"another method, such as attention .* GB are free"):
        chat.evidence.attribution(0, "gradient_x_attention")
    assert chat.evidence.attribution(0, "attention:0").values["video"].any()


def test_words_and_senses_that_are_not_there_are_errors(chat):
    chat.senses["audio"] = False
    chat.ask(QUESTION, max_new_tokens=2)
    for word in ("giraffe", 99, -1):
        with pytest.raises(LynxError, match=f"no word {word!r}; it has "):
            chat.evidence.attribution(word)
        with pytest.raises(LynxError, match=f"no word {word!r}; it has "):
            chat.evidence.hidden(word, "video")
    found = chat.evidence.attribution(0, ATTENTION)
    for read in (found.heatmap, found.curve, found.frame_maps):
        with pytest.raises(LynxError, match="no 'audio': it used video"):
            read("audio")
    with pytest.raises(LynxError, match="'audio' here: it used video"):
        chat.evidence.hidden(None, "audio")
    with pytest.raises(LynxError, match="not kept with its model"):
        replace(chat.evidence, answered=None).attribution(0)


def test_an_empty_answer_rests_on_nothing_by_any_method(chat):
    backbone = chat.model.backbone
    backbone.model.generation_config.forced_eos_token_id = backbone.tokenizer.eos_token_id
    assert chat.ask(QUESTION, max_new_tokens=1) == ""
    evidence = chat.evidence
    assert len(evidence.answered.ids) == 1 and evidence.said == evidence.candidates == ()
    for method in METHODS:
        found = evidence.attribution(None, method)
        assert not any(values.any() for values in found.values.values())
        assert set(found.totals.values()) == {0.0} and found.heatmap("audio").shape == (6, 4, 4)
    assert evidence.hidden(None, "audio") == 0 == chat.occlusion("audio")
    with pytest.raises(LynxError, match="no method"):
        evidence.attribution(None, "rollout")
    with pytest.raises(LynxError, match="no words at all"):
        evidence.attribution("it")
