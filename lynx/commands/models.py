"""`lynx params`, `adapters list`, `adapters check`: what a model is made of."""

from pathlib import Path

from lynx.commands.registry import Options, Parser, Result, command, count, load_model, model_arguments


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


def _adapters_list_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--dir", type=Path, default=Path("adapters"), help="where they are (default: adapters)"
    )


@command("adapters list", _adapters_list_arguments, "lynx adapters list")
def _adapters_list(options: Options) -> Result:
    """List the adapters of a folder: sense, backbone and measured figures."""
    from lynx.adapters import read_adapter_config

    found = {}
    for folder in sorted(path.parent for path in options.dir.glob("*/lynx_config.json")):
        adapter = read_adapter_config(folder)
        found[str(folder)] = {"modality": adapter.modality, "backbone": adapter.backbone.get("source")}
        found[str(folder)] |= {"metrics": dict(adapter.metrics)}
    return found


def _adapters_check_arguments(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder or Hub id of the adapter")
    model_arguments(parser)


@command("adapters check", _adapters_check_arguments, "lynx adapters check adapters/audio")
def _adapters_check(options: Options) -> Result:
    """Load an adapter strictly: every tensor's name and shape, its backbone, its rendering."""
    model = load_model(options)
    adapter = model.load_adapter(options.folder)
    return {"adapter": adapter.name, "fits": options.backbone, "parts": list(model.parts(adapter.name))}
