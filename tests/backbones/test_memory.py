import gc
import platform
import weakref

import pytest
import torch

from lynx import BackboneError
from lynx.backbones.memory import (
    container_bytes_left,
    free_bytes,
    retry_with_more_room,
    share_memory_between_threads,
)


def test_free_memory_is_what_the_container_leaves(tmp_path):
    assert 0 < free_bytes(torch.device("cpu")) < 2**44
    assert free_bytes(torch.device("meta")) is None
    assert container_bytes_left(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert container_bytes_left(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 50\n")
    assert container_bytes_left(tmp_path) == 750


def test_a_call_is_tried_again_after_each_way_to_make_room_that_found_some():
    said, held = [], []

    def call():
        if held:
            assert held[0]() is None, "what failed has let go of its tensors"
        mine = torch.zeros(3)
        held[:] = [weakref.ref(mine)]
        said.append("call")
        if said.count("call") < 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return "done"

    def way(name, found):
        return lambda: (said.append(name), gc.collect(), found)[-1]

    ways = [way("nothing kept", False), way("caches", True), way("frames", True), way("never", True)]
    assert retry_with_more_room(call, ways) == "done"
    assert said == ["call", "nothing kept", "caches", "call", "frames", "call"]


def test_memory_that_is_never_enough_is_said_and_other_errors_are_raised_as_they_are():
    tries = []

    def call(error):
        tries.append(error)
        raise error

    with pytest.raises(BackboneError, match="use fewer frames"):
        retry_with_more_room(lambda: call(MemoryError()), [lambda: True, lambda: False])
    assert len(tries) == 2
    with pytest.raises(RuntimeError, match="broken"):
        retry_with_more_room(lambda: call(RuntimeError("broken")), [lambda: True])
    assert len(tries) == 3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_glibc_lets_its_pools_be_counted():
    assert share_memory_between_threads()
