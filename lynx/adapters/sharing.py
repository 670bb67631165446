"""Adapters between people: from the Hub into a folder, and from a folder to the Hub."""

import os
from dataclasses import dataclass
from pathlib import Path

from lynx import hub, modalities
from lynx.adapters.format import (
    CONFIG,
    FILES,
    TYPE_EMBEDDING,
    Adapter,
    check_backbone,
    fetch_adapter,
    inspect_adapter,
    read_adapter,
    read_adapter_config,
)
from lynx.adapters.model_card import model_card
from lynx.backbones import Backbone, parse_source
from lynx.backbones.loading import get_family, read_config
from lynx.errors import AdapterError, BackboneError


@dataclass(frozen=True)
class Shared:
    """An adapter that was pulled or pushed: which, at which commit of which repository, in which folder."""

    adapter: Adapter
    repo: str
    commit: str
    folder: Path
    files: tuple[str, ...]


def pull_adapter(source: str, folder: Path | None = None, revision: str | None = None) -> Shared:
    """An adapter of the Hub as a folder, by default `adapters/` and the repository's name.

    The folder notes the commit; pulled again it is brought up to date.
    Raises: AdapterError: not to be had, not an adapter, or the folder holds something else.
    """
    snapshot = fetch_adapter(source, revision)
    folder = folder or Path("adapters") / snapshot.repo.split("/")[1]
    hub.place(snapshot, folder, FILES)
    present = tuple(name for name in FILES if (folder / name).is_file())
    return Shared(inspect_adapter(folder), snapshot.repo, snapshot.commit, folder, present)


def check_adapter(folder: Path, backbone: Backbone) -> tuple[Adapter, tuple[str, ...]]:
    """The adapter of a folder and its parts, after everything that loading it would check.

    Raises: LynxError, saying what does not fit.
    """
    files = read_adapter(folder, backbone)
    modalities.get(files.adapter.modality).from_dict(dict(files.adapter.rendering))
    marked = [TYPE_EMBEDDING] if files.type_embedding is not None else []
    return files.adapter, (*files.parts, *marked)


def push_adapter(folder: Path, repo: str, backbone: Backbone, private: bool = False) -> Shared:
    """A folder's adapter to the Hub, in one commit, with a model card made for that repository.

    Only the files of the format go; notes and checkpoints beside them stay. Raises: LynxError: it does not
    pass `check_adapter`; the Hub refuses.
    """
    if hub.parse_id(repo) is None or "@" in repo:
        raise AdapterError(f"{repo!r} is no Hub id to push to: expected owner/name")
    adapter, _ = check_adapter(folder, backbone)
    files: dict[str, Path | bytes] = {name: folder / name for name in FILES if (folder / name).is_file()}
    files["README.md"] = model_card(adapter, repo).encode()
    commit = hub.upload(repo, files, FILES, f"Adapter {adapter.name} for {backbone.source}", private)
    return Shared(adapter, repo, commit, folder, tuple(sorted(files)))


def glance(source: str | Path) -> tuple[Adapter, str | None]:
    """What an adapter says of itself, and its revision; of one on the Hub nothing but that is fetched.

    Raises: AdapterError: there is none, or its folder is not sound.
    """
    if os.path.isdir(source):
        folder = Path(source)
        return inspect_adapter(folder), hub.origin(folder, CONFIG)
    return glance_hub(str(source))


def glance_hub(source: str) -> tuple[Adapter, str]:
    """What an adapter on the Hub says of itself, and "owner/name@commit". Raises: AdapterError."""
    snapshot = hub.download(source, (CONFIG,))
    return read_adapter_config(snapshot.folder), f"{snapshot.repo}@{snapshot.commit}"


def misfit(adapter: Adapter, backbone: Backbone | str) -> str:
    """Why an adapter does not fit a backbone; "" where it does, or where only loading will tell.

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


def describe(folder: Path) -> dict[str, object]:
    """What `lynx adapters list` tells of a folder. Raises: AdapterError."""
    adapter, revision = glance(folder)
    return {
        "name": adapter.name,
        "modality": adapter.modality,
        "backbone": adapter.backbone.get("source"),
        "revision": revision,
        "metrics": dict(adapter.metrics),
    }
