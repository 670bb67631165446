"""`lynx adapters`: list, check, pull, push and import adapters."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from lynx.cli.registry import (
    ADAPTERS,
    Options,
    Result,
    command,
    model_options,
    option,
    rendering_option,
    table,
)
from lynx.config import Placement, TokenPooling
from lynx.errors import AdapterError, LynxError


@command(
    "adapters list",
    "lynx adapters list",
    option("--dir", type=Path, help="where they are (default: adapters, and those that come with lynx)"),
)
def _list(options: Options) -> Result | str:
    """List the adapters of a folder: sense, backbone, revision and measured figures.

    One that cannot be read is listed with the reason. What stands first is what --adapter takes.
    """
    from lynx.adapters.sharing import describe
    from lynx.adapters.shipped import FOLDER

    found: Result = {}
    folders = {folder: str(folder) for folder in _folders(options.dir or ADAPTERS)}
    if options.dir is None and not (ADAPTERS.is_dir() and ADAPTERS.samefile(FOLDER)):
        folders |= {folder: folder.name for folder in _folders(FOLDER)}
    for folder, given in folders.items():
        name = given if given.isprintable() else repr(given)  # its escapes could hide lines
        try:
            adapter, revision = describe(folder)
        except LynxError as error:
            found[name] = {"unusable": str(error)}
            continue
        found[name] = {
            "name": adapter.name,
            "modality": adapter.modality,
            "backbone": adapter.backbone.get("source"),
            "revision": revision,
            "metrics": dict(adapter.metrics),
        }
    return found if options.json else _listed(found)


def _listed(found: Result) -> str:
    """The adapters as a table, then why others cannot be used."""
    from lynx.adapters.sharing import shares

    rows = [
        {"adapter": name, "sense": each["modality"], "backbone": each["backbone"]}
        | {"revision": each["revision"], "measured": shares(each["metrics"]) or "-"}
        for name, each in found.items()
        if "unusable" not in each
    ]
    told = [table(rows)] if rows else []
    told += [f"{name}: unusable: {each['unusable']}" for name, each in found.items() if "unusable" in each]
    return "\n".join(told) or "no adapters here; `lynx adapters pull` downloads one"


def _folders(root: Path) -> Iterator[Path]:
    """The folders of `root` that are adapters, whole or broken, or that cannot be looked into."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        try:
            inside = os.listdir(folder)
        except NotADirectoryError:
            continue
        except OSError:  # no right to look, or a link to nowhere
            yield folder
        else:
            if not {"lynx_config.json", "vision", "llm", ".new"}.isdisjoint(inside):
                yield folder


def _load_backbone(options: Options, source: Any) -> Any:
    """Load the backbone asked for, else the one that the adapter names."""
    from lynx.backbones import load_backbone

    if not (options.backbone or source):
        raise AdapterError(f"{options.folder} does not name its backbone: say it with --backbone")
    return load_backbone(options.backbone or str(source), options.precision, options.device)


@command(
    "adapters check",
    "lynx adapters check adapters/audio",
    option("folder", metavar="DIR", help="folder, Hub id, or the name of one that comes with lynx"),
    model_options(named=True),
)
def _check(options: Options) -> Result:
    """Read an adapter strictly: every tensor's name and shape, its backbone, its rendering."""
    from lynx import hub
    from lynx.adapters.format import CONFIG, inspect_adapter, read_adapter, resolve_adapter

    folder = resolve_adapter(options.folder)
    backbone = _load_backbone(options, inspect_adapter(folder).backbone.get("source"))
    files = read_adapter(folder, backbone)
    return {
        "adapter": files.adapter.name,
        "modality": files.adapter.modality,
        "fits": options.backbone or backbone.source,
        "parts": list(files.names),
        "revision": hub.origin(folder, CONFIG),
    }


@command(
    "adapters pull",
    "lynx adapters pull owner/lynx-audio --out adapters/lynx-audio",
    option("id", metavar="ID", help="owner/name on the Hub, or owner/name@revision"),
    option("--revision", metavar="REV", help="branch, tag or commit (default: main)"),
    option(
        "--out", type=Path, metavar="DIR", help="where it goes (default: adapters/ and the repository's name)"
    ),
)
def _pull(options: Options) -> Result:
    """Download an adapter from the Hub into a folder; the commit it is pinned to is shown and noted there."""
    from lynx.adapters.sharing import pull_adapter

    pulled = pull_adapter(options.id, options.out, options.revision)
    return {
        "adapter": pulled.adapter.name,
        "modality": pulled.adapter.modality,
        "backbone": pulled.adapter.backbone.get("source"),
        "repo": pulled.repo,
        "commit": pulled.commit,
        "written": str(pulled.folder),
    }


@command(
    "adapters push",
    "lynx adapters push runs/audio owner/lynx-audio --private",
    option("folder", metavar="DIR", type=Path, help="folder of the adapter"),
    option("id", metavar="ID", help="owner/name on the Hub; made where there is none"),
    option("--private", action="store_true", help="nobody else may see it"),
    model_options(named=True),
)
def _push(options: Options) -> Result:
    """Upload an adapter to the Hub with its model card, once it passes `lynx adapters check`."""
    from lynx.adapters.format import inspect_adapter
    from lynx.adapters.sharing import push_adapter

    backbone = _load_backbone(options, inspect_adapter(options.folder).backbone.get("source"))
    pushed = push_adapter(options.folder, options.id, backbone, options.private)
    return {"repo": pushed.repo, "commit": pushed.commit, "files": list(pushed.files)}


@command(
    "adapters import",
    "lynx adapters import checkpoint-1000 --backbone llava-onevision-0.5b --out adapters/audio-ov",
    option("folder", metavar="DIR", type=Path, help="checkpoint with folders vision/ and llm/"),
    option("--out", type=Path, required=True, metavar="DIR", help="where ours is written"),
    option("--modality", default="audio", help="the sense it was trained for (default: audio)"),
    option("--name", help="what the adapter is called (default: as the modality)"),
    rendering_option(
        "how its pseudo-frames were drawn, where that is not the released code's default; style lynx for "
        "pictures as lynx draws them"
    ),
    option(
        "--token-pooling",
        choices=get_args(TokenPooling),
        help="which of its tokens the LLM got (default: all, or of two pictures of a moment the mean)",
    ),
    option(
        "--placement",
        default="continue",
        choices=get_args(Placement),
        help="which positions its tokens had in the prompt (default: continue, behind all before them)",
    ),
    model_options(named=True),
)
def _import(options: Options) -> Result:
    """Turn a checkpoint of the method's released code into an adapter, and verify tensors and outputs."""
    from lynx.adapters.released_code import import_adapter, read_backbone_name

    backbone = _load_backbone(options, read_backbone_name(options.folder))
    names = ("modality", "name", "rendering", "placement", "token_pooling")
    given = {name: getattr(options, name) for name in names}
    report = import_adapter(options.folder, backbone, options.out, **given)
    return {"written": str(options.out), "modality": options.modality, "backbone": backbone.source, **report}
