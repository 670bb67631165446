"""What the backbone said before it was tuned: answers to replay, and how far tuning moves it from them.

A backbone that is tuned on one sense alone forgets the rest while its LoRA is on: asked to describe the
video, it names a sound. Where the data has no other questions, the backbone is asked some, once, before the
first step, and its own answers are replayed: about the video where a clip has one, of general knowledge where
not. The sense is there when they are replayed and was not when they were given, so that it changes nothing.

The damage that is left is measured on other questions: how often the tuned model, with the sense, gives the
answer of the backbone without it, and by how many nats that answer became less probable.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from lynx.backbones import Backbone
from lynx.backbones.decoding import generate
from lynx.datasets.base import Turn
from lynx.errors import DataError, writing
from lynx.model import Lynx
from lynx.training.packing import IGNORE, Packer
from lynx.training.stream_cache import StreamCache
from lynx.types import VIDEO

OWN = "own answer"
"""The `Turn.type` of a question that the backbone has answered itself."""
ABOUT_VIDEO = (
    "Describe the video.", "What do you see?", "What is happening?", "What color is it?", "Where is it?",
    "How many are there?", "What moves?", "Describe the first and the last moment.",
)  # fmt: skip
GENERAL = (
    "What is the capital of France?", "Name three colors.", "How many legs does a dog have?",
    "What is two plus three?", "What do people do with an umbrella?", "Write a sentence about the sea.",
    "What do you see?",
)  # fmt: skip
CHECKED_ABOUT_VIDEO = (
    "What does the video show?", "What is there?", "What shape is it?", "What happens in it?",
)  # fmt: skip
CHECKED_GENERAL = (
    "What is the capital of Italy?", "Name three animals.", "How many wheels does a bicycle have?",
    "What is there?",
)  # fmt: skip
"""Questions that are never replayed: what is measured on them was not trained."""
CLIPS, QUESTIONS = 256, 2
"""Clips that are asked, at most, and how many questions each."""
CHECKED = 16
"""Clips on which the damage is measured, at most."""
LONGEST = 48
"""Tokens of an answer, at most."""


@dataclass(frozen=True)
class Damage:
    """How far a tuned model, with its sense on, is from the backbone's own answers.

    n: questions. agreement: share (0..1) of them that it answers with the same words. nats: by how much the
    log-probability of the backbone's answer fell, on average; below 0 it rose.
    """

    n: int
    agreement: float
    nats: float

    def __str__(self) -> str:
        if not self.n:
            return "damage: not measured, since the backbone knows the words of none of its questions"
        return (
            f"damage: with the sense on, {self.agreement:.0%} of {self.n} general questions are answered as "
            f"before, and the old answers are {self.nats:+.2f} nats less probable"
        )


def asked_of(backbone: Backbone, questions: Sequence[str]) -> list[str]:
    """Those of the questions whose words the backbone knows."""
    return [question for question in questions if not backbone.unknown_words(question)]


class OwnAnswers:
    """Asks a backbone, under no adapter, about clips whose streams are cached.

    senses: of each clip, by its content key. alike: whether all processes have to compute the same, as where
    they divide the LLM.
    """

    def __init__(
        self,
        model: Lynx,
        streams: StreamCache,
        senses: Mapping[str, Sequence[str]],
        alike: bool = False,
    ) -> None:
        self.model, self.streams, self.senses, self.alike = model, streams, senses, alike
        self.packer = Packer(model.backbone)

    def answer(self, key: str, question: str) -> str:
        """The un-adapted backbone's answer: about the video, where the clip has one."""
        backbone = self.model.backbone
        seen = [self.streams.stream(VIDEO, key)] if VIDEO in self.senses[key] else []
        with self.model.using():
            prompt = backbone.compose([{"role": "user", "content": question}], seen)
            ids = generate(backbone, prompt, max_new_tokens=LONGEST)[0]
        return str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def to_replay(
        self, part: tuple[int, int] = (0, 1), progress: bool = True
    ) -> dict[str, list[Turn]]:
        """Questions and own answers of up to CLIPS clips, by key; {} where it knows no question's words.

        part: (i, k) asks about every k-th of them from the i-th on: one of k processes.
        """
        found: dict[str, list[Turn]] = {}
        first, step = (0, 1) if self.alike else part
        mine = list(enumerate(self.senses))[:CLIPS][first::step]
        for place, key in tqdm(mine, desc="own answers", unit="clip", disable=None if progress else True):
            about = VIDEO in self.senses[key]
            pool = asked_of(self.model.backbone, ABOUT_VIDEO if about else GENERAL)
            chosen = [pool[(place * QUESTIONS + i) % len(pool)] for i in range(min(QUESTIONS, len(pool)))]
            turns = [
                Turn(question, answer, OWN, (VIDEO,) if about else ())
                for question in chosen
                if (answer := self.answer(key, question))
            ]
            if turns:
                found[key] = turns
        return found

    @torch.no_grad()
    def damage(self, loras: Sequence[str]) -> Damage:
        """Of the LoRAs that were trained, on questions of CHECKED_ABOUT_VIDEO and CHECKED_GENERAL."""
        same, fell = [], []
        for key, question in self._checked():
            answer = self.answer(key, question)
            if not answer:
                continue
            before = self._log_probability(key, question, answer, ())
            after = self._log_probability(key, question, answer, loras)
            fell.append(before - after)
            same.append(self._adapted(key, question, loras) == answer)
        if not fell:
            return Damage(0, 1.0, 0.0)
        return Damage(len(fell), sum(same) / len(same), sum(fell) / len(fell))

    def _checked(self) -> Iterator[tuple[str, str]]:
        keys = list(self.senses)
        step = max(1, len(keys) // CHECKED)
        for key in keys[::step][:CHECKED]:
            pool = CHECKED_ABOUT_VIDEO if VIDEO in self.senses[key] else CHECKED_GENERAL
            yield from ((key, question) for question in asked_of(self.model.backbone, pool)[:QUESTIONS])

    def _adapted(self, key: str, question: str, loras: Sequence[str]) -> str:
        backbone = self.model.backbone
        given = [self.streams.stream(sense, key) for sense in self.senses[key]]
        with self.model.lora.active(loras):
            prompt = backbone.compose([{"role": "user", "content": question}], given)
            ids = generate(backbone, prompt, max_new_tokens=LONGEST, fixed=False if self.alike else None)[0]
        return str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _log_probability(self, key: str, question: str, answer: str, loras: Sequence[str]) -> float:
        """Of an answer, in nats: with all senses under LoRAs, else with the video alone."""
        backbone = self.model.backbone
        given = [s for s in self.senses[key] if loras or s == VIDEO]
        packed = self.packer.pack([[self.streams.stream(s, key) for s in given]], [[Turn(question, answer)]])
        with self.model.lora.active(loras):
            hidden = backbone.model.get_decoder()(
                **backbone.decoder_inputs(packed.ids, packed.embeds),
                attention_mask=packed.mask, position_ids=packed.positions, use_cache=False,
            ).last_hidden_state  # (1, S, D)
            answered = packed.labels != IGNORE
            logits = backbone.model.get_output_embeddings()(hidden[answered]).float()  # (A, V)
        return float(logits.log_softmax(-1).gather(1, packed.labels[answered][:, None]).sum())


def save_turns(path: Path, turns: Mapping[str, Sequence[Turn]]) -> None:
    """Write own answers as JSON lines, so that a run that goes on replays the same ones."""
    with writing(path, DataError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"key": key, "turns": [asdict(t) for t in each]}) for key, each in turns.items())
        partial = path.with_suffix(".part")
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        partial.replace(path)


def load_turns(path: Path) -> dict[str, list[Turn]]:
    """What `save_turns` wrote. Raises: DataError: it is damaged."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {
            row["key"]: [Turn(**{**turn, "senses": tuple(turn["senses"])}) for turn in row["turns"]]
            for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it, and the backbone is asked anew") from error
