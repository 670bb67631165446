"""What the commands of `lynx` do: a function each, whose docstring is its help and whose result is a dict.

What a command needs is imported when it runs: `lynx --help` costs no torch. The options of a stage are the
fields of its configuration dataclass.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lynx
from lynx.errors import LynxError
from lynx.options import add_options, read_options

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


def _model_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--backbone", default="lynx-tiny", help="catalog name, folder or Hub id (default: lynx-tiny)"
    )
    group.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32", "int8", "nf4"])
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def _adapter_argument(parser: Parser) -> None:
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="DIR",
        help="folder or Hub id of an adapter; repeatable",
    )


def _data_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--data", default="world", help="world, or jsonl with --data-path (default: world)")
    group.add_argument(
        "--data-path", type=Path, metavar="FILE", help="the .jsonl file, or a folder of train.jsonl, ..."
    )
    group.add_argument("--n", type=_count, default=1000, help="clips taken, at most (default: 1000)")
    group.add_argument(
        "--data-seed", type=int, default=0, metavar="N", help="seed that draws them (default: 0)"
    )


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _load(options: Options, *senses: str) -> Any:
    """The model with the adapters asked for; where none is, with the senses' own in `adapters/`, if any."""
    own = [ADAPTERS / sense for sense in senses if (ADAPTERS / sense / "lynx_config.json").is_file()]
    adapters = getattr(options, "adapter", []) or own
    return lynx.load(options.backbone, adapters=adapters, precision=options.precision, device=options.device)


@contextmanager
def _progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the error stream where a person looks; call it with how many are done, and of how many."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None, leave=False) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell


def _examples(options: Options, senses: tuple[str, ...] | None) -> Any:
    from lynx.data import open_data

    return open_data(
        options.data, options.data_path, split="train", seed=options.data_seed, n=options.n, senses=senses
    )


def _chat_arguments(parser: Parser) -> None:
    from lynx.modalities import REGISTRY

    media = parser.add_argument_group("media (each sense takes its own track of the file)")
    for name, modality in REGISTRY.items():
        media.add_argument(f"--{name}", metavar="FILE", help=f"take the {modality.label} of FILE")
    parser.add_argument(
        "--ask", action="append", default=[], metavar="QUESTION", help="repeatable; default: lines of stdin"
    )
    parser.add_argument("--without", metavar="SENSE", help="answer every question again without this sense")
    parser.add_argument(
        "--evidence", action="store_true", help="tell how much each answer rests on each sense"
    )
    parser.add_argument(
        "--frames", type=_count, metavar="N", help="moments looked at; default: the backbone's own"
    )
    _adapter_argument(parser)
    _model_arguments(parser)


@command(
    "chat",
    _chat_arguments,
    'lynx chat --video clip.mp4 --audio clip.mp4 --ask "what sound do you hear ?" --evidence',
)
def _chat(options: Options) -> Result:
    """Ask a model about a clip, with as many senses as it has adapters."""
    from lynx.modalities import REGISTRY

    media = {name: path for name in REGISTRY if (path := getattr(options, name))}
    session = _load(options, *media).chat(frames=options.frames, **media)
    turns = []
    for question in options.ask or filter(None, map(str.strip, sys.stdin)):
        turn: Result = {"question": question, "answer": _answer(session, question, shown=not options.json)}
        turn |= {"used": session.used, "notes": list(session.notes)}
        if options.evidence:
            turn["rests_on"] = session.evidence.share()
        if options.without:
            turn["without"] = session.compare(without=options.without).without_sense
        turns.append(turn)
        if not options.json:
            turn.pop("answer")  # it has been read
    return {"turns": turns} if options.json else {turn.pop("question"): turn for turn in turns}


def _answer(session: Any, question: str, shown: bool) -> str:
    """The answer, printed piece by piece as it is generated where a person reads."""
    pieces = []
    for piece in session.stream(question):
        pieces.append(piece)
        if shown:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if shown:
        sys.stdout.write("\n")
    return "".join(pieces).strip()


def _stage_arguments(parser: Parser, modality: bool = True) -> None:
    if modality:
        parser.add_argument("--modality", required=True, help="the sense that is trained")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="where the result is written")
    _data_arguments(parser)
    _model_arguments(parser)


def _guide_arguments(parser: Parser) -> None:
    from lynx.config import GuideConfig

    _stage_arguments(parser, modality=False)
    add_options(parser, GuideConfig)


@command("guide", _guide_arguments, "lynx guide --data world --n 500 --out runs/guidance.safetensors")
def _guide(options: Options) -> Result:
    """Stage 1: gather the statistics of the token interface over reference videos."""
    from lynx.config import GuideConfig
    from lynx.interface.guidance import guide

    guidance = guide(_load(options), _examples(options, ("video",)), read_options(options, GuideConfig))
    path = guidance.save(options.out)
    return {"written": str(path), "frames": guidance.frames, "tokens": guidance.tokens}


def _align_arguments(parser: Parser) -> None:
    from lynx.config import AlignConfig

    parser.add_argument(
        "--guidance", type=Path, required=True, metavar="FILE", help="what `lynx guide` wrote"
    )
    _stage_arguments(parser)
    add_options(parser, AlignConfig)


@command(
    "align",
    _align_arguments,
    "lynx align --modality audio --guidance runs/guidance.safetensors --out runs/audio",
)
def _align(options: Options) -> Result:
    """Stage 2: train the vision LoRA of a sense on that sense alone, without pairs or text."""
    from lynx.config import AlignConfig
    from lynx.interface.alignment import align
    from lynx.interface.guidance import Guidance

    config = read_options(options, AlignConfig)
    guidance = Guidance.load(options.guidance)
    examples = _examples(options, (options.modality,))
    return dict(align(_load(options), options.modality, examples, guidance, config, options.out))


def _tune_arguments(parser: Parser) -> None:
    from lynx.config import TuneConfig

    _stage_arguments(parser)
    _adapter_argument(parser)
    add_options(parser, TuneConfig)


@command("tune", _tune_arguments, "lynx tune --modality audio --out runs/audio")
def _tune(options: Options) -> Result:
    """Stage 3: train the LLM LoRA on clips with the sense, questions and answers."""
    from lynx.config import TuneConfig
    from lynx.tuning import tune

    config = read_options(options, TuneConfig)
    return dict(tune(_load(options), options.modality, _examples(options, None), config, options.out))


def _params_arguments(parser: Parser) -> None:
    parser.add_argument("--backbone", required=True, help="catalog name, folder or Hub id")
    parser.add_argument("--rank", type=_count, default=64, help="rank of both LoRAs (default: 64)")


@command("params", _params_arguments, "lynx params --backbone llava-onevision-0.5b --json")
def _params(options: Options) -> Result:
    """Count the parameters that one sense adds to a backbone, without loading its weights."""
    from lynx.backbones import count_parameters

    return dict(count_parameters(options.backbone, options.rank))


def _render_arguments(parser: Parser) -> None:
    parser.add_argument("--seed", type=int, required=True, help="of the clips of the test split")
    parser.add_argument("--index", type=int, default=0, help="which of the seed's clips (default: 0)")
    parser.add_argument(
        "--size", type=_count, default=480, help="side of the picture in pixels (default: 480)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder the files are written to"
    )


@command("world render", _render_arguments, "lynx world render --seed 7 --out clip")
def _world_render(options: Options) -> Result:
    """Write a clip of the miniature world: mp4, depth, second view, and its questions with answers."""
    from lynx.world.files import render

    render(options.seed, options.out, index=options.index, size=options.size)
    return {"written": sorted(str(path) for path in options.out.iterdir())}


def _eval_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--modality", metavar="SENSE", help="the sense that is measured; none: the backbone alone"
    )
    parser.add_argument("--n", type=_count, default=1000, help="questions in every cell (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="draws clips never seen in training (default: 0)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where the clips are kept; default: user's cache"
    )
    _adapter_argument(parser)
    _model_arguments(parser)


@command("eval world", _eval_arguments, "lynx eval world --modality audio --n 1000 --seed 7 --json")
def _eval_world(options: Options) -> Result:
    """Measure a sense in the miniature world: accuracy with it, without it, by chance, and on video alone."""
    from lynx.world.eval import evaluate, evaluate_backbone

    sense = options.modality
    model = _load(options, *([sense] if sense else []))
    with _progress("clips") as progress:
        if sense is None:
            return evaluate_backbone(model.backbone, options.n, options.seed, progress, options.cache)
        return evaluate(model, sense, options.n, options.seed, progress, options.cache)


def _world_train_arguments(parser: Parser) -> None:
    from lynx.world.train import TrainConfig

    parser.add_argument(
        "--out", type=Path, default=Path("runs/lynx-tiny"), metavar="DIR", help="folder of the run"
    )
    add_options(parser, TrainConfig)


@command("world train", _world_train_arguments, "lynx world train --out runs/lynx-tiny")
def _world_train(options: Options) -> Result:
    """Train the embedded backbone from nothing; a killed run goes on when the command is given again."""
    from lynx.world.train import TrainConfig, train

    return {"written": train(read_options(options, TrainConfig), options.out)}


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
    _model_arguments(parser)


@command("adapters check", _adapters_check_arguments, "lynx adapters check adapters/audio")
def _adapters_check(options: Options) -> Result:
    """Load an adapter strictly: every tensor's name and shape, its backbone, its rendering."""
    model = _load(options)
    adapter = model.load_adapter(options.folder)
    return {"adapter": adapter.name, "fits": options.backbone, "parts": list(model.parts(adapter.name))}


def _app_arguments(parser: Parser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=_count, default=7860, help="port to listen on (default: 7860)")


@command("app", _app_arguments, "lynx app --port 7860")
def _app(options: Options) -> Result:
    """Open the app in the browser."""
    try:
        from lynx.ui import launch
    except ModuleNotFoundError as error:
        raise LynxError(
            f"the app needs {error.name}, which is not installed: pip install 'lynx[app]'"
        ) from error
    launch(host=options.host, port=options.port)
    return {}


def _nothing(parser: Parser) -> None:
    """A command without options of its own."""


@command("env", _nothing, "lynx env --json")
def _env(options: Options) -> Result:
    """Show versions, device, caches, and what is missing for the library and the app."""
    from lynx.environment import report

    return report()
