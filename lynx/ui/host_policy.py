"""Who may do what in the app: all on one's own machine, and what the owner listed where strangers come.

Every backbone and adapter that a visitor names goes through a policy before a file is opened, anything is
fetched, or a model makes room. Where strangers come, names are looked up in the owner's lists: no text of
theirs is ever used as a path.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lynx.adapters.shipped import FOLDER
from lynx.config import LIMITS, short_repr
from lynx.errors import AdapterError, BackboneError, LynxError
from lynx.ui.examples import adapter_folders, find_adapters, fitting
from lynx.ui.types import EMBEDDED, Setup

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Addresses that nobody but this machine's own users can reach."""
HOSTED, BACKBONES, ADAPTERS, SPACE = "LYNX_HOSTED", "LYNX_BACKBONES", "LYNX_ADAPTERS", "SPACE_ID"
"""Environment variables: the mode, the two lists, and what every Space sets."""
_OTHERS = (
    *("llava-onevision-0.5b", "llava-onevision-7b", "qwen2.5-vl-3b", "qwen2.5-vl-7b"),
    *("qwen3-vl-2b", "qwen3-vl-4b", "qwen3-vl-8b"),
    *("internvl3-1b", "internvl3-2b", "internvl3-8b", "internvl3.5-4b"),
)
MENU = {
    EMBEDDED: "",
    "smolvlm2-500m": "answers about real clips on a CPU; 1 GB to download",
    **dict.fromkeys(_OTHERS, ""),
}
"""Backbones that are offered where no others are listed, and what is said of them there. On one's own machine
any other can be typed."""
_PATH = re.compile(r"(?<![\w.:/~-])~?/(?:[^\s'\"/:]+/)*")
"""The folders in front of a file's name, in a message."""


@dataclass(frozen=True)
class HostPolicy:
    """What visitors may name; without `hosted`, anything: local users can read the disk anyway.

    backbones, adapters: by the names that visitors see, what each stands for: a catalog name, a Hub id, or an
    absolute path. owners: of Hub ids that may be given as adapters besides.
    """

    hosted: bool = False
    backbones: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    owners: tuple[str, ...] = ()

    def backbone(self, name: str) -> str:
        """What a backbone's name stands for. Raises: BackboneError: it is not offered."""
        if not self.hosted:
            return name
        if name not in self.backbones:
            offered = ", ".join(self.backbones)
            raise BackboneError(f"{short_repr(name)} is not offered here as a backbone: choose {offered}")
        return self.backbones[name]

    def folder(self, name: str) -> Path | None:
        """The folder that an adapter's name stands for; None for a Hub id.

        Raises: AdapterError: it is not offered; the same words whether there is such a folder or not.
        """
        if not self.hosted:
            return Path(name) if os.path.isdir(name) else None
        from lynx.hub import parse_id

        if name in self.adapters:
            source = self.adapters[name]
            return Path(source) if os.path.isabs(source) else None
        if parse_id(name) and name.partition("/")[0] in self.owners:
            return None
        ids = [f"a Hub id that begins with {owner}/" for owner in self.owners]
        offered = ", ".join((*self.adapters, *ids)) or "none"
        raise AdapterError(f"{short_repr(name)} is not offered here as an adapter: offered are {offered}")

    @property
    def max_adapter_bytes(self) -> int | None:
        """The most that is fetched of an adapter on the Hub; None for no limit."""
        return LIMITS.max_adapter_bytes if self.hosted else None

    def named(self, setup: Setup) -> Setup:
        """A setup of sources, as the owner gives them, by the names that visitors see."""
        if not self.hosted:
            return setup
        backbones = {source: name for name, source in self.backbones.items()}
        adapters = {source: name for name, source in self.adapters.items()}
        given = tuple(adapters[_adapter(each)] for each in setup.adapters)
        return Setup(backbones[_backbone(setup.backbone)], setup.precision, given)

    @contextmanager
    def concealed(self) -> Iterator[None]:
        """Inside the `with`, where strangers come, errors name files without the server's folders."""
        try:
            yield
        except LynxError as error:
            if not self.hosted:
                raise
            raise type(error)(conceal(str(error))) from error

    def __str__(self) -> str:
        if not self.hosted:
            return "local mode: any backbone and any adapter may be named"
        adapters = ", ".join((*self.adapters, *(f"{owner}/*" for owner in self.owners))) or "none"
        return f"hosted mode: backbones {', '.join(self.backbones)}; adapters {adapters}"


LOCAL = HostPolicy()
"""For an app that nobody but this machine's own users can reach."""


def conceal(text: str) -> str:
    """A message without the folders in front of files' names."""
    return _PATH.sub("", text)


def is_hosted(host: str | None, variables: Mapping[str, str]) -> bool:
    """Whether strangers can reach an app that listens on `host`. variables: of the environment.

    Raises: LynxError: LYNX_HOSTED is neither 0 nor 1.
    """
    asked = variables.get(HOSTED, "").strip()
    if asked not in ("", "0", "1"):
        raise LynxError(f"{HOSTED} is {short_repr(asked)}: expected 1, or 0 for what the host's name says")
    return asked == "1" or bool(variables.get(SPACE)) or host not in LOCAL_HOSTS


def host_policy(
    host: str | None, variables: Mapping[str, str], setup: Setup | None = None, root: Path = FOLDER
) -> HostPolicy:
    """The policy of an app that listens on `host`, from the environment's variables.

    setup: what the owner asked the app to begin with, which is offered too. root: the folder whose adapters
    are offered where none are listed. Raises: LynxError: a list names what there is not.
    """
    if not is_hosted(host, variables):
        return LOCAL
    backbones, adapters = _words(variables, BACKBONES), _words(variables, ADAPTERS)
    if backbones is None:
        backbones = that_fit(MENU)
    if adapters is None:
        inside = Path(os.path.realpath(root))  # where a link may lead out again
        found = adapter_folders(root)
        adapters = [each for each in found if inside in Path(os.path.realpath(each)).parents]
    if setup is not None:
        backbones, adapters = [setup.backbone, *backbones], [*adapters, *setup.adapters]
    if not backbones:
        raise LynxError(f"{BACKBONES} lists nothing: give catalog names, folders or Hub ids, with commas")
    owners = tuple(each[:-2] for each in adapters if each.endswith("/*"))
    listed = [_adapter(each) for each in adapters if not each.endswith("/*")]
    return HostPolicy(True, _by_name(map(_backbone, backbones)), _by_name(listed, "adapters/"), owners)


def that_fit(names: Iterable[str]) -> list[str]:
    """The embedded backbone, and those of the catalog that fit this machine by `lynx.backbones.estimate`."""
    from lynx.backbones.estimate import estimate

    return [name for name in names if name == EMBEDDED or estimate(name).fits]


def first_setup(policy: HostPolicy) -> Setup:
    """The model that the app begins with where none is asked for: the embedded one, if it is offered."""
    if not policy.hosted:
        return Setup(adapters=find_adapters(EMBEDDED))
    backbone = EMBEDDED if EMBEDDED in policy.backbones else next(iter(policy.backbones))
    folders = [source for source in policy.adapters.values() if os.path.isabs(source)]
    source = policy.backbones[backbone]
    return policy.named(Setup(source, adapters=fitting(source, folders)))


def _words(variables: Mapping[str, str], name: str) -> list[str] | None:
    """The words of a comma-separated list; None where it is not set."""
    text = variables.get(name)
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _backbone(given: str) -> str:
    """What the owner gave, with a folder's absolute path. Raises: BackboneError: it is no backbone."""
    from lynx.backbones.loading import parse_source

    return os.path.abspath(given) if parse_source(given).location == given else given


def _adapter(given: str) -> str:
    """The same. Raises: AdapterError: it is no adapter."""
    from lynx.hub import parse_id

    if os.path.isdir(given):
        return os.path.abspath(given)
    if parse_id(given) is None:
        raise AdapterError(f"no adapter at {short_repr(given)}: expected a folder, owner/name or owner/*")
    return given


def _by_name(sources: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Sources by the names that visitors see: of a folder the last part of its path, after a prefix.

    Raises: LynxError: two folders have one name.
    """
    found: dict[str, str] = {}
    for source in sources:
        name = f"{prefix}{Path(source).name}" if os.path.isabs(source) else source
        if found.setdefault(name, source) != source:
            raise LynxError(f"visitors would see two folders as {name!r}: rename one of them")
    return found
