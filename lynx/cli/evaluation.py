"""`lynx eval`: the benchmarks, one's own data, the miniature world, labeled recordings."""

import logging
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from lynx.cli.registry import (
    COMMANDS,
    Declare,
    Options,
    Parser,
    Result,
    adapter_option,
    command,
    count,
    data_options,
    load_model,
    model_options,
    open_examples,
    option,
    parser_of,
    progress,
    show,
    table,
)
from lynx.cli.run_config import as_words
from lynx.config import LIMITS
from lynx.errors import AdapterError, DataError

logger = logging.getLogger(__name__)


def _run_options(samples: str) -> Declare:
    """The options of a run over questions, and what its answers are kept in. samples: what --n counts."""

    def declare(parser: Parser) -> None:
        group = parser.add_argument_group("run")
        text = f"{samples}, at most, drawn by --seed (default: all)"
        group.add_argument("--n", type=count, help=text)
        group.add_argument("--seed", type=int, default=0, metavar="N", help="draws them (default: 0)")
        text = "moments of a clip that are looked at (default: as in training, else the backbone's own)"
        group.add_argument("--frames", type=count, metavar="N", help=text)
        text = "questions that are answered side by side (default: 8)"
        group.add_argument("--batch-size", type=count, default=8, metavar="N", help=text)
        text = "folder for predictions.jsonl, scores.json and run.json"
        group.add_argument("--out", type=Path, metavar="DIR", help=text)
        text = "go on with the run in --out"
        group.add_argument("--resume", action="store_true", help=text)
        text = "media that cannot be read do not end the run: questions are answered without an added sense, "
        text += "and are wrong where there is no picture; both are counted"
        group.add_argument("--allow-missing", action="store_true", help=text)
        text = "only read the data: questions by type, media found and missing, the first prompt; no model"
        group.add_argument("--check", action="store_true", help=text)
        text = "score the predictions of an earlier run; no model"
        group.add_argument("--score", type=Path, metavar="FILE", help=text)
        text = "put the figures into the adapter's description and its card"
        group.add_argument("--card", action="store_true", help=text)

    return declare


def _setting(options: Options, max_new_tokens: int) -> Any:
    from lynx.evaluation.runner import Setting

    return Setting(
        frames=options.frames,
        max_new_tokens=max_new_tokens,
        batch_size=options.batch_size,
        allow_missing=options.allow_missing,
    )


def _check_run(options: Options) -> None:
    """Raises: DataError: an option that could not do what it says; found out now, not after hours."""
    if options.resume and options.out is None:
        raise DataError("--resume goes on with the run in --out: say which")
    if options.check:
        return
    if options.card and options.score:
        raise DataError("--card needs a run of the model: leave out --score")
    if options.card and (len(options.adapter) != 1 or not Path(options.adapter[0]).is_dir()):
        raise DataError("--card is for the card of one adapter in a folder of yours: give it with --adapter")


UNNAMED = ("out", "resume", "card", "adapter", "data")
"""Options that a card's command does not say, or says by the last part of their paths."""


def _put_on_card(options: Options, name: str, data: Path, figures: Result, result: Result | str) -> None:
    """Write figures into the one adapter's folder, under the command that made them.

    Raises: AdapterError: it cannot be written; then the command's result is printed before.
    """
    from lynx.adapters.model_card import COMMAND
    from lynx.adapters.saving import save_metrics
    from lynx.training.processes import Processes

    folder = Path(options.adapter[0])
    where = [data.name] if name == "jsonl" else ["--data", data.name]
    parser = parser_of(COMMANDS["eval jsonl" if name == "jsonl" else "eval"])
    said = {key: value for key, value in options.given.items() if key not in UNNAMED}
    words = as_words(parser, {k: v for k, v in said.items() if v != parser.get_default(k)}, "")
    command = shlex.join(["lynx", "eval", name, *where, "--adapter", folder.name, *words])
    title = " ".join(["eval", name, data.name, *(f"without {sense}" for sense in said.get("without", ()))])
    title = "".join(filter(str.isprintable, title))[: LIMITS.max_json_name]
    try:
        Processes().once(lambda: save_metrics(folder, title, {COMMAND: command, **figures}))
    except AdapterError:
        show(result)
        raise


def _benchmark_name(parser: Parser) -> None:
    from lynx.evaluation.benchmarks import REGISTRY

    text = f"{', '.join(REGISTRY)}, or one that another package brings"
    parser.add_argument("benchmark", metavar="NAME", help=text)


@command(
    "eval",
    "lynx eval avqa --data AVQA --backbone llava-onevision-0.5b --adapter runs/audio --out runs/avqa --json",
    _benchmark_name,
    option("--data", type=Path, metavar="DIR", help="the folder of the data set, in its authors' layout"),
    option("--split", help="default: the one that the benchmark is"),
    option("--prompt", help="official, released or lmms, where the benchmark has it (default: its first)"),
    option(
        "--without",
        action="append",
        default=[],
        metavar="SENSE",
        help="leave a sense out, its adapter off; repeatable",
    ),
    option(
        "--choose",
        choices=["answer", "likelihood"],
        default="answer",
        help="likelihood: the likeliest letter of the options, as the released code of AVQA; "
        "default: the letter that the answer means",
    ),
    _run_options("questions"),
    adapter_option,
    model_options(),
)
def _eval_benchmark(options: Options) -> Result:
    """Ask a model the questions of a benchmark, and score its answers by the official metric.

    The video is given, and every sense that an adapter is loaded for. Also: lynx eval jsonl (own data),
    lynx eval world, lynx eval recordings.
    """
    from lynx.evaluation.benchmark_run import BenchmarkRun, for_card, score_benchmark
    from lynx.evaluation.benchmarks import get
    from lynx.evaluation.predictions import RUN, read_predictions

    _check_run(options)
    benchmark = get(options.benchmark)
    if options.score:
        return score_benchmark(benchmark, read_predictions(options.score), options.score.parent / RUN)
    if options.data is None:
        raise DataError(f"--data is missing: the folder of {benchmark.name}")
    run = BenchmarkRun(
        benchmark, options.data, options.split, options.prompt, n=options.n, seed=options.seed
    )
    if options.check:
        return _checked(options, run.check())
    setting = replace(_setting(options, benchmark.max_new_tokens), choose=options.choose)
    run.dataset.files(run.folder, run.split or run.dataset.evaluated)  # found out before a model is loaded
    model = load_model(options)
    with progress("clips") as tell:
        report = run.evaluate(model, setting, options.without, options.out, options.resume, tell)
    if options.card:
        _put_on_card(options, benchmark.name, options.data, for_card(report), report)
    return report


@command(
    "eval jsonl",
    "lynx eval jsonl val.jsonl --adapter runs/audio --out runs/audio/eval --json",
    option("file", type=Path, nargs="?", metavar="FILE", help="a .jsonl file, as for training"),
    option("--max-new-tokens", type=count, default=64, metavar="N", help="default: 64"),
    _run_options("questions"),
    adapter_option,
    model_options(),
)
def _eval_jsonl(options: Options) -> Result | str:
    """Ask the questions of your own data with the added senses, without them, and with them withheld.

    with: all media, adapters on. without: the video alone, adapters off. withheld: the video alone, adapters
    on: what was learned of the answers' words, without the sense.
    """
    from lynx.datasets.sources import open_data
    from lynx.evaluation.own_data import compare_own, for_card, remarks, score_own, side_by_side
    from lynx.evaluation.predictions import RUN, read_predictions
    from lynx.evaluation.runner import check, questions_of

    _check_run(options)
    if options.score:
        report = score_own(read_predictions(options.score), options.score.parent / RUN)
        return report if options.json else table(side_by_side(report["scores"]))
    if options.file is None:
        raise DataError("FILE is missing: the .jsonl file with the questions")
    lenient = options.check or options.allow_missing
    examples = open_data("jsonl", options.file, missing=lenient)
    if options.check:
        found = check(examples, questions_of(examples)) | _checked_media(options, examples)
        return _checked(options, found)
    model = load_model(options)
    setting = _setting(options, options.max_new_tokens)
    with progress("clips") as tell:
        report = compare_own(
            model, examples, setting, options.out, options.resume, tell, options.n, options.seed
        )
    told = "\n".join([table(side_by_side(report["scores"])), *remarks(report)])
    result = report if options.json else told
    if options.card:
        _put_on_card(options, "jsonl", options.file, for_card(report), result)
    return result


def _checked(options: Options, found: Result) -> Result:
    """What `--check` prints. Raises: DataError: the run would end at media that are missing or damaged."""
    counts = {"missing": found["media"]["missing"], "damaged": len(found.get("damaged", ()))}
    if any(counts.values()) and not options.allow_missing:
        show(found)
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        raise DataError(f"media: {told}; --allow-missing goes on, and counts their questions as wrong")
    return found


def _checked_media(options: Options, examples: Any) -> Result:
    """What else would go wrong with one's own data: damaged recordings, words that cannot be said."""
    from lynx.backbones.loading import read_words
    from lynx.datasets.checking import find_damaged
    from lynx.evaluation.own_data import unknown_words

    damaged = list(map(str, find_damaged(examples).damaged))
    return {"damaged": damaged, "cannot_say": unknown_words(read_words(options.backbone), examples)}


@command(
    "eval world",
    "lynx eval world --modality audio --n 1000 --seed 7 --json",
    option(
        "--modality",
        metavar="SENSE",
        help="the sense that is measured; all: every one, alone and together; left out: the backbone alone",
    ),
    option("--n", type=count, default=1000, help="questions in every cell (default: 1000)"),
    option("--seed", type=int, default=0, help="draws clips never seen in training (default: 0)"),
    option(
        "--cache", type=Path, metavar="DIR", help="where the clips are kept; default: ~/.cache/lynx/world"
    ),
    adapter_option,
    model_options(),
)
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


@command(
    "eval recordings",
    "lynx eval recordings --data labelled ESC-50-master --held-out 5 --adapter adapters/sounds --json",
    data_options(default=None),
    adapter_option,
    model_options(),
)
def _eval_recordings(options: Options) -> Result:
    """Ask a chat what the recordings held out, or all, are: accuracy, chance, what is taken for what."""
    from lynx.evaluation.recordings import evaluate
    from lynx.evaluation.runner import senses_of
    from lynx.evaluation.tuned_on import overlap_of_recordings, warnings_of

    # without --held-out the whole folder, which should then not have been trained on
    examples = open_examples(options, split="test" if options.held_out else "train")
    model = load_model(options, "sounds")
    with progress("recordings") as tell:
        report = {"held_out": options.held_out, **evaluate(model, examples, tell)}
    report |= overlap_of_recordings(model, examples, senses_of(model))
    for warning in warnings_of(report):
        logger.warning("%s", warning)
    return report
