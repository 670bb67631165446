"""What a user of lmms-eval sets: `--model_args`, and how a task wants its answers generated.

Nothing is ignored: what lynx does not know, or cannot do, is an error.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from lynx.config import short_repr
from lynx.errors import DataError
from lynx.types import is_number

JOINED = "+"
"""Between several adapters or senses: lmms-eval splits `--model_args` at commas."""
MAX_NEW_TOKENS = 128
"""Maximum length of an answer where the task does not say one."""
SAMPLING = ("top_p", "top_k", "min_p", "typical_p")
"""Options that change nothing about a greedy answer."""


@dataclass(frozen=True)
class ModelOptions:
    """The options of `--model_args`, with lmms-eval's own `--batch_size` and `--device`."""

    backbone: str = "lynx-tiny"
    adapter: tuple[str, ...] = ()  # folders, Hub ids or names, joined by +
    senses: tuple[str, ...] = ()  # joined by +; (): the video and what the adapters bring
    frames: int | None = None  # moments of a clip; None: as the adapter was trained, or the backbone's own
    precision: str = "auto"
    device: str = "auto"
    batch_size: int = 1
    allow_missing: bool = False  # whether a document that lacks a sense is answered without it

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From the keywords that lmms-eval makes of them.

        Raises: DataError: an option is unknown, or of another kind.
        """
        known = [field.name for field in fields(cls)]
        if "max_batch_size" in given:
            raise DataError("--max_batch_size finds a batch size by itself, lynx does not: --batch_size 8")
        if unknown := [name for name in given if name not in known]:
            raise DataError(f"lynx has no model argument {unknown[0]!r}; it has {', '.join(known)}")
        values = dict(given)
        for name in ("adapter", "senses"):
            if name in given:
                values[name] = _names(name, given[name])
        for name in ("frames", "batch_size"):
            if name in given:
                values[name] = _count(name, given[name])
        for name in ("backbone", "precision", "device"):
            if name in given and not isinstance(given[name], str):
                raise DataError(f"{name} is {short_repr(given[name])}: expected a name")
        if not isinstance(values.get("allow_missing", False), bool):
            raise DataError(f"allow_missing is {short_repr(given['allow_missing'])}: expected True or False")
        return cls(**values)


def _names(option: str, given: Any) -> tuple[str, ...]:
    """Names joined by +. Raises: DataError: there are none, an empty one, or one twice."""
    names = tuple(str(given).split(JOINED))
    if not all(names) or len(set(names)) < len(names):
        raise DataError(f"{option} is {short_repr(given)}: expected different names, joined by {JOINED}")
    return names


def _count(option: str, given: Any) -> int:
    """A whole number from 1 on, which lmms-eval may give as a text. Raises: DataError: it is none."""
    number = int(given) if str(given).isdecimal() else 0
    if number < 1:
        raise DataError(f"{option} is {short_repr(given)}: expected a whole number, 1 or more")
    return number


@dataclass(frozen=True)
class Generation:
    """How an answer is generated, greedily: where it ends."""

    max_new_tokens: int = MAX_NEW_TOKENS
    until: tuple[str, ...] = ()  # texts that end it, and are no part of it

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From the `generation_kwargs` of a task; None is as if it were not given.

        Raises: DataError: an option that lynx does not have, or that asks for tokens to be drawn.
        """
        said = {name: value for name, value in given.items() if value is not None}
        limit = _count("max_new_tokens", said.pop("max_new_tokens", MAX_NEW_TOKENS))
        until = _texts(said.pop("until", ()))
        for name in SAMPLING:
            said.pop(name, None)
        _check_greedy(said.pop("do_sample", None), said.pop("temperature", None), said.pop("num_beams", 1))
        if said:
            known = ", ".join(("max_new_tokens", "until", "do_sample", "temperature", "num_beams", *SAMPLING))
            raise DataError(f"lynx has no generation option {next(iter(said))!r}; it has {known}")
        return cls(limit, until)

    def cut(self, text: str) -> str:
        """An answer up to the first text that ends it."""
        ends = [place for end in self.until if (place := text.find(end)) >= 0]
        return text[: min(ends, default=len(text))]


def _texts(given: str | Iterable[str]) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"until is {short_repr(given)}: expected texts")
    return tuple(filter(None, texts))


def _check_greedy(do_sample: Any, temperature: Any, beams: Any) -> None:
    """Refuse what is not greedy: a temperature above 0, unless it is switched off, or several beams."""
    if temperature is not None and not (is_number(temperature) and temperature >= 0):
        raise DataError(f"temperature is {short_repr(temperature)}: expected a number, 0 (greedy) or more")
    sampled = do_sample is not False and bool(temperature)
    if sampled or (do_sample and temperature is None) or beams != 1:
        asked = f"do_sample={do_sample}, temperature={temperature}, num_beams={beams}"
        raise DataError(
            f"the task asks for {asked}; lynx answers greedily in evaluation: "
            "--gen_kwargs do_sample=False,temperature=0,num_beams=1 says so"
        )
