"""Checkpoints in the layout of the method's released code become adapters of lynx.

Such a checkpoint is a Trainer folder with two PEFT adapters, `vision/` and `llm/`, whose tensors are named as
transformers 4 or a family's original code named the modules, and whose configuration lists shortened targets.
Ranks are read from the tensors, targets from their names. A checkpoint that cannot be converted exactly is
refused; the result is read back and has to compute what the checkpoint computes.
"""

import os
import pickle
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lynx import modalities
from lynx.adapters.format import PARTS, Adapter, check_numbers, read_adapter
from lynx.adapters.lora_options import PEFT_CONFIG, check_targets, parse_settings
from lynx.adapters.registry import AdaptedBackbone
from lynx.adapters.saving import save_adapter
from lynx.backbones import Backbone
from lynx.compat import PEFT_PREFIX, peft_layer
from lynx.config import LoraSettings, read_json_object
from lynx.errors import AdapterError, writing
from lynx.modalities import Modality

WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin")
"""Names of a part's weight file; the first that exists is read."""
STYLE = "released"
"""Style of the pictures that such checkpoints were trained on."""
TOLERANCE, ROUNDED_TOLERANCE = 1e-4, 2e-2
"""Largest difference of an import's outputs, relative to the largest output: in fp32, in other precisions."""

_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<matrix>[AB])(\.(?P<adapter>\w+))?\.weight")
_WRAPPERS = {"base_model", "model", "module", "vision_model", "language_model"}
"""Levels of module names that differ between the original code, transformers 4 and 5."""

Pair = tuple[Tensor, Tensor]
"""The two matrices of a LoRA on one module: A (r, in) and B (out, r)."""


@dataclass(frozen=True)
class Part:
    """One LoRA of a checkpoint under this backbone's module names."""

    settings: LoraSettings
    pairs: Mapping[str, Pair]
    names: Mapping[str, str]  # of the same modules in the checkpoint
    config: Mapping[str, Any]  # what `adapter_config.json` says
    source: Path
    dropped: tuple[str, ...]  # modules that lynx does not adapt and whose B is zero
    absent: tuple[str, ...]  # kinds of modules that were not trained

    def report(self) -> dict[str, Any]:
        """Sizes, and everything that was not converted one to one."""
        return {
            "from": self.source.name,
            "rank": self.settings.rank,
            "alpha": self.settings.alpha,
            "modules": len(self.pairs),
            "not_trained": list(self.absent),
            "dropped": list(self.dropped),
            "without_effect": not any(bool(b.any()) for _, b in self.pairs.values()),
        }


def read_backbone_name(folder: Path) -> str | None:
    """The backbone that a checkpoint's configurations name; None where they name none."""
    configs = [read_json_object(folder / part / PEFT_CONFIG) for part in _parts(folder)]
    names = [config.get("base_model_name_or_path") for config in configs]
    named = sorted({name for name in names if isinstance(name, str) and name})
    if len(named) > 1:
        raise AdapterError(f"the parts of {folder} name different backbones: {', '.join(named)}")
    return named[0] if named else None


def import_adapter(
    folder: Path,
    backbone: Backbone,
    out: Path,
    *,
    modality: str,
    name: str | None = None,
    rendering: Mapping[str, Any] | None = None,
    placement: str = "continue",
    token_pooling: str | None = None,
) -> dict[str, Any]:
    """Write a checkpoint of the released code as an adapter, and verify it; returns a report.

    rendering: how its pseudo-frames were drawn, where the released code's defaults are not right; its `style`
    is the released code's if that draws the sense in its own way, and if none is given. token_pooling: what
    the LLM got, one of POOLINGS; None: as there, the mean over the two pictures of a moment, if it has two.
    placement: which positions its tokens had, one of PLACEMENTS.
    Raises: LynxError: it cannot be converted exactly, or `out` is not empty; then nothing is written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AdapterError(f"{out} is there already: give another folder")
    drawn = _drawn(modality, rendering or {})
    pooling = token_pooling or ("moments" if drawn.to_dict().get("show") == "both" else "none")
    parts = {part: read_part(folder / part, part, backbone) for part in _parts(folder)}
    reports = {part: read.report() for part, read in parts.items()}
    model, name = AdaptedBackbone(backbone), name or modality
    adapter = Adapter(name, modality, drawn.to_dict(), token_pooling=pooling, placement=placement)
    model.add_adapter(replace(adapter, training={"imported": reports}))
    try:
        # what the checkpoint's own tensors compute, before there is a LoRA of ours
        expected = {part: _outputs(model, name, part, read) for part, read in parts.items()}
        for part, read in parts.items():
            lora = model.add_lora(name, part, read.settings)
            # modules that were not trained get zeros, which change nothing
            tensors = {key: torch.zeros_like(weight) for key, weight in model.lora.tensors(lora).items()}
            model.lora.fill(lora, tensors | _tensors_of(read))
        with writing(out, AdapterError):
            out.parent.mkdir(parents=True, exist_ok=True)
        with (
            writing(out, AdapterError),
            tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as partial,
        ):
            written = Path(partial) / "adapter"
            try:
                save_adapter(model, name, written)
                differences = _verify(model, name, written, parts, expected)
            except AdapterError as error:  # which may name a folder that is gone when this is read
                reason = str(error).replace(str(written), str(out))
                raise AdapterError(f"{folder} is not imported: {reason}") from error
            if out.is_dir():
                out.rmdir()
            os.rename(written, out)
    finally:
        if name in model.adapters:
            model.unload_adapter(name)
    assumed = {"style": drawn.style, "rendering": drawn.to_dict(), "token_pooling": pooling}
    return {**assumed, "parts": reports, "largest_difference": differences}


def _drawn(modality: str, rendering: Mapping[str, Any]) -> Modality:
    """The sense as the released code draws it, if that is known and no other style is asked for."""
    kind = modalities.get(modality)
    style = {"style": STYLE} if STYLE in kind.styles else {}
    return kind.from_dict(style | dict(rendering))


def _parts(folder: Path) -> list[str]:
    parts = [part for part in PARTS if (folder / part).is_dir()]
    if not parts:
        inner = sorted(path.name for path in folder.glob("checkpoint-*") if path.is_dir())
        hint = f"; it holds {', '.join(inner)}: name one of them" if inner else ""
        raise AdapterError(f"{folder} has no folder vision/ or llm/ with a PEFT adapter{hint}")
    return parts


def read_part(folder: Path, part: str, backbone: Backbone) -> Part:
    """One PEFT folder of a checkpoint, under this backbone's names. Raises: AdapterError: what is wrong."""
    config = read_json_object(folder / PEFT_CONFIG)
    settings = parse_settings(config, folder)
    source = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if source is None:
        raise AdapterError(f"{folder} has no weights: expected one of {', '.join(WEIGHT_FILES)}")
    targets = backbone.vision_targets if part == "vision" else backbone.llm_targets
    ours = [name for name, _ in backbone.model.named_modules() if re.fullmatch(targets, name)]
    by_name = {canonical(name): name for name in ours}
    ours_are = f"the {part} part of {backbone.source!r} has"
    pairs: dict[str, Pair] = {}
    names: dict[str, str] = {}
    dropped = []
    for theirs, name, pair in _current_names(_read_pairs(source, part), backbone, source):
        target = by_name.get(canonical(name))
        if target is None and bool(pair[1].any()):
            raise AdapterError(
                f"{source} adapts {name!r}, which is not among the modules that {ours_are}: is it for "
                "another backbone?"
            )
        if target is None:
            dropped.append(name)  # its B is zero: it changes nothing
        elif target in pairs:
            raise AdapterError(f"{source} adapts {target!r} twice, the second time as {name!r}")
        else:
            pairs[target], names[target] = pair, theirs
    if not pairs:
        raise AdapterError(f"{source} has no LoRA on a module that {ours_are}")
    ranks = {rank for a, b in pairs.values() for rank in (a.shape[0], b.shape[1])}
    if ranks != {settings.rank}:
        listed = ", ".join(map(str, sorted(ranks)))
        raise AdapterError(f"{source} holds tensors of rank {listed}, {PEFT_CONFIG} says {settings.rank}")
    for name, (a, b) in pairs.items():
        module = backbone.model.get_submodule(name)
        size, real = (b.shape[0], a.shape[1]), (module.out_features, module.in_features)
        if size != real:
            raise AdapterError(f"{source}: {name} is for a layer {size}, the backbone's is {real} (out, in)")
    # a pattern is of full names: those in the checkpoint or, where PEFT renamed them for its file, today's
    claimed = [(theirs.removeprefix(PEFT_PREFIX), ours) for ours, theirs in names.items()]
    check_targets(config.get("target_modules"), claimed, folder)
    missing = [name for name in ours if name not in pairs]
    absent = _untrained_kinds(missing, pairs, config.get("target_modules"), backbone, source)
    return Part(settings, pairs, names, config, source, tuple(dropped), absent)


def _read_pairs(path: Path, part: str) -> dict[str, Pair]:
    """Module, under the checkpoint's name -> its A and B.

    A pickle is read with `weights_only`, which builds tensors and nothing else.
    """
    try:
        safe = path.suffix == ".safetensors"
        content: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise AdapterError(f"{path} holds more than tensors, which could run code: it is not read") from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise AdapterError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise AdapterError(f"{path} is not a mapping of names to tensors")
    check_numbers(content, path)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in content.items():
        match = _TENSOR.fullmatch(key)
        if match is None or match["adapter"] not in (None, "default", part) or tensor.ndim != 2:
            shape = tuple(tensor.shape)
            raise AdapterError(f"{path} holds {key!r} {shape}, which is no tensor of a linear LoRA")
        found.setdefault(match["module"], {})[match["matrix"]] = tensor
    single = [module for module, matrices in found.items() if len(matrices) == 1]
    if single:
        raise AdapterError(f"{path} is incomplete: {single[0]!r} has only one of lora_A and lora_B")
    return {module: (matrices["A"], matrices["B"]) for module, matrices in found.items()}


def _current_names(
    theirs: Mapping[str, Pair], backbone: Backbone, path: Path
) -> Iterator[tuple[str, str, Pair]]:
    """The pairs by their own names, and by those of transformers in place of the family's original code's.

    A LoRA on a fused linear is one on each of its parts: the same A, and each part's rows of B.
    """
    for name, (a, b) in theirs.items():
        parts = [name]
        for original, current in backbone.original_names.items():
            if found := re.search(re.escape(original).replace(r"\*", r"(\d+)") + "$", name):
                parts = [name[: found.start()] + each.replace("*", found[1]) for each in current]
                break
        if len(b) % len(parts):
            raise AdapterError(f"{path}: {name!r} has {len(b)} rows, which are not {len(parts)} equal parts")
        yield from ((name, part, (a, rows)) for part, rows in zip(parts, b.chunk(len(parts)), strict=True))


def canonical(name: str) -> str:
    """A module's name without the levels that differ between versions: the same for the same module."""
    levels = [level for level in name.split(".") if level not in _WRAPPERS]
    return ".".join(level for i, level in enumerate(levels) if i == 0 or level != levels[i - 1])


def _untrained_kinds(
    missing: list[str], pairs: Mapping[str, Pair], claimed: Any, backbone: Backbone, path: Path
) -> tuple[str, ...]:
    """Kinds of modules without any tensor; a kind with only some of its tensors is an error.

    claimed: `target_modules` of the configuration, ends of module names; what it lists was trained.
    """

    def kind(name: str) -> str:
        return re.sub(r"\.\d+(?=\.)", ".*", name)

    suffixes = tuple(f".{suffix}" for suffix in claimed) if isinstance(claimed, list) else ()
    renamed = [ours for theirs, ours in backbone.original_names.items() if theirs.endswith(suffixes)]
    suffixes += tuple(f".{name}" for names in renamed for name in names)
    kinds = {kind(name) for name in pairs}
    for name in missing:
        if kind(name) in kinds or f".{name}".endswith(suffixes) or f".{kind(name)}".endswith(suffixes):
            raise AdapterError(f"{path} is incomplete: {len(missing)} modules are missing, such as {name!r}")
    return tuple(sorted({kind(name) for name in missing}))


def _tensors_of(read: Part) -> dict[str, Tensor]:
    """A part's matrices under the names of PEFT's files."""
    return {
        f"{PEFT_PREFIX}{name}.lora_{matrix}.weight": tensor
        for name, pair in read.pairs.items()
        for matrix, tensor in zip("AB", pair, strict=True)
    }


@contextmanager
def _with_tensors_of(read: Part, backbone: Backbone) -> Iterator[None]:
    """Inside the `with` the stock model computes what PEFT does with the checkpoint's LoRA.

    One layer at a time is copied and given to PEFT with the checkpoint's own settings: whatever PEFT does to
    base weights happens to the copy, and no second model is held in memory.
    """

    def compute(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        theirs = read.names[name].removeprefix(PEFT_PREFIX)
        try:
            layer = peft_layer(module, theirs, read.config, dict(zip("AB", read.pairs[name], strict=True)))
            found: Tensor = layer(*inputs)  # (..., out)
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
            raise AdapterError(
                f"PEFT itself does not load {theirs!r} of {read.source} with its {PEFT_CONFIG} ({error}): "
                "have PEFT write both again"
            ) from error
        return found.to(output.dtype)

    with ExitStack() as stack:
        for name in read.pairs:
            module = backbone.model.get_submodule(name)
            stack.callback(module.register_forward_hook(partial(compute, name)).remove)
        yield


def _outputs(model: AdaptedBackbone, name: str, part: str, read: Part | None = None) -> Tensor:
    """Outputs of a part on fixed inputs: through its LoRA, or with the checkpoint's tensors if given.

    vision: interface tokens of two frames of noise; llm: hidden states of a short question.
    """
    backbone = model.backbone
    using = model.sensing(name) if part == "vision" else model.using(name)
    with torch.no_grad(), model.lock, using if read is None else _with_tensors_of(read, backbone):
        if part == "vision":
            generator = torch.Generator().manual_seed(0)
            frames = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8, generator=generator)
            return backbone.encode(backbone.pixels(frames))[0].float()
        prompt = backbone.compose([{"role": "user", "content": "what do you hear ?"}])
        hidden: Tensor = backbone.model.get_decoder()(
            **backbone.decoder_inputs(prompt.input_ids, prompt.inputs_embeds),
            attention_mask=prompt.attention_mask,
            position_ids=prompt.position_ids,
            use_cache=False,
        ).last_hidden_state
        return hidden.float()


def _verify(
    model: AdaptedBackbone, name: str, written: Path, parts: Mapping[str, Part], outputs: Mapping[str, Tensor]
) -> dict[str, float]:
    """Load what was written in place of `name`, and compare its tensors and outputs with the checkpoint's.

    Returns of each part the largest difference of its outputs, relative to the largest output.
    Raises: AdapterError: a tensor is not the checkpoint's (zero where it has none), or outputs differ.
    """
    for part, (settings, tensors) in read_adapter(written, model.backbone).parts.items():
        read = parts[part]
        for key, theirs in _tensors_of(read).items():
            mine = tensors.pop(key)
            if not torch.equal(mine, theirs.to(mine.dtype)):
                raise AdapterError(f"what was written for {key} is not what {read.source} holds")
        if settings != read.settings or any(bool(rest.any()) for rest in tensors.values()):
            raise AdapterError(f"what was written for {part} is not what {read.source} holds")
    model.unload_adapter(name)
    model.load_adapter(written)
    differences = {}
    for part, expected in outputs.items():
        found, scale = _outputs(model, name, part), expected.abs().max().clamp(min=1e-12)
        difference = differences[part] = float((found - expected).abs().max() / scale)
        if not difference <= (TOLERANCE if model.backbone.dtype == torch.float32 else ROUNDED_TOLERANCE):
            raise AdapterError(
                f"the imported {part} part computes something else than the checkpoint: outputs differ by "
                f"{difference:.2g} of the largest"
            )
    return differences
