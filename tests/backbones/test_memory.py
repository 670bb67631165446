import gc
import platform
import time
import weakref

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lynx import BackboneError
from lynx.backbones.memory import (
    container_bytes_left,
    free_bytes,
    peak_bytes,
    retry_with_more_room,
    share_memory_between_threads,
    used_bytes,
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


def test_a_peak_is_seen_that_is_over_before_the_end():
    before = used_bytes()
    with peak_bytes() as peak:
        block = torch.ones(100_000_000, dtype=torch.uint8)
        time.sleep(0.1)
        del block
    assert peak[0] - before > 90_000_000


def test_weights_that_are_read_from_a_mapped_file_are_in_use(tmp_path):
    save_file({"weights": torch.ones(100_000_000, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    before = used_bytes()
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        weights = file.get_tensor("weights")
        assert weights.sum() == 100_000_000
        assert used_bytes() - before > 90_000_000


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
