"""What visitors leave behind: nothing, when they leave, when `/ask` has answered, when the app ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from zipfile import ZipFile

import httpx
import numpy as np
import pytest

pytest.importorskip("gradio")

from served import hosted

from lynx.config import Limits
from lynx.errors import MediaError
from lynx.media.writer import write_video
from lynx.ui import uploads as uploads_module
from lynx.ui import visitors as visitors_module
from lynx.ui.uploads import Uploads
from lynx.ui.visitors import Visitors, workspace

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]


def stack(folder, name, frames=2):
    """A .zip of a depth stack, which unpacks to so many kilobytes."""
    np.save(folder / f"{name}.npy", np.full((frames, 16, 16), 1000, np.uint16))
    with ZipFile(folder / f"{name}.zip", "w") as archive:
        archive.write(folder / f"{name}.npy", "a.npy")
    return folder / f"{name}.zip"


def files():
    return {path for path in Path(workspace().name).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with hosted(tmp_path_factory.mktemp("server")) as served:
        yield served


@pytest.fixture
def media(tmp_path):
    write_video(tmp_path / "clip.mp4", np_clip(), 4)
    return tmp_path / "clip.mp4", stack(tmp_path, "depth")


def np_clip():
    import torch

    return torch.randint(0, 255, (8, 3, 48, 64), dtype=torch.uint8)


def test_a_visitor_has_a_share_of_what_all_have(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads_module, "LIMITS", Limits(max_visitor_bytes=2500, max_shelf_bytes=10_000))
    shelf = Uploads()
    first, second, third = (str(stack(tmp_path, name)) for name in "abc")  # 1,152 bytes each
    kept = shelf.depth([first], "me")
    shelf.depth([second], "me")
    with pytest.raises(MediaError, match=r"'c.zip' beside your other uploads now: .*LYNX_MAX_VISITOR_BYTES"):
        shelf.depth([third], "me")
    assert not list(shelf._drafts.iterdir()) and shelf.depth([third], "you")
    ago = time.time() - 600
    os.utime(Path(kept).parents[1], (ago, ago))
    assert shelf.depth([str(stack(tmp_path, "d"))], "me") and shelf.depth([second], "me")
    assert not Path(kept).exists(), "the oldest of the visitor's own made room"


def test_what_is_unpacked_goes_with_the_last_visitor_who_has_it(tmp_path):
    shelf, path = Uploads(), str(stack(tmp_path, "a"))
    place = Path(shelf.depth([path], "me"))
    assert shelf.depth([path], "you") == str(place)
    shelf.forget("me")
    assert place.is_file()
    shelf.forget("you")
    assert not list(shelf._kept.iterdir()) and not shelf._sizes and not shelf._owners


def test_two_small_archives_leave_no_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads_module, "LIMITS", Limits(max_visitor_bytes=30_000_000))
    shelf = Uploads()
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.zeros((20_000, 1000), np.uint8))
        with ZipFile(tmp_path / f"{name}.zip", "w", 8) as archive:
            archive.write(tmp_path / f"{name}.npy", f"{name}.npy")
        assert (tmp_path / f"{name}.zip").stat().st_size < 50_000
    shelf.depth([str(tmp_path / "a.zip")], "me")
    with pytest.raises(MediaError, match="There is no room"):
        shelf.depth([str(tmp_path / "b.zip")], "me")
    assert sum(path.stat().st_size for path in shelf._kept.rglob("*") if path.is_file()) < 30_000_000


def test_ask_leaves_nothing_behind(app, media):
    video, depth = media
    before = files()
    given = {"video": app.upload(video), "question": "what ?", "depth": [app.upload(depth)]}
    assert files() > before
    said = app.call("ask", given)
    assert isinstance(said, list) and isinstance(said[0], str), said
    assert files() == before
    again = app.call("ask", {"video": app.upload(video), "question": ""})
    assert again and files() == before, "nor where it fails"


def test_a_visitor_who_leaves_takes_everything_along(app, media, monkeypatch):
    monkeypatch.setattr(visitors_module, "LIMITS", Limits(max_away_seconds=0))
    monkeypatch.setenv("GRADIO_HEARTBEAT_INTERVAL", "0.5")  # in seconds; after one a lost page is noticed
    video, depth = media
    before = files()
    with app.client.stream("GET", f"{app.url}/gradio_api/heartbeat/leaver") as beat:
        lines = beat.iter_lines()  # kept, since its end would close the page
        next(lines)
        app.call("on_load", {}, "leaver")
        app.call("on_sound", {"video": app.upload(video), "sound": "the video"}, "leaver")
        assert len(files()) > len(before)
        app.blocks.visitors.forget.__self__.media.uploads.depth([str(depth)], "leaver")
        app.engine.downloads.path("leaver", "evidence.csv").write_text("mine")
    deadline = time.time() + 30
    while files() != before and time.time() < deadline:
        time.sleep(0.2)
    assert files() == before


def test_a_visitor_who_comes_back_finds_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(visitors_module, "LIMITS", Limits(max_away_seconds=1))
    gone = []
    visitors = Visitors(gone.append)
    for each in ("back", "away"):
        visitors.left(each)
    visitors.came("back")
    time.sleep(1.5)
    assert gone == ["away"]


def test_files_that_two_visitors_have_stay_with_the_second(monkeypatch):
    root = Path(workspace().name, "gradio", "shared")
    root.mkdir(parents=True)
    one, two = root / "one", root / "two"
    visitors = Visitors(lambda visitor: None)
    for path in (one, two):
        path.write_bytes(bytes(1000))
    visitors.note("me", [str(one), str(two), "/etc/hostname"])
    visitors.note("you", [str(two)])
    visitors._over("me")
    assert not one.exists() and two.exists() and Path("/etc/hostname").exists()
    one.write_bytes(bytes(1000))
    monkeypatch.setattr(visitors_module, "LIMITS", Limits(max_visitor_bytes=1500))
    visitors.note("you", [str(one)])
    assert one.exists() and not two.exists(), "of too many the oldest go"
    visitors._over("you")
    assert not root.exists()


def test_an_upload_without_room_is_refused_in_a_sentence(app, media, monkeypatch):
    monkeypatch.setattr(visitors_module, "LIMITS", Limits(max_shelf_bytes=100))
    sent = app.client.post(f"{app.url}/gradio_api/upload", files={"files": ("a.mp4", bytes(1000))})
    assert sent.status_code == 507 and "There is no room for" in sent.text and "LYNX_MAX_SHELF" in sent.text


@pytest.mark.parametrize("early", [False, True])
def test_sigterm_ends_the_app_and_leaves_nothing(tmp_path, root, early):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "tmp").mkdir()
    env = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "GRADIO_SERVER_PORT": str(port)}
    env |= {"LYNX_HOSTED": "1", "LYNX_BACKBONES": "lynx-tiny"}
    env.pop("GRADIO_TEMP_DIR", None)  # this process has set its own
    log = tmp_path / "log"
    with log.open("w") as out:
        app = subprocess.Popen([sys.executable, "app.py"], cwd=root, env=env, stdout=out, stderr=out)
    try:
        url, deadline = f"http://127.0.0.1:{port}/gradio_api/", time.time() + 240
        while time.time() < deadline and app.poll() is None:
            try:
                httpx.get(f"{url}startup-events", timeout=60)
                break
            except httpx.TransportError:
                time.sleep(0.5)
        if not early:
            for _ in range(3):
                httpx.post(f"{url}upload", files={"files": ("a.mp4", os.urandom(999))}, timeout=60)
            assert list((tmp_path / "tmp").glob("lynx-*/gradio/*/a.mp4"))
        app.send_signal(signal.SIGTERM)
        assert app.wait(120) == 0, log.read_text()
    finally:
        app.kill()
    assert not list((tmp_path / "tmp").iterdir()), log.read_text()
    assert "hosted mode: backbones lynx-tiny" in log.read_text()
