"""`lynx guide`, `align`, `tune`: the stages; their options are the fields of their configuration."""

from pathlib import Path

from lynx.cli.options import add_moved_options, add_options, read_options
from lynx.cli.registry import (
    Options,
    Parser,
    Result,
    adapter_argument,
    command,
    data_arguments,
    load_model,
    model_arguments,
    open_examples,
    rendering_argument,
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
    data_arguments(parser)
    model_arguments(parser)


RECIPE = "it is part of the recipe of adapters/sounds, see recipes/real_sounds/README.md"
"""Where options went that served that one adapter."""


def _guide_arguments(parser: Parser) -> None:
    from lynx.config import GuideConfig

    _stage_arguments(parser, modality=False)
    add_options(parser, GuideConfig)


@command("guide", _guide_arguments, "lynx guide --data world --n 500 --out runs/guidance.safetensors")
def _guide(options: Options) -> Result:
    """Stage 1: gather the statistics of the token interface over reference videos."""
    from lynx.config import GuideConfig
    from lynx.training.guidance import guide

    guidance = guide(
        load_model(options),
        open_examples(options, senses=lambda name: ("video",)),
        read_options(options, GuideConfig),
    )
    path = guidance.save(options.out)
    return {"written": str(path), "frames": guidance.frames, "tokens": guidance.tokens}


def _align_arguments(parser: Parser) -> None:
    from lynx.config import AlignConfig

    parser.add_argument(
        "--guidance", type=Path, required=True, metavar="FILE", help="what `lynx guide` wrote"
    )
    _stage_arguments(parser)
    parser.add_argument("--name", help="what the adapter is called (default: as the sense)")
    rendering_argument(parser, "how its pseudo-frames are drawn, where that is not lynx's default")
    add_options(parser, AlignConfig)
    add_moved_options(parser, ["--variants", "--final-lr", "--average"], RECIPE)


@command(
    "align",
    _align_arguments,
    "lynx align --modality audio --guidance runs/guidance.safetensors --out runs/audio",
)
def _align(options: Options) -> Result:
    """Stage 2: train the vision LoRA of a sense on that sense alone, without pairs or text."""
    from lynx import modalities
    from lynx.config import AlignConfig
    from lynx.training.alignment import align
    from lynx.training.guidance import Guidance

    config = read_options(options, AlignConfig)
    guidance = Guidance.load(options.guidance)
    sense = modalities.get(options.modality).from_dict(options.rendering)
    examples = open_examples(options, senses=lambda name: (options.modality,))
    model = load_model(options)
    return dict(align(model, sense, examples, guidance, config, options.out, name=options.name))


def _tune_arguments(parser: Parser) -> None:
    from lynx.config import Sampling, TuneConfig

    _stage_arguments(parser, several=True)
    parser.add_argument(
        "--focus",
        nargs="+",
        default=[],
        metavar="TYPE",
        help="only clips with a question of one of these types, which are met in turn",
    )
    parser.add_argument(
        "--types",
        nargs="+",
        default=[],
        metavar="TYPE",
        help="only questions of these types, so that what is hard is asked more often",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="PATH",
        help="folder of the encoded streams, which several runs may share (default: one in --out)",
    )
    adapter_argument(parser)
    add_options(parser, TuneConfig)
    add_options(parser, Sampling, "what a step shows and asks")
    moved = ["--variants", "--final-lr", "--average", "--noise", "--mixup"]
    add_moved_options(parser, moved, RECIPE)


@command("tune", _tune_arguments, "lynx tune --modality audio --out runs/audio")
def _tune(options: Options) -> Result:
    """Stage 3: train the LLM LoRA on clips with the sense, questions and answers."""
    from lynx.config import Sampling, TuneConfig
    from lynx.training.tuning import tune

    config, sampling = read_options(options, TuneConfig), read_options(options, Sampling)
    # the world draws what it is asked for; files are taken as they are, clips without the sense for replay
    drawn = ("video", *options.modality)
    examples = open_examples(
        options,
        senses=lambda name: drawn if name == "world" else None,
        focus=options.focus,
        types=options.types,
    )
    (modality, *more) = options.modality
    trained = options.modality if more else modality
    model = load_model(options)
    return dict(tune(model, trained, examples, config, options.out, sampling=sampling, cache=options.cache))
