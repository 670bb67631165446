"""Archives that would cost memory or time out of all proportion to their size."""

import os
import resource
import threading
import time
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from PIL import Image

from lynx.config import LIMITS, Limits
from lynx.errors import MediaError

pytest.importorskip("gradio")

from lynx.media.depth import open_depth
from lynx.ui import uploads as module
from lynx.ui.uploads import Uploads


def packed(path, names, method=ZIP_DEFLATED, content=b"x"):
    with ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return str(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/" * 2000 + "0.png"], "2,000 folders"),
        (["a/" * 2000 + "0.jpg"], "2,000 folders"),  # not read, and refused all the same
        (["a" * 2000 + ".png"], "2,0.. characters"),
        (["a\\" * 40 + "0.png"], "40 folders"),
    ],
)
def test_deep_and_long_names_are_refused_before_a_path_is_built(tmp_path, monkeypatch, names, message):
    monkeypatch.delattr("lynx.ui.uploads.PurePosixPath")
    with pytest.raises(MediaError, match=message):
        Uploads().depth([packed(tmp_path / "deep.zip", names)])


def test_a_long_list_of_entries_is_refused_before_it_is_parsed(tmp_path):
    path = packed(tmp_path / "many.zip", [f"{'a/' * 30}{'b' * 800}{i}.png" for i in range(10_000)])
    with pytest.raises(MediaError, match=r"list of entries above 8 MB \(LYNX_MAX_ENTRY_LIST_BYTES\)"):
        Uploads().depth([path])


def test_methods_that_unpack_without_a_bound_are_refused(tmp_path):
    with pytest.raises(MediaError, match="method 12: .*Deflate"):
        Uploads().depth([packed(tmp_path / "bomb.zip", ["depth/0.png"], ZIP_BZIP2, bytes(10_000_000))])


def test_no_more_is_unpacked_than_the_archive_declares(tmp_path):
    path = Path(packed(tmp_path / "lie.zip", ["depth/0.png"], content=bytes(1_000_000)))
    data, size = path.read_bytes(), (1_000_000).to_bytes(4, "little")
    path.write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(MediaError, match="damaged"):
        Uploads().depth([str(path)])


def test_an_entry_without_a_name_is_left_out(tmp_path):
    path = Path(packed(tmp_path / "a.zip", ["depth/0.png", "QQQ"]))
    path.write_bytes(path.read_bytes().replace(b"QQQ", b"\0QQ"))  # a name ends at the first zero
    assert Path(Uploads().depth([str(path)])).is_dir()


def test_folders_around_a_recording_are_left_out(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4)))
    name = "x/" * 30 + "a.npy"
    shelf = Uploads()
    found = shelf.depth([packed(tmp_path / "a.zip", [name], content=(tmp_path / "a.npy").read_bytes())])
    assert Path(found).parent.name == "a.zip" and np.load(found).shape == (2, 3, 4)


def test_one_map_is_a_recording_by_itself_and_with_what_belongs_to_it(tmp_path):
    Image.fromarray(np.full((4, 5), 5000, np.uint16)).save(tmp_path / "one.png")
    (tmp_path / "depth.json").write_text('{"unit": "tum"}')
    shelf = Uploads()
    alone = shelf.depth([str(tmp_path / "one.png")])
    assert Path(alone).is_file() and open_depth(alone).measure([0]).shape == (1, 4, 5)
    both = shelf.depth([str(tmp_path / "one.png"), str(tmp_path / "depth.json")])
    depth = open_depth(both).measure([0])
    assert depth.shape == (1, 4, 5) and depth.max() == pytest.approx(1.0)
    with ZipFile(shelf.as_one_file(Path(both))) as archive:
        assert sorted(archive.namelist()) == ["depth.json", "depth/one.png"]
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(MediaError, match="'other.json' belongs to no depth map"):
        shelf.depth([str(tmp_path / "one.png"), str(tmp_path / "other.json")])


def test_an_upload_does_not_wait_for_another_that_is_unpacked(tmp_path, monkeypatch):
    """The first is held while it is written; the second, on the same shelf, is done meanwhile."""
    first, second = (packed(tmp_path / f"{n}.zip", ["depth/0.png"], content=n.encode()) for n in "ab")
    shelf, started, go_on, fill = Uploads(), threading.Event(), threading.Event(), module._fill

    def slow(contents, folder, room):
        if folder.name == "a.zip":
            started.set()
            assert go_on.wait(20)
        fill(contents, folder, room)

    monkeypatch.setattr(module, "_fill", slow)
    found = []
    thread = threading.Thread(target=lambda: found.append(shelf.depth([first])))
    other = threading.Thread(target=lambda: found.append(shelf.depth([second])))
    thread.start()
    assert started.wait(20)
    other.start()
    other.join(5)
    alone = len(found)
    go_on.set()
    thread.join(20)
    other.join(20)
    assert alone == 1 and len(found) == 2


def stored(tmp_path, name, size=1000):
    return packed(tmp_path / f"{name}.zip", ["depth/0.png"], content=os.urandom(size))


def grow_old(*recordings):
    """As if nobody had used them for ten minutes."""
    for recording in recordings:
        ago = time.time() - 600
        os.utime(Path(recording).parent, (ago, ago))


def test_the_oldest_unused_recording_makes_room_for_a_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LIMITS", Limits(max_shelf_bytes=2500))
    shelf = Uploads()
    a, b = (shelf.depth([stored(tmp_path, name)]) for name in "ab")
    grow_old(a, b)
    shelf.depth([str(tmp_path / "a.zip")])  # used again
    c = shelf.depth([stored(tmp_path, "c")])
    assert [Path(path).is_dir() for path in (a, b, c)] == [True, False, True]


def test_recordings_in_use_stay_and_an_upload_without_room_is_refused_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LIMITS", Limits(max_shelf_bytes=2500))
    shelf = Uploads()
    kept = [shelf.depth([stored(tmp_path, name)]) for name in "ab"]
    for path in (stored(tmp_path, "c"), stored(tmp_path, "d", 3000)):
        with pytest.raises(MediaError, match=r"no room for .* have 2.441 kB \(LYNX_MAX_SHELF_BYTES\)"):
            shelf.depth([path])
    assert all(Path(path).is_dir() for path in kept)
    assert not list(shelf._drafts.iterdir()) and len(list(shelf._kept.iterdir())) == 2
    grow_old(*kept)
    assert shelf.depth([str(tmp_path / "c.zip")]), "room that a refused upload asked for is free again"


def test_loose_files_have_the_limits_of_an_archive(tmp_path, monkeypatch):
    files = [str(tmp_path / f"{n}.png") for n in range(3)]
    for file in files:
        Path(file).write_bytes(bytes(400))
    monkeypatch.setattr(module, "LIMITS", Limits(max_files=2))
    with pytest.raises(MediaError, match=r"3 files are too many: at most 2 files \(LYNX_MAX_FILES\)"):
        Uploads().depth(files)
    monkeypatch.setattr(module, "LIMITS", Limits(max_unpacked_bytes=1000))
    with pytest.raises(MediaError, match=r"holds 1.172 kB: at most 1000 bytes"):
        Uploads().depth(files)
    assert LIMITS.max_files > 3


@pytest.mark.parametrize("loose", [True, False])
def test_a_disk_that_takes_no_more_is_one_sentence_and_nothing_is_left(tmp_path, loose):
    files = [str(tmp_path / f"{n}.png") for n in range(2)]
    for file in files:
        Path(file).write_bytes(bytes(20_000))
    if not loose:
        files = [packed(tmp_path / "a.zip", ["depth/0.png"], content=bytes(200_000))]
    shelf = Uploads()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(MediaError, match="cannot be kept on this server: File too large"):
            shelf.depth(files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(shelf._drafts.iterdir()) and not list(shelf._kept.iterdir())
    assert not shelf._sizes
