"""`lynx guide`, `align`, `tune`: the stages; their options are the fields of their configuration."""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    show,
    table,
)
from lynx.cli.run_config import save_values
from lynx.config import AlignConfig, GuideConfig, Sampling, TuneConfig
from lynx.errors import AdapterError, DataError, LynxError, writing
from lynx.training.options import Validation, Watch

if TYPE_CHECKING:
    from lynx.training.preflight import Preflight


def _keeping(text: str) -> str:
    if text not in ("auto", "disk", "off"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of auto, disk, off; the folder of the streams is given with --cache-dir"
        )
    return text


def _processes(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes: give 0 or more")
    return int(text)


def _stage_options(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="where the result is written")
    text = "YAML with options by name, such as the run.yaml of an earlier run; what is typed counts more"
    parser.add_argument("--config", type=Path, metavar="FILE", help=text)
    text = "look at the data and say what is wrong with it, and what the run would take; train nothing"
    parser.add_argument("--check", action="store_true", help=text)
    text = "processes that read and draw clips ahead of the steps that need them; 0: the one that trains "
    text += "(default: as many as there are cores left over, 4 at most; 0 where media are in memory or few)"
    parser.add_argument("--workers", type=_processes, metavar="N", help=text)
    data_options()(parser)
    model_options()(parser)


def _checked(options: Options, examples: Sequence[Any], senses: Sequence[str], **more: Any) -> Result | str:
    """What `--check` prints. Raises: LynxError: the run would not do what it is meant to."""
    from lynx.training.preflight import preflight

    names = {name: getattr(options, name) for name in ("frames", "precision", "device")}
    found = preflight(options.backbone, examples, senses, **names, **more)
    result = found.to_dict() if options.json else _as_table(found)
    if found.problems:
        show(result)
        count = len(found.problems)
        raise LynxError(f"{count} problem{'s' * (count > 1)}: {'; '.join(found.problems)}")
    return result


def _as_table(found: "Preflight") -> str:
    """What a preflight found, as a table."""
    data = found.data
    rows: dict[str, Any] = {
        "examples": data.examples, "recordings": data.recordings,
        "length": str(timedelta(seconds=round(3600 * data.hours))),
        "questions": data.questions, **{f"  of type {name or '-'}": n for name, n in data.types.items()},
        **{f"  that need {name or 'what is not said'}": n for name, n in data.senses.items()},
        "  about a sense that is not there": data.elsewhere,
        **{f"examples with {sense}": n for sense, n in data.media.items()},
        "damaged": len(data.damaged), "memory of a conversation, GB": found.memory / 1e9,
    }  # fmt: skip
    if found.longest:  # questions are trained on
        rows |= {"longest prompt, tokens": found.longest, "context": found.context}
        rows |= {"clips held out": found.held_out, "disk for streams, GB": found.disk / 1e9}
    if found.steps:
        rows["steps"] = found.steps
    return "\n".join([table([{"what": name, "there": value} for name, value in rows.items()]), *found.notes])


def _watch(options: Options) -> Watch:
    """What is kept of a run. Raises: DataError: its tracker is not installed."""
    from lynx.training.trackers import require_tracker

    watch = read_options(options, Watch)
    require_tracker(watch.log_with)
    return watch


RUN = "run.yaml"
"""Name of the file of a run's options, in its stage's folder."""
RECIPE = "it is part of the recipe of adapters/sounds, see recipes/real_sounds/README.md"
"""Where options for `adapters/sounds` alone are now."""
MOVED = ("--variants", "--final-lr", "--average")


@command(
    "guide",
    "lynx guide --data world --n 500 --out runs/guidance.safetensors",
    _stage_options,
    lambda parser: add_options(parser, GuideConfig),
)
def _guide(options: Options) -> Result | str:
    """Stage 1: gather the statistics of the token interface over reference videos."""
    from lynx.training.guidance import guide
    from lynx.training.processes import Processes

    examples = open_examples(options, senses=lambda name: ("video",), folder=options.out.parent, asks=False)
    if options.check:
        return _checked(options, examples, (), asks=False)
    with writing(options.out, DataError):  # found out now, not after hours
        options.out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.out.parent).close()
    model = load_model(options)
    guidance = guide(model, examples, read_options(options, GuideConfig), workers=options.workers)
    processes = Processes(model.backbone.device)
    processes.once(lambda: guidance.save(options.out))
    return {"written": str(options.out), "frames": guidance.frames, "tokens": guidance.tokens}


@command(
    "align",
    "lynx align --modality audio --guidance runs/guidance.safetensors --out runs/audio",
    option("--guidance", type=Path, required=True, metavar="FILE", help="what `lynx guide` wrote"),
    option("--modality", required=True, help="the sense that is trained"),
    _stage_options,
    option("--name", help="what the adapter is called (default: as the sense)"),
    rendering_option("how its pseudo-frames are drawn, where that is not lynx's default"),
    lambda parser: add_options(parser, AlignConfig),
    lambda parser: add_options(parser, Watch, "what is kept of the run"),
    lambda parser: add_moved_options(parser, MOVED, RECIPE),
)
def _align(options: Options) -> Result | str:
    """Stage 2: train the vision LoRA of a sense on that sense alone, without pairs or text."""
    from lynx import modalities
    from lynx.training.alignment import align
    from lynx.training.guidance import Guidance

    config, watch = read_options(options, AlignConfig), _watch(options)
    sense = modalities.get(options.modality).from_dict(options.rendering)
    if options.check:
        examples = open_examples(options, senses=lambda name: (options.modality,), folder=options.out)
        return _checked(options, examples, (options.modality,), asks=False)
    guidance = Guidance.load(options.guidance)  # before the data is looked through
    alone = (options.modality,)
    examples = open_examples(options, senses=lambda name: alone, folder=options.out, asks=False)
    model = load_model(options)
    more = {"name": options.name, "watch": watch, "workers": options.workers}
    report = align(model, sense, examples, guidance, config, options.out, **more)
    _save_options(options, "align", model)
    return {"written": str(options.out), **report}


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
        type=_keeping,
        default="auto",
        metavar="{auto,disk,off}",
        help="keep the encoded streams on disk, or encode them whenever a step needs them (off); auto: on "
        "disk if they leave half of it free (default: auto)",
    ),
    option(
        "--cache-dir",
        type=Path,
        metavar="PATH",
        help="folder of the encoded streams, which several runs may share (default: one in --out)",
    ),
    option(
        "--allow-unknown-words",
        action="store_true",
        help="train all the same on answers with words that a closed vocabulary does not have",
    ),
    option(
        "--shard",
        action="store_true",
        help="processes that were launched together divide the LLM's frozen weights among them",
    ),
    option("--push", metavar="OWNER/NAME", help="put the adapter on the Hub when it is trained"),
    option("--private", action="store_true", help="with --push: nobody else may see it"),
    adapter_option,
    option(
        "--val-data",
        nargs="+",
        action="append",
        metavar=("NAME", "PATH"),
        help="held-out clips, as --data names them: of its split val, of labelled recordings the folds that "
        "--held-out names; repeatable",
    ),
    lambda parser: add_options(parser, TuneConfig),
    lambda parser: add_options(parser, Sampling, "what a step shows and asks"),
    lambda parser: add_options(parser, Validation, "held-out clips"),
    lambda parser: add_options(parser, Watch, "what is kept of the run"),
    lambda parser: add_moved_options(parser, (*MOVED, "--noise", "--mixup"), RECIPE),
)
def _tune(options: Options) -> Result | str:
    """Stage 3: train the LLM LoRA on clips with the sense, questions and answers."""
    from lynx import modalities
    from lynx.training.tuning import tune

    config, sampling = read_options(options, TuneConfig), read_options(options, Sampling)
    validation, watch = read_options(options, Validation), _watch(options)
    validation.check(bool(options.val_data) or validation.val_share > 0)
    _check_push(options)
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
    held_out = _held_out(options, drawn)
    if options.check:
        adapters = _adapters_to_tune(options, config)
        senses = tuple(adapters[name].modality for name in options.modality)
        return _checked(
            options, examples, senses, held_out=held_out, config=config, val_share=validation.val_share,
            adapters={adapter.modality: adapter for adapter in adapters.values()},
            allow_unknown_words=options.allow_unknown_words,
        )  # fmt: skip
    (modality, *more) = options.modality
    trained = options.modality if more else modality
    model = load_model(options)
    names = ("cache", "cache_dir", "workers", "allow_unknown_words", "shard")
    more_options = {name: getattr(options, name) for name in names}
    more_options |= {"data": _data_text(options), "sampling": sampling}
    more_options |= {"validation": validation, "held_out": held_out, "watch": watch}
    report = tune(model, trained, examples, config, options.out, **more_options)
    _save_options(options, "tune", model)
    return {"written": str(options.out), **report, **_pushed(options, model)}


def _save_options(options: Options, stage: str, model: Any) -> None:
    """Write the options of a run into its stage's folder, by one of the processes."""
    from lynx.training.processes import Processes

    path = options.out / "training" / stage / RUN
    Processes(model.backbone.device).once(lambda: save_values(path, options.given))


def _adapters_to_tune(options: Options, config: TuneConfig) -> dict[str, Any]:
    """The adapters that `lynx tune` would train, by the names that --modality gives; of one that is not there
    what `lynx align` would make."""
    from lynx.adapters.format import CONFIG, Adapter, current_folder, read_adapter_config, resolve_adapter

    given = [resolve_adapter(source) for source in options.adapter]
    found = {}
    for name in options.modality:
        own = options.out if len(options.modality) == 1 else options.out / name
        folders = [each for each in (*given, own) if (current_folder(each) / CONFIG).is_file()]
        named = [each for each in map(read_adapter_config, folders) if name in (each.name, each.modality)]
        adapter = replace(named[0], name=named[0].modality) if named else Adapter(name, name)
        found[name] = replace(adapter, token_pooling=config.token_pooling, placement=config.placement)
    return found


def _data_text(options: Options) -> str:
    """The data of a run in a few words, without the paths of this machine."""
    sources = options.data or [["world"]]
    paths = [Path(words[1]) if len(words) > 1 else options.data_path for words in sources]
    named = zip((words[0] for words in sources), paths, strict=True)
    return ", ".join(name if path is None else f"{name} {path.name}" for name, path in named)


def _check_push(options: Options) -> None:
    """Raises: LynxError: `--push` could not do what it says; found out now, not after hours."""
    from lynx.adapters.sharing import check_repo

    if options.push is None:
        if options.private:
            raise DataError("--private says who may see what --push puts on the Hub: give --push OWNER/NAME")
        return
    check_repo(options.push)
    if len(options.modality) > 1:
        several = " and ".join(options.modality)
        raise DataError(f"--push takes one adapter, not {several}: push each with `lynx adapters push`")


def _pushed(options: Options, model: Any) -> Result:
    """What `--push` did, by one of the processes. Raises: AdapterError: the Hub refused."""
    from lynx.adapters.sharing import push_adapter
    from lynx.training.processes import Processes

    if options.push is None or not Processes(model.backbone.device).main:
        return {}
    try:
        pushed = push_adapter(options.out, options.push, model.backbone, options.private)
    except LynxError as error:
        again = f"lynx adapters push {options.out} {options.push}" + " --private" * options.private
        raise AdapterError(f"{error}; the adapter is in {options.out}: `{again}` tries again") from error
    return {"pushed": {"repo": pushed.repo, "commit": pushed.commit}}


VALIDATED = {"labelled": "test", "world": "validation"}
"""Source -> what its held-out split is called, where that is not "val"."""


def _held_out(options: Options, drawn: tuple[str, ...]) -> list[Any]:
    """The examples of `--val-data`."""
    found: list[Any] = []
    for words in options.val_data or []:
        folds = options.held_out if words[0] == "labelled" else []
        asked = Options(**{**vars(options), "data": [words], "data_path": None, "held_out": folds})
        split = VALIDATED.get(words[0], "val")
        found += open_examples(asked, split=split, senses=lambda name: drawn if name == "world" else None)
    return found
