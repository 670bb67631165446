"""`lynx app` and `lynx env`: what runs here."""

from lynx.cli.registry import Options, Parser, Result, adapter_argument, command, count, model_arguments
from lynx.errors import LynxError


def _app_arguments(parser: Parser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=count, default=7860, help="port to listen on (default: 7860)")
    adapter_argument(parser)
    model_arguments(parser, device=False)


@command("app", _app_arguments, "lynx app --port 7860")
def _app(options: Options) -> Result:
    """Serve the app; without --adapter it begins with those of the checkout that fit the backbone."""
    try:
        from lynx.ui import launch
        from lynx.ui.examples import find_adapters
        from lynx.ui.types import Setup
    except ModuleNotFoundError as error:
        raise LynxError(f"the app needs {error.name}: pip install 'lynx[app]'") from error
    adapters = tuple(options.adapter) or find_adapters(options.backbone)
    launch(options.host, options.port, Setup(options.backbone, options.precision, adapters))
    return {}


def _nothing(parser: Parser) -> None:
    """A command without options of its own."""


@command("env", _nothing, "lynx env --json")
def _env(options: Options) -> Result:
    """Show versions, device, caches, and what is missing for the library and the app."""
    from lynx.cli.environment import report

    return report()
