"""`lynx chat` and `lynx map`: questions about a clip, and where its tokens lie, in the terminal."""

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

from lynx.cli.media import recording, recording_options
from lynx.cli.registry import (
    Options,
    Parser,
    Result,
    adapter_option,
    command,
    count,
    load_model,
    model_options,
    option,
    progress,
    rate,
    usage,
)
from lynx.errors import LynxError


def _media_options(parser: Parser) -> None:
    """The options that open a session; `_open_session` reads them."""
    from lynx.modalities import extensions
    from lynx.types import seconds_of

    media = parser.add_argument_group("media (each sense takes its own track of the file)")
    for name, modality in extensions.all().items():
        more = "; FILE#2 is its track 2" if modality.takes == "audio" else ""
        several: dict[str, Any] = {"action": "append"} if modality.takes == "view" else {}
        more = "; repeatable" if several else more
        text = f"take the {modality.label} of FILE{more}"
        media.add_argument(f"--{name}", metavar="FILE", help=text, **several)
    text = "second of the video at which a further view begins, below 0 if it began before; once for each of "
    text += "them, in their order; default: with the video, or what offsets.json in a folder of clips says"
    media.add_argument("--view-offset", type=float, action="append", default=[], metavar="S", help=text)
    recording_options(parser)

    group = parser.add_argument_group("moments that are looked at, evenly spread")
    text = "first second of the clip that is looked at, such as 12.5 or 1:30; default: 0"
    group.add_argument("--start", type=usage(seconds_of), default=0.0, metavar="S", help=text)
    text = "last second that is looked at; default: the clip's end"
    group.add_argument("--end", type=usage(seconds_of), metavar="S", help=text)
    number = group.add_mutually_exclusive_group()
    text = "how many; default: as many as the adapter was trained with, else the backbone's own number"
    number.add_argument("--frames", type=count, metavar="N", help=text)
    number.add_argument("--fps", type=rate, metavar="X", help="as many a second of the clip instead")
    text = "at most so many, with --fps; default: as many as fit the model"
    group.add_argument("--max-frames", type=count, metavar="N", help=text)
    adapter_option(parser)
    model_options()(parser)


def _open_session(options: Options) -> Any:
    from lynx.modalities import extensions

    senses = extensions.all()
    media = {name: path for name in senses if (path := getattr(options, name))}
    if not media:
        raise LynxError("there is nothing to ask about: give --video FILE, --audio FILE or another medium")
    around = [name for name in media if senses[name].takes == "view"]
    if options.view_offset and not around:
        raise LynxError("--view-offset says when a further view begins: give --multi_view FILE, too")
    media |= {name: _views(media[name], options.view_offset) for name in around}
    deep = [name for name in media if senses[name].takes == "depth"]
    if (options.depth_unit or options.depth_up) and not deep:
        raise LynxError("--depth-unit and --depth-up say what the depth is: give --depth FILE, too")
    folders = [name for name in media if senses[name].takes == "video" and Path(media[name]).is_dir()]
    if options.folder_fps and not (deep or folders):
        raise LynxError("--folder-fps is the rate of a folder of pictures or depth maps: give one, too")
    media |= {name: recording(media[name], options) for name in dict.fromkeys((*deep, *folders))}
    model = load_model(options, *media)
    part = {"start": options.start, "end": options.end}
    return model.chat(frames=options.frames, fps=options.fps, max_frames=options.max_frames, **part, **media)


def _views(files: list[str], offsets: list[float]) -> Any:
    """The source of further views. Raises: LynxError: not one offset for each, or a folder with others."""
    from lynx.modalities.multi_view import OFFSETS, View

    if len(files) == 1 and not offsets:
        return files[0]
    if folders := [file for file in files if Path(file).is_dir()]:
        raise LynxError(f"{folders[0]} is a folder: give it alone; {OFFSETS} in it says when its clips begin")
    if offsets and (len(offsets) != len(files) or not all(map(math.isfinite, offsets))):
        given = ", ".join(f"{offset:g}" for offset in offsets)
        raise LynxError(f"--view-offset takes seconds, once for each of {len(files)} views, not {given}")
    views: dict[str, View] = {}
    for file, offset in zip(files, offsets or [0.0] * len(files), strict=True):
        alike = sum(Path(other).stem == Path(file).stem for other in files[: len(views)])
        views[f"{Path(file).stem} {alike + 1}" if alike else Path(file).stem] = View(file, offset)
    return views


def _answer_options(parser: Parser) -> None:
    group = parser.add_argument_group("answers")
    text = "of what is said: 0 always takes the likeliest word, 1 draws as the model finds likely; default: 0"
    group.add_argument("--temperature", type=_temperature, default=0.0, metavar="X", help=text)
    text = "an answer ends there, a word having one or more; default: 128"
    group.add_argument("--max-new-tokens", type=count, default=128, metavar="N", help=text)


def _temperature(text: str) -> float:
    """The type of --temperature."""
    if not 0 <= (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number, 0 or more")
    return value


def _film_options(parser: Parser) -> None:
    film = parser.add_argument_group("film (of the last answer)")
    text = "write the clip with what the answer rests on over it"
    film.add_argument("--film", type=Path, metavar="FILE.mp4", help=text)
    text = "of the answer, or its number from 1; default: the whole answer"
    film.add_argument("--word", metavar="WORD", help=text)
    text = "seconds of the clip, such as 12-20 or 1:30-1:45; default: what was looked at"
    film.add_argument("--window", type=usage(_window), metavar="START-END", help=text)


def _window(text: str) -> tuple[float, float]:
    """The type of --window: "12-20.5", seconds. Raises: LynxError: something else."""
    from lynx.types import seconds_of

    start, dash, end = text.partition("-")
    if not dash:
        raise LynxError(f"{text!r} is not START-END in seconds, such as 12-20")
    return seconds_of(start), seconds_of(end)


def _evidence_options(parser: Parser) -> None:
    from lynx.evidence.methods import ATTRIBUTION, METHODS, find_method

    def method(name: str) -> str:
        return find_method(name).name

    group = parser.add_argument_group("evidence (what each answer rests on)")
    text = "tell how much each sense makes the answer more likely, in nats (default METHOD: attribution), or "
    text += f"how it was looked at; METHOD: {', '.join(METHODS)}, or one layer, as attention:0"
    group.add_argument(
        "--evidence", nargs="?", const=ATTRIBUTION, type=usage(method), metavar="METHOD", help=text
    )
    text = "explain every word, and write 1-evidence.json, .csv and .png for the first answer, and so on"
    group.add_argument("--evidence-out", type=Path, metavar="DIR", help=text)


@command(
    "chat",
    'lynx chat --video clip.mp4 --audio clip.mp4 --ask "What sound do you hear?" --evidence attribution '
    "--evidence-out out --film answer.mp4 --word 1",
    _media_options,
    option(
        "--ask", action="append", default=[], metavar="QUESTION", help="repeatable; default: lines of stdin"
    ),
    _answer_options,
    option("--without", metavar="SENSE", help="answer every question again without this sense"),
    _evidence_options,
    _film_options,
)
def _chat(options: Options) -> Result:
    """Ask a model about a clip, with as many senses as it has adapters."""
    _check_outputs(options)
    session = _open_session(options)
    turns: list[Result] = []
    for question in options.ask or filter(None, map(str.strip, sys.stdin)):
        pieces = []
        drawn = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature}
        for piece in session.stream(question, **drawn):
            pieces.append(piece)
            if not options.json:  # a person reads along
                print(piece, end="", flush=True)
        turn: Result = {"question": question}
        if options.json:
            turn["answer"] = "".join(pieces).strip()
        else:
            print()
        turn |= {"used": session.used, "notes": list(session.notes)} | _part(session)
        if options.evidence:
            turn["evidence"] = _evidence(session, options, len(turns) + 1)
        if options.without:
            turn["without"] = _without(session, options)
        turns.append(turn)
    if not turns:
        raise LynxError("no question was asked: give --ask QUESTION, or a question a line on the input")
    if options.film:
        turns[-1]["film"] = _film(session, options)
    return {"turns": turns} if options.json else _for_people(turns)


def _without(session: Any, options: Options) -> str:
    """The last answer again without a sense."""
    found = session.compare(without=options.without, max_new_tokens=options.max_new_tokens)
    return str(found.without[options.without])


def _for_people(turns: list[Result]) -> Result:
    """The answers by their questions, numbered as their files are where there are several."""
    told = {}
    for number, turn in enumerate(turns, start=1):
        turn["used"] = {sense: f"{n} pictures, {s:.1f} s" for sense, (n, s) in turn["used"].items()}
        question = turn.pop("question")
        told[f"{number}. {question}" if len(turns) > 1 else question] = turn
    return told


def _check_outputs(options: Options) -> None:
    """Raises: LynxError: options that say how something is written that was not asked for, or cannot be."""
    film = options.film
    if film and film.suffix.lower() != ".mp4":
        raise LynxError(f"a film is an mp4: give a name that ends in .mp4, not {film.name!r}")
    if not film and (options.word or options.window):
        raise LynxError("--word and --window say what --film shows: give --film FILE.mp4, too")
    out = options.evidence_out
    if out and not options.evidence:
        raise LynxError("--evidence-out says where evidence is written: give --evidence, too")
    if out and out.exists() and not out.is_dir():
        raise LynxError(f"--evidence-out names a folder, but {out} is a file")
    for target in filter(None, (out, film and film.parent)):  # before a model is loaded
        there = next(each for each in (target, *target.absolute().parents) if each.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise LynxError(f"cannot write to {target}: {there} is no folder that may be written")


def _part(session: Any) -> Result:
    """First and last second of what was looked at, where that is not all of the clip."""
    return {} if session.plan.whole else {"part": [session.plan.start, session.plan.end]}


def _evidence(session: Any, options: Options, number: int) -> Result:
    """What the last answer rests on: for people the whole of it, for machines also each word."""
    from lynx.evidence.record import find_attribution
    from lynx.visualization import explained
    from lynx.visualization.bars import amount
    from lynx.visualization.export import explain_words, write_record

    evidence, out, method = session.evidence, options.evidence_out, options.evidence
    part = None if session.plan.whole else (session.plan.start, session.plan.end)
    about = {"part": part, "files": session.media}
    words = None if out else [None]
    with progress("%") as tell:

        def percent(done: int, total: int) -> None:
            tell(100 * done // total, 100)

        record = explain_words(evidence, None, words, [method], progress=percent, **about)
    written = []
    if out:
        frames = {sense: stream.frames for sense, stream in evidence.streams.items()}
        written = [str(path) for path in write_record(record, out, frames, name=f"{number}-evidence")]
    whole = find_attribution(record, None, method) or find_attribution(record, 0, method)
    assert whole is not None  # the answer, or its only word
    if options.json:
        kept = ("word", "text", "totals", "gained", "missed")
        each = [{key: found[key] for key in kept} for found in record["attributions"]]
        told = {"method": method, "unit": whole["unit"], "attributions": each, "words": record["words"]}
        return told | ({"written": written} if out else {})
    unit = whole["unit"]
    labels = explained.labels_of(record, unit)
    totals = {labels[name]: amount(value, unit) for name, value in whole["totals"].items()}
    result: Result = {f"{method}, {unit}": totals}
    if record["senses"] and (gained := explained.gained_sentence(whole)):
        result["gained"] = gained
    known = [word for word in record["words"] if "probability" in word]
    if known:
        result["said with"] = [f"{word['text']} {explained.percent(word['probability'])}" for word in known]
    return result | ({"written": written} if out else {})


def _film(session: Any, options: Options) -> Result:
    from lynx.visualization.film import write_film

    words = [word.casefold() for word, _ in session.evidence.words] if session.evidence else []
    word = options.word
    if word and word.isdigit() and word not in words:
        word = int(word) - 1
    with progress("frames") as tell:
        film = write_film(session, options.film, word, options.window, tell, options.evidence)
    told = {"path": str(film.path), "seconds": [film.start, film.end], "word": film.word}
    return told | {"method": film.method, "notes": film.notes}


@command(
    "map",
    "lynx map --video clip.mp4 --audio clip.mp4 --out map.png",
    _media_options,
    option("--out", type=Path, metavar="FILE.png", help="where the picture is written, if at all"),
    option(
        "--guidance", type=Path, metavar="FILE", help="what `lynx guide` wrote; L_stat is then taken to it"
    ),
)
def _map(options: Options) -> Result:
    """Say where a clip's tokens lie among words and other videos, before and after alignment, and draw it."""
    from lynx.evaluation.interface import measure_interface
    from lynx.modalities.inspection import notes_of
    from lynx.training.guidance import Guidance
    from lynx.visualization.interface_chart import draw, require_matplotlib

    if options.out and options.out.suffix.lower() != ".png":
        raise LynxError(f"the map is a PNG: give a name that ends in .png, not {options.out.name!r}")
    if options.out:
        require_matplotlib()  # said before the model is loaded
    guidance = Guidance.load(options.guidance) if options.guidance else None
    session = _open_session(options)
    found = measure_interface(session, guidance=guidance)
    if options.out:
        draw(found).save(options.out)
    rows = found.table()
    result: Result = {"reference": found.reference, "explained": list(found.explained)}
    result["groups"] = rows if options.json else {row.pop("group"): row for row in rows}
    drawn = [stream.frames for stream in session.streams.values() if stream.frames is not None]
    result["notes"] = list(dict.fromkeys((*session.plan.notes, *notes_of(drawn))))
    result |= _part(session)
    return result | ({"written": str(options.out)} if options.out else {})
