"""Readers in a worker: crashes, hangs and floods of memory are one sentence, the next call is answered."""

import dataclasses
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import worker_functions as functions

from lynx.errors import MediaError
from lynx.media import worker, worker_clip
from lynx.media.worker import call
from lynx.media.worker_clip import clip_in_worker

pytest.importorskip("resource")


def test_results_and_arguments_come_through_as_they_are():
    tensor, array = torch.arange(6, dtype=torch.uint8).reshape(2, 3), np.arange(24.0).reshape(2, 3, 4).T
    given = {"a": [1, None, "text"], "tensor": tensor, "array": array, "half": torch.ones(3).bfloat16()}
    found = call(functions.echo, given, about="'a'")
    assert found["a"] == given["a"] and found["tensor"].equal(tensor) and found["tensor"].dtype == torch.uint8
    np.testing.assert_array_equal(found["array"], array)
    assert found["half"].equal(given["half"])
    found["array"][0] = 7  # can be written to, as what a reader gives
    assert call(functions.pid, about="'a'") != os.getpid()


@pytest.mark.parametrize(
    ("function", "said"),
    [(functions.crash, "SIGSEGV"), (functions.abort, "SIGABRT"), (functions.leave, "exit code 7")],
)
def test_a_crash_is_one_sentence_and_the_next_call_has_a_new_worker(function, said):
    before = call(functions.pid, about="'a'")
    crashed = f"^'bad.ply' cannot be read: reading it crashed the reader .{said}"
    with pytest.raises(MediaError, match=crashed):
        call(function, about="'bad.ply'")
    assert call(functions.pid, about="'a'") not in (before, os.getpid())


@pytest.mark.parametrize("function", [functions.sleep, functions.spin_without_python])
def test_a_call_that_takes_too_long_is_ended(function):
    start = time.monotonic()
    with pytest.raises(MediaError, match="'slow.obj' .* took more than 0.5 s"):
        call(function, 60, about="'slow.obj'", seconds=0.5)
    assert time.monotonic() - start < 5
    assert call(functions.echo, 1, about="'a'") == 1


@pytest.mark.parametrize("function", [functions.allocate, functions.swallow])
def test_memory_above_the_budget_is_refused_and_below_it_is_given(function):
    assert call(function, 0.5, about="'small.glb'").tolist() == [1, 1, 1]
    with pytest.raises(MediaError, match=r"'big.glb' needs more memory than 3 GB \(LYNX_MAX_WORKER_BYTES\)"):
        call(function, 4, about="'big.glb'")
    assert call(functions.echo, 1, about="'a'") == 1


def test_errors_are_raised_in_the_caller_with_the_workers_traceback():
    before = call(functions.pid, about="'a'")
    with pytest.raises(MediaError, match="^what to do$") as info:
        call(functions.refuse, "what to do", about="'a'")
    assert "ValueError: the cause" in str(info.value.__cause__)
    with pytest.raises(ZeroDivisionError, match="no files"):
        call(functions.fail, about="'a'")
    with pytest.raises(MediaError, match="Unpicklable: first"):
        call(functions.fail_oddly, about="'a'")
    with pytest.raises((pickle.PicklingError, AttributeError)):
        call(lambda: 0, about="'a'")
    assert call(functions.pid, about="'a'") == before, "an error ends no worker"


def run(code):
    """A process of its own that runs this."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    head = "import os, threading, time, worker_functions as f\nfrom lynx.media.worker import call\n"
    command = [sys.executable, "-c", head + code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)


def gone(number):
    """Whether that process ends within some seconds."""
    for _ in range(200):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_a_function_that_the_worker_cannot_find_is_an_error_of_its_own():
    done = run("def mine(): return 1\ncall(mine, about='x')")
    assert done.returncode == 1 and "AttributeError" in done.stderr and "mine" in done.stderr


def test_log_lines_of_the_worker_are_the_parents_and_its_prints_disturb_nothing(caplog, capfd):
    with caplog.at_level(logging.INFO, logger="lynx"):
        assert call(functions.speak, "the mesh", about="'a'") == "the mesh"
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("lynx.media.mesh", "WARNING", "the mesh is logged")
    ]
    with caplog.at_level(logging.ERROR, logger="lynx"):
        call(functions.speak, "more", about="'a'")
    assert len(caplog.records) == 1


def test_threads_are_answered_at_once_and_each_gets_its_own_result():
    results = {}

    def ask(n):
        results[n] = call(functions.echo, np.full(100_000, n), about="'a'")[-1]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: n for n in range(12)}
    slow = threading.Thread(target=lambda: call(functions.sleep, 3, about="'a'"))
    slow.start()
    time.sleep(0.2)
    start = time.monotonic()
    call(functions.echo, 1, about="'a'")
    assert time.monotonic() - start < 2, "a slow file holds nobody up"
    slow.join(60)


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_call_leaves_no_answer_behind():
    def interrupt():
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        call(functions.sleep, 30, about="'a'")
    assert call(functions.echo, "mine", about="'a'") == "mine"


def test_a_worker_writes_no_core_and_reads_no_input():
    assert call(functions.cores, about="'a'") == 0
    with pytest.raises(EOFError):
        call(input, about="'a'")


@pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), 9)", "os._exit(3)"])
def test_a_worker_ends_with_its_parent(ending):
    assert gone(int(run(f"print(call(f.pid, about='x'), flush=True)\n{ending}").stdout))


def test_a_worker_that_hangs_while_its_parent_is_killed_ends_by_itself():
    code = "print(call(f.pid, about='x'), flush=True)\n"
    code += "args = {'about': 'x', 'seconds': 1}\n"
    code += "threading.Thread(target=call, args=(f.spin_without_python, 100), kwargs=args).start()\n"
    assert gone(int(run(code + "time.sleep(0.5)\nos.kill(os.getpid(), 9)").stdout))


def test_a_fork_has_workers_of_its_own():
    mine = call(functions.pid, about="'a'")
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(writer, str(call(functions.pid, about="'a'")).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 100)) != mine
    assert call(functions.pid, about="'a'") == mine


def test_where_no_process_can_be_made_files_are_read_in_this_one(monkeypatch, caplog):
    monkeypatch.setattr(worker, "_pool", worker.Workers(worker.LIMITS.max_workers))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert call(functions.pid, about="'a'") == os.getpid() == call(functions.pid, about="'a'")
    assert caplog.text.count("no worker can be started") == 1
    monkeypatch.setattr(worker, "LIMITS", dataclasses.replace(worker.LIMITS, max_workers=0))
    monkeypatch.setattr(worker, "_pool", worker.Workers(worker.LIMITS.max_workers))
    assert call(functions.pid, about="'a'") == os.getpid()


def test_a_clip_is_made_once_in_the_worker_and_measured_there(tmp_path):
    path = tmp_path / "room.ply"
    path.write_text("a note")
    clip = clip_in_worker(functions.make_clip, path, 4)
    assert clip.count == 5 and clip.notes == ("a note",) and clip.background and clip.poses.shape == (5, 4, 4)
    first = clip.measure([0, 2])
    assert first.shape == (2, 4, 4) and first[1, 0, 0] - first[0, 0, 0] == 200
    assert clip.measure([0])[0, 0, 0] == first[0, 0, 0], "it was not made again"
    path.write_text("another")
    again = clip_in_worker(functions.make_clip, path, 4)
    assert again.notes == ("another",) and again.measure([0])[0, 0, 0] == first[0, 0, 0] + 1


def test_sixteen_frames_cost_less_than_thirty_milliseconds_more():
    frames = torch.zeros(16, 3, 384, 384, dtype=torch.uint8)
    call(functions.echo, 1, about="'a'")
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        call(torch.clone, frames, about="'a'")  # there and back
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2 * 0.03


@pytest.mark.parametrize(("large", "kept"), [(100, 2), (1, 1)])
def test_before_a_clip_of_a_large_file_is_made_the_others_go(tmp_path, monkeypatch, large, kept):
    """A mesh of four million faces takes all memory of a worker."""
    monkeypatch.setattr(worker_clip, "LARGE", large)
    monkeypatch.setattr(worker_clip, "_kept", found := {})
    there = []

    def make(path):
        there.append(len(found))
        return functions.make_clip(path, 4)

    for name in "abc":
        (tmp_path / name).write_text("ten letters")
        worker_clip._clip(make, tmp_path / name, ((1, 11, ord(name)),), ())
    assert there == [0, *(2 * [kept - 1])] and len(found) == kept
