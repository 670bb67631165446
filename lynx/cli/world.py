"""`lynx world render`, `world train` and `eval world`: the miniature world."""

from pathlib import Path

from lynx.cli.options import add_options, read_options
from lynx.cli.registry import (
    Options,
    Parser,
    Result,
    adapter_argument,
    command,
    count,
    load_model,
    model_arguments,
    progress,
)


def _render_arguments(parser: Parser) -> None:
    parser.add_argument("--seed", type=int, required=True, help="of the clips of the test split")
    parser.add_argument("--index", type=int, default=0, help="which of the seed's clips (default: 0)")
    parser.add_argument(
        "--size", type=count, default=480, help="side of the picture in pixels (default: 480)"
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
        "--modality",
        metavar="SENSE",
        help="the sense that is measured; all: every one, alone and together; left out: the backbone alone",
    )
    parser.add_argument("--n", type=count, default=1000, help="questions in every cell (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="draws clips never seen in training (default: 0)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where the clips are kept; default: ~/.cache/lynx/world"
    )
    adapter_argument(parser)
    model_arguments(parser)


@command("eval world", _eval_arguments, "lynx eval world --modality audio --n 1000 --seed 7 --json")
def _eval_world(options: Options) -> Result:
    """Measure a sense in the miniature world: accuracy with it, without it, by chance, and on video alone."""
    import torch

    from lynx.world.combinations import evaluate_combinations
    from lynx.world.evaluation import MEASURED, evaluate, evaluate_backbone

    torch.set_num_threads(1)  # beside two drawing processes, more threads cost more than they bring
    sense = options.modality
    model = load_model(options, *(MEASURED if sense == "all" else [sense] if sense else []))
    with progress("clips") as tell:
        if sense is None:
            return evaluate_backbone(model, options.n, options.seed, tell, options.cache)
        if sense == "all":
            return evaluate_combinations(model, options.n, options.seed, tell, options.cache)
        return evaluate(model, sense, options.n, options.seed, tell, options.cache)


def _world_train_arguments(parser: Parser) -> None:
    from lynx.world.pretraining.train import TrainConfig

    parser.add_argument(
        "--out", type=Path, default=Path("runs/lynx-tiny"), metavar="DIR", help="folder of the run"
    )
    add_options(parser, TrainConfig)


@command("world train", _world_train_arguments, "lynx world train --out runs/lynx-tiny")
def _world_train(options: Options) -> Result:
    """Train the embedded backbone from nothing; a killed run goes on when the command is given again."""
    from lynx.world.pretraining.train import TrainConfig, train

    return {"written": train(read_options(options, TrainConfig), options.out)}
