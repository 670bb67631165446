"""The command `lynx`: finds the command, runs it, prints its result for people or as JSON (`--json`).

Exit codes: 0 done, 1 failed (one line says why), 2 wrong usage.
"""

import argparse
import json
import logging
import os
import sys
import warnings

import lynx
from lynx.cli import (  # noqa: F401  they register
    adapters,
    chat,
    evaluation,
    machine,
    media,
    models,
    recipes,
    stages,
    world,
)
from lynx.cli.registry import COMMANDS, Command, Result, parse, speaks
from lynx.errors import LynxError

EXAMPLES = (
    "lynx app",
    'lynx chat --video clip.mp4 --audio clip.mp4 --ask "What sound do you hear?"',
    "lynx inspect clip.mp4",
)


def main(argv: list[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    name = next((name for name in (" ".join(words[:2]), " ".join(words[:1])) if name in COMMANDS), None)
    if name is None:
        return _overview(words)
    if not sys.stderr.isatty():  # read when the library behind is imported, which some options need
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    chosen = COMMANDS[name]
    try:
        options = parse(chosen, words[len(name.split()) :])
        _set_logging(options.verbose)
        _run(chosen, options)
    except LynxError as error:
        return _failed(str(error))
    except BrokenPipeError:  # `lynx ... | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return _failed("interrupted")
    finally:
        # leave torchrun's process group: its threads would abort an interpreter that exits before
        distributed = sys.modules.get("torch.distributed")
        if distributed and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


def _run(chosen: Command, options: argparse.Namespace) -> None:
    """Run a command and print its result, where several processes run it by the first alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from lynx.backbones.quantization import pick_device
        from lynx.training.processes import join

        join(pick_device(getattr(options, "device", "auto")))
    result = chosen.run(options)
    if (result or options.json) and speaks():
        if options.json:
            print(json.dumps(result, default=str))
        else:
            print(result if isinstance(result, str) else _for_people(result))
    sys.stdout.flush()


def _set_logging(verbose: bool) -> None:
    """Warnings of `lynx` reach the error stream; those of its dependencies only with `--verbose`.

    Progress bars are shown in a terminal only; elsewhere a line now and then says how far it is. What a run
    has found and where it goes on is said everywhere.
    """
    for name in ("lynx.training", "lynx.datasets"):
        logging.getLogger(name).setLevel(logging.INFO if speaks() else logging.WARNING)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        return
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it has a handler of its own
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("lynx: %(message)s"))
    logging.getLogger("lynx").addHandler(handler)


def _failed(message: str) -> int:
    print(f"lynx: {' '.join(message.split())}", file=sys.stderr)
    return 1


def _overview(words: list[str]) -> int:
    """The list of commands: all, or those of a group such as `lynx world`; anything else is wrong usage."""
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
    if len(listed) in (0, len(COMMANDS)):
        print("", "examples:", *(f"  {each}" for each in EXAMPLES), sep="\n", file=out)
    print("\n`lynx COMMAND --help` lists a command's options, with an example.", file=out)
    return 0 if words and out is sys.stdout else 2


def _for_people(result: Result, indent: str = "") -> str:
    """A dict as indented `name: value` lines."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", _for_people(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{name}:")
            for row in value:
                told = (f"{key}: {each}" for key, each in row.items() if each is not None)
                lines.append(f"{indent}  {', '.join(told)}")
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{name}: {', '.join(map(str, value)) or '-'}")
        else:
            lines.append(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return "\n".join(lines)
