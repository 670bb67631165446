"""`lynx params`: what a model is made of."""

from lynx.commands.registry import Options, Parser, Result, command, count


def _params_arguments(parser: Parser) -> None:
    parser.add_argument("--backbone", required=True, help="catalog name, folder or Hub id")
    parser.add_argument("--rank", type=count, default=64, help="rank of both LoRAs (default: 64)")


@command("params", _params_arguments, "lynx params --backbone llava-onevision-0.5b --json")
def _params(options: Options) -> Result:
    """Count the parameters that one sense adds to a backbone, without loading its weights."""
    from lynx.backbones import CATALOG, count_parameters

    counts: Result = dict(count_parameters(options.backbone, options.rank))
    row = CATALOG.get(options.backbone)
    return counts | ({"paper": row.paper} if row is not None and row.paper else {})
