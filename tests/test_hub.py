"""Adapters and backbones from and to a Hub: the real huggingface_hub over HTTP, on a small server of ours."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import checkpoints
import hub_server
import pytest
import stages
import yaml
from checkpoints import random_adapter
from hub_server import OWNER, READER, Hub
from huggingface_hub import constants, snapshot_download

import lynx
from lynx import hub
from lynx.adapters.format import CONFIG, FILES, FORMAT, WEIGHTS
from lynx.adapters.saving import save_adapter
from lynx.backbones import load_backbone
from lynx.cli.main import main
from lynx.errors import BackboneError
from lynx.media.writer import write_video
from lynx.ui.engine import Engine
from lynx.ui.types import Setup

METRICS = {"command": "lynx eval world --modality audio --n 1000 --seed 7 --json", "with": 0.9, "chance": 0.3}
LOG_IN = ("private or gated", "hf auth login")
Run = Callable[..., dict]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Hub]:
    """The Hub of this process, with nobody's token and a cache of its own: what HF_ENDPOINT and so on set."""
    with hub_server.serve() as running, pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setattr(constants, "ENDPOINT", running.url)
        path = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{")[2]
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{running.url}/{{{path}")
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.delenv("HF_TOKEN", raising=False)
        yield running


@pytest.fixture
def run(server, monkeypatch, capsys) -> Run:
    """Run a command of `lynx` under a token: its result. refused: words that its one line of error has."""

    def call(*words: object, token: str = "", refused: tuple[str, ...] = ()) -> dict:
        with monkeypatch.context() as patch:
            if token:
                patch.setenv("HF_TOKEN", token)
            capsys.readouterr()
            code = main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        if not refused:
            assert code == 0, err
            return json.loads(out)
        said = [line for line in err.splitlines() if line.startswith("lynx: ")]
        assert code == 1 and len(said) == 1 and all(word in said[0] for word in refused), err
        return {}

    return call


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    return checkpoints.llava_onevision(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def saved(backbone, tmp_path_factory) -> Path:
    model = lynx.load(backbone)
    random_adapter(model, "audio")
    return save_adapter(model, "audio", tmp_path_factory.mktemp("saved") / "audio", metrics=METRICS)


@pytest.fixture(scope="module")
def content(saved) -> dict[str, bytes]:
    """The adapter's files, as a repository holds them."""
    return {path.relative_to(saved).as_posix(): path.read_bytes() for path in saved.rglob("*.*")}


def files(folder: Path) -> dict[str, bytes]:
    """The files of the format in a folder."""
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


def repository(folder: Path) -> dict[str, bytes]:
    """A checkpoint as a repository holds it, with files beside it that nobody may need."""
    more = {"pytorch_model.bin": b"\x80\x04.", "README.md": b"", "onnx/model.onnx": b""}
    return {path.name: path.read_bytes() for path in folder.iterdir()} | more


# --- adapters from the Hub -----------------------------------------------------------------------


def test_pull_gives_the_adapter_pinned_to_a_commit(server, run, backbone, content, tmp_path):
    old = server.add("owner/plain", content | {"README.md": b"old"})
    sha = server.add("owner/plain", content)
    server.repos["owner/plain"].refs["v1"] = old
    for number, words in enumerate((("owner/plain", "--revision", "v1"), (f"owner/plain@{old}",))):
        assert run("adapters", "pull", *words, "--out", tmp_path / str(number))["commit"] == old
        assert (tmp_path / str(number) / "README.md").read_bytes() == b"old"
    server.requests.clear()
    out = tmp_path / "audio"
    told = run("adapters", "pull", "owner/plain", "--out", out)
    assert (told["commit"], told["adapter"], told["repo"]) == (sha, "audio", "owner/plain")
    assert files(out) == content and server.fetched()
    assert all(path.startswith(f"/owner/plain/resolve/{sha}/") for path in server.fetched())
    assert lynx.load(backbone, adapters=[out]).parts("audio") == ("vision", "llm")
    listed = run("adapters", "list", "--dir", tmp_path)[str(out)]
    assert listed["revision"] == f"owner/plain@{sha}" and listed["metrics"] == METRICS
    server.requests.clear()
    run("adapters", "pull", "owner/plain", "--out", tmp_path / "again")
    assert files(tmp_path / "again") == content and not server.fetched(), "it is in the cache"


def test_what_cannot_be_had_is_said_in_one_sentence_and_nothing_is_written(server, run, content, tmp_path):
    server.add("owner/there", content)
    server.add("owner/private", content, private=True)
    out = tmp_path / "audio"
    for source, token, words in (
        ("nobody/nothing", "", ("'nobody/nothing'", "there is none", *LOG_IN)),
        ("no id at all", "", ("Hub id",)),
        ("owner/there@v9", "", ("'owner/there'", "no revision 'v9'")),
        ("owner/private", "", ("'owner/private'", *LOG_IN)),
        ("owner/private", READER, ("'owner/private'", *LOG_IN)),
    ):
        run("adapters", "pull", source, "--out", out, token=token, refused=words)
    server.lost.add(f"vision/{WEIGHTS}")
    run("adapters", "pull", "owner/there", "--out", out, refused=("'owner/there'", WEIGHTS))
    server.lost.clear()
    assert not list(tmp_path.iterdir())
    run("adapters", "pull", "owner/private", "--out", out, token=OWNER)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (f"llm/{WEIGHTS}", None, (WEIGHTS,)),
        ("vision/adapter_config.json", None, ("adapter_config.json",)),
        (CONFIG, None, (CONFIG,)),
        (CONFIG, {"format": FORMAT + 1}, (f"format {FORMAT + 1}", "update lynx")),
        ("vision/adapter_model.bin", b"\x80\x04.", ("unsound/vision/adapter_model.bin", "pickle")),
        ("vision/../../../escaped.json", b"{}", ("leads out",)),
    ],
)
def test_a_repository_that_is_not_sound_is_refused(server, run, content, tmp_path, name, change, words):
    found = {key: value for key, value in content.items() if key != name}
    if isinstance(change, dict):
        change = json.dumps(json.loads(content[name]) | change).encode()
    server.repos.pop("owner/unsound", None)
    server.add("owner/unsound", found | ({name: change} if change else {}))
    server.requests.clear()
    run("adapters", "pull", "owner/unsound", "--out", tmp_path / "audio", refused=words)
    assert not list(tmp_path.iterdir())
    assert not [path for path in server.fetched() if path.endswith((".bin", "escaped.json"))]


def test_pulled_again_a_folder_is_brought_up_to_date_unless_it_was_changed(
    server, run, content, saved, tmp_path
):
    server.add("owner/update", content)
    out = tmp_path / "audio"
    run("adapters", "pull", "owner/update", "--out", out)
    (out / "notes.txt").write_text("mine")
    fewer = {name: data for name, data in content.items() if not name.startswith("llm/")}
    sha = server.add("owner/update", fewer)
    assert run("adapters", "pull", "owner/update", "--out", out)["commit"] == sha
    assert files(out) == fewer and (out / "notes.txt").read_text() == "mine"
    assert run("adapters", "list", "--dir", tmp_path)[str(out)]["revision"] == f"owner/update@{sha}"
    (out / "README.md").write_text("my own words")
    server.add("owner/update", fewer | {"README.md": b"new"})
    run("adapters", "pull", "owner/update", "--out", out, refused=("was changed", "README.md"))
    assert (out / "README.md").read_text() == "my own words"
    own = shutil.copytree(saved, tmp_path / "own")
    run("adapters", "pull", "owner/update", "--out", own, refused=("was not pulled from", "another folder"))


def test_offline_the_cache_is_used(server, run, backbone, content, tmp_path, monkeypatch):
    sha = server.add("owner/cached", content)
    told = run("adapters", "check", "owner/cached", "--backbone", backbone)
    assert told["parts"] == ["vision", "llm"] and told["revision"] == f"owner/cached@{sha}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.requests.clear()
    assert run("adapters", "pull", "owner/cached", "--out", tmp_path / "audio")["commit"] == sha
    assert run("adapters", "check", f"owner/cached@{sha}", "--backbone", backbone)["revision"].endswith(sha)
    words = ("'owner/never-seen'", "offline", "not in the cache")
    run("adapters", "pull", "owner/never-seen", "--out", tmp_path / "other", refused=words)
    assert files(tmp_path / "audio") == content and not server.requests


def test_a_folder_of_hf_download_says_its_commit_until_it_is_changed(server, backbone, content, tmp_path):
    sha = server.add("owner/by-hand", content | {".gitattributes": b""})
    out = Path(snapshot_download("owner/by-hand", local_dir=tmp_path / "audio"))  # `hf download --local-dir`
    assert lynx.load(backbone, adapters=[out]).parts("audio") == ("vision", "llm")
    assert hub.origin(out, CONFIG) == sha
    (out / CONFIG).write_text((out / CONFIG).read_text() + "\n")
    assert hub.origin(out, CONFIG) is None


def test_the_app_takes_a_hub_id_where_it_takes_a_folder(server, backbone, content):
    sha = server.add("owner/app", content)
    engine, there = Engine(), str(backbone)
    fits, gone = engine.models.options(there, ["owner/app", "owner/nowhere"])
    assert (fits.reason, fits.modality, fits.revision) == ("", "audio", f"owner/app@{sha}")
    assert "'owner/nowhere'" in gone.reason
    senses = engine.models.senses(Setup(there, adapters=("owner/app",)))
    assert [sense.name for sense in senses] == ["video", "audio"]


# --- adapters to the Hub -------------------------------------------------------------------------


def test_push_uploads_the_files_of_the_format_with_a_card(server, run, backbone, saved, content, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "audio")
    (folder / "notes.txt").write_text("mine")
    push = ("adapters", "push", folder, "owner/pushed", "--backbone", backbone)
    told = run(*push, token=OWNER)
    repo = server.repos["owner/pushed"]
    assert told["commit"] == repo.refs["main"] and not repo.private
    assert sorted(told["files"]) == sorted(content) == sorted(repo.files.keys() - {".gitattributes"})
    assert all(repo.files[name] == content[name] for name in content if name != "README.md")
    card = repo.files["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["library_name"]) == ("apache-2.0", "lynx")
    assert {"lynx", "audio"} <= set(front["tags"])
    assert 'adapters=["owner/pushed"]' in card and f"    {METRICS['command']}\n" in card
    run("adapters", "pull", "owner/pushed", "--out", tmp_path / "back")
    assert (tmp_path / "back" / "llm" / WEIGHTS).read_bytes() == content[f"llm/{WEIGHTS}"]
    shutil.rmtree(folder / "llm")
    assert run(*push, token=OWNER)["commit"] == repo.refs["main"]
    assert not [name for name in repo.files if name.startswith("llm/")], "the new adapter alone"


def test_push_is_refused_without_the_right_or_where_it_would_be_public(server, run, backbone, saved):
    push, to = ("adapters", "push", saved), ("--backbone", backbone)
    before = server.add("owner/open", {"a.txt": b"a"})
    for token in ("", READER):
        for repo in ("owner/open", "owner/not-there"):
            run(*push, repo, *to, token=token, refused=(f"'{repo}'", "hf auth login"))
    run(*push, "owner/open", "--private", *to, token=OWNER, refused=("'owner/open'", "public"))
    assert server.repos["owner/open"].refs["main"] == before and "owner/not-there" not in server.repos
    run(*push, "owner/mine", "--private", *to, token=OWNER)
    assert server.repos["owner/mine"].private


def test_tuning_puts_the_adapter_on_the_hub_with_its_curve_when_it_has_ended(
    server, run, backbone, saved, tmp_path, capsys
):
    pytest.importorskip("matplotlib")
    out = shutil.copytree(saved, tmp_path / "audio")
    rows = []
    for example in stages.clips(2):
        name = f"{example.id}.mp4"
        write_video(tmp_path / name, example.media["video"].pixels, 2, example.media["audio"])
        turn = {"question": "hear ?", "answer": "bell", "senses": ["audio"]}
        rows.append({"id": name, "media": {"video": name, "audio": name}, "turns": [turn]})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ("tune", "--modality", "audio", "--backbone", backbone, "--out", out, "--data", "jsonl", tmp_path)
    words += ("--frames", 2, "--steps", 10, "--rank", 2, "--batch-size", 2, "--replay-from", "data")
    for wrong in (("--push", "no id"), ("--private",), ("--modality", "audio", "depth", "--push", "o/n")):
        run(*words, *wrong, refused=("push",))
    assert not (out / "training").exists(), "before anything is trained"
    assert main([*map(str, words), "--push", "owner/tuned"]) == 1  # with nobody's token
    assert f"the adapter is in {out}: `lynx adapters push {out} owner/tuned` tries" in capsys.readouterr().err
    told = run(*words, "--push", "owner/tuned", "--private", token=OWNER)
    assert told["pushed"] == {"repo": "owner/tuned", "commit": server.repos["owner/tuned"].refs["main"]}
    assert server.repos["owner/tuned"].private and told["steps"] == 10
    there = server.repos["owner/tuned"].files
    assert there["training/tune/curve.png"].startswith(b"\x89PNG")
    assert "![The run of tune](training/tune/curve.png)" in there["README.md"].decode()
    run("adapters", "pull", "owner/tuned", "--out", tmp_path / "back", token=OWNER)
    assert (tmp_path / "back" / "training" / "tune" / "curve.png").is_file()


def test_push_refuses_what_does_not_pass_check(server, run, backbone, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "audio")
    (folder / "llm" / "adapter_model.bin").write_bytes(b"\x80\x04.")
    other = checkpoints.llava_onevision(tmp_path / "other", seed=5)
    for source, repo, on, words in (
        (saved, "owner/unfit", other, ("projector",)),
        (folder, "owner/unfit", backbone, ("pickle",)),
        (saved, "no id", backbone, ("'no id'", "owner/name")),
    ):
        run("adapters", "push", source, repo, "--backbone", on, token=OWNER, refused=words)
    assert "owner/unfit" not in server.repos


# --- backbones -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(checkpoints.FAMILIES))
def test_a_backbone_of_the_hub_is_that_of_its_folder(server, run, family, tmp_path, monkeypatch):
    backbone = checkpoints.FAMILIES[family](tmp_path)
    server.repos.pop("owner/model", None)
    sha = server.add("owner/model", repository(backbone) | {family: b""})
    server.requests.clear()
    run("estimate", "--backbone", "owner/model")
    assert {path.rpartition("/")[2] for path in server.fetched()}.isdisjoint({"model.safetensors"})
    loaded = load_backbone("owner/model")
    assert (loaded.source, loaded.revision) == ("owner/model", sha)
    assert loaded.fingerprint() == load_backbone(backbone).fingerprint()
    names = {path.removeprefix(f"/owner/model/resolve/{sha}/") for path in server.fetched()}
    assert "model.safetensors" in names and names.isdisjoint({"pytorch_model.bin", "README.md"})
    assert not [name for name in names if "/" in name], "all of one commit, and nothing of its folders"
    engine = Engine()
    engine.models.senses(Setup("owner/model"))
    assert engine.models.forecast(Setup("owner/model")).endswith(f"commit {sha[:8]}")
    server.add("owner/half", repository(backbone))
    run("estimate", "--backbone", "owner/half")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.requests.clear()
    assert load_backbone(f"owner/model@{sha}").fingerprint() == loaded.fingerprint()
    for source, word in {"owner/model@v9": "not in the cache", "owner/half": "with a network"}.items():
        with pytest.raises(BackboneError, match=f"'{source}'.*{word}"):
            load_backbone(source)
    assert not server.requests


def test_an_older_commit_of_a_backbone_is_loaded_whole(server, tmp_path):
    old = server.add("owner/grown", repository(checkpoints.llava_onevision(tmp_path / "old", layers=2)))
    assert load_backbone("owner/grown").revision == old
    new = server.add("owner/grown", repository(checkpoints.llava_onevision(tmp_path / "new", layers=3)))
    server.repos["owner/grown"].refs["v1"] = old
    for at, sha, layers in (("", new, 3), (f"@{old}", old, 2), ("@v1", old, 2)):
        loaded = load_backbone(f"owner/grown{at}")
        assert (loaded.source, loaded.revision) == ("owner/grown", sha)
        assert loaded.fingerprint()["text_layers"] == layers


def test_a_backbone_that_cannot_be_had_is_refused_in_one_sentence(server, run, backbone):
    server.add("owner/hidden-model", repository(backbone), private=True)
    server.add("owner/no-model", {"README.md": b""})
    server.add("owner/lost-model", repository(backbone) | {"lost.txt": b""})
    for source, words in {
        "owner/none": ("there is none", *LOG_IN),
        "owner/no-model@v9": ("no revision 'v9'", "branch, tag or commit"),
        "owner/hidden-model": LOG_IN,
        "owner/no-model": ("the repository has no config.json",),
    }.items():
        run("estimate", "--backbone", source, refused=(repr(source), *words))
    server.lost.add("model.safetensors")
    with pytest.raises(BackboneError, match=r"'owner/lost-model'.*model\.safetensors"):
        load_backbone("owner/lost-model")
    server.lost.clear()
    for call in (Engine().models.forecast, Engine().models.senses):
        with pytest.raises(BackboneError, match="'owner/none'.*log in"):
            call(Setup("owner/none"))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "README.md").write_text("a card")
    snapshot = hub.Snapshot("some/one", None, "0" * 40, tmp_path / "cache", ("README.md",))
    (tmp_path / "file").write_text("")
    with pytest.raises(lynx.AdapterError, match=r"cannot write .*file/pulled \(.*is there room"):
        hub.place(snapshot, tmp_path / "file" / "pulled", ["README.md"])
