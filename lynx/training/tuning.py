"""Stage 3, instruction tuning: train the LLM LoRA of a sense on questions and answers about clips.

A step: choose what each clip shows and which questions it is asked, pack them (`packing.py`: all questions of
a clip share its tokens in one pass), run the LLM, take the cross-entropy of the answers' tokens. Everything
but the LLM LoRA is frozen, so streams can be encoded once and read from disk (`stream_cache.py`). Beside the
questions that need the sense, some are replayed that need only what the model could do before.

Several senses may be tuned together. They then share one LLM LoRA, which each of their adapters carries, and
which is applied once, whichever of them are used.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lynx.adapters.format import CONFIG, TYPE_EMBEDDING, current_folder
from lynx.adapters.lora import merge
from lynx.adapters.saving import save_adapter
from lynx.adapters.tuned_on import TunedOn
from lynx.backbones.familiarity import CLIPS, FamiliarTokens, familiar_tokens
from lynx.backbones.memory import checkpointed
from lynx.config import Sampling, TuneConfig
from lynx.datasets.base import Example, Turn
from lynx.datasets.reading import clip_reader
from lynx.errors import AdapterError, DataError
from lynx.model import Lynx
from lynx.training.options import Validation, Watch
from lynx.training.own_answers import OWN, OwnAnswers, load_turns, save_turns
from lynx.training.processes import Processes
from lynx.training.questions import (
    TrainingClip,
    needs_new_sense,
    refuse_unknown_words,
    shuffled,
    taught_words,
    training_data,
)
from lynx.training.sharding import shard_llm
from lynx.training.stream_cache import Keeping, StreamCache
from lynx.training.trainer import Trainer, digest_of, seeded
from lynx.training.tuning_loss import HeldOutLoss, TuningLoss
from lynx.training.validation import HeldOut
from lynx.types import VIDEO

logger = logging.getLogger(__name__)

OWN_ANSWERS = "own_answers.jsonl"
"""Name of the file of answers that the backbone gave before it was tuned, for replay."""


def tune(
    model: Lynx,
    modality: str | Sequence[str],
    examples: Sequence[Example],
    config: TuneConfig | None = None,
    out_dir: str | Path = "adapter",
    *,
    sampling: Sampling | None = None,
    validation: Validation | None = None,
    held_out: Sequence[Example] = (),
    watch: Watch | None = None,
    data: str = "",
    cache: Keeping = "auto",
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    loss: Callable[..., TuningLoss] = TuningLoss,
    trainer: Callable[..., Trainer] = Trainer,
    allow_unknown_words: bool = False,
    shard: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the LLM LoRA of the adapter of `modality` and write the adapter; returns the report.

    The adapter is the one that is loaded, else the one in `out_dir`; its present LLM LoRA is replaced when
    training ends, and stays, in the model and on disk, when training fails. The adapter stays loaded. With
    several modalities the adapters are in `out_dir/<modality>`, and share one LLM LoRA, trained on clips with
    any of the senses. With `config.resume` a finished run is not repeated.

    validation: what is held out of `examples`, beside `held_out`; how often these clips are measured, and
    whether the weights that did best are kept. watch: what is kept of the run, and where it is shown.
    data: what the examples are, in a few words, for the adapter's description.
    cache: whether encoded streams are kept on disk, see `Keeping`; the streams are the same but for rounding.
    cache_dir: their folder, in `out_dir` if None. workers: see `clip_reader`; no result depends on them.
    loss, trainer: classes that a recipe replaces.
    allow_unknown_words: of answers, in a backbone with a closed vocabulary, which has no tokens for them.
    shard: whether the processes divide the LLM's frozen weights among them, see `shard_llm`.
    Raises: AdapterError: there is no adapter, or a `lora_B` got no gradient. DataError: nothing to ask, or
    answers with words that cannot be said.
    """
    config, sampling, out_dir = config or TuneConfig(), sampling or Sampling(), Path(out_dir)
    named = _adapters_to_tune(model, modality, out_dir)
    senses = {model.adapter(name).modality: name for name in named}
    validation = validation or Validation()
    validation.check(bool(held_out) or validation.val_share > 0)
    found = training_data(examples, tuple(senses), validation, held_out, config.seed, progress)
    clips = found.clips
    if not allow_unknown_words:
        refuse_unknown_words(model.backbone, [*clips, *found.held_out])
    training, frames = out_dir / "training" / "tune", config.frames or model.backbone.default_frames
    with model.lock, ExitStack() as undo, ExitStack() as readers:
        replaced = [name for name in named if model.llm_loras(name) and not config.warm_start]
        undo.callback(_llm_restorer(model, list(named)))
        lora = _start_lora(model, list(named), config, frames)
        embeddings = {name: vector for name, vector in model.type_embeddings.items() if name in named}
        place = cache_dir or training / "streams"
        streams = StreamCache(place, model, {VIDEO: VIDEO, **senses}, frames, cache)
        asked = loss(model, tuple(senses), clips, streams, sampling)
        measure = HeldOutLoss(asked, lora, found.held_out, config.batch_size, shard)
        run = trainer(
            model.lora.tensors(lora) | {f"{TYPE_EMBEDDING}.{n}": e for n, e in embeddings.items()},
            len(clips),
            asked,
            config,
            training,
            of={
                "senses": list(senses),
                "clips": digest_of(*(clip.key for clip in clips)),
                # include digests of the vision LoRAs: an adapter aligned again has to be tuned again
                "streams": {sense: place.name for sense, place in streams.folders.items()},
                **sampling.to_dict(),
            },
            held_out=_held_out(measure, validation, found.held_out),
            watch=watch,
            expect=partial(asked.expect, ahead=config.batch_size),
            progress=progress,
        )
        if (report := run.finished("tune", *named.values())) is not None:
            undo.close()  # restores the LLM side
            _load_finished(model, named, run.id)
            return report
        processes = Processes(model.backbone.device)
        if shard:
            shard_llm(model.backbone, processes)
        for name in replaced:
            logger.warning("the LLM LoRA of %r is replaced by a fresh one", name)
        processes.wait()  # every process lists what is missing before any writes
        share = processes.index, processes.count
        to_draw = min(len(clips), run.steps * config.accumulate * config.batch_size)  # at least, in a process
        streams.reader = readers.enter_context(
            clip_reader(workers, found.examples, to_draw, model.backbone.device, share[1])
        )
        encoded = sum(processes.gather(streams.prepare(found.examples, found.keys, share, progress)))
        streams.refresh()  # sees what other processes have encoded
        own = OwnAnswers(model, streams, {clip.key: clip.senses for clip in clips}, shard)
        wanted = _wants_own_answers(clips, tuple(senses), sampling)
        said = _own_answers(own, training / OWN_ANSWERS, run, sampling, wanted, progress)
        clips[:] = [replace(clip, turns=(*clip.turns, *said.get(clip.key, ()))) for clip in clips]
        with checkpointed(model.backbone.model, config.checkpointing), model.lora.active([lora], [lora]):
            trained = run.run()
        if lost := trained["without_gradient"]:
            raise AdapterError(f"these weights never got a gradient: {', '.join(lost)}")
        asked_of = sum(turn.type != OWN for clip in clips for turn in clip.turns)
        report = {"stage": "tune", "examples": len(clips), "questions": asked_of}
        report |= {"held_out": len(found.held_out), "encoded": encoded, **trained}
        report |= {"config": config.to_dict(), "sampling": sampling.to_dict()}
        report |= {"modalities": list(senses), "cache": streams.keep, "run": run.id}
        report["damage"] = asdict(damage := own.damage([lora]))
        logger.info("%s", damage)
        for embedding in embeddings.values():
            embedding.requires_grad_(False)
        for sense, name in senses.items():
            model.familiar_tokens |= _familiar(sense, name, clips, streams, config.seed)
        report["words"] = taught_words(model.backbone, clips)
        for name, folder in named.items():
            adapter = model.adapter(name)  # figures that were measured are those of its former weights
            before = model.tuned_on.get(name) if config.warm_start else None
            model.tuned_on[name] = found.tuned_on | (before or TunedOn())
            words = sorted({*report["words"], *(adapter.words if config.warm_start else ())})
            described = _described(adapter.training, data, {**report, "words": words})
            model.adapters[name] = replace(adapter, training=described, metrics={})
            if processes.main:
                save_adapter(model, name, folder, run=out_dir)
        run.finish()
        undo.pop_all()
    return report


def _held_out(
    measure: HeldOutLoss, validation: Validation, clips: Sequence[TrainingClip]
) -> HeldOut | None:
    """What measures these clips in a run; None where there are none."""
    aside = {"held_out": digest_of(*(clip.key for clip in clips))}
    return HeldOut(measure, validation, aside) if clips else None


def _described(training: Mapping[str, Any], data: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapter says of its training once it is tuned; data: on what, where that is known."""
    kept = {name: value for name, value in training.items() if name != "data"}
    return {**kept, **({"data": data} if data else {}), "tune": report}


def _load_finished(model: Lynx, named: Mapping[str, Path], run: str) -> None:
    """Exchange the adapters that are not of this run, which has ended, for those in its folders."""
    for name, folder in named.items():
        if model.adapter(name).training.get("tune", {}).get("run") != run:
            model.unload_adapter(name)
            model.load_adapter(folder)


def _wants_own_answers(
    clips: Sequence[TrainingClip], modalities: Sequence[str], sampling: Sampling
) -> bool:
    """Whether the backbone is to answer questions for replay; where nothing is replayed, a warning."""
    there = any(not needs_new_sense(turn, modalities) for clip in clips for turn in clip.turns)
    wanted = sampling.replay > 0 and (
        sampling.replay_from == "self" or (sampling.replay_from == "auto" and not there)
    )
    if not wanted and not (there and sampling.replay):
        logger.warning(
            "no question that can do without %s is replayed: with the sense on, the model may forget what it "
            "could do (give replay_from: self)", " or ".join(modalities),
        )  # fmt: skip
    return wanted


def _own_answers(
    own: OwnAnswers, path: Path, run: Trainer, sampling: Sampling, wanted: bool, progress: bool
) -> dict[str, list[Turn]]:
    """The backbone's own answers by clip: each process asks for its share, and they are kept for a run that
    goes on; {} where they are not wanted."""
    if not wanted:
        return {}
    processes = run.processes
    if processes.once(lambda: run.config.resume and path.is_file()):
        said = load_turns(path)
    else:
        shares = processes.gather(own.to_replay((processes.index, processes.count), progress))
        said = {key: turns for share in shares for key, turns in share.items()}
        if processes.main:
            save_turns(path, said)
    if not said and sampling.replay_from == "self":
        raise DataError(
            "the backbone's closed vocabulary has the words of none of the general questions, so there is "
            "nothing of its own to replay: add questions that need no new sense"
        )
    return said


def _familiar(
    sense: str, name: str, clips: Sequence[TrainingClip], streams: StreamCache, seed: int
) -> dict[str, FamiliarTokens]:
    """What the clips of a sense look like, by the adapter's name; nothing where there are too few.

    Of one half of them the tokens are drawn, the other half says how far others are at most.
    """
    keys = list(dict.fromkeys(clip.key for clip in clips if sense in clip.senses))
    with seeded(seed):
        drawn = [streams.stream(sense, key) for key in shuffled(keys)[:CLIPS]]
    half = len(drawn) // 2
    return {name: familiar_tokens(drawn[:half], drawn[half:], seed)} if half else {}


def _adapters_to_tune(model: Lynx, modality: str | Sequence[str], out_dir: Path) -> dict[str, Path]:
    """Adapter name -> folder it is written to; an adapter that is not loaded is loaded from there."""
    folders = {modality: out_dir} if isinstance(modality, str) else {m: out_dir / m for m in modality}
    for sense, folder in folders.items():
        if any(sense in (adapter.name, adapter.modality) for adapter in model.adapters.values()):
            continue
        if not (current_folder(folder) / CONFIG).is_file():
            raise AdapterError(
                f"no adapter for {sense!r} is loaded or in {folder}: run `lynx align` first "
                "(with --steps 0 it makes an adapter that is not aligned)"
            )
        model.load_adapter(folder)
    return {model.adapter(sense).name: folder for sense, folder in folders.items()}


def _start_lora(model: Lynx, names: Sequence[str], config: TuneConfig, frames: int) -> str:
    """Give the adapters one LLM LoRA to train, and say in them how their tokens are made; returns its name.

    Its weights are those of a warm start, else fresh; so are the type embeddings.
    """
    pooling, placement = config.token_pooling, config.placement
    described = {
        name: replace(model.adapter(name), token_pooling=pooling, placement=placement, frames=frames)
        for name in names
    }
    for adapter in described.values():
        model.check_placement(adapter)
    weights = _warm_start_weights(model, names, config) if config.warm_start else None
    width = model.backbone.width
    for name in names:
        model.remove_lora(name, "llm")
        old = model.type_embeddings.pop(name, None)  # (D,)
        if old is not None and config.warm_start:
            model.type_embeddings[name] = old.clone().requires_grad_()
        elif config.type_embedding:
            model.type_embeddings[name] = torch.zeros(width, device=model.backbone.device, requires_grad=True)
    model.adapters |= described
    with seeded(config.seed):
        lora = model.add_lora(names[0], "llm", config.lora)
    if weights is not None:
        model.lora.fill(lora, weights)
    model.share_llm(names[0], names[1:])
    return lora


def _warm_start_weights(model: Lynx, names: Sequence[str], config: TuneConfig) -> dict[str, Tensor]:
    """The weights that a warm start begins with: of several adapters the sum of the LLM LoRAs they have."""
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


def _llm_restorer(model: Lynx, names: Sequence[str]) -> Callable[[], None]:
    """A function that restores the present LLM side of some adapters.

    That is: their LoRAs, which adapters share them, type embeddings, descriptions.
    """
    adapters = {name: model.adapters[name] for name in names}
    embeddings = {name: model.type_embeddings[name] for name in names if name in model.type_embeddings}
    familiar = {name: model.familiar_tokens[name] for name in names if name in model.familiar_tokens}
    tuned_on = {name: model.tuned_on[name] for name in names if name in model.tuned_on}
    users: dict[str, list[str]] = {}  # LoRA -> those of `names` that use it
    for name in names:
        for lora in model.llm_loras(name):
            users.setdefault(lora, []).append(name)
    # These tensors outlive the removal of their LoRA from the model; nothing writes to them.
    loras = {lora: (model.lora.settings[lora], model.lora.tensors(lora)) for lora in users}

    def restore() -> None:
        others = [name for name in model.adapters if name not in names]
        for name in names:
            model.remove_lora(name, "llm")
            model.type_embeddings.pop(name, None)
            model.familiar_tokens.pop(name, None)
            model.tuned_on.pop(name, None)
        model.adapters |= adapters
        model.type_embeddings |= embeddings
        model.familiar_tokens |= familiar
        model.tuned_on |= tuned_on
        for lora, (settings, tensors) in loras.items():
            keeper = next((name for name in others if lora in model.llm_loras(name)), None)
            if keeper is None:  # no other adapter used it, so it was removed
                keeper = users[lora][0]
                with seeded(0):  # the caller's random numbers stay as they are
                    model.lora.fill(model.add_lora(keeper, "llm", settings), tensors)
            model.share_llm(keeper, users[lora])

    return restore
