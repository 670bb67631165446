"""Stage 3, instruction tuning: train the LLM LoRA of a sense on questions and answers about clips.

Everything else is frozen, so the streams are encoded once and read from disk (`cache.py`), and all questions
of a clip share them in one pass of the LLM (`packing.py`). Beside the questions that need the sense, a share
of a clip's questions is replayed that need only what the model could do before.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from lynx.adapters import CONFIG, save_adapter
from lynx.backbones import Backbone
from lynx.cache import StreamCache
from lynx.clips import VIDEO, content_key
from lynx.config import TuneConfig
from lynx.data import Example, Turn
from lynx.errors import AdapterError, DataError
from lynx.model import Lynx
from lynx.packing import IGNORE, Packed, Packer
from lynx.trainer import Trainer, checkpointed, seeded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lesson:
    """What one clip teaches: `needed` are the turns about the new sense, `replayed` those of the old ones."""

    key: str
    senses: tuple[str, ...]
    needed: tuple[Turn, ...]
    replayed: tuple[Turn, ...]


def lesson_of(example: Example, modality: str, key: str) -> Lesson | None:
    """Sort the turns of an example; None where none can be answered from its media."""
    there = set(example.media)  # `in` would make a lazy mapping render
    senses = tuple(sense for sense in (VIDEO, modality) if sense in there)
    turns = [turn for turn in example.turns if set(turn.senses) <= set(senses)]
    needed = tuple(turn for turn in turns if not turn.senses or modality in turn.senses)
    replayed = tuple(turn for turn in turns if turn.senses and modality not in turn.senses)
    return Lesson(key, senses, needed, replayed) if turns else None


def choose(lesson: Lesson, modality: str, config: TuneConfig) -> tuple[tuple[str, ...], list[Turn]]:
    """The senses shown and the turns asked in one step, drawn by torch's generator.

    `config.replay` of the turns are replayed ones, as far as there are as many; at most `config.questions`.
    """
    senses, needed, replayed = lesson.senses, _shuffled(lesson.needed), _shuffled(lesson.replayed)
    if replayed and VIDEO in senses and float(torch.rand(())) < config.drop_modality:
        senses, needed = tuple(sense for sense in senses if sense != modality), []
    most = config.questions or len(needed) + len(replayed)
    if needed:
        share = config.replay
        wanted = len(replayed) if share == 1 else round(len(needed) * share / (1 - share))
        replayed = replayed[: min(wanted, round(most * share))]
        needed = [] if share == 1 else needed[: most - len(replayed)]
    return senses, [*needed, *replayed[:most]]


def _shuffled(turns: Sequence[Turn]) -> list[Turn]:
    return [turns[i] for i in torch.randperm(len(turns)).tolist()]


def answer_loss(backbone: Backbone, packed: Packed) -> tuple[Tensor, Tensor]:
    """Cross-entropy over answer tokens, and which questions (Q,) would be answered right, token by token.

    Logits are computed where an answer is predicted, and nowhere else.
    """
    hidden = backbone.model.get_decoder()(
        inputs_embeds=packed.embeds,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state  # (B, S, D)
    answered = packed.labels != IGNORE
    labels = packed.labels[answered]  # (answer tokens,)
    logits = backbone.model.get_output_embeddings()(hidden[answered]).float()
    questions = packed.questions[answered] - 1
    right = torch.ones(int(questions.max()) + 1, device=labels.device)
    wrong = (logits.argmax(-1) != labels).nonzero()[:, 0]
    right[questions[wrong]] = 0
    return F.cross_entropy(logits, labels), right


class TuningLoss:
    """The loss of stage 3 over indices of lessons: answers alone count."""

    def __init__(
        self, model: Lynx, modality: str, lessons: Sequence[Lesson], cache: StreamCache, config: TuneConfig
    ) -> None:
        self.model, self.modality, self.lessons = model, modality, lessons
        self.cache, self.config = cache, config
        self.packer = Packer(model.backbone)

    def __call__(self, indices: list[int]) -> dict[str, Tensor]:
        """loss; accuracy and replay_accuracy: of the questions of either kind, teacher forced, 0..1."""
        packed, needs = self.batch(indices)
        loss, right = answer_loss(self.model.backbone, packed)
        parts = {"loss": loss}
        for name, kind in (("accuracy", needs), ("replay_accuracy", ~needs)):
            if kind.any():
                parts[name] = right[kind].mean()
        return parts

    def batch(self, indices: Sequence[int]) -> tuple[Packed, Tensor]:
        """A packed batch, and which of its questions (Q,) need the new sense."""
        streams, turns = [], []
        conversation = float(torch.rand(())) < self.config.conversation
        for index in indices:
            lesson = self.lessons[index]
            senses, asked = choose(lesson, self.modality, self.config)
            streams.append([self.cache.stream(sense, lesson.key) for sense in senses])
            turns.append(asked)
        needs = [not turn.senses or self.modality in turn.senses for asked in turns for turn in asked]
        return self.packer.pack(streams, turns, conversation), torch.tensor(needs)


def tune(
    model: Lynx,
    modality: str,
    examples: Sequence[Example],
    config: TuneConfig | None = None,
    out_dir: str | Path = "adapter",
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the LLM LoRA of the adapter of `modality` and write the adapter; returns the report.

    The adapter is the one that is loaded, else the one in `out_dir`; an LLM LoRA that it has is replaced. It
    stays loaded.

    Raises:
        AdapterError: there is no adapter, or a `lora_B` got no gradient. DataError: nothing to ask.
    """
    config, out_dir = config or TuneConfig(), Path(out_dir)
    if not any(modality in (a.name, a.modality) for a in model.adapters.values()):
        if not (out_dir / CONFIG).is_file():
            raise AdapterError(
                f"no adapter for {modality!r} is loaded or in {out_dir}: run `lynx align` first "
                "(with --steps 0 it makes an adapter that is not aligned)"
            )
        model.load_adapter(out_dir)
    name = model.adapter(modality).name
    with model.lock, ExitStack() as undo:
        lora = _fresh_lora(model, name, config)
        undo.callback(model.lora.remove, lora)
        report = _train(model, name, lora, examples, config, out_dir, progress)
        undo.pop_all()
    return report


def _fresh_lora(model: Lynx, name: str, config: TuneConfig) -> str:
    """An LLM LoRA for the adapter, and the pooling and placement that the config asks for."""
    adapter = model.adapter(name)
    shaped = replace(adapter, token_pooling=config.token_pooling, placement=config.placement)
    model.check_placement(shaped)
    if config.warm_start and model.lora.settings.get(f"{name}_llm") == config.lora:
        model.adapters[name] = shaped
        return f"{name}_llm"
    if config.warm_start:
        raise AdapterError(f"{name!r} has no LLM LoRA of {config.lora} to go on from: tune it afresh")
    if "llm" in model.parts(name):
        logger.warning("the LLM LoRA of %r is replaced by a fresh one", name)
        model.lora.remove(f"{name}_llm")
    model.adapters[name] = shaped
    with seeded(config.seed):
        return model.add_lora(name, "llm", config.lora)


def _train(
    model: Lynx,
    name: str,
    lora: str,
    examples: Sequence[Example],
    config: TuneConfig,
    out_dir: Path,
    progress: bool,
) -> dict[str, Any]:
    folder = out_dir / "training" / "tune"
    frames = config.frames or model.backbone.default_frames
    modality = model.adapter(name).modality
    root = config.cache or folder / "streams"
    cache = StreamCache(root, model, {VIDEO: VIDEO, modality: name}, frames)
    lessons, kept = _lessons(examples, modality, progress)
    loss = TuningLoss(model, modality, lessons, cache, config)
    trainer = Trainer(model.lora.tensors(lora), len(lessons), loss, config, folder, progress=progress)
    share = trainer.accelerator.process_index, trainer.accelerator.num_processes
    encoded = cache.prepare([examples[i] for i in kept], [lesson.key for lesson in lessons], share, progress)
    trainer.accelerator.wait_for_everyone()
    cache.refresh()
    with checkpointed(model.backbone.model, config.checkpointing), model.lora.active([lora], [lora]):
        report = {"stage": "tune", "examples": len(lessons), "encoded": encoded, **trainer.run()}
    if report["without_gradient"]:
        raise AdapterError(f"these weights never got a gradient: {', '.join(report['without_gradient'])}")
    report["config"] = config.to_dict()
    if trainer.accelerator.is_main_process:
        training = {**model.adapter(name).training, "tune": report}
        save_adapter(model, name, out_dir, training=training)
    trainer.finish()
    return report


def _lessons(examples: Sequence[Example], modality: str, progress: bool) -> tuple[list[Lesson], list[int]]:
    """The lessons, and the indices of their examples."""
    lessons, kept = [], []
    for i in tqdm(range(len(examples)), desc="read", unit="clip", disable=None if progress else True):
        example = examples[i]
        lesson = lesson_of(example, modality, content_key(example))
        if lesson is not None:
            lessons.append(lesson)
            kept.append(i)
    if not any(lesson.needed for lesson in lessons):
        raise DataError(
            f"none of the {len(examples)} examples has a question that needs {modality!r} and its media"
        )
    return lessons, kept
