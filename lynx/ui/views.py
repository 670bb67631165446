"""HTML and pictures of the page, from plain data; text of users and models is escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lynx.errors import LynxError
from lynx.evidence.methods import ATTENTION, ATTRIBUTION, HIDING, METHODS
from lynx.types import VIDEO
from lynx.ui import types
from lynx.ui.edit_bar import editing, pen
from lynx.ui.evidence_view import evidence_html
from lynx.ui.host_policy import MENU
from lynx.ui.types import ChatTurn, EvidenceView, Preview, Reply, Sense, Setup
from lynx.visualization import drawing
from lynx.visualization.timeline import timeline

if TYPE_CHECKING:
    from lynx.visualization.film import Film
    from lynx.visualization.interface_map import InterfaceMap

COMMIT_SHOWN, ABOUT_SHOWN = 7, 240  # letters
SEEN_WIDTH = 840  # pixels; half a page, so its letters stay legible
HEADER = """
<div class="brand"><h1>lynx</h1><p>Gives a Video LLM new senses.<span class="more"> Ask about a clip, its
sound and whatever else was recorded, and see what each word of the answer rests on.</span></p></div>
"""
WORLD = "the miniature world"
"""What the adapters say they were trained on that sense the world of the embedded backbone."""
HINT = """
<div class="hint"><b>lynx-tiny knows only its miniature world</b> of colored shapes and {}.<span class="more">
Other recordings need a real backbone{}.</span></div>
"""
DEPTH = "Depth: maps, video or mesh"
VIEWS = "Further views: videos"
DEPTH_UNITS = [
    ("as stored, else mm", ""), ("TUM: 1/5000 m", "tum"), ("D405: 0.1 mm", "d405"),
    ("L515: 0.25 mm", "l515"),
]  # fmt: skip
"""Choices of the unit of depth, by what `lynx.media.side_files.parse_unit` reads."""
FIELDS = {"--depth-unit": "'Depth unit'", "--depth-up": "'Up axis'"}
"""What options of the command line, which notes name, are called on the page."""
SEEN = "What the model really sees and hears"
MORE = "More of the recording: part, sound, depth, further views"
PLACEHOLDER = "Pick an example or upload a clip, then ask<br><i>What sound do you hear?</i>"
EVIDENCE_HEADER = "<h2>What the answer rests on</h2>"
ASK_FIRST = (
    "Ask about the clip. Here you then see which sense, which moments and which parts of the pictures each "
    "word of the answer rests on."
)
_RIGHT = (
    "In the miniature world its strongest place lay on what was asked about in {}\u00a0% of 1,500 answers."
)
RIGHT = {ATTRIBUTION: _RIGHT.format("94.3"), ATTENTION: _RIGHT.format("56.4"), HIDING: ""}
"""By method, a sentence: how often it is right in the miniature world. The same figures are in the table of
methods in `docs/evidence.md`, which a test compares."""
SHOWN = {name: METHODS[name].shows for name in RIGHT}
SHOWN |= {HIDING: "How much less likely the word becomes when this sense is hidden."}  # each as a whole
SENTENCES = {name: f"{SHOWN[name]} {right}".strip() for name, right in RIGHT.items()}
"""By method: what it shows, and how often it is right."""
MAP = "Tokens of the clip's senses among words and tokens of other videos"
INTERFACE_HEADER = """
<h2>Where the senses lie in the model's space</h2>
<p>A frozen encoder and projector write every frame as tokens in one region of the language model's space:
the token interface. A new sense is understood when its tokens lie there too. The map shows the two directions
in which the tokens differ most; the table measures all of them.</p>
"""
DISTANCES = (
    ("tokens", "tokens", "{:,}"),
    ("to_reference", "to other videos", "{:.2f}"),
    ("to_vocabulary", "to words", "{:.2f}"),
    ("to_itself", "own spread", "{:.2f}"),
    ("gap", "gap to other videos", "{:.3f}"),
    ("statistics", "L<sub>stat</sub>", "{:.2f}"),
)
"""Columns of the table of distances: the figure, its title, its format."""


def hint(setup: Setup, backbones: Sequence[str], trained_on: Sequence[str] = ()) -> str:
    """What the embedded backbone cannot do; nothing for a real one.

    backbones: those that the page offers. trained_on: what the adapters say they were trained on.
    """
    if setup.backbone != types.EMBEDDED:
        return ""
    more = [f"<b>{escape(data)}</b>" for data in trained_on if data != WORLD]
    others = any(name != types.EMBEDDED for name in backbones)
    where = ", loaded below" if others else ", which is not offered here"
    return HINT.format(", ".join(more) or "a few sounds", where)


def backbone_choices(names: Sequence[str]) -> list[tuple[str, str]]:
    """Backbones as a list offers them: what it shows, and the name."""
    return [(f"{name}: {MENU[name]}" if MENU.get(name) else name, name) for name in names]


def model_line(setup: Setup, senses: Sequence[Sense] = ()) -> str:
    """The model in use, in a line."""
    added = [sense.label for sense in senses if sense.name != VIDEO]
    return f"Model and adapters: {setup.backbone}" + (f" + {', '.join(added)}" if added else "")


def adapter_options(options: Sequence[types.AdapterOption]) -> str:
    """Adapters that could be added, with what they add, what they were trained on and how good they are.

    Those that cannot are grayed, with the reason.
    """
    parts, about, notes = [], "", []
    for option in options:
        # Of a folder the last part, a Hub id as it is; by its letters alone: the page asks no disk.
        path = Path(option.source)
        is_folder = path.is_absolute() or path.parts[:1] == ("adapters",)
        name = path.name if is_folder else option.source
        if option.reason:
            parts.append(_chip(name))
            notes.append(f'<div class="note">{escape(f"{name}: {option.reason}")}</div>')
        else:
            commit = option.revision.rpartition("@")[2][:COMMIT_SHOWN]
            words = dict.fromkeys((name, option.modality, commit))
            chip = _chip(" · ".join(filter(None, words)), option.modality)
            if option.about:
                told = escape(option.about[:ABOUT_SHOWN])
                about += f'<div class="offer">{chip}<span class="note">{told}</span></div>'
            else:
                parts.append(chip)
    chips = f'<div class="chips">{"".join(parts)}</div>' if parts else ""
    return about + chips + "".join(notes)


def replaced(sources: Sequence[str]) -> str:
    """Which adapters another one of their sense has taken the place of, and how to have both."""
    names = ", ".join(Path(source).name for source in sources)
    text = f"{names} was taken out: one adapter for each sense, unless two are allowed above."
    return f'<div class="note said">{escape(text)}</div>'


def chips(reply: Reply, labels: Mapping[str, str], stopped: bool) -> str:
    """Which senses an answer used, with how many frames and seconds; then its notes.

    What stands below the clip already is not said again.
    """
    part = _part(reply.part)
    parts = [
        _chip(" · ".join((labels.get(sense, sense), f"{frames} frames", part or _seconds(seconds))), sense)
        for sense, (frames, seconds) in reply.used.items()
    ]
    parts += [_chip("stopped")] * stopped
    new = [note for note in reply.notes if note not in reply.of_clip]
    return f'<div class="chips">{"".join(parts)}</div>{_notes(new)}'


def _chip(text: str, sense: str | None = None) -> str:
    """A text in a frame of the sense's color; grayed without one."""
    look = f'"chip" style="--sense:{_css(sense)}"' if sense is not None else '"chip off"'
    return f"<span class={look}>{escape(text)}</span>"


ANSWERING = '<span class="answering"></span>'
"""Of an answer that is being given, in place of its chips; see style.css."""


def messages(turns: Sequence[ChatTurn]) -> list[dict]:
    """The conversation for the chat window, which takes it as HTML; what was asked and said stands as typed.

    A line says where another clip or another model begins. Questions that have been answered have a pen.
    """
    said: list[tuple[str, str]] = []
    for number, (before, turn) in enumerate(zip((None, *turns), turns, strict=False)):
        if before and (turn.setup, turn.clip) != (before.setup, before.clip):
            line = f"{escape(turn.clip.title)} · {escape(turn.setup.backbone)}"
            said.append(("assistant", f'<div class="divider">{line}</div>'))
        tool = "" if turn.chips == ANSWERING else pen(number)
        said.append(("user", escape(turn.question, quote=False) + tool))
        answer = escape(turn.answer, quote=False) or "<i>no answer</i>"
        said.append(("assistant", f"<p>{answer}</p>{turn.chips}"))
    return [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]


def editing_told(number: int, of: int, here: bool) -> str:
    """What the bar says while a question is edited. here: whether it was about the clip and model at hand."""
    if not here:
        said = f"Question {number} was about another clip or model: it is asked anew and nothing is replaced."
    elif number < of:
        said = f"You edit question {number}: when you ask, it and what follows are replaced."
    else:
        said = f"You edit question {number}: when you ask, it is replaced."
    return editing(said)


def leave_out(senses: Sequence[Sense]) -> str:
    """The label of the button that answers again without a sense."""
    added = [sense.label for sense in senses if sense.name != VIDEO]
    return "Leave out each sense" if len(added) > 1 else f"With / without {(added or ['sound'])[0]}"


def sense_choices(senses: Sequence[Sense], lacking: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The boxes of the senses. lacking: those that are on, and find nothing in the clip."""
    return [
        (f"{sense.label} – not in this clip" if sense.name in lacking else sense.label, sense.name)
        for sense in senses
    ]


def budget(preview: Preview, labels: Mapping[str, str]) -> str:
    """How much of the model's context the clip takes, as a bar and in words."""
    if not preview.frames:
        return ""
    used = sum(preview.tokens.values())
    bars = parts = ""
    for sense, count in preview.tokens.items():
        color, frames = f"background:{_css(sense)}", len(preview.frames[sense])
        bars += f'<i style="width:{100 * count / preview.context:.2f}%;{color}"></i>'
        parts += f'<span><i style="{color}"></i>{escape(labels.get(sense, sense))} '
        parts += f"{frames} frames, {count:,} tokens</span>"
    length = _part(preview.part) or _seconds(next(iter(preview.frames.values())).duration)
    return (
        f'<div class="budget"><div class="bar">{bars}</div><div class="parts">{parts}</div>'
        f"<div>{length} · {used:,} of {preview.context:,} tokens</div></div>"
    )


def clip_notes(preview: Preview) -> str:
    """What should be known about the clip."""
    return _notes(preview.notes)


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<div class="note">{escape(_capital(note))}</div>' for note in notes)


def forecast(text: str) -> str:
    """The estimate of a model, as a sentence."""
    return f'<div class="budget"><div>{escape(_capital(text))}.</div></div>'


def comparison(question: str, answers: Mapping[str | None, str | None], labels: Mapping[str, str]) -> str:
    """The answer with all that is on, and beside it those without each sense; marked where they differ.

    answers: by the sense that is left out, the one with all by None; None as long as it is not there yet.
    """
    left_out = [labels.get(sense, sense) for sense in answers if sense is not None]
    cards, whole = "", answers[None]
    for sense, said in answers.items():
        title = f"without {labels.get(sense, sense)}" if sense is not None else "with all"
        if sense is None and len(left_out) == 1:
            title = f"with {left_out[0]}"
        changed = f' changed" style="--sense:{_css(sense)}' if sense and said not in (None, whole) else ""
        chip, mark = "chip off" if sense else "chip", "<b>differs</b>" if changed else ""
        cards += f'<div class="card{changed}"><span class="{chip}">{escape(title)}</span> {mark}'
        cards += f"<p>{'…' if said is None else escape(said) or '—'}</p></div>"
    return f'<div class="compare"><div class="asked">{escape(question)}</div>{cards}</div>'


def notice(problem: LynxError | str) -> str:
    """A notice: an error as one sentence, or a text."""
    text = sentence(problem) if isinstance(problem, LynxError) else problem
    return f'<div class="notice" role="alert">{escape(text)}</div>' if text else ""


def sentence(problem: LynxError | str) -> str:
    """An error as one sentence for people."""
    text = " ".join(str(problem).split())
    return text[:1].upper() + text[1:].rstrip(".") + "."


def evidence(shown: EvidenceView | None, loading: str = "", problem: str = "") -> str:
    """What an answer rests on, for the viewer; nothing where there is none."""
    if shown is None:
        return ""
    record, (word, method) = shown.record, shown.first
    stretched = tuple(name for name, sense in record["senses"].items() if sense.get("spectrogram"))
    return evidence_html(
        record, shown.frames, chosen=word, method=method, loading=loading, part=shown.part,
        stretched=stretched, sentences=SENTENCES, notice=problem, key=shown.key,
    )


def answer_choices(turns: Sequence[ChatTurn]) -> list[tuple[str, int]]:
    """The answers of the conversation whose evidence can be looked at."""
    return [
        (f"{number + 1}. {_short(turn.question)} – {_short(turn.answer)}", number)
        for number, turn in enumerate(turns)
        if turn.evidence is not None
    ]


def _short(text: str, letters: int = 48) -> str:
    text = " ".join(text.split())
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def nothing_shown(choices: Sequence[tuple[str, int]]) -> str:
    """What to do where no evidence is shown."""
    return _nothing(ASK_FIRST, choices)


def nothing_of(answer: str, choices: Sequence[tuple[str, int]]) -> str:
    """The same where an answer was given of which nothing was recorded."""
    why = "it was stopped" if answer.strip() else "it is empty"
    return _nothing(f"There is nothing to show of the last answer: {why}.", choices)


def _nothing(told: str, choices: Sequence[tuple[str, int]]) -> str:
    return f'<div class="note">{told}{" Earlier answers can be chosen:" if choices else ""}</div>'


def turn_of_message(turns: Sequence[ChatTurn], index: int) -> int | None:
    """The turn whose question or answer is this message of `messages`; None for a line between two."""
    at = 0
    for number, (before, turn) in enumerate(zip((None, *turns), turns, strict=False)):
        at += bool(before) and (turn.setup, turn.clip) != (before.setup, before.clip)
        if at <= index <= at + 1:
            return number
        at += 2
    return None


def seen(preview: Preview, senses: Sequence[Sense]) -> Image.Image | None:
    """What the model looks at, all senses on one time axis."""
    lanes = [
        drawing.Lane(name, sense.label, preview.frames[name], fill=sense.takes == types.AUDIO)
        for sense in senses
        if (name := sense.name) in preview.frames
    ]
    return timeline(lanes, width=SEEN_WIDTH) if lanes else None


def _css(sense: str) -> str:
    return "rgb({},{},{})".format(*drawing.color(sense))


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else drawing.clock(seconds, seconds) + " min"


def _part(part: tuple[float, float] | None) -> str:
    """The seconds of the recording that are looked at; nothing where that is all of it."""
    if part is None:
        return ""
    start, end = part
    if end < 60:
        return f"{start:.1f}–{end:.1f} s"
    return f"{drawing.clock(start, end)}–{drawing.clock(end, end)} min"


def _capital(text: str) -> str:
    """With a capital letter, unless it begins with the name of a file, and with the names of the page."""
    for option, field in FIELDS.items():
        text = text.replace(option, field)
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text


def distances(measured: "InterfaceMap") -> str:
    """How far the tokens of each kind lie from others, as a table."""
    head = "".join(f"<th>{title}</th>" for _, title, _ in DISTANCES)
    rows = ""
    for row in measured.table():
        cells = "".join(
            f"<td>{'–' if row[name] is None else form.format(row[name])}</td>" for name, _, form in DISTANCES
        )
        rows += f"<tr><th>{escape(row['group'])}</th>{cells}</tr>"
    return (
        f'<table class="distances"><tr><th></th>{head}</tr>{rows}</table><div class="note">Mean cosine '
        "distances over all pairs: 0 is the same direction, 1 is at right angles. The gap is the distance "
        "beyond the spread of both; 0 means that the two cannot be told apart. L<sub>stat</sub> compares "
        "mean and variance, as alignment does.</div>"
    )


def film_notes(film: "Film", method: str) -> str:
    """Notes on a film that was written; method: the one that was looked at."""
    other = "The film shows attribution: hiding a sense tells nothing of single moments"
    return _notes([f"{note}." for note in (*film.notes, *[other] * (film.method != method))])
