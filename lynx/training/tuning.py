"""Stage 3, instruction tuning: train the LLM LoRA of a sense on questions and answers about clips.

Everything else is frozen, so the streams are encoded once and read from disk (`cache.py`), and all questions
of a clip share them in one pass of the LLM (`packing.py`). Beside the questions that need the sense, a share
of a clip's questions is replayed that need only what the model could do before.

Several senses may be tuned together. They then share one LLM LoRA, which each of their adapters carries, and
which is on once whichever of them are used: what was tuned side by side does not add up.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from lynx.adapters.format import CONFIG, TYPE_EMBEDDING
from lynx.adapters.lora import merge
from lynx.adapters.saving import save_adapter
from lynx.backbones import Backbone
from lynx.config import TuneConfig
from lynx.datasets.base import Example, Turn
from lynx.datasets.clips import content_key
from lynx.errors import AdapterError, DataError
from lynx.model import Lynx
from lynx.training.mixup import Shown, mixed
from lynx.training.packing import IGNORE, Packed, Packer
from lynx.training.stream_cache import StreamCache
from lynx.training.trainer import Trainer, checkpointed, digest_of, seeded
from lynx.types import VIDEO, Stream

logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Lesson:
    """What one clip teaches: its senses, and questions that can be answered from them."""

    key: str
    senses: tuple[str, ...]
    turns: tuple[Turn, ...]


def lesson_of(example: Example, modalities: Sequence[str], key: str) -> Lesson | None:
    """What an example teaches about these senses; None where nothing can be answered from its media."""
    there = set(example.media)  # `in` would make a lazy mapping render
    senses = tuple(sense for sense in (VIDEO, *modalities) if sense in there)
    turns = tuple(turn for turn in example.turns if set(turn.senses) <= set(senses))
    return Lesson(key, senses, turns) if turns else None


def is_new(turn: Turn, modalities: Sequence[str]) -> bool:
    """Whether a question needs what is being taught; one whose senses are not known does."""
    return not turn.senses or not set(modalities).isdisjoint(turn.senses)


def choose(
    lesson: Lesson, modalities: Sequence[str], config: TuneConfig, count: int = 1
) -> tuple[tuple[str, ...], list[Turn]]:
    """The senses shown, `count` of the new ones, and the turns asked, drawn by torch's generator.

    `config.replay` of the turns are replayed ones, as far as there are as many; at most `config.questions`.
    """
    shown = _shuffled([sense for sense in lesson.senses if sense in modalities])[:count]
    blind = bool(shown) and float(torch.rand(())) < config.drop_video
    turns = [turn for turn in _shuffled(lesson.turns) if set(turn.senses) <= {VIDEO, *shown}]
    if blind and (alone := [turn for turn in turns if VIDEO not in turn.senses]):
        return tuple(sense for sense in lesson.senses if sense in shown), alone[: config.questions]
    needed = [turn for turn in turns if is_new(turn, modalities)]
    replayed = [turn for turn in turns if not is_new(turn, modalities)]
    if replayed and VIDEO in lesson.senses and float(torch.rand(())) < config.drop_modality:
        shown, needed = [], []
    most = config.questions or len(needed) + len(replayed)
    if needed:
        share = config.replay
        wanted = len(replayed) if share == 1 else round(len(needed) * share / (1 - share))
        replayed = replayed[: min(wanted, round(most * share))]
        needed = [] if share == 1 else needed[: most - len(replayed)]
    senses = tuple(sense for sense in lesson.senses if sense not in modalities or sense in shown)
    return senses, [*needed, *replayed[:most]]


def how_many(modalities: Sequence[str], config: TuneConfig) -> int:
    """How many of the new senses the clips of a batch show: one, or in `config.together` two or more.

    The same for all of them, so that their rows are about as long.
    """
    several = float(torch.rand(())) < config.together
    return int(torch.randint(2, len(modalities) + 1, ())) if several and len(modalities) > 1 else 1


def _shuffled(things: Sequence[Thing]) -> list[Thing]:
    return [things[i] for i in torch.randperm(len(things)).tolist()]


def answer_loss(backbone: Backbone, packed: Packed, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy over answer tokens, and which questions (Q,) would be answered right, token by token.

    weights: (Q,) of the questions in the mean over tokens; 1 each if not given. Logits are computed where an
    answer is predicted, and nowhere else.
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
    if weights is None:
        return F.cross_entropy(logits, labels), right
    shares = weights.to(logits)[questions]
    return (shares * F.cross_entropy(logits, labels, reduction="none")).sum() / shares.sum(), right


@dataclass(frozen=True)
class Batch:
    """Clips packed for the LLM.

    needs, weights: of its questions (Q,), whether each needs a new sense, and its weight in the loss.
    mixed: share of the clips that were mixed with another.
    """

    packed: Packed
    needs: Tensor
    weights: Tensor
    mixed: float


class TuningLoss:
    """The loss of stage 3 over indices of lessons: answers alone count."""

    def __init__(
        self,
        model: Lynx,
        modalities: Sequence[str],
        lessons: Sequence[Lesson],
        cache: StreamCache,
        config: TuneConfig,
    ) -> None:
        self.model, self.modalities, self.lessons = model, modalities, lessons
        self.cache, self.config = cache, config
        self.packer = Packer(model.backbone)

    def __call__(self, indices: list[int]) -> dict[str, Tensor]:
        """loss; accuracy and replay_accuracy: of the questions of either kind, teacher forced, 0..1.

        With mixup also mixed, the share of clips that were; an answer that is right counts by its weight.
        """
        batch = self.batch(indices)
        weights = batch.weights.to(self.model.backbone.device)
        loss, right = answer_loss(self.model.backbone, batch.packed, weights if self.config.mixup else None)
        parts = {"loss": loss}
        if self.config.mixup:
            parts["mixed"] = torch.tensor(batch.mixed)
        for name, kind in (("accuracy", batch.needs), ("replay_accuracy", ~batch.needs)):
            if kind.any():
                parts[name] = (weights * right)[kind].sum() / weights[kind].sum()
        return parts

    def batch(self, indices: Sequence[int]) -> Batch:
        """What these lessons show and ask in one step, by torch's generator."""
        conversation = float(torch.rand(())) < self.config.conversation
        count = how_many(self.modalities, self.config)
        lessons = [self.lessons[index] for index in indices]
        clips = []
        for lesson in lessons:
            senses, asked = choose(lesson, self.modalities, self.config, count)
            streams = [self.cache.stream(sense, lesson.key) for sense in senses]
            clips.append(Shown(streams, asked, [1.0] * len(asked)))
        share = 0.0
        if self.config.mixup and not conversation:  # where the first answer would be seen before the second
            clips, share = mixed(clips, [lesson.turns for lesson in lessons], self.config.mixup)
        media = [[self._noisy(stream) for stream in clip.streams] for clip in clips]
        turns = [turn for clip in clips for turn in clip.turns]
        return Batch(
            self.packer.pack(media, [clip.turns for clip in clips], conversation),
            needs=torch.tensor([is_new(turn, self.modalities) for turn in turns]),
            weights=torch.tensor([weight for clip in clips for weight in clip.weights]),
            mixed=share,
        )

    def _noisy(self, stream: Stream) -> Stream:
        """A stream, which of a new sense is noisy: of every token `config.noise` times its length in norm.

        After NEFTune (arXiv 2310.05914), whose noise is uniform and as large on every token.
        """
        if stream.sense not in self.modalities or not self.config.noise:
            return stream
        size = stream.tokens.square().mean(dim=-1, keepdim=True).sqrt()
        noise = self.config.noise * size * torch.randn_like(stream.tokens)
        return replace(stream, tokens=stream.tokens + noise)


def tune(
    model: Lynx,
    modality: str | Sequence[str],
    examples: Sequence[Example],
    config: TuneConfig | None = None,
    out_dir: str | Path = "adapter",
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the LLM LoRA of the adapter of `modality` and write the adapter; returns the report.

    The adapter is the one that is loaded, else the one in `out_dir`; an LLM LoRA that it has is replaced. It
    stays loaded. With several modalities theirs are the adapters in the folders `out_dir/<modality>`, and all
    of them get one LLM LoRA, trained on clips with any of the senses.

    Raises:
        AdapterError: there is no adapter, or a `lora_B` got no gradient. DataError: nothing to ask.
    """
    config, out_dir = config or TuneConfig(), Path(out_dir)
    folders = {modality: out_dir} if isinstance(modality, str) else {m: out_dir / m for m in modality}
    for sense, folder in folders.items():
        if any(sense in (a.name, a.modality) for a in model.adapters.values()):
            continue
        if not (folder / CONFIG).is_file():
            raise AdapterError(
                f"no adapter for {sense!r} is loaded or in {folder}: run `lynx align` first "
                "(with --steps 0 it makes an adapter that is not aligned)"
            )
        model.load_adapter(folder)
    named = {model.adapter(sense).name: folder for sense, folder in folders.items()}
    with model.lock, ExitStack() as undo:
        lora = _fresh_lora(model, list(named), config)
        for name in named:
            undo.callback(model.remove_lora, name, "llm")
            undo.callback(model.type_embeddings.pop, name, None)
        report = _train(model, named, lora, examples, config, out_dir, progress)
        undo.pop_all()
    return report


def _fresh_lora(model: Lynx, names: Sequence[str], config: TuneConfig) -> str:
    """An LLM LoRA that the adapters share, and the pooling and placement that the config asks for."""
    shaped = {
        name: replace(model.adapter(name), token_pooling=config.token_pooling, placement=config.placement)
        for name in names
    }
    for adapter in shaped.values():
        model.check_placement(adapter)
    begin = _beginning(model, names, config) if config.warm_start else None
    if begin is None:
        for name in (name for name in names if "llm" in model.parts(name)):
            logger.warning("the LLM LoRA of %r is replaced by a fresh one", name)
    for name in names:
        model.remove_lora(name, "llm")
    model.adapters |= shaped
    _fresh_type_embeddings(model, names, config)
    with seeded(config.seed):
        lora = model.add_lora(names[0], "llm", config.lora)
    if begin is not None:
        model.lora.fill(lora, begin)
    model.share_llm(names[0], names[1:])
    return lora


def _fresh_type_embeddings(model: Lynx, names: Sequence[str], config: TuneConfig) -> None:
    """Those that a warm start goes on from, zeros where the config asks for new ones, none otherwise."""
    width = model.backbone.model.config.get_text_config().hidden_size
    for name in names:
        before = model.type_embeddings.pop(name, None)
        if before is not None and config.warm_start:
            model.type_embeddings[name] = before.clone().requires_grad_()
        elif config.type_embedding:
            model.type_embeddings[name] = torch.zeros(width, device=model.backbone.device, requires_grad=True)


def _beginning(model: Lynx, names: Sequence[str], config: TuneConfig) -> dict[str, Tensor]:
    """The weights that a warm start goes on from: of several adapters the sum of the LLM LoRAs they have."""
    loras = model.llm_loras(*names)
    if not loras:
        raise AdapterError(f"{' and '.join(names)} has no LLM LoRA to go on from: tune it afresh")
    parts = [(model.lora.settings[lora], model.lora.tensors(lora)) for lora in loras]
    if len(parts) == 1 and parts[0][0] == config.lora:
        return {key: tensor.detach().clone() for key, tensor in parts[0][1].items()}
    try:
        return merge(parts, config.lora)
    except ValueError as error:
        raise AdapterError(f"cannot go on from {', '.join(names)}: {error}") from error


def _train(
    model: Lynx,
    named: Mapping[str, Path],
    lora: str,
    examples: Sequence[Example],
    config: TuneConfig,
    out_dir: Path,
    progress: bool,
) -> dict[str, Any]:
    folder = out_dir / "training" / "tune"
    frames = config.frames or model.backbone.default_frames
    senses = {model.adapter(name).modality: name for name in named}
    cache = StreamCache(config.cache or folder / "streams", model, {VIDEO: VIDEO, **senses}, frames)
    lessons, kept = _lessons(examples, tuple(senses), progress)
    loss = TuningLoss(model, tuple(senses), lessons, cache, config)
    embeddings = {name: model.type_embeddings[name] for name in named if name in model.type_embeddings}
    weights = model.lora.tensors(lora) | {f"{TYPE_EMBEDDING}.{n}": e for n, e in embeddings.items()}
    of = {"senses": list(senses), "clips": digest_of(*(lesson.key for lesson in lessons))}
    trainer = Trainer(weights, len(lessons), loss, config, folder, of=of, progress=progress)
    share = trainer.accelerator.process_index, trainer.accelerator.num_processes
    encoded = cache.prepare([examples[i] for i in kept], [lesson.key for lesson in lessons], share, progress)
    trainer.accelerator.wait_for_everyone()
    cache.refresh()
    with checkpointed(model.backbone.model, config.checkpointing), model.lora.active([lora], [lora]):
        report = {"stage": "tune", "examples": len(lessons), "encoded": encoded, **trainer.run()}
    if report["without_gradient"]:
        raise AdapterError(f"these weights never got a gradient: {', '.join(report['without_gradient'])}")
    report |= {"config": config.to_dict(), "modalities": list(senses)}
    for embedding in embeddings.values():
        embedding.requires_grad_(False)
    for name, place in named.items() if trainer.accelerator.is_main_process else ():
        save_adapter(model, name, place, training={**model.adapter(name).training, "tune": report})
    trainer.finish()
    return report


def _lessons(
    examples: Sequence[Example], modalities: Sequence[str], progress: bool
) -> tuple[list[Lesson], list[int]]:
    """The lessons, and the indices of their examples."""
    lessons, kept = [], []
    for i in tqdm(range(len(examples)), desc="read", unit="clip", disable=None if progress else True):
        example = examples[i]
        lesson = lesson_of(example, modalities, content_key(example))
        if lesson is not None:
            lessons.append(lesson)
            kept.append(i)
    if not any(is_new(turn, modalities) for lesson in lessons for turn in lesson.turns):
        raise DataError(
            f"none of the {len(examples)} examples has a question that needs "
            f"{' or '.join(map(repr, modalities))} and its media"
        )
    return lessons, kept
