"""Shared by all commands: registration, common options, loading of models and data.

What a command needs is imported when it runs: `lynx --help` costs no torch.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lynx
from lynx.cli.run_config import as_values, with_config
from lynx.config import read_json_object
from lynx.errors import AdapterError, DataError, LynxError

Parser = argparse.ArgumentParser
Options = argparse.Namespace
Result = dict[str, Any]
Run = Callable[[Options], Result | str]
Declare = Callable[[Parser], object]
"""Adds one option or several to the parser of a command."""

ADAPTERS = Path("adapters")
"""Where trained adapters lie in a checkout, one folder a sense."""
EMBEDDED = "lynx-tiny"


@dataclass(frozen=True)
class Command:
    """A command: `run` does it, `declared` are its options; the function's docstring is its help.

    `run` returns a dict, or a text for people, such as a `table`.
    """

    name: str
    example: str
    declared: Sequence[Declare]
    run: "Run"

    @property
    def summary(self) -> str:
        """The first line of the help."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


COMMANDS: dict[str, Command] = {}


def command(name: str, example: str, *declared: Declare) -> Callable[[Run], Run]:
    """Register a function as `lynx NAME`, with these options."""

    def register(run: Run) -> Run:
        COMMANDS[name] = Command(name, example, declared, run)
        return run

    return register


def parse(chosen: Command, words: Sequence[str]) -> argparse.Namespace:
    """The options of a command; `given`: those that say something, by name."""
    parser = parser_of(chosen)
    options = parser.parse_args(with_config(parser, words))
    options.given = as_values(parser, options)
    return options


def parser_of(chosen: Command) -> argparse.ArgumentParser:
    """The parser of a command's options."""
    parser = argparse.ArgumentParser(
        prog=f"lynx {chosen.name}",
        description=chosen.run.__doc__,
        epilog=f"example:\n  {chosen.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for declare in chosen.declared:
        declare(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for machines")
    parser.add_argument("--verbose", action="store_true", help="log what is done, on the error stream")
    return parser


def option(*names: str, **keywords: Any) -> Declare:
    """One option or positional argument: what `add_argument` takes."""
    return lambda parser: parser.add_argument(*names, **keywords)


def model_options(device: bool = True, named: bool = False) -> Declare:
    """The options that choose a model. named: no default backbone, since the given files name one."""

    def declare(parser: Parser) -> None:
        group = parser.add_argument_group("model")
        default = "the one that DIR names" if named else "lynx-tiny"
        text = f"catalog name, folder or Hub id (default: {default})"
        group.add_argument("--backbone", default=None if named else default, help=text)
        group.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32", "int8", "nf4"])
        if device:
            group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")

    return declare


def adapter_option(parser: Parser) -> None:
    """The option that adds adapters."""
    text = "an adapter: folder, Hub id, or the name of one that comes with lynx, such as audio; repeatable"
    parser.add_argument("--adapter", action="append", default=[], metavar="DIR", help=text)


def data_options(default: str | None = "world") -> Declare:
    """The options that choose examples; read them with `open_examples`."""

    def declare(parser: Parser) -> None:
        group = parser.add_argument_group("data")
        shown = f" (default: {default})" if default else ""
        group.add_argument(
            "--data",
            nargs="+",
            action="append",
            required=default is None,
            metavar=("NAME", "PATH"),
            help="world; jsonl with a .jsonl file or a folder of train.jsonl, ...; instruct with a mapping "
            "of LLaVA's conversations; labelled with a folder of sound recordings, a folder a class or as "
            "ESC-50 is; avqa, scanqa and other benchmarks with training data, with their folders "
            f"(docs/benchmarks.md); repeatable{shown}",
        )
        text = "the path, where --data names none"
        group.add_argument("--data-path", type=Path, metavar="PATH", help=text)
        text = "folds of labelled recordings that are left out of training, and evaluated"
        group.add_argument("--held-out", nargs="+", default=[], metavar="FOLD", help=text)
        text = "clips of each source, at most (default: all; of the world, which has no end, 1000)"
        group.add_argument("--n", type=count, help=text)
        text = "seed that draws them (default: 0)"
        group.add_argument("--data-seed", type=int, default=0, metavar="N", help=text)
        text = "recordings that may be damaged and are left out, as a share (1%%) or a number (default: none)"
        group.add_argument("--skip-damaged", type=_tolerance, metavar="N", help=text)

    return declare


def open_examples(
    options: Options,
    *,
    split: str = "train",
    focus: Sequence[str] = (),
    types: Sequence[str] = (),
    senses: Callable[[str], tuple[str, ...] | None] = lambda name: None,
    used: Sequence[str] | None = None,
    folder: Path | None = None,
    asks: bool = True,
) -> Any:
    """The examples that `data_options` ask for, source by source; `senses` of each by its name.

    All their recordings are opened once, by one process for all. used: as these senses; None: as all.
    folder: where it is written which of them are damaged. asks: whether their questions are of use.

    Raises DataError for a source of two paths, for a fold to hold out that none of several sources has, and
    for more damaged recordings than may be left out.
    """
    from lynx.datasets.checking import usable
    from lynx.datasets.sources import groups_of, open_data
    from lynx.training.processes import Processes

    sources: list[tuple[str, Path | None]] = []
    for words in options.data or [["world"]]:
        name, *paths = words
        if len(paths) > 1:
            raise DataError(f"--data takes a name and a path, not {' '.join(words)}: repeat it for more")
        sources.append((name, Path(paths[0]) if paths else options.data_path))
    held_out = [list(options.held_out) for _ in sources]
    if len(sources) > 1 and options.held_out:  # each source holds out its own
        groups = [groups_of(*source) for source in sources]
        if unknown := sorted(set(options.held_out).difference(*groups)):
            there = ", ".join(sorted({group for each in groups for group in each})) or "none"
            raise DataError(f"no source has {unknown[0]!r} to hold out; there are {there}")
        held_out = [[group for group in options.held_out if group in each] for each in groups]
    shared: dict[str, Any] = {"split": split, "seed": options.data_seed, "n": options.n}
    shared |= {"focus": focus, "types": types, "missing": True}
    parts = [
        open_data(name, path, senses=senses(name), held_out=folds, **shared)
        for (name, path), folds in zip(sources, held_out, strict=True)
    ]
    examples = parts[0] if len(parts) == 1 else [example for part in parts for example in part]
    if getattr(options, "check", False):
        return examples  # damaged ones too: they are to be listed
    if not isinstance(examples, list):  # nothing to look at
        return examples
    return Processes().once(lambda: usable(examples, used, options.skip_damaged, folder, asks))


def rendering_option(text: str) -> Declare:
    """The option that says how pseudo-frames are drawn."""
    return option("--rendering", type=_json_object, default={}, metavar="JSON", help=text)


def _json_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"n_mels": 128}}')
    return values


def count(text: str) -> int:
    """The type of an option that is a positive number."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def usage(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """`read` as the type of an option: what it cannot read is wrong usage, with its own words."""

    def parse(text: str) -> Any:
        try:
            return read(text)
        except LynxError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def rate(text: str) -> float:
    """The type of an option that is a number a second, above 0."""
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value
def _tolerance(text: str) -> Any:
    from lynx.datasets.checking import Tolerance

    try:
        return Tolerance.of(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def load_model(options: Options, *senses: str) -> Any:
    """Load the model with the adapters asked for, by default those of these senses in `adapters/`, or that
    come with lynx, which were trained on the backbone.

    Raises: AdapterError: there is none for a sense, or none where one was named; before anything is loaded.
    """
    from lynx.adapters.format import resolve_adapter

    adapters = [resolve_adapter(source) for source in getattr(options, "adapter", [])]
    for sense in senses if not adapters else ():
        if (folder := _own_adapter(sense, options.backbone)) is not None:
            adapters.append(folder)
        elif sense != "video":
            raise AdapterError(
                f"{options.backbone} has no adapter for {sense!r}: give a folder or Hub id of one that was "
                "trained on it with --adapter (`lynx adapters list` shows those here, `lynx adapters pull` "
                f"downloads one, `lynx align --modality {sense}` and `lynx tune` train one)"
            )
    return lynx.load(options.backbone, adapters=adapters, precision=options.precision, device=options.device)


def _own_adapter(sense: str, backbone: str) -> Path | None:
    """The adapter of that name in `adapters/`, or that comes with lynx; None where it is of another backbone.

    One that cannot be read is returned: loading it says why.
    """
    from lynx.adapters.shipped import CONFIG, shipped

    folder = ADAPTERS / sense if (ADAPTERS / sense / CONFIG).is_file() else shipped(sense)
    if folder is None:
        return None
    try:
        trained_on = read_json_object(folder / CONFIG).get("backbone")
    except LynxError:
        return folder
    source = trained_on.get("source") if isinstance(trained_on, dict) else None
    embedded = {source == EMBEDDED, backbone == EMBEDDED}  # of a path only loading can tell
    return folder if len(embedded) == 1 else None


def speaks() -> bool:
    """Whether this process prints: the first of those that a launcher started together."""
    return int(os.environ.get("RANK", "0")) == 0


def show(result: Result | str) -> None:
    """Print a result before an error that it explains."""
    if speaks():
        print(result if isinstance(result, str) else json.dumps(result, default=str))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows for people: aligned columns under the names of the first row; numbers stand on the right."""
    if not rows:
        return ""
    cells = [[str(name).replace("_", " ") for name in rows[0]]]
    cells += [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    columns = zip(*(row.values() for row in rows), strict=True)
    signs = [">" if all(isinstance(value, int | float) for value in column) else "<" for column in columns]
    lines = [
        "  ".join(f"{text:{sign}{width}}" for text, sign, width in zip(line, signs, widths, strict=True))
        for line in cells
    ]
    return "\n".join(map(str.rstrip, lines))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@contextmanager
def progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar in a terminal, on the error stream; call it with the numbers of done and of all."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None, leave=False) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell
