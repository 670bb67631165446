"""`lynx guide`, `align`, `tune`: the stages; their options are the fields of their configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lynx.commands.registry import (
    Options,
    Parser,
    Result,
    adapter_argument,
    command,
    count,
    load_model,
    model_arguments,
)
from lynx.options import add_options, read_options


def _data_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--data", default="world", help="world, or jsonl with --data-path (default: world)")
    group.add_argument(
        "--data-path", type=Path, metavar="FILE", help="the .jsonl file, or a folder of train.jsonl, ..."
    )
    group.add_argument("--n", type=count, default=1000, help="clips taken, at most (default: 1000)")
    group.add_argument(
        "--data-seed", type=int, default=0, metavar="N", help="seed that draws them (default: 0)"
    )


def _examples(options: Options, senses: tuple[str, ...] | None, focus: Sequence[str] = ()) -> Any:
    from lynx.data import open_data

    return open_data(
        options.data,
        options.data_path,
        split="train",
        seed=options.data_seed,
        n=options.n,
        senses=senses,
        focus=focus,
    )


def _stage_arguments(parser: Parser, modality: bool = True, several: bool = False) -> None:
    if several:
        parser.add_argument(
            "--modality",
            nargs="+",
            required=True,
            metavar="SENSE",
            help="the sense that is trained; several get one LLM LoRA that works for all of them, and their "
            "adapters are in, and go to, PATH/SENSE",
        )
    elif modality:
        parser.add_argument("--modality", required=True, help="the sense that is trained")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="where the result is written")
    _data_arguments(parser)
    model_arguments(parser)


def _guide_arguments(parser: Parser) -> None:
    from lynx.config import GuideConfig

    _stage_arguments(parser, modality=False)
    add_options(parser, GuideConfig)


@command("guide", _guide_arguments, "lynx guide --data world --n 500 --out runs/guidance.safetensors")
def _guide(options: Options) -> Result:
    """Stage 1: gather the statistics of the token interface over reference videos."""
    from lynx.config import GuideConfig
    from lynx.interface.guidance import guide

    guidance = guide(load_model(options), _examples(options, ("video",)), read_options(options, GuideConfig))
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
    return dict(align(load_model(options), options.modality, examples, guidance, config, options.out))


def _tune_arguments(parser: Parser) -> None:
    from lynx.config import TuneConfig

    _stage_arguments(parser, several=True)
    parser.add_argument(
        "--focus",
        nargs="+",
        default=[],
        metavar="TYPE",
        help="only clips with a question of one of these types, which are met in turn",
    )
    adapter_argument(parser)
    add_options(parser, TuneConfig)


@command("tune", _tune_arguments, "lynx tune --modality audio --out runs/audio")
def _tune(options: Options) -> Result:
    """Stage 3: train the LLM LoRA on clips with the sense, questions and answers."""
    from lynx.config import TuneConfig
    from lynx.tuning import tune

    config = read_options(options, TuneConfig)
    # the world draws what it is asked for; files are taken as they are, clips without the sense for replay
    senses = ("video", *options.modality) if options.data == "world" else None
    examples = _examples(options, senses, options.focus)
    (modality, *more) = options.modality
    trained = options.modality if more else modality
    return dict(tune(load_model(options), trained, examples, config, options.out))
