"""`lynx params`, `estimate`, `backbones`: what a model is made of, before it is loaded."""

import sys
from dataclasses import asdict

from lynx.cli.registry import (
    Options,
    Result,
    adapter_option,
    command,
    count,
    model_options,
    option,
    show,
    table,
)
from lynx.errors import LynxError


@command(
    "params",
    "lynx params --backbone llava-onevision-0.5b --json",
    option("--backbone", required=True, help="catalog name, folder or Hub id"),
    option("--rank", type=count, default=64, help="rank of both LoRAs (default: 64)"),
)
def _params(options: Options) -> Result | str:
    """Count the parameters that one sense adds to a backbone, without loading its weights."""
    from lynx.adapters.lora import count_parameters
    from lynx.backbones import CATALOG

    counts: Result = dict(count_parameters(options.backbone, options.rank))
    row = CATALOG.get(options.backbone)
    paper = row.paper if row is not None else None
    if options.json:
        return counts | ({"paper": paper} if paper else {})
    rows = [{"part": part, "parameters": n, "millions": n / 1e6} for part, n in counts.items()]
    return table(rows) + (f"\n\nThe paper: {paper}" if paper else "")


def _frame_size(text: str) -> tuple[int, int]:
    """The type of --size: "360x640", height and width."""
    height, _, width = text.partition("x")
    return count(height), count(width)


@command(
    "estimate",
    "lynx estimate --backbone llava-onevision-7b --frames 32 --senses audio --precision nf4",
    option("--frames", type=count, help="moments looked at; default: the backbone's own"),
    option("--senses", nargs="*", default=[], metavar="SENSE", help="senses beside the video, such as audio"),
    option(
        "--size",
        type=_frame_size,
        metavar="HEIGHTxWIDTH",
        help="of the video's frames, where the family keeps their shape; default: that of pseudo-frames",
    ),
    option("--rank", type=count, default=64, help="rank of the adapters' LoRAs (default: 64)"),
    model_options(),
)
def _estimate(options: Options) -> Result:
    """Say how many tokens and bytes a conversation needs and whether they fit, before anything is loaded."""
    from lynx.backbones.estimate import estimate

    names = ("frames", "senses", "precision", "device", "size", "rank")
    found = estimate(options.backbone, **{name: getattr(options, name) for name in names})
    if options.json:
        return found.to_dict()
    parts = ("weights", "adapters", "kv_cache", "activations", "kept", "total")
    gigabytes = {part: getattr(found, part) / 1e9 for part in parts}
    return {"estimate": found.sentence, "tokens": found.tokens, "gigabytes": gigabytes}


@command(
    "verify",
    "lynx verify llava-onevision-0.5b --precision bf16 --video clip.mp4",
    option("backbone", metavar="BACKBONE", help="catalog name, folder or Hub id"),
    adapter_option,
    option("--video", metavar="FILE", help="the clip that is looked at (default: a drawn one)"),
    option("--precision", default="auto", choices=["auto", "bf16", "fp32", "int8", "nf4"]),
    option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ..."),
)
def _verify(options: Options) -> Result | str:
    """Load a backbone and check every promise on this machine, as a table to paste into an issue."""
    from lynx.evaluation.verify import verify

    report = verify(
        options.backbone, options.adapter, options.video, options.precision, options.device,
        progress=lambda name: print(f"{name} ...", file=sys.stderr, flush=True),
    )  # fmt: skip
    result: Result | str = report.to_dict()
    if not options.json:
        where = [{"of": name, "here": value} for name, value in report.environment.items()]
        checks = table([asdict(check) for check in report.checks])
        result = f"{report.backbone}, {report.seconds} s\n\n{table(where)}\n\n{checks}"
    if report.failed:
        show(result)
        names = ", ".join(report.failed)
        raise LynxError(f"{len(report.failed)} of {len(report.checks)} checks failed: {names}")
    return result


@command(
    "backbones",
    "lynx backbones qwen2.5-vl-3b",
    option("name", nargs="?", help="a catalog name; default: all"),
)
def _backbones(options: Options) -> Result | str:
    """List the known backbones: Hub id, license, tokens a frame, memory in each precision, LoRA targets."""
    from lynx.backbones import CATALOG
    from lynx.backbones.estimate import describe
    from lynx.errors import BackboneError

    if options.name is not None and options.name not in CATALOG:
        raise BackboneError(f"{options.name!r} is not in the catalog: there are {', '.join(CATALOG)}")
    known = {name: describe(name) for name in CATALOG if options.name in (None, name)}
    if options.json or options.name:
        return known
    columns = ("hub_id", "license", "tokens_a_frame")
    rows = [
        {"name": name}
        | {column: row[column] for column in columns}
        | {f"GB {precision}": size for precision, size in row["weights_gb"].items()}
        for name, row in known.items()
    ]
    return f"{table(rows)}\n\n`lynx backbones NAME` shows all of one; `lynx estimate` says if it fits."
