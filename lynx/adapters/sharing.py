"""Adapters between people: from the Hub into a folder, and from a folder to the Hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lynx import hub
from lynx.adapters.format import (
    CONFIG,
    CURVES,
    FILES,
    Adapter,
    check_backbone,
    current_folder,
    fetch_adapter,
    inspect_adapter,
    read_adapter,
    read_adapter_config,
)
from lynx.adapters.model_card import model_card
from lynx.adapters.saving import finish_saving
from lynx.backbones import Backbone, parse_source
from lynx.backbones.loading import get_family, read_config
from lynx.config import LIMITS
from lynx.errors import AdapterError, BackboneError

SHARES_SHOWN = 4
MAX_DATA = 120  # letters


@dataclass(frozen=True)
class HubAdapter:
    """A pulled or pushed adapter: its repository, commit and local folder."""

    adapter: Adapter
    repo: str
    commit: str
    folder: Path
    files: tuple[str, ...]


def pull_adapter(source: str, folder: Path | None = None, revision: str | None = None) -> HubAdapter:
    """Download an adapter from the Hub into a folder, by default `adapters/` and the repository's name.

    The folder records the commit; pulling again updates it.
    Raises: AdapterError: unavailable, not an adapter, or the folder holds something else.
    """
    snapshot = fetch_adapter(source, revision)
    folder = folder or Path("adapters") / snapshot.repo.split("/")[1]
    finish_saving(folder)
    hub.place(snapshot, folder, FILES)
    present = tuple(name for name in FILES if (folder / name).is_file())
    return HubAdapter(inspect_adapter(folder), snapshot.repo, snapshot.commit, folder, present)


def check_repo(repo: str) -> None:
    """Raises: AdapterError: not the id of a repository to push to."""
    if hub.parse_id(repo) is None or "@" in repo:
        raise AdapterError(f"{repo!r} is no Hub id to push to: expected owner/name")


def push_adapter(folder: Path, repo: str, backbone: Backbone, private: bool = False) -> HubAdapter:
    """Upload a folder's adapter to the Hub in one commit, with a model card made for that repository.

    Only files of the format are uploaded, not notes and checkpoints beside them. Raises: LynxError: it does
    not fit the backbone; the Hub refuses.
    """
    check_repo(repo)
    adapter, current = read_adapter(folder, backbone).adapter, current_folder(folder)
    files: dict[str, Path | bytes] = {name: current / name for name in FILES if (current / name).is_file()}
    curves = [name for name in CURVES.values() if name in files]
    files["README.md"] = model_card(adapter, repo, curves).encode()
    commit = hub.upload(repo, files, FILES, f"Adapter {adapter.name} for {backbone.source}", private)
    return HubAdapter(adapter, repo, commit, folder, tuple(sorted(files)))


def describe(folder: Path) -> tuple[Adapter, str | None]:
    """The description of a folder's adapter, and where it was downloaded from: "owner/name@commit".

    Raises: AdapterError: there is none, or its folder is not sound.
    """
    return inspect_adapter(folder), hub.origin(current_folder(folder), CONFIG)


def shares(metrics: Mapping[str, Any]) -> str:
    """The first shares among an adapter's figures: "with 94.8 %, without 35.1 %"; "" where it has none."""
    found = {name: value for name, value in metrics.items() if isinstance(value, float) and 0 <= value <= 1}
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in list(found.items())[:SHARES_SHOWN])


def trained_on(adapter: Adapter) -> str:
    """What an adapter was trained on, in a few words, where its description says so."""
    data = adapter.training.get("data")
    return " ".join(data.split())[:MAX_DATA] if isinstance(data, str) else ""


def describe_hub(source: str) -> tuple[Adapter, str]:
    """The same for an adapter on the Hub; only its description is downloaded."""
    snapshot = hub.download(source, (CONFIG,), max_bytes=LIMITS.max_json_bytes)
    return read_adapter_config(snapshot.folder), f"{snapshot.repo}@{snapshot.commit}"


def mismatch(adapter: Adapter, backbone: Backbone | str) -> str:
    """Why an adapter does not fit a backbone; "" where it does, or where only loading can tell.

    backbone: loaded, or its name; then its configuration is read, and weights of the same shape pass.
    """
    if isinstance(backbone, Backbone):
        try:
            check_backbone(adapter, backbone)
        except AdapterError as error:
            return str(error)
        return ""
    try:
        config = read_config(parse_source(backbone))
    except BackboneError:
        return ""
    family, wanted = adapter.backbone.get("family"), adapter.backbone.get("fingerprint")
    if family != config.model_type:
        return f"for the family {family!r}, {backbone!r} is of {config.model_type!r}"
    text = get_family(config.model_type).text_sizes(config)
    sizes = {"text_layers": text.layers, "text_hidden": text.hidden}
    theirs = wanted if isinstance(wanted, dict) else {}
    if any(theirs.get(key) != value for key, value in sizes.items()):
        return f"for {adapter.backbone.get('source')!r}, which is not of the size of {backbone!r}"
    return ""
