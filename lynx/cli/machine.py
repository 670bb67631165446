"""`lynx app` and `lynx env`: what runs here."""

import errno
import importlib.metadata
import importlib.util
import logging
import os
import platform
import shutil
import socket
from dataclasses import asdict
from pathlib import Path

import lynx
from lynx.cli.registry import Options, Result, adapter_option, command, count, model_options, option
from lynx.config import LIMITS
from lynx.errors import LynxError

MAX_PORT = 65_535
PARTS = {
    "library": ("torch", "transformers", "peft", "accelerate", "safetensors", "av"),
    "app": ("gradio", "spaces", "moviepy", "matplotlib"),
    "world": ("moviepy",),
    "plots": ("matplotlib",),
    "quantization": ("bitsandbytes",),
}
"""What each part of the product needs: the import names of its packages."""


@command(
    "app",
    "lynx app --port 7860",
    option("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"),
    option("--port", type=count, default=7860, help="port to listen on (default: 7860)"),
    adapter_option,
    option("--mcp", action="store_true", help="let assistants call /ask as a tool of MCP"),
    model_options(device=False),
)
def _app(options: Options) -> Result:
    """Serve the app; without --adapter it begins with those that come with lynx and fit the backbone."""
    from lynx.adapters.shipped import local_adapter

    adapters = tuple(str(local_adapter(source) or source) for source in options.adapter)
    _check_address(options.host, options.port)
    try:
        from lynx.ui import launch
        from lynx.ui.examples import find_adapters
        from lynx.ui.types import Setup
    except ModuleNotFoundError as error:
        raise LynxError(f"the app needs {error.name}: pip install 'lynx[app]'") from error
    logging.getLogger("lynx.ui").setLevel(logging.INFO)  # who may do what here, in a line
    setup = None
    if adapters or (options.backbone, options.precision) != (Setup.backbone, Setup.precision):
        adapters = adapters or find_adapters(options.backbone)
        setup = Setup(options.backbone, options.precision, adapters)
    launch(options.host, options.port, setup, variables=os.environ, mcp_server=options.mcp)
    return {}


def _check_address(host: str, port: int) -> None:
    """Raises: LynxError: nothing can listen there; before the app is loaded."""
    if port > MAX_PORT:
        raise LynxError(f"port {port} is too high: give one up to {MAX_PORT} with --port")
    try:
        (family, kind, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            raise LynxError(f"port {port} is in use: give another one, such as --port {port + 1}") from error
        if error.errno == errno.EACCES:
            raise LynxError(f"port {port} cannot be used ({reason}): give another one with --port") from error
        raise LynxError(f"{host!r} is no address of this machine ({reason}): give one with --host") from error


@command("env", "lynx env --json")
def _env(options: Options) -> Result:
    """Show versions, device, caches, limits, who may do what in the app, and what is missing for it all."""
    import torch

    from lynx.hub import CACHE

    def installed(name: str) -> bool:
        return importlib.util.find_spec(name) is not None

    missing = {part: [name for name in names if not installed(name)] for part, names in PARTS.items()}
    auto = None
    extensions = {}  # what other installed packages bring: from where, and why something is left out
    if not missing["library"]:  # else they cannot be imported
        from lynx.backbones.loading import extensions as families
        from lynx.backbones.quantization import describe_auto, pick_device
        from lynx.evaluation.benchmarks import extensions as benchmarks
        from lynx.modalities import extensions as senses

        auto = describe_auto(pick_device("auto"))
        shown = ("name", "package", "version", "path")
        extensions = {
            table.group: [
                {name: getattr(each, name) for name in shown} | {"left_out": each.problem or None}
                for each in table.added()
            ]
            for table in (senses, families, benchmarks)
        }
    if not (embedded := Path(lynx.__file__).parent / "assets" / "lynx-tiny" / "config.json").is_file():
        missing["library"].append(str(embedded))
    device = f"cpu: {platform.machine()}, {os.cpu_count()} cores"
    ffmpeg = shutil.which("ffmpeg")
    if installed("imageio_ffmpeg"):  # the one that moviepy starts; reading needs none, PyAV brings its own
        import imageio_ffmpeg

        ffmpeg = str(imageio_ffmpeg.get_ffmpeg_exe())
    app = None
    if not missing["library"] and not missing["app"]:
        from lynx.ui.host_policy import LOCAL_HOSTS, host_policy

        app = str(host_policy(os.environ.get("GRADIO_SERVER_NAME", LOCAL_HOSTS[0]), os.environ))
    return {
        "lynx": lynx.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for names in PARTS.values() for name in names},
        "device": f"cuda: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else device,
        "precision_auto": auto,
        "torch_threads": torch.get_num_threads(),
        "hub_cache": CACHE,
        "ffmpeg": ffmpeg,
        "limits": {LIMITS.variable(name): value for name, value in asdict(LIMITS).items()},
        "app": app,
        "extensions": extensions,
        "missing": missing,
        "ready": not any(missing[part] for part in ("library", "app")),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
