"""Which adapters may be named in the app: on a public page no folder of the server but those it offers."""

import os
from dataclasses import dataclass
from pathlib import Path

from lynx.config import short_repr
from lynx.errors import AdapterError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Addresses that nobody but this machine's own users can reach."""


@dataclass(frozen=True)
class AdapterPolicy:
    """Which adapters a visitor may name. below: the folder whose subfolders are offered; None: any folder.

    given: sources that the app's owner named at the start, which are taken as they are.
    """

    below: Path | None = None
    given: tuple[str, ...] = ()

    def folder(self, source: str) -> Path | None:
        """The folder that a source names; None for a Hub id.

        Raises: AdapterError: a folder that is not offered; the same words whether it exists or not.
        """
        if self.below is None or source in self.given:
            return Path(source) if os.path.isdir(source) else None
        from lynx.hub import parse_id

        # The text of the path is checked first: nothing outside of the folder is looked up on disk.
        real_root = Path(os.path.realpath(self.below))
        inside = False
        if ".." not in Path(source).parts and "\0" not in source:
            roots = {Path(os.path.abspath(self.below)), real_root}
            inside = not roots.isdisjoint(Path(os.path.abspath(source)).parents)
        if inside:
            real = os.path.realpath(source)  # a link may lead out again
            if real_root in Path(real).parents and os.path.isdir(real):
                return Path(source)
        if parse_id(source) and not (inside and os.path.lexists(source)):
            return None  # even where a folder of that name lies in the working directory
        raise AdapterError(
            f"{short_repr(source)} cannot be given here: expected a folder in {self.below.name}/, "
            "or a Hub id (owner/name, owner/name@revision)"
        )


ANY_FOLDER = AdapterPolicy()
"""For local users, who can read the disk anyway."""


def adapter_policy(
    host: str | None, below: Path, given: tuple[str, ...], hosted: bool = False
) -> AdapterPolicy:
    """The policy of an app that listens on `host`; hosted: strangers reach it whatever the host."""
    return ANY_FOLDER if host in LOCAL_HOSTS and not hosted else AdapterPolicy(below, given)
