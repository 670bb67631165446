import ast
import dataclasses
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import JSON_DAMAGES, damage_json, llava_onevision, random_adapter

import lynx
from lynx.adapters.saving import save_adapter
from lynx.adapters.shipped import FOLDER, adapters_in
from lynx.backbones.quantization import describe_auto, pick_device
from lynx.cli.main import main
from lynx.cli.registry import COMMANDS
from lynx.config import AlignConfig, GuideConfig, Sampling, TuneConfig
from lynx.errors import LynxError

ROOT = Path(__file__).parents[2]
STAGES = {"guide": GuideConfig, "align": AlignConfig, "tune": TuneConfig}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    try:
        code = main(list(words))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random backbone."""
    return str(llava_onevision(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A second of noise without sound."""
    from lynx.media.writer import write_video

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8), fps=8)
    return str(path)


def test_the_overview_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(f"  {name} " in out for name in COMMANDS)
    examples = re.findall(r"^  lynx (\w+)", out, re.M)
    assert "examples:" in out and len(examples) >= 3 and set(examples) <= set(COMMANDS)
    assert run(capsys)[0] == 2, "no command at all is wrong usage"


def test_a_group_lists_its_own_commands(capsys):
    code, out, _ = run(capsys, "world", "--help")
    assert code == 0
    assert "world render" in out and "align" not in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_it_accepts(capsys, name):
    code, out, _ = run(capsys, *name.split(), "--help")
    assert code == 0
    example = COMMANDS[name].example
    assert example in " ".join(out.split()) and "--json" in out
    options = set(word for word in example.split() if word.startswith("--"))
    assert all(f" {option}" in out.split("example:")[0] for option in options)


@pytest.mark.parametrize(
    "words",
    [
        ("fly",),
        ("world",),
        ("params",),
        ("params", "--backbone", "lynx-tiny", "--rank", "0"),
        ("env", "--fast"),
        ("chat", "--frames", "3", "--fps", "2"),
        ("chat", "--fps", "0"),
        ("chat", "--max-frames", "0"),
        ("chat", "--start", "soon"),
        ("map", "--end", "1:75"),
        ("chat", "--depth-unit", "inch"),
        ("chat", "--temperature", "-1"),
        ("chat", "--temperature", "nan"),
        ("chat", "--max-new-tokens", "0"),
        ("chat", "--view-offset", "soon"),
        ("chat", "--depth-up", "north"),
        ("align", "--lr", "high"),
        ("adapters", "pull"),
        ("adapters", "push", "adapters/audio"),
        ("adapters", "import", "somewhere"),
        ("adapters", "fetch", "a/b"),
    ],
)
def test_wrong_usage_ends_with_two(capsys, words):
    code, out, err = run(capsys, *words)
    assert code == 2
    assert not out and "usage:" in err


def test_a_failure_ends_with_one_and_one_line(capsys):
    code, out, err = run(capsys, "params", "--backbone", "no-such-model")
    assert code == 1
    assert not out
    assert err.startswith("lynx: ") and err.count("\n") == 1 and "no-such-model" in err


def test_a_setting_out_of_range_is_refused_before_anything_is_loaded(capsys, tmp_path):
    words = ("--modality", "audio", "--guidance", str(tmp_path / "g"), "--out", str(tmp_path / "o"))
    code, _, err = run(capsys, "align", *words, "--warmup", "2")
    assert code == 1
    assert "warmup" in err and err.count("\n") == 1


def test_an_error_of_the_system_is_one_line_too(capsys, monkeypatch):
    def refuse(options):
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setitem(COMMANDS, "env", dataclasses.replace(COMMANDS["env"], run=refuse))
    assert run(capsys, "env") == (1, "", "lynx: /somewhere: Permission denied\n")


def test_the_cause_of_a_bug_stays_visible(capsys, monkeypatch):
    def broken(options):
        raise ZeroDivisionError

    monkeypatch.setitem(COMMANDS, "env", dataclasses.replace(COMMANDS["env"], run=broken))
    assert not issubclass(ZeroDivisionError, LynxError)
    with pytest.raises(ZeroDivisionError):
        main(["env"])


@pytest.mark.parametrize("name, config", STAGES.items())
def test_the_options_of_a_stage_are_the_fields_of_its_config(capsys, name, config):
    _, out, _ = run(capsys, name, "--help")
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in out
        assert field.metadata["help"].split()[0] in out


def test_tuning_takes_the_sampling_of_its_questions_too(capsys):
    _, out, _ = run(capsys, "tune", "--help")
    for field in dataclasses.fields(Sampling):
        assert f"--{field.name.replace('_', '-')}" in out
    assert "--mixup" not in out and "--cache" in out


@pytest.mark.parametrize(
    "words",
    [
        *("tune --mixup 0.4", "tune --noise=.1", "tune --average 0.9", "align --variants 6 1"),
        "align --final-lr 0",
    ],
)
def test_an_option_that_moved_says_where_it_went(capsys, words):
    command, option, *values = words.split()
    with pytest.raises(SystemExit) as left:
        main([command, "--modality", "audio", "--out", "x", option, *values])
    assert left.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{option.partition('=')[0]} is no longer an option of lynx {command}" in said
    assert "recipes/real_sounds/README.md" in said


def test_the_folder_of_the_streams_has_an_option_of_its_own(capsys):
    with pytest.raises(SystemExit) as left:
        main(["tune", "--modality", "audio", "--out", "x", "--cache", "runs/streams"])
    said = " ".join(capsys.readouterr().err.split())
    assert left.value.code == 2 and "'runs/streams' is none of auto, disk, off; the folder" in said
    assert "--cache-dir" in said


@pytest.mark.parametrize(
    "name, vision, llm", [("llava-onevision-0.5b", 33.493, 35.193), ("llava-onevision-7b", 33.493, 161.481)]
)
def test_params_are_those_of_the_paper(capsys, name, vision, llm):
    code, out, _ = run(capsys, "params", "--backbone", name, "--json")
    counts = json.loads(out)
    assert code == 0
    assert list(counts) == ["vision", "llm", "total"]
    assert counts["vision"] / 1e6 == pytest.approx(vision, abs=5e-4)
    assert counts["llm"] / 1e6 == pytest.approx(llm, abs=5e-4)
    assert counts["total"] == counts["vision"] + counts["llm"]


def test_params_of_internvl_stand_beside_what_the_paper_prints(capsys):
    _, out, _ = run(capsys, "params", "--backbone", "internvl2.5-4b", "--json")
    counts = json.loads(out)
    assert list(counts) == ["vision", "llm", "total", "paper"]
    assert counts["total"] == 148_045_824  # every linear of the native classes
    assert "144.9 M" in counts["paper"] and "fused" in counts["paper"]


def test_env_reports_versions(capsys):
    code, out, _ = run(capsys, "env", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["lynx"] == lynx.__version__
    assert report["packages"]["torch"] == torch.__version__
    assert report["precision_auto"] == describe_auto(pick_device("auto"))
    assert report["ready"] == (not report["missing"]["library"] and not report["missing"]["app"])


def test_a_reader_that_leaves_is_no_error():
    command = [sys.executable, "-m", "lynx", "env"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_a_group_of_processes_is_left_at_the_end(capsys, tmp_path):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    assert main(["env", "--json"]) == 0
    assert not torch.distributed.is_initialized()


def test_chat_answers_and_says_what_it_used(capsys, tiny, clip):
    words = ("--backbone", tiny, "--video", clip, "--frames", "4", "--evidence", "--without", "video")
    code, out, err = run(capsys, "chat", *words, "--ask", "what is it ?", "--ask", "and now ?", "--json")
    assert code == 0, err
    first, second = json.loads(out)["turns"]
    assert (first["question"], second["question"]) == ("what is it ?", "and now ?")
    assert first["used"] == {"video": [4, 1.0]}
    told = first["evidence"]
    assert (told["method"], told["unit"]) == ("attribution", "nats") and "written" not in told
    (whole,) = told["attributions"]
    assert whole["word"] is None and set(whole["totals"]) == {"video", "text"}
    assert whole["gained"] == pytest.approx(whole["totals"]["video"], rel=0.02)
    assert first["without"] != first["answer"], "noise moves even a random model"


def test_chat_reads_its_questions_from_the_input_and_streams(capsys, monkeypatch, tiny, clip):
    monkeypatch.setattr(sys, "stdin", iter(["what is it ?\n", "\n"]))
    code, out, err = run(capsys, "chat", "--backbone", tiny, "--video", clip)
    assert code == 0, err
    assert "what is it ?:" in out and "used:" in out


def test_chat_films_its_last_answer(capsys, tiny, clip, tmp_path):
    from lynx.media.container import probe

    words = ("--backbone", tiny, "--video", clip, "--frames", "4", "--ask", "what is it ?", "--json")
    film = tmp_path / "film.mp4"
    code, out, err = run(capsys, "chat", *words, "--film", str(film), "--window", "0-0.5")
    assert code == 0, err
    told = json.loads(out)["turns"][-1]["film"]
    assert told["path"] == str(film) and told["seconds"] == [0.0, 0.5]
    assert (told["word"], told["method"], told["notes"]) == (None, "attribution", [])
    assert probe(film).duration == pytest.approx(0.5, abs=0.1)
    code, _, err = run(capsys, "chat", *words, "--film", str(film), "--word", "99")
    assert code == 1 and "; it has " in err and err.count("\n") == 1
    code, _, err = run(capsys, "chat", *words, "--word", "1")
    assert code == 1 and "--film" in err
    assert run(capsys, "chat", *words, "--film", str(film), "--window", "3")[0] == 2


def test_chat_writes_what_each_answer_rests_on(capsys, tiny, clip, tmp_path):
    out_to = tmp_path / "new" / "out"
    words = ("chat", "--backbone", tiny, "--video", clip, "--frames", "4", "--ask", "what is it ?")
    more = ("--ask", "and now ?", "--evidence", "attention", "--evidence-out", str(out_to), "--end", "0.75")
    code, out, err = run(capsys, *words, *more, "--json")
    assert code == 0, err
    names = [f"{number}-evidence.{kind}" for number in (1, 2) for kind in ("json", "csv", "png")]
    assert [str(out_to / name) for name in names] == sum(
        (turn["evidence"]["written"] for turn in json.loads(out)["turns"]), []
    )
    assert sorted(names) == sorted(path.name for path in out_to.iterdir())
    record = json.loads((out_to / "2-evidence.json").read_text())
    assert record["question"] == "and now ?" and record["part"] == [0, 0.75]
    assert record["senses"]["video"]["file"] == "clip.mp4"
    assert str(tmp_path) not in json.dumps(record) and tiny not in json.dumps(record)
    indices = [found["word"] for found in record["attributions"]]
    assert indices == ([None] if len(record["words"]) > 1 else []) + list(range(len(record["words"])))
    code, out, err = run(capsys, *words, "--evidence")
    assert code == 0 and "attribution, nats:" in out and "nats" in out.partition("gained: ")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--evidence", "hearsay"), "expected one of attribution, "),
        (("--evidence", "attention:nowhere"), "no method 'attention:nowhere'"),
        (("--evidence", "hiding:3"), "no method 'hiding:3'"),
        (("--evidence", "--evidence-out"), "expected one argument"),
        (("--window", "2-three"), "'three' is no time"),
        (("--window", "2"), "is not START-END"),
    ],
)
def test_a_wrong_choice_of_evidence_is_wrong_usage(capsys, words, message):
    code, _, err = run(capsys, "chat", *words)
    assert code == 2 and message in err


def test_files_that_cannot_be_written_are_told_before_a_model_is_loaded(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    words = ("chat", "--backbone", "none-such", "--evidence", "--ask", "what is it ?")
    for option, name, message in (
        ("--evidence-out", "file/out", "no folder that may be written"),
        ("--film", "file/film.mp4", "no folder that may be written"),
        ("--film", "film.gif", "a film is an mp4"),
    ):
        code, _, err = run(capsys, *words, option, str(tmp_path / name))
        assert code == 1 and message in err


def test_people_read_every_answer_where_a_question_comes_twice(capsys, tiny, clip):
    words = ("chat", "--backbone", tiny, "--video", clip, "--frames", "2")
    code, out, err = run(capsys, *words, "--ask", "what is it ?", "--ask", "what is it ?")
    assert code == 0, err
    assert "1. what is it ?:" in out and "2. what is it ?:" in out and "video: 2 pictures, 1.0 s" in out


def test_evidence_is_written_to_a_folder_and_only_where_it_is_asked_for(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, err = run(capsys, "chat", "--evidence", "--evidence-out", str(tmp_path / "file"))
    assert code == 1 and "names a folder" in err and (tmp_path / "file").read_text() == "mine"
    code, _, err = run(capsys, "chat", "--evidence-out", str(tmp_path))
    assert code == 1 and "give --evidence, too" in err


def test_chat_about_a_part_says_which(capsys, tiny, clip, tmp_path):
    film = str(tmp_path / "film.mp4")
    words = ("chat", "--backbone", tiny, "--video", clip, "--ask", "what is it ?", "--json")
    code, out, err = run(capsys, *words, "--start", "0.25", "--end", "0:00.75", "--fps", "4", "--film", film)
    assert code == 0, err
    (turn,) = json.loads(out)["turns"]
    assert turn["part"] == [0.25, 0.75] == turn["film"]["seconds"] and turn["used"] == {"video": [2, 0.5]}
    code, out, _ = run(capsys, *words, "--fps", "8", "--max-frames", "3")
    (turn,) = json.loads(out)["turns"]
    assert turn["notes"] == ["8 frames a second would be 8; 3 are used"] and "part" not in turn
    code, _, err = run(capsys, *words, "--start", "7")
    assert code == 1 and err == "lynx: start is 7 s, but the recording lasts 1.00 s\n"
    code, _, err = run(capsys, *words, "--depth-unit", "tum")
    assert code == 1 and "give --depth FILE, too" in err
    code, _, err = run(capsys, *words, "--folder-fps", "10")
    assert code == 1 and "a folder of pictures or depth maps: give one" in err


def test_chat_takes_the_rate_of_a_folder_of_pictures(capsys, tiny, tmp_path):
    from lynx.media.writer import write_png

    for number in range(8):
        write_png(tmp_path / f"{number}.png", torch.full((3, 24, 32), number, dtype=torch.uint8))
    words = ("chat", "--backbone", tiny, "--video", str(tmp_path), "--ask", "what is it ?", "--json")
    code, out, err = run(capsys, *words, "--folder-fps", "4", "--fps", "2")
    assert code == 0, err
    (turn,) = json.loads(out)["turns"]
    assert turn["used"] == {"video": [4, 2.0]} and turn["notes"] == []


def test_the_unit_of_depth_is_given_with_it(capsys, tmp_path):
    np.save(tmp_path / "maps.npy", np.full((2, 24, 32), 50_000, np.uint16))
    words = ("chat", "--depth", str(tmp_path / "maps.npy"), "--ask", "what is near ?", "--json")
    for unit, meters in (("TUM", "10 m"), ("0.001", "50 m")):  # 5000 steps a meter, or 1000
        code, out, err = run(capsys, *words, "--depth-unit", unit, "--depth-up", "-y")
        assert code == 0, err
        assert f"(around {meters})" in " ".join(json.loads(out)["turns"][0]["notes"])


def test_map_tells_distances_and_draws_them(capsys, tiny, clip, tmp_path):
    out_file = tmp_path / "map.png"
    words = ("map", "--backbone", tiny, "--video", clip, "--frames", "4")
    code, out, err = run(capsys, *words, "--out", str(out_file), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [row["group"] for row in found["groups"]] == ["words", "picture"]
    assert found["groups"][0]["to_video"] > 0 and found["written"] == str(out_file)
    assert out_file.read_bytes().startswith(b"\x89PNG")
    assert found["notes"] == [] and "part" not in found
    code, out, err = run(capsys, *words, "--start", "0.5", "--end", "7", "--json")
    found = json.loads(out)
    assert code == 0 and found["part"] == [0.5, 1.0], err
    assert found["notes"] == ["the recording lasts 1.0 s: its part ends there, not at 7 s"]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "picture:" in out and "written" not in out
    code, _, err = run(capsys, *words, "--out", str(tmp_path / "map.doc"))
    assert code == 1 and "PNG" in err


@pytest.mark.parametrize("sense, file", [("audio", "clip"), ("video", "missing.mp4"), ("video", "text.mp4")])
def test_chat_never_leaves_out_what_it_was_given(capsys, tiny, clip, tmp_path, sense, file):
    (tmp_path / "text.mp4").write_text("no clip")
    path = clip if file == "clip" else str(tmp_path / file)
    code, _, err = run(capsys, "chat", "--backbone", tiny, f"--{sense}", path, "--ask", "what is it ?")
    assert code == 1
    assert err.count("\n") == 1 and (sense == "audio" or file in err)


def test_world_render_writes_the_same_clip_for_the_same_seed(capsys, tmp_path):
    for name in ("a", "b"):
        code, out, _ = run(
            capsys, "world", "render", "--seed", "7", "--size", "96", "--out", str(tmp_path / name), "--json"
        )
        assert code == 0
        assert str(tmp_path / name / "clip.mp4") in json.loads(out)["written"]
    assert (tmp_path / "a" / "qa.json").read_text() == (tmp_path / "b" / "qa.json").read_text()


def test_adapters_list_of_an_empty_folder_is_empty(capsys, tmp_path):
    assert run(capsys, "adapters", "list", "--dir", str(tmp_path), "--json") == (0, "{}\n", "")


def test_adapters_list_tells_what_each_is_and_why_one_is_unusable(capsys, tiny, tmp_path):
    model = lynx.load(tiny)
    random_adapter(model, "audio")
    save_adapter(model, "audio", tmp_path / "good", metrics={"command": "lynx eval", "with": 0.5})
    shutil.copytree(tmp_path / "good", tmp_path / "torn")
    (tmp_path / "torn" / "llm" / "adapter_model.safetensors").unlink()
    code, out, _ = run(capsys, "adapters", "list", "--dir", str(tmp_path), "--json")
    good, torn = (json.loads(out)[str(tmp_path / name)] for name in ("good", "torn"))
    assert code == 0
    assert good["modality"] == "audio" and good["backbone"] == Path(tiny).name and good["revision"] is None
    assert good["metrics"] == {"command": "lynx eval", "with": 0.5}
    assert list(torn) == ["unusable"] and "adapter_model.safetensors is missing" in torn["unusable"]


@pytest.mark.parametrize("case", JSON_DAMAGES)
def test_adapters_list_and_check_say_why_a_folder_is_broken_and_list_the_others(capsys, tmp_path, case):
    for name in ("broken", "sound"):
        shutil.copytree(ROOT / "adapters" / "audio", tmp_path / name)
    damage_json(tmp_path / "broken", case)
    code, out, err = run(capsys, "adapters", "list", "--dir", str(tmp_path), "--json")
    assert (code, err) == (0, "")
    broken, sound = (json.loads(out)[str(tmp_path / name)] for name in ("broken", "sound"))
    assert list(broken) == ["unusable"] and re.search(JSON_DAMAGES[case][2], broken["unusable"])
    assert sound["modality"] == "audio"
    code, out, err = run(capsys, "adapters", "list", "--dir", str(tmp_path))
    assert (code, err) == (0, "") and "unusable" in out and "\x1b" not in out
    code, _, err = run(capsys, "adapters", "check", str(tmp_path / "broken"))
    assert code == 1 and err.count("\n") == 1 and re.search(JSON_DAMAGES[case][2], err)


def test_adapters_check_takes_the_backbone_that_the_adapter_names(capsys, tmp_path):
    code, out, err = run(capsys, "adapters", "check", str(ROOT / "adapters" / "audio"), "--json")
    assert code == 0, err
    assert json.loads(out)["fits"] == "lynx-tiny"
    assert json.loads(out)["parts"] == ["vision", "llm", "type_embedding"]


def test_adapters_check_refuses_what_is_no_adapter(capsys, tiny, tmp_path):
    code, _, err = run(capsys, "adapters", "check", str(tmp_path), "--backbone", tiny)
    assert code == 1
    assert "lynx_config.json" in err and err.count("\n") == 1


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, as of somebody who has installed the package."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "empty"


def test_outside_the_checkout_adapters_are_found_by_name_or_by_the_medium(capsys, elsewhere):
    bell = str(ROOT / "examples" / "bell" / "clip.mp4")
    words = ("chat", "--audio", bell, "--ask", "What sound do you hear?", "--json")
    for more in ((), ("--adapter", "audio"), ("--adapter", str(ROOT / "adapters" / "audio"))):
        code, out, err = run(capsys, *words, *more)
        assert (code, err) == (0, ""), err
        assert json.loads(out)["turns"][0]["answer"] == "bell"
    (elsewhere / "audio").mkdir()  # of recordings, say
    code, out, err = run(capsys, *words, "--adapter", "audio")
    assert code == 0 and json.loads(out)["turns"][0]["answer"] == "bell", err
    code, out, _ = run(capsys, "adapters", "check", "sounds", "--json")
    assert code == 0 and json.loads(out)["adapter"] == "sounds"
    code, out, _ = run(capsys, "adapters", "list", "--json")
    assert code == 0 and {"audio", "depth", "high_fps", "multi_view", "sounds"} <= set(json.loads(out))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ask", "hi"), "give --video FILE, --audio FILE"),
        (("--audio", "clip.wav", "--backbone", "llava-onevision-0.5b"), "has no adapter for 'audio': give"),
        (("--video", "clip.mp4", "--view-offset", "1"), "give --multi_view FILE, too"),
        (("--multi_view", "a.mp4", "--view-offset", "1", "--view-offset", "-2"), "each of 1 views, not 1,"),
        (("--multi_view", "a.mp4", "--multi_view", "b.mp4", "--view-offset", "nan"), "2 views, not nan"),
        (("--multi_view", "a.mp4", "--multi_view", "."), ". is a folder: give it alone; offsets.json"),
        (("--audio", "clip.wav", "--adapter", "audoi"), "no adapter at 'audoi'"),
        (("--audio", "clip.wav", "--adapter", "adapters/audio"), "no folder 'adapters/audio' here"),
    ],
)
def test_chat_says_what_to_give_before_a_model_is_loaded(capsys, elsewhere, monkeypatch, words, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run(capsys, "chat", *words)
    assert (code, out) == (1, "") and said in err and err.count("\n") == 1


def test_a_mistyped_adapter_is_called_that_and_the_hub_is_not_asked(capsys, monkeypatch, elsewhere):
    from lynx import hub

    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("the Hub was asked"))
    (elsewhere / "adapters").symlink_to(ROOT / "adapters")
    for command in (("adapters", "check"), ("app", "--adapter")):
        for typed, said in (("adapters/audo", "no folder 'adapters/audo': adapters/ has audio, "),
                            ("audoi", "comes with lynx: audio, depth, ")):  # fmt: skip
            code, _, err = run(capsys, *command, typed)
            assert code == 1 and said in err and "network" not in err and err.count("\n") == 1


def test_a_port_in_use_names_the_option(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, err = run(capsys, "app", "--port", str(port))
    assert code == 1 and err == f"lynx: port {port} is in use: give another one, such as --port {port + 1}\n"
    code, _, err = run(capsys, "app", "--port", "99999")
    assert code == 1 and "--port" in err and err.count("\n") == 1
    code, _, err = run(capsys, "app", "--host", "192.0.2.1")
    assert code == 1 and "'192.0.2.1' is no address of this machine" in err and "--host" in err


def test_people_get_tables(capsys):
    code, out, _ = run(capsys, "adapters", "list")
    head, *rows = out.splitlines()
    assert code == 0 and head.split() == ["adapter", "sense", "backbone", "revision", "measured"]
    (audio,) = (row for row in rows if row.startswith("adapters/audio "))
    assert audio.split()[1:3] == ["audio", "lynx-tiny"] and "94.8 %" in audio
    column = head.index("sense")
    assert all(row[column - 1] == " " != row[column] for row in rows)
    code, out, _ = run(capsys, "params", "--backbone", "llava-onevision-0.5b")
    assert code == 0 and out.splitlines()[-1].split() == ["total", "68,685,824", "68.69"]
    code, out, _ = run(capsys, "params", "--backbone", "internvl2.5-4b")
    assert code == 0 and "144.9 M" in out.splitlines()[-1]
    code, out, _ = run(capsys, "backbones")
    assert code == 0 and "llava-hf/llava-onevision-qwen2-7b-ov-hf" in out and "GB nf4" in out.splitlines()[0]
    assert max(map(len, out.splitlines()[:-2])) < 150
    code, out, _ = run(capsys, "backbones", "qwen2.5-vl-3b")
    assert code == 0 and "lora_targets:" in out


def test_further_views_begin_when_they_are_said_to(capsys, tiny, clip, tmp_path):
    model = lynx.load(tiny)
    random_adapter(model, "multi_view", "multi_view")
    save_adapter(model, "multi_view", tmp_path / "views")
    words = ("chat", "--backbone", tiny, "--adapter", str(tmp_path / "views"), "--video", clip, "--json")
    words += ("--frames", "4", "--ask", "what is it ?")
    views = ("--multi_view", clip, "--multi_view", clip, "--view-offset", "0.5", "--view-offset", "-0.25")
    code, out, err = run(capsys, *words, *views, "--evidence", "attention")
    assert code == 0, err
    (turn,) = json.loads(out)["turns"]
    assert turn["used"]["multi_view"][0] == 8 and "does not record at 2 of 4" in " ".join(turn["notes"])
    code, out, err = run(capsys, *words, "--multi_view", clip)
    assert code == 0 and json.loads(out)["turns"][0]["notes"] == [], err


def test_length_and_temperature_of_an_answer_are_options(capsys, tiny, clip):
    words = ("chat", "--backbone", tiny, "--video", clip, "--frames", "2", "--ask", "what is it ?", "--json")

    def answer(*more):
        code, out, err = run(capsys, *words, *more)
        assert code == 0, err
        return json.loads(out)["turns"][0]["answer"]

    whole, short = answer("--max-new-tokens", "12"), answer("--max-new-tokens", "2")
    assert whole.startswith(short) and len(short) < len(whole)
    torch.manual_seed(1)
    assert answer("--max-new-tokens", "12", "--temperature", "5") != whole, "a random model draws anything"


def test_the_adapters_that_travel_in_the_package_are_those_of_the_checkout():
    kept = set(re.findall(r"^!/adapters/(\w+)/$", (ROOT / ".gitignore").read_text(), re.M))
    (listed,) = re.findall(r"^ADAPTERS = (\(.*\))$", (ROOT / "setup.py").read_text(), re.M)
    packed = {line.split("/")[1] for line in (ROOT / "MANIFEST.in").read_text().splitlines()}
    assert kept == set(ast.literal_eval(listed)) == packed
    assert kept <= set(adapters_in(FOLDER))


def test_the_three_stages_make_an_adapter(capsys, tiny, tmp_path):
    guidance, adapter = str(tmp_path / "guidance.safetensors"), str(tmp_path / "audio")
    few = ("--backbone", tiny, "--frames", "2", "--n", "4", "--json")
    short = ("--modality", "audio", "--rank", "2", "--steps", "1", "--out", adapter)
    for stage in (
        ("guide", *few, "--out", guidance),
        ("align", *few, *short, "--guidance", guidance),
        ("tune", *few, *short, "--questions", "1"),
    ):
        code, out, err = run(capsys, *stage)
        assert code == 0, err
        assert isinstance(json.loads(out), dict)
    code, out, _ = run(capsys, "adapters", "list", "--dir", str(tmp_path), "--json")
    assert json.loads(out)[adapter]["modality"] == "audio"
    code, out, _ = run(capsys, "adapters", "check", adapter, "--backbone", tiny, "--json")
    assert (code, json.loads(out)["parts"]) == (0, ["vision", "llm"])


def test_a_result_that_cannot_be_written_is_said_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "guidance.safetensors"
    assert main(["guide", "--out", str(out), "--backbone", str(tmp_path / "nothing"), "--n", "1"]) == 1
    said = capsys.readouterr().err
    assert f"cannot write {out}" in said and said.count("\n") == 1
