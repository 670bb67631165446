"""`lynx guide`, `align`, `tune`: the stages; their options are the fields of their configuration."""

import tempfile
from pathlib import Path

from lynx.cli.options import add_moved_options, add_options, read_options
from lynx.cli.registry import (
    Options,
    Parser,
    Result,
    adapter_option,
    command,
    data_options,
    load_model,
    model_options,
    open_examples,
    option,
    rendering_option,
)
from lynx.config import AlignConfig, GuideConfig, Sampling, TuneConfig
from lynx.errors import DataError, writing


def _stage_options(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="where the result is written")
    data_options()(parser)
    model_options()(parser)


RECIPE = "it is part of the recipe of adapters/sounds, see recipes/real_sounds/README.md"
"""Where options for `adapters/sounds` alone are now."""
MOVED = ("--variants", "--final-lr", "--average")


@command(
    "guide",
    "lynx guide --data world --n 500 --out runs/guidance.safetensors",
    _stage_options,
    lambda parser: add_options(parser, GuideConfig),
)
def _guide(options: Options) -> Result:
    """Stage 1: gather the statistics of the token interface over reference videos."""
    from lynx.training.guidance import guide

    examples = open_examples(options, senses=lambda name: ("video",), folder=options.out.parent)
    with writing(options.out, DataError):  # found out now, not after hours
        options.out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.out.parent).close()
    model = load_model(options)
    guidance = guide(model, examples, read_options(options, GuideConfig))
    path = guidance.save(options.out)
    return {"written": str(path), "frames": guidance.frames, "tokens": guidance.tokens}


@command(
    "align",
    "lynx align --modality audio --guidance runs/guidance.safetensors --out runs/audio",
    option("--guidance", type=Path, required=True, metavar="FILE", help="what `lynx guide` wrote"),
    option("--modality", required=True, help="the sense that is trained"),
    _stage_options,
    option("--name", help="what the adapter is called (default: as the sense)"),
    rendering_option("how its pseudo-frames are drawn, where that is not lynx's default"),
    lambda parser: add_options(parser, AlignConfig),
    lambda parser: add_moved_options(parser, MOVED, RECIPE),
)
def _align(options: Options) -> Result:
    """Stage 2: train the vision LoRA of a sense on that sense alone, without pairs or text."""
    from lynx import modalities
    from lynx.training.alignment import align
    from lynx.training.guidance import Guidance

    config = read_options(options, AlignConfig)
    guidance = Guidance.load(options.guidance)
    sense = modalities.get(options.modality).from_dict(options.rendering)
    examples = open_examples(options, senses=lambda name: (options.modality,), folder=options.out)
    model = load_model(options)
    return dict(align(model, sense, examples, guidance, config, options.out, name=options.name))


@command(
    "tune",
    "lynx tune --modality audio --out runs/audio",
    option(
        "--modality",
        nargs="+",
        required=True,
        metavar="SENSE",
        help="the sense that is trained; several get one LLM LoRA that works for all of them, and their "
        "adapters are in, and go to, PATH/SENSE",
    ),
    _stage_options,
    option(
        "--focus",
        nargs="+",
        default=[],
        metavar="TYPE",
        help="only clips with a question of one of these types, which are met in turn",
    ),
    option(
        "--types",
        nargs="+",
        default=[],
        metavar="TYPE",
        help="only questions of these types, so that what is hard is asked more often",
    ),
    option(
        "--cache",
        type=Path,
        metavar="PATH",
        help="folder of the encoded streams, which several runs may share (default: one in --out)",
    ),
    option(
        "--allow-unknown-words",
        action="store_true",
        help="train all the same on answers with words that a closed vocabulary does not have",
    ),
    adapter_option,
    lambda parser: add_options(parser, TuneConfig),
    lambda parser: add_options(parser, Sampling, "what a step shows and asks"),
    lambda parser: add_moved_options(parser, (*MOVED, "--noise", "--mixup"), RECIPE),
)
def _tune(options: Options) -> Result:
    """Stage 3: train the LLM LoRA on clips with the sense, questions and answers."""
    from lynx import modalities
    from lynx.training.tuning import tune

    config, sampling = read_options(options, TuneConfig), read_options(options, Sampling)
    # the world draws these senses; files are taken as they are, and clips without the sense serve replay
    drawn = ("video", *options.modality)
    examples = open_examples(
        options,
        senses=lambda name: drawn if name == "world" else None,
        focus=options.focus,
        types=options.types,
        used=drawn if all(map(modalities.find, drawn)) else None,  # an adapter's own name is no medium's
        folder=options.out,
    )
    (modality, *more) = options.modality
    trained = options.modality if more else modality
    model = load_model(options)
    more_options = {"cache": options.cache, "allow_unknown_words": options.allow_unknown_words}
    return dict(tune(model, trained, examples, config, options.out, sampling=sampling, **more_options))
