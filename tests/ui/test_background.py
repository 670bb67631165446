import os
import sys
from threading import get_native_id

import pytest

from lynx.errors import MediaError
from lynx.ui.background import NICE, aside


def priority() -> tuple[int, int]:
    return os.getpriority(os.PRIO_PROCESS, get_native_id()), get_native_id()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_work_aside_gives_way_and_leaves_the_caller_s_thread_as_it_was():
    before, here = priority()
    inside, there = aside(priority)
    assert there != here and inside == max(before, NICE) and priority() == (before, here)


def test_what_it_raises_reaches_the_caller():
    def fail(text, end):
        raise MediaError(text + end)

    with pytest.raises(MediaError, match="no film"):
        aside(fail, "no ", end="film")
