"""The recipe of adapters/sounds: what is read and asked, its variants and voices, mixup, noise, averages."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest
import stages
import torch

from lynx.config import Sampling, TrainConfig, TuneConfig
from lynx.datasets.base import Turn
from lynx.datasets.clips import content_key
from lynx.datasets.sources import open_data
from lynx.errors import DataError
from lynx.evaluation.recordings import evaluate
from lynx.media.audio import read_audio
from lynx.training.questions import training_clip
from lynx.training.stream_cache import StreamCache
from lynx.training.tuning_loss import answer_loss
from lynx.types import Stream
from lynx.world.pretraining.text import REAL_SOUNDS, vocabulary
from recipes.real_sounds import crossvalidation
from recipes.real_sounds.__main__ import main
from recipes.real_sounds.data import CLASSES, DIGIT, SOUND, folds_of, open_recordings
from recipes.real_sounds.mixup import WeightedClip, mixed
from recipes.real_sounds.training import (
    AveragingTrainer,
    Regularization,
    RegularizedLoss,
    tune_regularized,
)
from recipes.real_sounds.variants import vary, with_variants
from recipes.real_sounds.voices import commands, speak, timbres

TABLE = [
    ("1-100032-A-0.wav", "1", "dog"),
    ("5-9032-A-0.wav", "5", "dog"),
    ("2-17367-A-10.wav", "2", "rain"),
    ("5-182010-A-11.wav", "5", "sea_waves"),
    ("1-137-A-32.wav", "1", "keyboard_typing"),
]
FOLDERS = {
    "001 - Dog bark": ("1-30226-A.ogg", "2-114280-B.ogg"),
    "sea_waves": ("5-28135-A-11.ogg", "notes.txt", "cover.png"),
    "keyboard_typing": ("1-137-A.ogg",),
}


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    with (tmp_path / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("filename", "fold", "category"), *TABLE])
    for name, _, _ in TABLE:
        (tmp_path / "audio" / name).touch()
    return tmp_path


@pytest.fixture
def esc10(tmp_path: Path) -> Path:
    for folder, names in FOLDERS.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    return tmp_path


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    (tmp_path / "recordings").mkdir()
    for name in ("7_jackson_0.wav", "7_jackson_1.wav", "0_theo_12.ogg", "3_de_vries_0.wav", "README.md"):
        (tmp_path / "recordings" / name).touch()
    return tmp_path


@pytest.fixture
def heard(tmp_path: Path) -> Path:
    """Two speakers of two digits, real sound files."""
    import wave

    folder = tmp_path / "fsdd"
    folder.mkdir()
    for speaker, loud in (("ann", 0.5), ("bob", 0.1)):
        for digit in (1, 2):
            tone = loud * torch.sin(torch.arange(4000) * 0.1 * digit)
            with wave.open(str(folder / f"{digit}_{speaker}_0.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(8000)
                file.writeframes((tone * 32767).short().numpy().tobytes())
    return folder


def answers(examples: object) -> list[str]:
    return [example.turns[0].answer for example in examples]  # type: ignore[attr-defined]


def test_the_ten_classes_are_taken_from_the_table_of_esc50(esc50):
    examples = open_recordings("esc10", esc50)
    assert answers(examples) == ["dog", "dog", "rain", "waves"]
    assert [set(example.media) for example in examples] == [{"audio"}] * 4
    assert examples[0].media["audio"] == esc50 / "audio" / "1-100032-A-0.wav"


def test_a_folder_a_class_is_read_too(esc10):
    examples = open_recordings("esc10", esc10)
    assert [example.id for example in examples] == [
        "001 - Dog bark/1-30226-A.ogg",
        "001 - Dog bark/2-114280-B.ogg",
        "sea_waves/5-28135-A-11.ogg",
    ]
    assert answers(examples) == ["dog", "dog", "waves"]


def test_folds_are_held_out(esc50):
    train = open_recordings("esc10", esc50, held_out=("5",))
    test = open_recordings("esc10", esc50, held_out=("5",), split="test")
    assert [example.id[6] for example in train] == ["1", "2"]
    assert [example.id[6] for example in test] == ["5", "5"]


def test_speakers_are_held_out(digits):
    assert answers(open_recordings("digits", digits)) == ["zero", "three", "seven", "seven"]
    assert answers(open_recordings("digits", digits, held_out=("jackson", "theo"))) == ["three"]
    theo = open_recordings("digits", digits / "recordings", held_out=("theo",), split="test")
    assert answers(theo) == ["zero"]


@pytest.mark.parametrize(
    ("name", "said"), [("esc10", "ESC-10's classes: dog"), ("digits", "7_jackson_0.wav")]
)
def test_a_wrong_folder_is_said(tmp_path, name, said):
    (tmp_path / "typing").mkdir()
    (tmp_path / "typing" / "1-1-A.wav").touch()
    with pytest.raises(DataError, match=said):
        open_recordings(name, tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        open_recordings(name, tmp_path / "gone")


def test_all_questions_are_in_the_words_that_the_backbone_was_taught(esc50, tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    (folder / "4_theo_0.wav").touch()
    known = set(vocabulary())
    for example in (*open_recordings("esc10", esc50), *open_recordings("digits", folder)):
        for turn in example.turns:
            assert turn.senses == ("audio",)
            assert set(f"{turn.question} {turn.answer}".split()) <= known
    assert set(CLASSES.values()) == set(REAL_SOUNDS)


def test_a_sound_is_asked_for_as_often_as_another_is(esc50):
    for example in open_recordings("esc10", esc50, seed=3):
        heard = [turn for turn in example.turns if turn.type == "heard"]
        assert sorted(turn.answer for turn in heard) == ["no", "no", "yes", "yes"]
        name = example.turns[0].answer
        assert all((name in turn.question) == (turn.answer == "yes") for turn in heard)
    once, twice = (open_recordings("esc10", esc50, seed=3) for _ in range(2))
    assert [example.turns for example in once] == [example.turns for example in twice]


def test_variants_are_the_same_sound_changed(heard):
    examples = open_recordings("digits", heard)
    varied = with_variants(examples, 3, seed=1)
    assert len(varied) == 12
    assert varied[:4] == list(examples)
    assert len({content_key(example) for example in varied}) == 12
    one, other = (example.media["audio"] for example in varied[4:6])
    assert varied[4].turns == varied[5].turns == examples[0].turns
    original = read_audio(examples[0].media["audio"], 16000)
    assert 1 / 1.21 < one.duration / original.duration < 1.2 + 0.3 / original.duration
    assert one.duration != other.duration
    again = with_variants(open_recordings("digits", heard), 3, seed=1)[4].media["audio"]
    assert torch.equal(one.samples, again.samples)


def test_a_long_sound_begins_elsewhere_and_keeps_all_of_itself():
    click = torch.zeros(3 * 16000)
    click[100] = 1.0
    places = [int(vary(click, 16000, seed).argmax()) for seed in range(5)]
    assert len(set(places)) == 5
    assert all(float(vary(click, 16000, seed).max()) > 0.4 for seed in range(5))


def test_variants_of_what_is_no_sound_file_are_refused():
    with pytest.raises(DataError, match="there are none in these data"):
        with_variants(open_data("world", n=1, senses=("audio",)), 2)


def test_synthesized_voices_are_read_as_digits(tmp_path):
    runs = commands(tmp_path, 3, 0, ["f1", "m1"])
    assert runs == commands(tmp_path, 3, 0, ["f1", "m1"]) != commands(tmp_path, 3, 1, ["f1", "m1"])
    for run in runs:
        Path(run[run.index("-w") + 1]).touch()
        assert 0 <= int(run[run.index("-p") + 1]) <= 99 and 80 <= int(run[run.index("-s") + 1]) <= 220
    examples = open_recordings("digits", tmp_path)
    assert len(examples) == 30 and len(folds_of("digits", tmp_path)) == 3
    words = {Path(run[run.index("-w") + 1]).name: run[-1] for run in runs}
    assert [words[example.id] for example in examples] == answers(examples)


@pytest.mark.skipif(not which("espeak-ng"), reason="needs espeak-ng")
def test_espeak_speaks(tmp_path):
    names = timbres()
    assert {"f1", "m1"} <= set(names) and not any("whisper" in name for name in names)
    assert speak(tmp_path, 1) == 10
    sounds = [read_audio(example.media["audio"], 16000) for example in open_recordings("digits", tmp_path)]
    assert len(sounds) == 10 and all(0.2 < sound.duration < 3 and sound.samples.any() for sound in sounds)


class Parrot:
    """A model whose chat says what it is told to, in turn."""

    def __init__(self, *said: str) -> None:
        self.said, self.asked = list(said), []

    def chat(self, audio: Path, **moments: float | None) -> "Parrot":
        return self

    def clear(self) -> None:
        self.asked.append([])

    def ask(self, question: str) -> str:
        self.asked[-1].append(question)
        return self.said.pop(0)


def test_the_evaluation_asks_one_question_of_a_type_and_counts_what_is_taken_for_what(digits):
    model = Parrot("Zero.", "three", "six", "seven")
    result = evaluate(model, open_recordings("digits", digits))
    assert model.asked == [[question] for question in DIGIT[:4]]  # phrasings take turns, each asked alone
    assert (result["accuracy"], result["chance"], result["n"]) == (0.75, 0.5, 4)
    assert result["by_type"]["digit"]["accuracy"] == 0.75
    assert result["confusion"] == {
        "zero": {"Zero.": 1},
        "three": {"three": 1},
        "seven": {"six": 1, "seven": 1},
    }


def test_the_first_type_names_the_recording(esc50):
    model = Parrot("dog", "dog", "yes", "rain", "dog", "yes", "rain", "yes", "dog", "no")
    seen = []
    result = evaluate(model, open_recordings("esc10", esc50), lambda *done: seen.append(done))
    assert (result["accuracy"], result["n"]) == (0.5, 4)
    assert result["by_type"]["animal"]["accuracy"] == 1.0
    assert result["confusion"]["dog"] == {"dog": 1, "rain": 1}
    assert model.asked[0] == [SOUND[0]]
    assert seen[-1] == (4, 4)


# --- training -------------------------------------------------------------------------------------

SENSES = {"video": "video", "audio": "audio"}
SHORT = TuneConfig(
    steps=6, rank=2, alpha=4, batch_size=2, frames=stages.FRAMES, lr=2e-2, save_every=2, warmup=0.0
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone, and an adapter for it that has been aligned."""
    folder = tmp_path_factory.mktemp("stages")
    stages.small_adapter(stages.small_model(folder), folder / "audio")
    return folder


@pytest.fixture
def model(folder):
    return stages.small_model_with(folder)


def loss_of(model, examples, tmp_path, conversation=0.0, **regularization):
    """The loss over these clips, and their keys."""
    keys = [content_key(example) for example in examples]
    cache = StreamCache(tmp_path, model, SENSES, stages.FRAMES)
    cache.prepare(examples, keys, progress=False)
    clips = [training_clip(example, ["audio"], key) for example, key in zip(examples, keys, strict=True)]
    sampling, settings = Sampling(conversation=conversation), Regularization(**regularization)
    return RegularizedLoss(model, ["audio"], clips, cache, sampling, regularization=settings), keys


def test_noise_is_on_the_new_senses_tokens_alone_and_as_large_as_asked(model, tmp_path):
    def embeds(noise):
        loss, (key,) = loss_of(model, stages.clips(1), tmp_path, noise=noise)
        torch.manual_seed(5)  # the same draws before the noise
        return loss.pack([0])[0].embeds[0], [loss.cache.stream(sense, key).tokens for sense in SENSES]

    (quiet, (video, sound)), (loud, _), (louder, _) = embeds(0.0), embeds(0.1), embeds(0.2)
    begin = next(i for i in range(len(quiet)) if quiet[i].equal(sound[0]))
    assert any(row.equal(video[0]) for row in loud)
    added = loud[begin : begin + len(sound)] - sound
    share = added.square().sum(1).sqrt() / sound.square().sum(1).sqrt()
    assert share.mean() == pytest.approx(0.1, rel=0.05)
    assert share.numpy() == pytest.approx(0.1, rel=0.6)  # a token has few numbers
    torch.testing.assert_close(louder[begin : begin + len(sound)] - sound, 2 * added, atol=1e-5, rtol=1e-3)
    assert not any(row.equal(sound[0]) for row in loud)


def test_mixed_clips_are_asked_for_the_answers_of_both_in_their_shares(model, tmp_path):
    """Against two losses of one answer each, over the same tokens, weighed by hand."""
    examples = [replace(clip, turns=clip.turns[:1]) for clip in stages.clips(2)]  # a bell and a drum
    loss, keys = loss_of(model, examples, tmp_path, mixup=0.5)
    torch.manual_seed(3)
    packed, new, weights, mixed_share = loss.pack([0, 1])
    assert new.tolist() == [True] * 4
    share = float(weights[0])
    assert 0.01 < share < 0.99
    assert weights[:2].tolist() == pytest.approx([share, 1 - share])
    assert float(weights[2:].sum()) == pytest.approx(1)

    bell, drum = ([loss.cache.stream(sense, key) for sense in SENSES] for key in keys)
    both = [
        replace(one, tokens=share * one.tokens + (1 - share) * other.tokens)
        for one, other in zip(bell, drum, strict=True)
    ]
    with torch.no_grad():
        alone = [answer_loss(model.backbone, loss.packer.pack([both], [clip.turns]))[0] for clip in examples]
        found, _ = answer_loss(
            model.backbone, loss.packer.pack([both], [[c.turns[0] for c in examples]]), weights[:2]
        )
    assert float(found) == pytest.approx(share * float(alone[0]) + (1 - share) * float(alone[1]), rel=1e-4)
    embeds = packed.embeds[0]
    assert all(any(row.allclose(token, atol=1e-5) for row in embeds) for token in both[1].tokens)

    torch.manual_seed(3)
    parts = loss([0, 1])
    with torch.no_grad():
        whole, right = answer_loss(model.backbone, packed, weights)
    assert float(parts["loss"]) == pytest.approx(float(whole))
    assert float(parts["mixed"]) == mixed_share == 1
    assert float(parts["accuracy"]) == pytest.approx(float((weights * right).sum() / 2))


def shown(*turns, length=4, grid=(1, 1), senses=("audio",)):
    """A clip with streams of noise, which is asked all that is known of it."""
    rows = torch.zeros(length), torch.zeros(length, 2)
    streams = [Stream(sense, torch.rand(length, 3), *rows, grid, None) for sense in senses]
    return WeightedClip(streams, list(turns), [1.0] * len(turns))


ASKED = Turn("a ?", "bell", senses=("audio",))


@pytest.mark.parametrize(
    "other",
    [
        shown(replace(ASKED, question="b ?")),
        shown(ASKED, length=5),
        shown(ASKED, grid=(2, 2)),
        shown(ASKED, senses=("depth",)),
    ],
)
def test_clips_that_do_not_match_are_not_mixed(other):
    batch = [shown(ASKED), other]
    assert mixed(batch, [clip.turns for clip in batch], 1.0) == (batch, 0.0)


def test_an_answer_from_what_is_not_shown_is_none():
    batch = [shown(ASKED), shown(replace(ASKED, question="b ?"))]
    known = [batch[0].turns, [*batch[1].turns, replace(ASKED, senses=("depth",))]]
    assert mixed(batch, known, 1.0) == (batch, 0.0)
    known[1][1] = ASKED
    assert mixed(batch, known, 1.0)[1] == 0.5


def test_every_question_of_a_mixed_clip_has_the_answers_of_both():
    first, second = ASKED, replace(ASKED, question="b ?")
    batch = [shown(first, second), shown(first, replace(second, answer="drum"))]
    (one, other), share = mixed(batch, [clip.turns for clip in batch], 1.0)
    assert share == 1
    assert [(turn.question, turn.answer) for turn in one.turns] == [
        ("a ?", "bell"),
        ("b ?", "bell"),
        ("b ?", "drum"),
    ]
    assert [turn.answer for turn in other.turns] == ["bell", "drum", "bell"]
    for clip, mine, theirs in ((one, *batch), (other, *batch[::-1])):
        assert clip.weights[0] == 1 and sum(clip.weights[1:]) == pytest.approx(1)
        share = clip.weights[1]
        expected = share * mine.streams[0].tokens + (1 - share) * theirs.streams[0].tokens
        torch.testing.assert_close(clip.streams[0].tokens, expected)
    batch[1] = shown(first)  # knows one of the two questions
    (one, other), share = mixed(batch, [clip.turns for clip in batch], 1.0)
    assert one is batch[0] and len(other.turns) == 1 and share == 0.5


def test_mixup_that_could_mix_nothing_is_refused(model, tmp_path):
    mixup = Regularization(mixup=0.4)
    for config, conversation in ((replace(SHORT, batch_size=1), 0.0), (SHORT, 1.0)):
        with pytest.raises(DataError, match="mixup is 0.4, but .* no clip could be mixed"):
            sampling = Sampling(conversation=conversation)
            tune_regularized(model, "audio", [], config, tmp_path, mixup, sampling=sampling)
    with pytest.raises(DataError, match="average is 2; it must be between 0 and 1"):
        Regularization(average=2)


def test_a_conversation_is_not_mixed(model, tmp_path):
    for conversation, lighter in ((0.0, True), (0.999, False)):
        loss, _ = loss_of(model, stages.clips(2), tmp_path, conversation, mixup=0.5)
        torch.manual_seed(0)
        _, new, weights, _ = loss.pack([0, 1])
        assert bool((weights < 1).any()) is lighter
        assert new.tolist().count(False) == 2 * 2  # "see ?" and "see what now ?", with one answer


def rows(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def fitted(folder, steps=7, stop_at=None, **regularization):
    """A linear fit with dropout by the recipe's loop; its weights. `stop_at`: killed in that step."""
    points = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    weights = {"x.lora_A.weight": torch.ones(3, 4), "x.lora_B.weight": torch.full((2, 3), 0.1)}
    weights = {name: torch.nn.Parameter(weight) for name, weight in weights.items()}
    calls = iter(range(100))

    def loss(indices):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        a, b = weights.values()
        return {"loss": (torch.nn.functional.dropout(points[indices], 0.3) @ a.T @ b.T - 1).square().mean()}

    config = TrainConfig(lr=0.05, steps=steps, batch_size=2, save_every=2, seed=3, warmup=0.0)
    settings = Regularization(**regularization)
    trainer = AveragingTrainer(weights, 5, loss, config, folder, regularization=settings, progress=False)
    report = trainer.run()
    assert report["regularization"]["average"] == settings.average
    return {name: weight.detach() for name, weight in weights.items()}


def test_the_average_is_that_of_the_weights_after_every_step(tmp_path):
    """Its first decay is 1/10, the k-th (1 + k) / (10 + k), until that is the one asked for."""
    expected = fitted(tmp_path / "none", steps=0)
    for k in range(7):  # final_lr 1: the same learning rate, however long
        decay = min(0.25, (1 + k) / (10 + k))
        after = fitted(tmp_path / f"to{k}", steps=k + 1, final_lr=1.0)
        for name, weight in after.items():
            expected[name] = decay * expected[name] + (1 - decay) * weight
    for name, weight in fitted(tmp_path / "averaged", final_lr=1.0, average=0.25).items():
        torch.testing.assert_close(weight, expected[name])
        assert not weight.equal(after[name])
    assert {row["lr"] for row in rows(tmp_path / "averaged")} == {0.05}


def test_the_learning_rate_falls_to_the_share_asked_for(tmp_path):
    fitted(tmp_path / "half", final_lr=0.5)
    fitted(tmp_path / "zero")
    half, zero = ([row["lr"] for row in rows(tmp_path / name)] for name in ("half", "zero"))
    assert half == pytest.approx([0.025 + lr / 2 for lr in zero])


@pytest.mark.parametrize("stop_at", [1, 5])
def test_an_interrupted_run_goes_on_with_its_average(tmp_path, stop_at):
    whole = fitted(tmp_path / "whole", average=0.9)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "broken", average=0.9, stop_at=stop_at)
    again = fitted(tmp_path / "broken", average=0.9)
    assert all(weight.equal(again[name]) for name, weight in whole.items())
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")
    with pytest.raises(DataError, match=r"other settings \(average 0.9 -> 0.5\)"):
        fitted(tmp_path / "broken", average=0.5)


def test_from_the_command_line_a_round_is_trained_and_asked(heard, tmp_path, capsys, monkeypatch):
    """All three stages on lynx-tiny, a step each, a speaker held out; then the adapter alone is asked."""
    monkeypatch.setattr("recipes.real_sounds.__main__.FOLDER", tmp_path / "rounds")
    short = {"steps": 1, "batch_size": 2}
    for name in ("ALIGN", "TUNE", "SETTLE", "TALK"):
        monkeypatch.setattr(crossvalidation, name, replace(getattr(crossvalidation, name), **short))
    monkeypatch.setattr(crossvalidation, "VARIANTS", {"digits": (2, 1), "voices": (1, 1)})
    monkeypatch.setattr(crossvalidation, "REFERENCE_CLIPS", 4)
    given = ["--digits", str(heard)]
    out = tmp_path / "plot.png"
    assert main(["crossvalidate", *given, "--voices", str(heard), "--rounds", "1", "--plot", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rounds"] == 1 and found["digits"]["n"] == 2 and list(found["digits"]["by_group"]) == ["ann"]
    assert out.stat().st_size
    adapter = tmp_path / "rounds" / "ann"
    assert json.loads((adapter / "lynx_config.json").read_text())["token_pooling"] == "bands"
    assert main(["evaluate", *given, "--held-out", "ann", "--adapter", str(adapter)]) == 0
    measured = json.loads(capsys.readouterr().out)["digits"]
    assert measured["accuracy"] == found["digits"]["accuracy"] and measured["as_people_ask"]["n"] == 2
    assert main(["evaluate", *given, "--held-out", "zoe", "--adapter", str(adapter)]) == 1
    assert "no collection has 'zoe' to hold out" in capsys.readouterr().err
    assert main(["probe", *given, "--renderings", "default", "--moments", "2"]) == 0
    assert set(json.loads(capsys.readouterr().out)["accuracy"]["default"]["digits"]) == {
        *("pooled", "placed", "pixels"),
    }
