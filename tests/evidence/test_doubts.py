"""Notes under an answer that say why it may be wrong."""

from dataclasses import replace

import checkpoints
import pytest
import torch
from checkpoints import clip, random_adapter, sound
from safetensors.torch import save_file

import lynx
from lynx import AdapterError, BackboneError
from lynx.adapters.format import Adapter
from lynx.adapters.saving import save_adapter
from lynx.backbones.familiarity import COUNT, FAMILIAR_FILE, FamiliarTokens, familiar_tokens
from lynx.evidence.doubts import WORDS_NAMED, unsure
from lynx.evidence.evidence import Candidate
from lynx.types import Stream

WIDTH = 8


def stream(tokens, newline=False):
    """A stream of these tokens (n, D), the last of which may be a newline."""
    times = torch.arange(len(tokens)).double()
    if newline:
        times[-1] = torch.nan
    return Stream("audio", tokens, times, torch.zeros(len(tokens), 2).long(), (1, 1), None)


def around(direction, n=20, spread=0.05, seed=0):
    """A stream of n tokens near a direction, each of another length."""
    generator = torch.Generator().manual_seed(seed)
    noise = spread * torch.randn(n, WIDTH, generator=generator)
    lengths = 1 + torch.rand(n, 1, generator=generator)
    return stream((direction + noise) * lengths)


@pytest.fixture(scope="module")
def axes():
    return torch.eye(WIDTH)


def test_a_clip_of_the_same_kind_is_familiar_and_another_is_not(axes):
    known = familiar_tokens(*([around(axes[0], seed=i) for i in part] for part in (range(20), range(20, 60))))
    others = [around(axes[0], seed=i) for i in range(100, 200)]
    assert sum(known.distance(each) > known.limit for each in others) <= 5
    assert known.distance(around(axes[1])) > 10 * known.limit
    assert known.distance(stream(3 * known.directions[:4])) == pytest.approx(0, abs=1e-5)
    assert known.distance(stream(-axes[:1])) > 1.5


def test_a_newline_says_nothing_about_a_clip(axes):
    known = FamiliarTokens(axes[:1], 0.1)
    tokens = torch.stack([axes[0], axes[1]])
    assert known.distance(stream(tokens)) == pytest.approx(0.5)
    assert known.distance(stream(tokens, newline=True)) == pytest.approx(0, abs=1e-6)


def test_few_are_kept_and_read_back_as_they_are(axes, tmp_path):
    clips = [around(axes[i % WIDTH], n=100, seed=i) for i in range(12)]
    known = familiar_tokens(clips[:6], clips[6:])
    assert known.directions.shape == (COUNT, WIDTH)
    known.save(tmp_path / FAMILIAR_FILE)
    read = FamiliarTokens.load(tmp_path / FAMILIAR_FILE)
    assert read.directions.equal(known.directions) and read.limit == pytest.approx(known.limit)
    assert familiar_tokens(clips[:6], clips[6:]).directions.equal(known.directions)


@pytest.fixture
def model(tmp_path):
    loaded = lynx.load(checkpoints.llava_onevision(tmp_path / "backbone"))
    random_adapter(loaded, "audio")
    return loaded


def test_an_adapter_keeps_what_its_clips_look_like(model, tmp_path):
    width = model.backbone.model.config.get_text_config().hidden_size
    directions = torch.eye(width)[:3]
    model.familiar_tokens["audio"] = FamiliarTokens(directions, 0.25)
    save_adapter(model, "audio", tmp_path / "adapter")
    model.unload_adapter("audio")
    assert not model.familiar_tokens
    model.load_adapter(tmp_path / "adapter")
    assert model.familiar("audio").directions.equal(directions)
    chat = model.chat(audio=sound(), video=clip())
    chat.ask("what is it ?", max_new_tokens=2)
    (note,) = [note for note in chat.notes if "unlike" in note]
    assert note.startswith("the sound is unlike what the adapter 'audio' was trained on")
    model.familiar_tokens["audio"] = replace(model.familiar("audio"), limit=2.0)
    chat.ask("what is it ?", max_new_tokens=2)
    assert not any("unlike" in note for note in chat.notes)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"directions": torch.eye(3)},
        {"directions": torch.ones(())},
        {"directions": torch.ones(0, 64)},
        {"directions": torch.ones(COUNT + 1, 64)},
        {"directions": torch.ones(4, 64), "more": torch.ones(1)},
    ],
)
def test_an_adapter_whose_file_does_not_fit_is_refused(model, tmp_path, wrong):
    tensors = {"limit": torch.ones(1), **wrong}
    save_adapter(model, "audio", tmp_path / "adapter")
    save_file(tensors, tmp_path / "adapter" / FAMILIAR_FILE)
    model.unload_adapter("audio")
    with pytest.raises(AdapterError, match=FAMILIAR_FILE):
        model.load_adapter(tmp_path / "adapter")
    assert not model.adapters and not model.familiar_tokens


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        {"directions": torch.eye(3)},
        {"directions": torch.ones(0, 64)},
        {"directions": torch.ones(64)},
    ],
)
def test_a_backbone_whose_file_does_not_fit_is_refused(tmp_path, wrong):
    folder = checkpoints.llava_onevision(tmp_path / "backbone")
    if wrong is None:
        (folder / FAMILIAR_FILE).write_bytes(b"no tensors")
    else:
        save_file({"limit": torch.ones(1), **wrong}, folder / FAMILIAR_FILE)
    with pytest.raises(BackboneError, match=FAMILIAR_FILE):
        lynx.load(folder)


def evidence(*chances):
    """The evidence of a one-word answer whose tokens had these probabilities, as far as `unsure` looks."""

    class Said:
        words = [("answer", list(range(len(chances))))]
        said = tuple(Candidate(f"t{i}", chance) for i, chance in enumerate(chances))
        candidates = tuple((Candidate(f"other{i}", (1 - chance) / 2),) for i, chance in enumerate(chances))

    return Said()


def test_a_short_answer_that_others_outweigh_is_called_unsure():
    assert unsure(evidence(0.9, 0.8)) == []
    (note,) = unsure(evidence(0.9, 0.5))
    assert "45%" in note and "'other1' in its place 25%" in note
    assert unsure(evidence()) == []


def test_the_world_is_familiar_to_its_model_and_noise_is_not(root):
    model = lynx.load("lynx-tiny", adapters=[root / "adapters" / "audio"])
    bell = root / "examples" / "bell" / "clip.mp4"
    chat = model.chat(video=bell, audio=bell)
    assert chat.ask("what sound do you hear ?") == "bell" and not chat.notes
    chat = model.chat(video=clip(), audio=sound())
    chat.ask("what sound do you hear ?")
    senses = [note.partition(" is unlike")[0] for note in chat.notes if "unlike" in note]
    assert senses == ["the picture", "the sound"]


@pytest.mark.parametrize("question", ["🐶", "???", "qwertz uiop"])
def test_a_question_without_a_word_that_was_taught_says_so_shortly(root, question):
    chat = lynx.load("lynx-tiny").chat(video=root / "examples" / "bell" / "clip.mp4")
    chat.ask(question, max_new_tokens=2)
    assert "the question has no word that this model was taught" in chat.notes


def test_of_many_unknown_words_a_few_are_named(root):
    chat = lynx.load("lynx-tiny").chat(video=root / "examples" / "bell" / "clip.mp4")
    words = [f"word{i}" for i in range(30)]
    chat.ask("what is " + " ".join(words), max_new_tokens=2)
    named = ", ".join(words[:WORDS_NAMED])
    assert f"words this model was never taught: {named} and {30 - WORDS_NAMED} more" in chat.notes


def test_a_word_that_an_adapter_taught_is_known_while_it_is_on(root):
    model = lynx.load("lynx-tiny", adapters=[str(root / "adapters" / "sounds")])
    clip = root / "examples" / "bell" / "clip.mp4"
    notes = {}
    for senses in (("video", "audio"), ("video",)):
        chat = model.chat(**dict.fromkeys(senses, clip))
        chat.ask("what am I listening to , xyzzy ?", max_new_tokens=2)
        notes[senses] = [note for note in chat.notes if "never taught" in note]
    told = "words this model was never taught: "
    assert notes == {("video", "audio"): [f"{told}xyzzy"], ("video",): [f"{told}am, i, listening, xyzzy"]}


@pytest.mark.parametrize("tuned", [None, [], {}, {"words": None}, {"words": {"a": 1}}, {"words": "word"}])
def test_an_adapter_that_says_no_words_taught_none(tuned):
    assert Adapter("audio", "audio", training={"tune": tuned}).words == frozenset()
    assert Adapter("audio", "audio", training={"tune": {"words": ["word", 7]}}).words == {"word", "7"}
