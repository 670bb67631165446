"""Work that nobody's answer should wait for: films, and what is unpacked."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import get_native_id
from typing import ParamSpec, TypeVar

P, Result = ParamSpec("P"), TypeVar("Result")
NICE = 10
"""How far such a thread stands behind the others: at 10 it gets about a tenth of a core that they want."""


def aside(work: Callable[P, Result], *arguments: P.args, **options: P.kwargs) -> Result:
    """Do it in a thread of its own that gives way to all others, and return what it returns.

    Linux alone has priorities of threads; elsewhere the thread is one like the others. A thread cannot take
    its priority back, so that it ends with its work.
    """
    with ThreadPoolExecutor(1, "lynx-aside", initializer=_give_way) as pool:
        return pool.submit(work, *arguments, **options).result()


def _give_way() -> None:
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, get_native_id(), NICE)
