"""Clips that workers draw ahead are those that this process draws, in order; errors come at their turn."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import stages
import torch
import worker_functions as functions

from lynx.datasets import reading
from lynx.datasets.base import Example
from lynx.datasets.clips import render_clip
from lynx.datasets.reading import ClipReader, Drawing, clip_reader
from lynx.datasets.sources import open_data
from lynx.errors import DataError, MediaError
from lynx.modalities.audio import Audio
from lynx.modalities.video import Video

pytest.importorskip("resource")
SENSES = {"video": Video(), "audio": Audio()}
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return stages.clip_files(tmp_path_factory.mktemp("clips"), 5)


def drawings(examples, **senses):
    return [Drawing({**SENSES, **senses}, example, 3) for example in examples]


def same(found, drawing):
    expected = render_clip(*drawing)
    return found.keys() == expected.keys() and all(
        found[sense].pixels.equal(each.pixels)
        and found[sense].times.equal(each.times)
        and found[sense].duration == each.duration
        for sense, each in expected.items()
    )


@pytest.mark.parametrize("count", [1, 2])
def test_workers_draw_what_this_process_draws_in_order(files, count):
    """From files, drawn when they are looked at, and in memory; all senses, or some at the moments of all."""
    world = open_data("world", n=2, senses=("video", "audio"))
    wanted = drawings([*files, *world, *stages.clips(2)])
    wanted += [Drawing(SENSES, files[0], 3, ("audio",))]
    with ClipReader(count) as reader:
        found = list(reader.read(wanted, ahead=2))
    assert len(found) == len(wanted) and all(map(same, found, wanted))
    assert found[-1].keys() == {"audio"}


def test_so_many_clips_are_drawn_ahead_and_no_more(files):
    asked = []
    with ClipReader(2) as reader:
        found = reader.read((asked.append(each) or each for each in drawings(files)), ahead=2)
        assert not asked, "nothing is drawn before the first is wanted"
        counts = [len(asked) for _ in found]
    assert counts == [3, 4, 5, 5, 5]


def test_a_clip_that_cannot_be_read_is_an_error_of_the_library_at_its_turn(files, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no film at all")
    broken = Example("torn", {"video": tmp_path / "broken.mp4", "audio": tmp_path / "broken.mp4"})
    with pytest.raises(MediaError) as expected:
        render_clip(SENSES, broken, 3)
    with ClipReader(2) as reader:
        found = reader.read(drawings([files[0], broken, files[1]]), ahead=2)
        assert same(next(found), drawings(files)[0])
        with pytest.raises(MediaError, match="^example 'torn': 'broken.mp4' ") as error:
            next(found)
        assert str(error.value) == str(expected.value)
        with pytest.raises(DataError, match="example 'deaf' has no audio"):
            next(reader.read(drawings([Example("deaf", {"video": files[0].media["video"]})]), 0))
        assert same(next(reader.read(drawings(files), 0)), drawings(files)[0]), "the workers go on"


def test_a_reader_that_crashes_names_the_clip_and_the_next_has_a_new_worker(files, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(files[0].media["video"].read_bytes())
    (tmp_path / "crash").touch()
    bad = Example("bad one", {"video": tmp_path / "bad.mp4", "audio": tmp_path / "bad.mp4"})
    with ClipReader(1) as reader:
        crashing = {"audio": functions.CrashingSound()}
        said = r"^example 'bad one' \('bad.mp4'\) cannot be read: reading it crashed the reader \(SIGSEGV\)"
        with pytest.raises(MediaError, match=said):
            next(reader.read(drawings([bad], **crashing), 0))
        (found,) = reader.read(drawings(files[:1], **crashing), 0)
        assert same(found, drawings(files)[0])


def test_a_reader_that_is_killed_says_that_memory_may_be_short(files):
    with ClipReader(1) as reader:
        next(reader.read(drawings(files[:1]), 0))
        (worker,) = stages.clip_workers()
        asleep = drawings(files[:1], audio=functions.SlowSound())
        folder = files[0].media["audio"].parent
        found = reader.read(asleep, 0)
        kill = f"import os, pathlib, time\nwhile not pathlib.Path({str(folder)!r}, '{worker}.pid').exists():"
        killer = subprocess.Popen([sys.executable, "-c", kill + f" time.sleep(.1)\nos.kill({worker}, 9)"])
        with pytest.raises(MediaError, match="example 'clip0' .* killed, as it is where memory runs out"):
            next(found)
        killer.wait()


def test_a_sense_that_only_this_process_has_is_drawn_here(files, caplog):
    class Local(Audio):
        pass

    wanted = drawings(files[:3], audio=Local())
    with ClipReader(2) as reader:
        found = list(reader.read(wanted, ahead=1))
    assert all(map(same, found, wanted))
    assert caplog.text.count("no worker can draw example 'clip") == 1 and "Local" in caplog.text


def test_nothing_is_left_running_even_of_what_is_being_drawn(files):
    with ClipReader(2) as reader:
        next(reader.read(drawings(files), ahead=2))
        started = stages.clip_workers()
        assert 1 <= len(started) <= 2
        slow = reader.read(drawings(files, audio=functions.SlowSound()), ahead=2)
        reader._threads.submit(next, slow)
        time.sleep(1.0)
        begin = time.monotonic()
    assert time.monotonic() - begin < 10
    assert not stages.clip_workers() and not any(map(psutil.pid_exists, started))


def test_control_c_ends_the_run_and_its_workers(files):
    code = (
        "import signal, worker_functions as f\nfrom lynx.datasets.base import Example\n"
        "from lynx.datasets.reading import ClipReader, Drawing\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"example = Example('a', {{'audio': {str(files[0].media['audio'])!r}}})\n"
        "with ClipReader(2) as reader:\n"
        "    drawing = Drawing({'audio': f.SlowSound()}, example, 3)\n"
        "    list(reader.read([drawing] * 9, 4))\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        started = [child.pid for child in psutil.Process(run.pid).children()]
        folder = files[0].media["audio"].parent
        if len(started) == 2 and all((folder / f"{pid}.pid").exists() for pid in started):
            break
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=20)
    assert len(started) == 2 and not any(map(psutil.pid_exists, started))
    assert said.rstrip().endswith("KeyboardInterrupt") and "MediaError" not in said


@pytest.mark.parametrize(
    ("asked", "many", "device", "processes", "expected"),
    [
        (None, 63, GPU, 1, 0),  # few
        (None, 64, GPU, 1, 4),  # at most
        (None, 64, GPU, 2, 3),  # of 8 cores each process has 4
        (None, 64, CPU, 1, 2),  # 6 threads of the model leave 2 cores
        (None, 64, CPU, 2, 0),
        (0, 64, GPU, 1, 0),
        (7, 1, CPU, 4, 7),
    ],
)
def test_how_many_workers_there_are(files, monkeypatch, asked, many, device, processes, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    with clip_reader(asked, files, many, device, processes) as reader:
        assert reader.workers == expected
    with clip_reader(None, stages.clips(1), 1000, GPU) as reader:
        assert reader.workers == 0, "media in memory are there already"
    with clip_reader(None, open_data("world", n=1), 1000, GPU) as reader:
        assert reader.workers == reading.MOST, "those of the world are drawn when they are looked at"


def test_a_negative_number_of_workers_is_refused(files):
    with pytest.raises(DataError, match="workers is -1; it must be at least 0"):
        clip_reader(-1, files, 1, CPU).__enter__()
