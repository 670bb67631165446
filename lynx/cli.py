"""The command `lynx`: one function a command, its result a dict, printed for people or (`--json`) as one JSON object.

What a command needs is imported when it runs: `lynx --help` costs no torch. Exit codes: 0 done, 1 failed (one line says
why), 2 wrong usage. The options of `guide`, `align` and `tune` are the fields of their configuration dataclasses.
"""

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lynx
from lynx.errors import LynxError
from lynx.options import add_options, read_options

Parser = argparse.ArgumentParser
Options = argparse.Namespace
Result = dict[str, Any]


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


def command(name: str, arguments: Callable[[Parser], None], example: str) -> Callable[..., Callable[[Options], Result]]:
    """Register a function as `lynx NAME`."""

    def register(run: Callable[[Options], Result]) -> Callable[[Options], Result]:
        COMMANDS[name] = Command(name, example, arguments, run)
        return run

    return register


def main(argv: list[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    name = next((name for name in (" ".join(words[:2]), " ".join(words[:1])) if name in COMMANDS), None)
    if name is None:
        return _overview(words)
    chosen = COMMANDS[name]
    options = _parser(chosen).parse_args(words[len(name.split()) :])
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(name)s: %(message)s")
    try:
        result = chosen.run(options)
        print(json.dumps(result) if options.json else _for_people(result))
        sys.stdout.flush()
    except LynxError as error:
        return _failed(str(error))
    except BrokenPipeError:  # `lynx ... | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return _failed("interrupted")
    return 0


def _failed(message: str) -> int:
    print(f"lynx: {' '.join(message.split())}", file=sys.stderr)
    return 1


def _overview(words: list[str]) -> int:
    """The list of commands, for `lynx`, `lynx --help`, `lynx world`; a word that is no command is wrong usage."""
    if words == ["--version"]:
        print(lynx.__version__)
        return 0
    first = words[0] if words else "--help"
    listed = [c for c in COMMANDS.values() if first in ("-h", "--help") or c.name.startswith(first + " ")]
    wanted = first in ("-h", "--help") or words[1:] in (["-h"], ["--help"])
    out = sys.stdout if listed and wanted else sys.stderr
    if not listed:
        print(f"lynx: there is no command {first!r}; the commands are:", file=out)
    print("usage: lynx COMMAND [options]\n", file=out)
    for each in listed or COMMANDS.values():
        print(f"  {each.name:<15} {each.summary}", file=out)
    print("\n`lynx COMMAND --help` lists a command's options, with an example.", file=out)
    return 0 if words and out is sys.stdout else 2


def _parser(chosen: Command) -> Parser:
    parser = Parser(
        prog=f"lynx {chosen.name}",
        description=chosen.run.__doc__,
        epilog=f"example:\n  {chosen.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen.arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for machines")
    parser.add_argument("--verbose", action="store_true", help="log what is done, on the error stream")
    return parser


def _for_people(result: Result, indent: str = "") -> str:
    """A dict as indented `name: value` lines."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", _for_people(value, indent + "  ")]
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{name}: {', '.join(map(str, value)) or '-'}")
        else:
            lines.append(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return "\n".join(lines)


def _model_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--backbone", default="lynx-tiny", help="catalog name, folder or Hub id (default: lynx-tiny)")
    group.add_argument("--adapter", action="append", default=[], metavar="DIR", help="adapter folder or Hub id; repeatable")
    group.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32", "int8", "nf4"])
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def _load(options: Options) -> Any:
    return lynx.load(options.backbone, adapters=options.adapter, precision=options.precision, device=options.device)


def _chat_arguments(parser: Parser) -> None:
    from lynx.modalities import REGISTRY

    media = parser.add_argument_group("media (a sense reads its track of the file)")
    for name, modality in REGISTRY.items():
        media.add_argument(f"--{name}", metavar="FILE", help=f"the {modality.label} of FILE")
    parser.add_argument("--ask", action="append", default=[], metavar="QUESTION", help="repeatable; none: read them from stdin")
    parser.add_argument("--without", metavar="SENSE", help="answer each question again without this sense")
    parser.add_argument("--evidence", action="store_true", help="say how much every answer rests on each sense")
    _model_arguments(parser)


@command("chat", _chat_arguments, 'lynx chat --video clip.mp4 --audio clip.mp4 --adapter adapters/audio --ask "what sound do you hear ?"')
def _chat(options: Options) -> Result:
    """Ask a model about a clip, with as many senses as it has adapters."""
    from lynx.modalities import REGISTRY

    media = {name: path for name in REGISTRY if (path := getattr(options, name))}
    chat = _load(options).chat(**media)
    turns = []
    for question in options.ask or map(str.strip, sys.stdin):
        turn: Result = {"question": question, "answer": _stream(chat, question, show=not options.json)}
        if options.evidence:
            turn["evidence"] = chat.evidence.shares()
        if options.without:
            turn[f"without {options.without}"] = chat.compare(question, without=options.without)
        turns.append(turn)
    return {"turns": turns, "used": chat.used, "notes": chat.notes}
