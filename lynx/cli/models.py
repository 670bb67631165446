"""`lynx params`, `estimate`, `backbones`: what a model is made of, before it is loaded."""

from typing import Any

from lynx.cli.registry import Options, Parser, Result, command, count, model_arguments


def _params_arguments(parser: Parser) -> None:
    parser.add_argument("--backbone", required=True, help="catalog name, folder or Hub id")
    parser.add_argument("--rank", type=count, default=64, help="rank of both LoRAs (default: 64)")


@command("params", _params_arguments, "lynx params --backbone llava-onevision-0.5b --json")
def _params(options: Options) -> Result:
    """Count the parameters that one sense adds to a backbone, without loading its weights."""
    from lynx.adapters.lora import count_parameters
    from lynx.backbones import CATALOG

    counts: Result = dict(count_parameters(options.backbone, options.rank))
    row = CATALOG.get(options.backbone)
    return counts | ({"paper": row.paper} if row is not None and row.paper else {})


def _frame_size(text: str) -> tuple[int, int]:
    """The type of --size: "360x640", height and width."""
    height, _, width = text.partition("x")
    return count(height), count(width)


def _estimate_arguments(parser: Parser) -> None:
    parser.add_argument("--frames", type=count, help="moments looked at; default: the backbone's own")
    parser.add_argument(
        "--senses", nargs="*", default=[], metavar="SENSE", help="senses beside the video, such as audio"
    )
    parser.add_argument(
        "--size",
        type=_frame_size,
        metavar="HEIGHTxWIDTH",
        help="of the video's frames, where the family keeps their shape; default: that of pseudo-frames",
    )
    parser.add_argument("--rank", type=count, default=64, help="rank of the adapters' LoRAs (default: 64)")
    model_arguments(parser)


@command(
    "estimate",
    _estimate_arguments,
    "lynx estimate --backbone llava-onevision-7b --frames 32 --senses audio --precision nf4",
)
def _estimate(options: Options) -> Result:
    """Say how many tokens and bytes a conversation needs and whether they fit, before anything is loaded."""
    from lynx.backbones.estimate import estimate

    found = estimate(
        options.backbone,
        frames=options.frames,
        senses=options.senses,
        precision=options.precision,
        device=options.device,
        size=options.size,
        rank=options.rank,
    )
    return found.to_dict() if options.json else {"estimate": found.sentence} | _gigabytes(found)


def _gigabytes(found: Any) -> Result:
    parts = ("weights", "adapters", "kv_cache", "activations", "kept", "total")
    return {"tokens": found.tokens, "gigabytes": {part: getattr(found, part) / 1e9 for part in parts}}


def _backbones_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", help="a catalog name; default: all")


@command("backbones", _backbones_arguments, "lynx backbones qwen2.5-vl-3b")
def _backbones(options: Options) -> Result:
    """List the known backbones: Hub id, license, tokens a frame, memory in each precision, LoRA targets."""
    from lynx.backbones import CATALOG
    from lynx.backbones.estimate import describe
    from lynx.errors import BackboneError

    if options.name is not None and options.name not in CATALOG:
        raise BackboneError(f"{options.name!r} is not in the catalog: there are {', '.join(CATALOG)}")
    return {name: describe(name) for name in CATALOG if options.name in (None, name)}
