"""What every command is made of: its registration, the arguments that many share, and the model they ask for.

What a command needs is imported when it runs: `lynx --help` costs no torch.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lynx

Parser = argparse.ArgumentParser
Options = argparse.Namespace
Result = dict[str, Any]

ADAPTERS = Path("adapters")
"""Where trained adapters lie in a checkout, one folder a sense."""


@dataclass(frozen=True)
class Command:
    """A command: `run` does it, `arguments` declares its options; the function's docstring is its help."""

    name: str
    example: str
    arguments: Callable[[Parser], None]
    run: Callable[[Options], Result]

    @property
    def summary(self) -> str:
        """The first line of the help."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


COMMANDS: dict[str, Command] = {}


def command(
    name: str, arguments: Callable[[Parser], None], example: str
) -> Callable[..., Callable[[Options], Result]]:
    """Register a function as `lynx NAME`."""

    def register(run: Callable[[Options], Result]) -> Callable[[Options], Result]:
        COMMANDS[name] = Command(name, example, arguments, run)
        return run

    return register


def model_arguments(parser: Parser, device: bool = True, named: bool = False) -> None:
    """The options that say which model. named: by default the one that the files given name, so None."""
    group = parser.add_argument_group("model")
    default = "the one that DIR names" if named else "lynx-tiny"
    group.add_argument(
        "--backbone",
        default=None if named else default,
        help=f"catalog name, folder or Hub id (default: {default})",
    )
    group.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32", "int8", "nf4"])
    if device:
        group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def adapter_argument(parser: Parser) -> None:
    """The option that adds adapters."""
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="DIR",
        help="folder or Hub id of an adapter; repeatable",
    )


def count(text: str) -> int:
    """The type of an option that is a positive number."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def load_model(options: Options, *senses: str) -> Any:
    """The model with the adapters asked for; where none is, with the senses' own in `adapters/`, if any."""
    own = [ADAPTERS / sense for sense in senses if (ADAPTERS / sense / "lynx_config.json").is_file()]
    adapters = getattr(options, "adapter", []) or own
    return lynx.load(options.backbone, adapters=adapters, precision=options.precision, device=options.device)
