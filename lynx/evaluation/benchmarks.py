"""The benchmarks by name: those that are built in, and those that other installed packages bring."""

from typing import Any

from lynx.config import Extensions
from lynx.errors import DataError

REGISTRY: dict[str, Any] = {}
extensions = Extensions("lynx.benchmarks", REGISTRY, object, ("name",))


def get(name: str) -> Any:
    """The benchmark of that name. Raises DataError when there is none."""
    if (found := extensions.find(name)) is None:
        known = ", ".join(sorted(extensions.all())) or "none is installed"
        message = f"There is no benchmark {name!r}; known are: {known}. {extensions.problem(name)}"
        raise DataError(message.strip())
    return found
