"""How probable each token of an answer was, and what else might have been said: at no further pass."""

import pytest
import torch
from checkpoints import arguments, followed

from lynx.backbones import decoding
from lynx.backbones.decoding import OTHERS, NextTokens
from lynx.evidence.evidence import END

QUESTION = "what is it ?"


def likely(evidence):
    """Log-probabilities (n, V) of the next token before each token of an answer, by one pass over all."""
    answered = evidence.answered
    backbone = answered.model.backbone
    with answered.alone(), torch.no_grad():
        prompt = backbone.compose(answered.messages, list(answered.streams.values()))
        at = torch.tensor(evidence.steps) + prompt.input_ids.shape[1] - 1
        given = arguments(backbone, followed(backbone, prompt, answered.ids))
        logits = backbone.model(**given, use_cache=False).logits
        return logits[0, at].float().log_softmax(-1)


def check(evidence):
    """What is said of an answer is what the whole distributions say."""
    expected, tokenizer = likely(evidence), evidence.answered.model.backbone.tokenizer
    assert len(evidence.said) == len(evidence.candidates) == len(evidence.tokens) > 0
    for place, (row, said, others) in enumerate(
        zip(expected, evidence.said, evidence.candidates, strict=True)
    ):
        token = int(evidence.answered.ids[evidence.steps[place]])
        assert said.probability == pytest.approx(float(row[token].exp()), rel=1e-3)
        assert said.text == tokenizer.decode([token]).lstrip(" ").replace("\n", "↵") or said.text == "space"
        row[token] = float("-inf")
        best = row.exp().topk(OTHERS).values.tolist()
        assert [other.probability for other in others] == pytest.approx(best, rel=1e-3)
    return expected


def test_probabilities_are_those_of_a_pass_over_the_whole_answer(talk):
    talk.ask(QUESTION, max_new_tokens=8)
    check(talk.evidence)
    for said, others in zip(talk.evidence.said, talk.evidence.candidates, strict=True):
        assert said.probability >= others[0].probability, "a greedy answer says the most probable"
    talk.ask("and now ?", max_new_tokens=8)  # continues a KV cache
    check(talk.evidence)


def test_they_are_of_the_model_itself_where_tokens_are_drawn(talk):
    torch.manual_seed(3)
    talk.ask(QUESTION, max_new_tokens=12, temperature=3.0)
    check(talk.evidence)
    pairs = zip(talk.evidence.said, talk.evidence.candidates, strict=True)
    assert any(said.probability < others[-1].probability for said, others in pairs)


def test_streamed_and_stopped_answers_have_them_too(chat):
    for piece in chat.stream(QUESTION, max_new_tokens=1500):
        if piece:
            chat.stop()
    check(chat.evidence)
    assert len(chat.evidence.said) < 1000


@pytest.mark.parametrize("kept", [1, 3 * 50, 2**20])
@pytest.mark.parametrize("more", [0, 1])
def test_scores_are_looked_at_together_as_far_as_few_are_kept(monkeypatch, kept, more):
    """more: steps computed behind the last id, as transformers does where it looks late whether to stop."""
    monkeypatch.setattr(decoding, "SCORES", kept)
    scores, next_tokens = torch.randn(7 + more, 50), NextTokens()
    ids = torch.tensor([9, 9, 9, *scores.argmax(dim=1).tolist()])
    ids[5] = 0  # one that was drawn
    most = 0
    for step, row in enumerate(scores):
        assert torch.equal(next_tokens(ids[None, : 3 + step], row[None]), row[None])
        most = max(most, sum(map(torch.numel, next_tokens._scores)))
    assert most <= max(kept, 50)
    chances, others, theirs = next_tokens.of(ids[3:10])
    for step, row in enumerate(scores[:7].softmax(-1)):
        assert chances[step] == pytest.approx(float(row[ids[3 + step]]))
        row[ids[3 + step]] = 0
        assert others[step].tolist() == row.topk(OTHERS).indices.tolist()
        assert torch.allclose(theirs[step], row.topk(OTHERS).values)
    assert len(chances) == 7


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_what_is_said_does_not_change_by_looking_at_it(model, temperature):
    model.backbone.model.generation_config.repetition_penalty = 1.3
    prompt = model.backbone.compose([{"role": "user", "content": QUESTION}])
    answers = []
    for next_tokens in (None, NextTokens()):
        torch.manual_seed(1)
        options = {"max_new_tokens": 12, "temperature": temperature, "next_tokens": next_tokens}
        answers.append(model.generate(prompt, **options))
    assert torch.equal(*answers)
    chances, others, theirs = next_tokens.of(answers[1][0])
    assert chances.shape == (answers[1].shape[1],) and others.shape == theirs.shape == (len(chances), OTHERS)
    assert not (others == answers[1][0][:, None]).any(), "the token itself is no other candidate"
    assert (theirs[:, :-1] >= theirs[:, 1:]).all()
    if not temperature:
        assert (chances >= theirs[:, 0]).all(), "the penalty decides what is most probable"


def test_a_marker_among_the_candidates_is_named_in_words(chat):
    backbone = chat.model.backbone
    letter, end = backbone.tokenizer.encode("a")[0], backbone.tokenizer.eos_token_id
    config, size = backbone.model.generation_config, backbone.model.get_input_embeddings().num_embeddings
    config.suppress_tokens = [token for token in range(size) if token not in (letter, end)]
    config.sequence_bias = [[[end], -50.0]]
    assert chat.ask(QUESTION, max_new_tokens=2) == "aa"
    assert [said.text for said in chat.evidence.said] == ["a", "a"]
    assert [others[0].text for others in chat.evidence.candidates] == [END, END]
    assert chat.evidence.said[0].probability == pytest.approx(1.0)
