"""`lynx chat`: questions about a clip, in the terminal."""

import sys
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
        "--frames", type=count, metavar="N", help="moments looked at; default: the backbone's own"
    )
    adapter_argument(parser)
    model_arguments(parser)


@command(
    "chat",
    _chat_arguments,
    'lynx chat --video clip.mp4 --audio clip.mp4 --ask "what sound do you hear ?" --evidence',
)
def _chat(options: Options) -> Result:
    """Ask a model about a clip, with as many senses as it has adapters."""
    from lynx.modalities import REGISTRY

    media = {name: path for name in REGISTRY if (path := getattr(options, name))}
    session = load_model(options, *media).chat(frames=options.frames, **media)
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
