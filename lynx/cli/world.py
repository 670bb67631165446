"""`lynx world render` and `world train`: the miniature world."""

from pathlib import Path

from lynx.cli.options import add_options, read_options
from lynx.cli.registry import Options, Parser, Result, command, count, option


@command(
    "world render",
    "lynx world render --seed 7 --out clip",
    option("--seed", type=int, required=True, help="of the clips of the test split"),
    option("--index", type=int, default=0, help="which of the seed's clips (default: 0)"),
    option("--size", type=count, default=480, help="side of the picture in pixels (default: 480)"),
    option("--out", type=Path, required=True, metavar="DIR", help="folder the files are written to"),
)
def _render(options: Options) -> Result:
    """Write a clip of the miniature world: mp4, depth, second view, and its questions with answers."""
    from lynx.world.files import render

    render(options.seed, options.out, index=options.index, size=options.size)
    return {"written": sorted(str(path) for path in options.out.iterdir())}


def _train_options(parser: Parser) -> None:
    from lynx.world.pretraining.train import TrainConfig

    add_options(parser, TrainConfig)


@command(
    "world train",
    "lynx world train --out runs/lynx-tiny",
    option("--out", type=Path, default=Path("runs/lynx-tiny"), metavar="DIR", help="folder of the run"),
    _train_options,
)
def _train(options: Options) -> Result:
    """Train the embedded backbone from nothing; a killed run goes on when the command is given again."""
    from lynx.world.pretraining.train import TrainConfig, train

    return {"written": train(read_options(options, TrainConfig), options.out)}
