"""Adapters from and to a Hub, over HTTP: the real huggingface_hub and the real `hf` program."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import checkpoints
import hub_server
import pytest
import yaml
from checkpoints import random_adapter
from hub_server import READER, TOKEN, Hub
from safetensors.torch import load_file, save

import lynx
from lynx import hub
from lynx.adapters.format import CONFIG, FILES, FORMAT, WEIGHTS
from lynx.adapters.saving import save_adapter
from lynx.backbones import load_backbone

HERE = Path(__file__).parent
METRICS = {"command": "lynx eval world --modality audio --n 1000 --seed 7 --json", "with": 0.9, "chance": 0.3}


@dataclass
class Reply:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        assert self.code == 0, self.err
        return json.loads(self.out)

    def refused(self, *words: str) -> bool:
        """One line on the error stream that has all these words."""
        assert self.code == 1 and self.err.startswith("lynx: ") and self.err.count("\n") == 1, self
        return all(word in self.err for word in words)


Run = Callable[..., Reply]


def environment(server: Hub, home: Path, **more: str) -> dict[str, str]:
    """Of a process that knows our server as the Hub, and nobody's token or cache but its own."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    env |= {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return env | {"PYTHONPATH": str(HERE.parent)} | more


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with hub_server.serve() as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


def commands(env: dict[str, str]) -> Iterator[Run]:
    """Run command lines of lynx, and what else `hub_worker` can do, in one process of that environment."""
    worker = [sys.executable, "-W", "ignore", str(HERE / "hub_worker.py")]
    with subprocess.Popen(
        worker, env=env, cwd=HERE.parent, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:

        def run(*words: object, token: str | None = None) -> Reply:
            asked = {"words": [*map(str, words)], "token": token}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            return Reply(**json.loads(process.stdout.readline()))

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def process(server, home) -> Iterator[Run]:
    yield from commands(environment(server, home))


def adapters_of(process: Run) -> Run:
    """Run `lynx adapters`."""
    return lambda *words, **more: process("adapters", *words, "--json", **more)


@pytest.fixture(scope="module")
def adapters(process) -> Run:
    return adapters_of(process)


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


def hf(server: Hub, home: Path, *words: object, token: str | None = None) -> subprocess.CompletedProcess[str]:
    """The real program."""
    program = Path(sys.executable).with_name("hf")
    env = environment(server, home, **({"HF_TOKEN": token} if token else {}))
    return subprocess.run([program, *map(str, words)], env=env, text=True, capture_output=True, check=False)


def files(folder: Path) -> dict[str, bytes]:
    """The files of the format in a folder."""
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


# --- from the Hub --------------------------------------------------------------------------------


def test_pull_gives_the_adapter_pinned_to_a_commit(server, adapters, backbone, content, tmp_path):
    sha = server.add("owner/plain", content)
    told = adapters("pull", "owner/plain", "--out", tmp_path / "audio").json
    assert told["commit"] == sha and told["adapter"] == "audio" and told["repo"] == "owner/plain"
    assert files(tmp_path / "audio") == content
    assert lynx.load(backbone, adapters=[tmp_path / "audio"]).parts("audio") == ("vision", "llm")
    listed = adapters("list", "--dir", tmp_path).json[str(tmp_path / "audio")]
    assert listed["revision"] == f"owner/plain@{sha}" and listed["metrics"] == METRICS


def test_a_hub_id_loads_like_a_folder(server, adapters, backbone, content):
    sha = server.add("owner/direct", content)
    for source in ("owner/direct", f"owner/direct@{sha}"):
        told = adapters("check", source, "--backbone", backbone).json
        assert told["parts"] == ["vision", "llm"] and told["revision"] == f"owner/direct@{sha}"


def test_an_older_revision_stays_what_it_was(server, adapters, content, tmp_path):
    changed = json.loads(content[CONFIG]) | {"training": {"steps": 7}}
    old = server.add("owner/moving", content)
    new = server.add("owner/moving", content | {CONFIG: json.dumps(changed).encode()})
    server.repos["owner/moving"].refs["v1"] = old
    for words, sha in (
        (("owner/moving",), new),
        (("owner/moving", "--revision", "v1"), old),
        ((f"owner/moving@{old}",), old),
        (("owner/moving", "--revision", old), old),
    ):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        assert adapters("pull", *words, "--out", out).json["commit"] == sha
        assert (json.loads((out / CONFIG).read_text())["training"] == {"steps": 7}) == (sha == new)


def test_a_wrong_revision_is_named_and_nothing_is_written(server, adapters, content, tmp_path):
    server.add("owner/revisions", content)
    reply = adapters("pull", "owner/revisions", "--revision", "v9", "--out", tmp_path / "audio")
    assert reply.refused("'owner/revisions'", "no revision 'v9'")
    assert not list(tmp_path.iterdir())


def test_a_private_repository_needs_the_token(server, adapters, content, tmp_path):
    server.add("owner/private", content, private=True)
    for token in (None, READER):
        reply = adapters("pull", "owner/private", "--out", tmp_path / "audio", token=token)
        assert reply.refused("'owner/private'", "private", "hf auth login")
    assert not list(tmp_path.iterdir())
    assert adapters("pull", "owner/private", "--out", tmp_path / "audio", token=TOKEN).code == 0


def test_what_is_not_there_is_refused(adapters, tmp_path):
    assert adapters("pull", "nobody/nothing", "--out", tmp_path / "a").refused("'nobody/nothing'", "none")
    assert adapters("pull", "no id at all", "--out", tmp_path / "a").refused("Hub id")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [f"llm/{WEIGHTS}", "vision/adapter_config.json", CONFIG])
def test_a_repository_that_lacks_a_file_is_refused(server, adapters, content, tmp_path, name):
    repo = f"owner/without-{name.replace('/', '-').replace('_', '-')}"
    server.add(repo, {key: value for key, value in content.items() if key != name})
    reply = adapters("pull", repo, "--out", tmp_path / "audio")
    assert reply.refused(name.split("/")[-1]) and not list(tmp_path.iterdir())


def test_a_file_that_is_listed_and_cannot_be_had_is_refused(server, adapters, content, tmp_path):
    server.add("owner/lost", content)
    server.lost.add(f"vision/{WEIGHTS}")
    try:
        reply = adapters("pull", "owner/lost", "--out", tmp_path / "audio")
    finally:
        server.lost.clear()
    assert reply.refused("'owner/lost'", WEIGHTS) and not list(tmp_path.iterdir())
    assert adapters("pull", "owner/lost", "--out", tmp_path / "audio").code == 0, "and works once it is there"


def test_a_cut_connection_goes_on_where_it_broke(server, adapters, saved, content, tmp_path):
    name = f"llm/{WEIGHTS}"
    padding = {"padding": "x" * 24_000_000}  # huggingface_hub writes, and goes on after, blocks of 10 MiB
    large = content | {name: save(load_file(saved / name), padding)}
    server.add("owner/cut", large)
    server.cut[name] = 1
    server.requests.clear()
    assert adapters("pull", "owner/cut", "--out", tmp_path / "audio").code == 0
    assert server.gets(name) == [None, f"bytes={10 * 2**20}-"]
    assert files(tmp_path / "audio") == large


def test_what_arrived_before_the_hub_went_away_is_kept(server, adapters, content, tmp_path):
    server.add("owner/gone", content)
    name = f"llm/{WEIGHTS}"
    server.cut[name] = 99
    reply = adapters("pull", "owner/gone", "--out", tmp_path / "audio")
    server.cut.clear()
    assert reply.refused("'owner/gone'") and not list(tmp_path.iterdir())
    server.requests.clear()
    assert adapters("pull", "owner/gone", "--out", tmp_path / "audio").code == 0
    assert [other for other in content if server.gets(other)] == [name]


def test_what_was_downloaded_is_not_downloaded_again(server, adapters, content, tmp_path):
    server.add("owner/once", content)
    adapters("pull", "owner/once", "--out", tmp_path / "a")
    server.requests.clear()
    assert adapters("pull", "owner/once", "--out", tmp_path / "b").code == 0
    assert files(tmp_path / "b") == content and not any(server.gets(name) for name in content)


def test_a_pickle_is_refused_and_never_fetched(server, adapters, content, tmp_path):
    server.add("owner/pickle", content | {"vision/adapter_model.bin": b"\x80\x04."})
    server.requests.clear()
    reply = adapters("pull", "owner/pickle", "--out", tmp_path / "audio")
    assert reply.refused("owner/pickle/vision/adapter_model.bin", "pickle")
    assert not server.gets("adapter_model.bin") and not list(tmp_path.iterdir())


def test_a_path_that_leads_out_is_refused(server, adapters, content, tmp_path):
    server.add("owner/escape", content | {"vision/../../../escaped.json": b"{}"})
    assert adapters("pull", "owner/escape", "--out", tmp_path / "audio").refused("leads out")
    assert not list(tmp_path.iterdir())


def test_a_newer_format_is_refused(server, adapters, content, tmp_path):
    newer = json.loads(content[CONFIG]) | {"format": FORMAT + 1}
    server.add("owner/newer", content | {CONFIG: json.dumps(newer).encode()})
    pulled = adapters("pull", "owner/newer", "--out", tmp_path / "audio")
    assert pulled.refused(f"format {FORMAT + 1}", "update lynx")
    assert not list(tmp_path.iterdir())


def test_pulled_again_a_folder_is_brought_up_to_date(server, adapters, content, tmp_path):
    server.add("owner/update", content)
    out = tmp_path / "audio"
    assert adapters("pull", "owner/update", "--out", out).code == 0
    (out / "notes.txt").write_text("mine")
    fewer = {name: data for name, data in content.items() if not name.startswith("llm/")}
    sha = server.add("owner/update", fewer)
    assert adapters("pull", "owner/update", "--out", out).json["commit"] == sha
    assert files(out) == fewer and (out / "notes.txt").read_text() == "mine"
    assert adapters("list", "--dir", tmp_path).json[str(out)]["revision"] == f"owner/update@{sha}"


def test_pull_overwrites_nothing_of_the_user_s(server, adapters, content, saved, tmp_path):
    server.add("owner/careful", content)
    own = shutil.copytree(saved, tmp_path / "own")
    assert adapters("pull", "owner/careful", "--out", own).refused("was not pulled from", "another folder")
    out = tmp_path / "audio"
    adapters("pull", "owner/careful", "--out", out)
    (out / "README.md").write_text("my own words")
    server.add("owner/careful", content | {"README.md": b"new"})
    assert adapters("pull", "owner/careful", "--out", out).refused("was changed", "README.md")
    assert (out / "README.md").read_text() == "my own words"


def test_offline_the_cache_is_used(server, adapters, backbone, content, home, tmp_path):
    sha = server.add("owner/cached", content)
    assert adapters("check", "owner/cached", "--backbone", backbone).code == 0
    server.requests.clear()
    for process in commands(environment(server, home, HF_HUB_OFFLINE="1")):
        offline = adapters_of(process)
        assert offline("pull", "owner/cached", "--out", tmp_path / "audio").json["commit"] == sha
        assert offline("check", "owner/cached", "--backbone", backbone).json["revision"].endswith(sha)
        reply = offline("pull", "owner/never-seen", "--out", tmp_path / "other")
        assert reply.refused("'owner/never-seen'", "offline", "not in the cache")
    assert files(tmp_path / "audio") == content and not server.requests


def test_the_app_takes_a_hub_id_where_it_takes_a_folder(server, process, backbone, content):
    sha = server.add("owner/app", content)
    told = process("app", backbone, "owner/app").json
    (fits,) = told["offers"]
    assert (fits["reason"], fits["modality"], fits["revision"]) == ("", "audio", f"owner/app@{sha}")
    assert told["senses"] == ["video", "audio"]
    (gone,) = process("app", backbone, "owner/nowhere").json["offers"]
    assert "'owner/nowhere'" in gone["reason"]


# --- the hf program ------------------------------------------------------------------------------


def test_hf_download_makes_a_folder_that_loads(server, adapters, backbone, content, home, tmp_path):
    out = tmp_path / "audio"
    sha = server.add("owner/by-hand", content | {".gitattributes": b""})
    server.cut[f"vision/{WEIGHTS}"] = 1
    done = hf(server, home, "download", "owner/by-hand", "--local-dir", out)
    assert done.returncode == 0, done.stderr
    assert (out / ".cache" / "huggingface").is_dir() and files(out) == content
    model = lynx.load(backbone, adapters=[str(out)])
    assert model.parts("audio") == ("vision", "llm")
    assert adapters("check", out, "--backbone", backbone).json["revision"] == sha
    (out / CONFIG).write_text((out / CONFIG).read_text() + "\n")
    assert hub.origin(out, CONFIG) is None, "it is no longer what that commit holds"


def test_hf_download_refuses_what_pull_refuses(server, content, home, tmp_path):
    server.add("owner/hf", content, private=True)
    wrong = hf(server, home, "download", "owner/hf", "--revision", "v9", "--local-dir", tmp_path, token=TOKEN)
    hidden = hf(server, home, "download", "owner/hf", "--local-dir", tmp_path)
    assert wrong.returncode and hidden.returncode and not files(tmp_path)


# --- to the Hub ----------------------------------------------------------------------------------


def test_push_uploads_the_adapter_with_its_card(server, adapters, backbone, saved, content, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "audio")
    (folder / "notes.txt").write_text("mine")
    told = adapters("push", folder, "owner/pushed", "--backbone", backbone, token=TOKEN).json
    repo = server.repos["owner/pushed"]
    assert (
        told["commit"] == repo.refs["main"] and not repo.private and sorted(told["files"]) == sorted(content)
    )
    same = content.keys() - {"README.md"}
    assert {name: repo.files[name] for name in same} == {name: content[name] for name in same}
    assert "notes.txt" not in repo.files
    card = repo.files["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0" and front["library_name"] == "lynx"
    assert {"lynx", "audio"} <= set(front["tags"])
    assert (
        'adapters=["owner/pushed"]' in card
        and f"    {METRICS['command']}\n" in card
        and "- with: 0.9" in card
    )
    assert adapters("pull", "owner/pushed", "--out", tmp_path / "back").code == 0
    back = lynx.load(backbone, adapters=[tmp_path / "back"]).lora
    for key, tensor in lynx.load(backbone, adapters=[saved]).lora.tensors("audio_llm").items():
        assert tensor.equal(back.tensors("audio_llm")[key])


def test_pushed_again_a_repository_holds_the_new_adapter_alone(server, adapters, backbone, saved, tmp_path):
    adapters("push", saved, "owner/again", "--backbone", backbone, token=TOKEN)
    folder = shutil.copytree(saved, tmp_path / "audio")
    shutil.rmtree(folder / "llm")
    assert adapters("push", folder, "owner/again", "--backbone", backbone, token=TOKEN).code == 0
    assert not [name for name in server.repos["owner/again"].files if name.startswith("llm/")]
    same = adapters("push", folder, "owner/again", "--backbone", backbone, token=TOKEN).json
    assert same["commit"] == server.repos["owner/again"].refs["main"]


def test_push_keeps_private_what_shall_be_private(server, adapters, backbone, saved):
    assert adapters("push", saved, "owner/mine", "--private", "--backbone", backbone, token=TOKEN).code == 0
    assert server.repos["owner/mine"].private
    before = server.add("owner/open", {"a.txt": b"a"})
    reply = adapters("push", saved, "owner/open", "--private", "--backbone", backbone, token=TOKEN)
    assert reply.refused("'owner/open'", "public") and server.repos["owner/open"].refs["main"] == before


@pytest.mark.parametrize("token", [None, READER])
def test_push_needs_the_right_to_write(server, adapters, backbone, saved, token):
    before = server.add("owner/theirs", {"a.txt": b"a"})
    for repo in ("owner/theirs", "owner/not-there"):
        reply = adapters("push", saved, repo, "--backbone", backbone, token=token)
        assert reply.refused(f"'{repo}'", "hf auth login")
    assert server.repos["owner/theirs"].refs["main"] == before and "owner/not-there" not in server.repos


def test_push_refuses_what_does_not_pass_check(server, adapters, backbone, saved, tmp_path):
    other = checkpoints.llava_onevision(tmp_path / "other", seed=5)
    reply = adapters("push", saved, "owner/unfit", "--backbone", other, token=TOKEN)
    assert reply.refused("projector") and "owner/unfit" not in server.repos
    folder = shutil.copytree(saved, tmp_path / "audio")
    (folder / "llm" / "adapter_model.bin").write_bytes(b"\x80\x04.")
    reply = adapters("push", folder, "owner/unfit", "--backbone", backbone, token=TOKEN)
    assert reply.refused("pickle") and "owner/unfit" not in server.repos
    assert adapters("push", saved, "no id", "--backbone", backbone, token=TOKEN).refused(
        "'no id'", "owner/name"
    )


# --- backbones -----------------------------------------------------------------------------------


def repository(folder: Path) -> dict[str, bytes]:
    """A checkpoint as a repository holds it, with files beside it that nobody may need."""
    more = {"pytorch_model.bin": b"\x80\x04.", "README.md": b"", "onnx/model.onnx": b""}
    return {path.name: path.read_bytes() for path in folder.iterdir()} | more


@pytest.mark.parametrize("family", sorted(checkpoints.FAMILIES))
def test_a_backbone_of_the_hub_is_that_of_its_folder_at_one_commit(server, process, family, tmp_path):
    repo = f"owner/{family}"
    sha = server.add(repo, repository(checkpoints.FAMILIES[family](tmp_path)))
    server.requests.clear()
    assert process("estimate", "--backbone", repo, "--json").code == 0
    assert server.gets("config.json") and not server.gets("model.safetensors"), "no weights to count bytes"
    told = process("load", repo).json
    assert (told["source"], told["revision"], told["family"]) == (repo, sha, family)
    assert told["fingerprint"] == load_backbone(tmp_path).fingerprint()
    downloads = [path for _, path, _ in server.requests if "/resolve/" in path]
    assert all(path.startswith(f"/{repo}/resolve/{sha}/") for path in downloads)
    names = {path.rpartition("/")[2] for path in downloads}
    assert "model.safetensors" in names and names.isdisjoint({"pytorch_model.bin", "README.md", "model.onnx"})
    server.requests.clear()
    assert process("load", f"{repo}@{sha}").json == told and not server.requests, "it is in the cache"


def test_an_older_commit_of_a_backbone_is_loaded_whole(server, process, tmp_path):
    layers = {"owner/grown": 3}
    old = server.add("owner/grown", repository(checkpoints.llava_onevision(tmp_path / "old", layers=2)))
    assert process("load", "owner/grown").json["revision"] == old
    grown = checkpoints.llava_onevision(tmp_path / "new", layers=3)
    new = server.add("owner/grown", repository(grown) | {"changes.txt": b""})
    server.repos["owner/grown"].refs["v1"] = old
    layers |= {f"owner/grown@{new}": 3, f"owner/grown@{old}": 2, "owner/grown@v1": 2}
    for source, count in layers.items():
        told = process("load", source).json
        assert told["fingerprint"]["text_layers"] == count and told["source"] == "owner/grown"
        assert told["revision"] == (new if count == 3 else old)


def test_a_backbone_that_cannot_be_had_is_refused_in_one_sentence(server, process, backbone):
    server.add("owner/open-model", repository(backbone))
    server.add("owner/private-model", repository(backbone), private=True)
    server.add("owner/no-model", {"README.md": b""})
    server.add("owner/lost-model", repository(backbone) | {"lost.txt": b""})
    log_in = ("private or gated", "hf auth login")
    for source, words in {
        "owner/none": ("there is none", *log_in),
        "owner/open-model@v9": ("no revision 'v9'", "branch, tag or commit"),
        "owner/private-model": log_in,
        "owner/no-model": ("the repository has no config.json",),
    }.items():
        assert process("load", source).refused(repr(source), *words)
        assert process("estimate", "--backbone", source).refused(repr(source), *words)
    assert process("load", "owner/private-model", token=READER).refused("'owner/private-model'", *log_in)
    assert process("load", "owner/private-model", token=TOKEN).code == 0
    server.lost.add("model.safetensors")
    reply = process("load", "owner/lost-model")
    server.lost.clear()
    assert reply.refused("'owner/lost-model'", "model.safetensors")


def test_the_app_has_a_sentence_for_a_backbone_that_is_not_there(server, process, content):
    server.add("owner/for-none", content)
    told = process("app", "owner/none", "owner/for-none").json
    for call in ("forecast", "senses"):
        assert told[call].startswith("error: ") and "'owner/none'" in told[call] and "log in" in told[call]
    (offer,) = told["offers"]
    assert offer["reason"] == "", "whether it fits, loading will tell"


def test_the_app_says_which_commit_it_has_loaded(server, process, backbone):
    sha = server.add("owner/shown", repository(backbone))
    told = process("app", "owner/shown").json
    assert sha[:8] not in told["forecast"] and told["loaded"].endswith(f"commit {sha[:8]}")


def test_a_quantised_repository_loads_over_http(server, process, tmp_path):
    folder = checkpoints.llava_onevision(tmp_path / "plain", hidden=64, tied=False)
    out = tmp_path / "nf4"
    load_backbone(folder, "nf4").model.save_pretrained(out)
    sha = server.add("owner/nf4", repository(folder) | repository(out))
    told = process("load", "owner/nf4").json
    assert (told["held"], told["revision"]) == ("Linear4bit", sha)
    assert told["fingerprint"] == load_backbone(folder).fingerprint()
    assert process("load", "owner/nf4", "bf16").refused("'owner/nf4'", "saved in nf4")


def test_offline_a_backbone_comes_from_the_cache(server, process, backbone, home):
    sha = server.add("owner/kept", repository(backbone))
    told = process("load", "owner/kept").json
    server.add("owner/half", repository(backbone))
    assert process("estimate", "--backbone", "owner/half").code == 0
    server.requests.clear()
    for offline in commands(environment(server, home, HF_HUB_OFFLINE="1")):
        assert offline("load", "owner/kept").json == told and told["revision"] == sha
        assert offline("load", f"owner/kept@{sha}").json == told
        assert offline("load", "owner/kept@v9").refused("'owner/kept@v9'", "offline", "not in the cache")
        assert offline("load", "owner/none").refused("'owner/none'", "offline", "not in the cache")
        assert offline("load", "owner/half").refused("'owner/half'", "offline", "with a network")
    assert not server.requests
