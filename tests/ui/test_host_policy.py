"""What visitors may name: anything on one's own machine, the owner's lists where strangers come."""

import logging
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import checkpoints
import hub_server
import pytest

pytest.importorskip("gradio")

import gradio as gr

import lynx
from lynx.adapters.format import FILES
from lynx.adapters.saving import save_adapter
from lynx.backbones.estimate import describe
from lynx.config import LIMITS, Limits
from lynx.errors import LynxError
from lynx.ui import launch, views
from lynx.ui.engine import Engine
from lynx.ui.examples import adapter_folders
from lynx.ui.host_policy import LOCAL, MENU, HostPolicy, conceal, first_setup, host_policy, that_fit
from lynx.ui.layout import Layout
from lynx.ui.page import Page
from lynx.ui.types import EMBEDDED, PICTURE, AdapterOption, Chat, Sense, Setup
from lynx.ui.views import sentence

SENSES = (PICTURE, Sense("audio", "sound", "audio", "audio"))
ONE = {"LYNX_BACKBONES": EMBEDDED}  # so that no machine's memory matters


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A small backbone with an adapter for sound."""
    folder = tmp_path_factory.mktemp("desk")
    model = lynx.load(checkpoints.llava_onevision(folder / "backbone"))
    checkpoints.random_adapter(model, "audio")
    save_adapter(model, "audio", folder / "adapter")
    return folder


@pytest.fixture
def place(desk, tmp_path, monkeypatch):
    """The working directory of a server: adapters/audio is offered, other folders are none of a visitor's."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(desk / "adapter", tmp_path / "adapters" / "audio")
    for private in ("private", "stranger/name"):
        shutil.copytree(desk / "adapter", tmp_path / private)
    (tmp_path / "adapters" / "link").symlink_to(tmp_path / "private")
    (tmp_path / "adapters" / "up").symlink_to(tmp_path)
    return tmp_path


@pytest.fixture
def policy(desk, place):
    given = Setup(str(desk / "backbone"), adapters=(str(desk / "adapter"),))
    return host_policy("0.0.0.0", ONE, given, place / "adapters")


@pytest.fixture
def public(policy):
    return Engine(2, policy)


@pytest.fixture
def page(public, setup):
    with gr.Blocks() as blocks:
        return Page(Layout(setup, [], [], public.models.policy), public, blocks)


@pytest.fixture
def setup(desk, policy):
    return policy.named(Setup(str(desk / "backbone"), adapters=(str(desk / "adapter"),)))


def test_folders_are_offered_by_their_last_part(setup, policy, desk, place):
    assert setup == Setup("backbone", adapters=("adapters/adapter",))
    assert policy.backbones == {"backbone": str(desk / "backbone"), EMBEDDED: EMBEDDED}
    found = {"adapters/audio": str(place / "adapters" / "audio"), "adapters/adapter": str(desk / "adapter")}
    assert policy.adapters == found, "links that lead out of adapters/ are not offered"
    assert str(desk) not in str(policy) and str(place) not in str(policy)


NOT_OFFERED = (
    *("/", "/root", "/root/nowhere", "{}/private", "private", "nowhere", "~", "~/.ssh", ".", "..", "", "\0"),
    *("adapters", "adapters/", "adapters/..", "adapters/../private", "adapters/audio/../../private"),
    *("{}/adapters", "{}/adapters/audio", "{}/adapters/../private", "adapters/link", "{}/adapters/link"),
    *("adapters/up/private", "adapters/up/nowhere/x", "//etc", "../{}", "stranger/name"),
    *("owner/name@../../../etc", "owner/name@/etc/hostname", "file:///etc/passwd", "http://127.0.0.1/a/b"),
    *("stranger/name@main", "{}/backbone", "x" * 9000, "owner/" + "x" * 9000),
)


def untouched(monkeypatch, *allowed):
    """Makes every look at a path that is not below `allowed` an error of this test."""

    def watched(function):
        def call(path, *args, **options):
            real = os.path.abspath(os.fspath(path)) if isinstance(path, str | os.PathLike) else ""
            ours = (*map(str, allowed), sys.prefix, sys.base_prefix, str(Path(lynx.__file__).parents[1]))
            assert real.startswith((*ours, "/proc", "/sys")) or not real, f"{real} was looked at"
            return function(path, *args, **options)

        return call

    for name in ("isdir", "isfile", "exists", "lexists", "realpath"):
        monkeypatch.setattr(os.path, name, watched(getattr(os.path, name)))
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))


@pytest.mark.parametrize("typed", NOT_OFFERED)
def test_an_adapter_that_is_not_offered_is_refused_in_one_sentence_and_nothing_is_looked_at(
    public, page, setup, desk, place, typed, monkeypatch
):
    source = typed.format(place)
    page.model.on_choose(setup.backbone, [])
    untouched(monkeypatch, desk, place / "adapters" / "audio")
    *_, offer = public.models.options(setup.backbone, [source])
    assert "is not offered here as an adapter: offered are adapters/audio, adapters/adapter" in offer.reason
    assert repr(source)[:50] in offer.reason and len(sentence(LynxError(offer.reason))) < 300
    told = offer.reason.replace(repr(source), "")
    assert str(place) not in told and "lynx_config" not in told and not offer.modality
    with pytest.raises(LynxError, match="is not offered here") as error:
        public.models.senses(replace(setup, adapters=(source,)))
    assert str(error.value) == offer.reason and not public.models._models
    update = page.model.on_setup(setup.backbone, "auto", [source], Chat("k", setup))
    assert "is not offered here" in update[page.ui.notice] and update[page.ui.chat].setup == setup
    assert "is not offered here" in page.model.on_plan(setup.backbone, "auto", [source])
    assert "is not offered here" in page.model.on_choose(setup.backbone, [source])[page.ui.offers]


@pytest.mark.parametrize("typed", [*NOT_OFFERED, "Qwen/Qwen2.5-VL-72B-Instruct", "llava-onevision-72b"])
def test_a_backbone_that_is_not_offered_is_refused_and_costs_nobody_their_model(
    public, page, setup, desk, place, typed, monkeypatch
):
    source, model = typed.format(place), public.models.get(setup)
    untouched(monkeypatch, desk, place / "adapters" / "audio")
    calls = {
        "load": lambda: page.model.on_setup(source, "auto", [], Chat("k", setup))[page.ui.notice],
        "plan": lambda: page.model.on_plan(source, "auto", list(setup.adapters)),
        "choose": lambda: page.model.on_choose(source, list(setup.adapters))[page.ui.offers],
    }
    for name, call in calls.items():
        said = call()
        assert "is not offered here as a backbone: choose backbone, lynx-tiny." in said, name
        assert str(place) not in said.replace(views.escape(source), "") and said.count("<div") == 1
    assert public.models.get(setup) is model


def test_a_refused_adapter_costs_nobody_their_model(public, setup):
    model = public.models.get(setup)
    with pytest.raises(LynxError, match="is not offered"):
        public.models.get(replace(setup, adapters=("/root",)))
    assert public.models.get(setup) is model


def test_what_is_offered_can_be_had(public, setup, page):
    offered = ["adapters/audio", *setup.adapters]
    assert [offer.reason for offer in public.models.options(setup.backbone, offered)] == ["", ""]
    assert public.models.senses(replace(setup, adapters=("adapters/audio",))) == SENSES
    assert public.models.senses(setup) == SENSES
    assert page.model.on_choose(setup.backbone, [])[page.ui.adapters]["choices"] == offered
    assert "backbone" in public.models.forecast(setup)


def test_errors_of_what_is_offered_name_files_and_no_folders(public, setup, desk, place):
    (place / "adapters" / "audio" / "lynx_config.json").write_text("{")
    (offer,) = public.models.options(setup.backbone, ["adapters/audio"])
    assert "lynx_config.json" in offer.reason and str(place) not in offer.reason
    with pytest.raises(LynxError, match=r"lynx_config\.json") as error:
        public.models.get(replace(setup, adapters=("adapters/audio",)))
    assert str(place) not in str(error.value)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("cannot read /srv/models/a/config.json: no JSON", "cannot read config.json: no JSON"),
        ("'/root/x y' and ~/.cache/y", "'x y' and y"),
        ("https://example.com/a/b and owner/name@v/1, 1/5000 m", None),
        ("adapters/audio is damaged", None),
    ],
)
def test_folders_in_front_of_a_name_are_left_out(told, shown):
    assert conceal(told) == (told if shown is None else shown)


# --- the Hub -------------------------------------------------------------------------------------


def child(hub, tmp_path, source, **variables):
    """A hosted engine in a process that reaches the Hub: what it says of an adapter, and of loading it."""
    script = f"""
import sys
from lynx.errors import LynxError
from lynx.ui.engine import Engine
from lynx.ui.host_policy import host_policy
from lynx.ui.types import Setup
policy = host_policy("0.0.0.0", {{"LYNX_BACKBONES": "lynx-tiny", "LYNX_ADAPTERS": "friend/*"}})
models = Engine(2, policy).models
(option,) = models.options("lynx-tiny", [{source!r}])
print(option.reason or option.modality)
try:
    models.get(Setup("lynx-tiny", adapters=({source!r},)))
    print("loaded")
except LynxError as error:
    print(error)
"""
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def shipped(root):
    folder = root / "adapters" / "audio"
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


def test_of_the_hub_only_adapters_of_allowed_owners_and_of_a_limited_size_are_fetched(tmp_path, root):
    with hub_server.serve() as server:
        for owner in ("friend", "stranger"):
            server.add(f"{owner}/ears", shipped(root))
        described, loaded = child(server, tmp_path, "stranger/ears")
        assert described == loaded and "offered are a Hub id that begins with friend/" in loaded
        assert not server.requests, "nothing was asked of the Hub"
        described, loaded = child(server, tmp_path, "friend/ears", LYNX_MAX_ADAPTER_BYTES="100k")
        assert described == "audio" and "on the Hub: at most 100 kB of an adapter are fetched here" in loaded
        assert {path.rpartition("/")[2] for path in server.fetched()} == {"lynx_config.json"}
        assert child(server, tmp_path, "friend/ears") == ["audio", "loaded"]
    offline = child(server, tmp_path, "friend/ears")
    assert offline == ["audio", "loaded"], "the cache is used while the Hub cannot be reached"


def test_a_description_that_is_no_small_file_is_not_fetched(tmp_path, root):
    with hub_server.serve() as server:
        server.add("friend/ears", shipped(root) | {"lynx_config.json": b" " * (LIMITS.max_json_bytes + 1)})
        described, _ = child(server, tmp_path, "friend/ears", LYNX_MAX_ADAPTER_BYTES="100k")
        assert "at most 1 MB of an adapter are fetched here" in described and not server.fetched()


# --- the mode ------------------------------------------------------------------------------------


def test_the_host_and_the_variables_decide_the_mode(tmp_path):
    for host in ("127.0.0.1", "localhost", "::1"):
        assert host_policy(host, {}) is LOCAL and host_policy(host, {"LYNX_HOSTED": "0"}) is LOCAL
        for variable in ({"LYNX_HOSTED": "1"}, {"SPACE_ID": "a/b"}):
            assert host_policy(host, ONE | variable, root=tmp_path).hosted
    for host in ("0.0.0.0", "", "::", None, "192.168.0.2", "lynx.example", "127.0.0.1.example"):
        assert host_policy(host, ONE | {"LYNX_HOSTED": "0"}, root=tmp_path).hosted
    with pytest.raises(LynxError, match="LYNX_HOSTED is 'yes': expected 1, or 0"):
        host_policy("127.0.0.1", {"LYNX_HOSTED": "yes"})


def test_the_owner_lists_what_is_offered(desk, place):
    backbones = f" {desk / 'backbone'}, internvl3-1b ,"
    variables = {"LYNX_HOSTED": "1", "LYNX_BACKBONES": backbones, "LYNX_ADAPTERS": ""}
    policy = host_policy("localhost", variables)
    assert list(policy.backbones) == ["backbone", "internvl3-1b"] and not policy.adapters
    assert first_setup(policy) == Setup("backbone")
    listed = {"LYNX_ADAPTERS": f"{desk / 'adapter'}, friend/ears, lab/*"}
    policy = host_policy("localhost", variables | listed)
    assert policy.adapters == {"adapters/adapter": str(desk / "adapter"), "friend/ears": "friend/ears"}
    assert policy.folder("friend/ears") is None and policy.folder("lab/any@v1") is None
    for other in ("friend/eyes", "friend/ears@v1", "lab/*", "lab/", "labs/x"):
        with pytest.raises(LynxError, match="is not offered here"):
            policy.folder(other)
    assert str(policy) == (
        "hosted mode: backbones backbone, internvl3-1b; adapters adapters/adapter, friend/ears, lab/*"
    )


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"LYNX_BACKBONES": "no-such-model"}, "no backbone 'no-such-model': expected one of lynx-tiny"),
        ({"LYNX_BACKBONES": " , "}, "LYNX_BACKBONES lists nothing"),
        ({"LYNX_ADAPTERS": "/no/folder"}, "no adapter at '/no/folder': expected a folder"),
        ({"LYNX_ADAPTERS": "a/one, b/one"}, "two folders as 'adapters/one'"),
    ],
)
def test_a_list_that_is_wrong_is_said_at_the_start(listed, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a/one", "b/one"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(LynxError, match=message):
        host_policy("0.0.0.0", ONE | listed)


def test_by_default_the_menu_that_fits_and_the_adapters_of_the_checkout_are_offered(monkeypatch, root):
    monkeypatch.setattr("lynx.backbones.estimate.free_bytes", lambda device: 6 * 10**9)
    monkeypatch.setattr("lynx.compat.cpu_bf16", lambda: "AVX512-BF16")
    halved = host_policy("0.0.0.0", {}).backbones
    monkeypatch.setattr("lynx.compat.cpu_bf16", lambda: None)  # a CPU on which they are loaded in fp32
    policy = host_policy("0.0.0.0", {})
    small = ["lynx-tiny", "smolvlm2-500m", "llava-onevision-0.5b", "internvl3-1b"]
    assert list(policy.backbones) == small and set(small) | {"qwen3-vl-2b", "internvl3-2b"} == set(halved)
    assert set(policy.adapters) == {f"adapters/{Path(each).name}" for each in adapter_folders()}
    began = first_setup(policy)
    assert began.backbone == EMBEDDED and "adapters/audio" in began.adapters
    monkeypatch.setattr("lynx.backbones.estimate.free_bytes", lambda device: 10**9)
    assert that_fit(MENU) == [EMBEDDED]


def test_an_engine_for_this_machine_is_not_served_to_others():
    for more in ({"host": "0.0.0.0"}, {"variables": {"SPACE_ID": "a/b"}}):
        with pytest.raises(LynxError, match="give a policy"):
            launch(port=None, setup=Setup(), examples=[], engine=Engine(2), block=False, **more)


@pytest.mark.parametrize(
    "env", [{}, {"SPACE_ID": "a/b"}, {"GRADIO_SERVER_NAME": "0.0.0.0"}, {"LYNX_HOSTED": "1"}]
)
def test_the_app_of_a_space_is_hosted(env, monkeypatch):
    """app.py as a Space starts it; of the page's server only the address matters here."""
    for name in ("SPACE_ID", "GRADIO_SERVER_NAME", "LYNX_HOSTED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (env | ONE).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    told = {}
    monkeypatch.setattr("lynx.ui.launch", lambda **options: told.update(options))
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    runpy.run_path(str(Path(lynx.__file__).parents[1] / "app.py"), run_name="__main__")
    assert host_policy(told["host"], told["variables"]).hosted == bool(env)


def test_the_command_line_says_the_mode():
    hosted = {"LYNX_HOSTED": "1"} | ONE
    for variables, mode in (({}, "local mode"), (hosted, "hosted mode: backbones lynx-tiny;")):
        command = [sys.executable, "-m", "lynx", "env"]
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("app:")]
        assert mode in line


def test_custom_backbones_are_off_where_strangers_come(page, desk):
    assert page.ui.backbone.allow_custom_value is False and not page.ui.backbone.info
    assert [value for _, value in page.ui.backbone.choices] == []
    with gr.Blocks():
        local = Layout(Setup(), list(MENU), [])
    assert local.backbone.allow_custom_value and local.adapters.allow_custom_value
    assert [value for _, value in local.backbone.choices] == list(MENU)
    (said,) = [shown for shown, value in local.backbone.choices if value == "smolvlm2-500m"]
    assert said == "smolvlm2-500m: answers about real clips on a CPU; 1 GB to download"
    assert describe("smolvlm2-500m")["weights_gb"]["bf16"] == pytest.approx(1, abs=0.05)
    owners = HostPolicy(True, {EMBEDDED: EMBEDDED}, {}, ("lab",))
    with gr.Blocks():
        assert Layout(Setup(), [EMBEDDED], [], owners).adapters.info == (
            "Hub ids of lab; type one and press Enter"
        )


def test_chips_name_hub_ids_as_they_are(desk):
    shown = views.adapter_options([AdapterOption(each, reason="no") for each in ("owner/name", "owner/none")])
    assert ">owner/name<" in shown and ">owner/none<" in shown


def test_on_ones_own_machine_a_folder_that_is_there_is_meant(place, desk):
    (local,) = Engine(2).models.options(str(desk / "backbone"), ["stranger/name"])
    assert local.reason == "" and local.modality == "audio"


def test_limits_of_the_hub_are_only_for_hosted_apps():
    assert LOCAL.max_adapter_bytes is None
    assert HostPolicy(True).max_adapter_bytes == Limits().max_adapter_bytes == LIMITS.max_adapter_bytes
