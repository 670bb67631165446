"""The one training loop: LoRA weights, a loss over example indices, AdamW with warm-up and cosine.

A step depends on its number alone: the order of the data and every random draw of its forward pass i come
from (seed, step, i), so a checkpoint holds weights and optimizer state only, and a resumed run equals an
uninterrupted one bit for bit. The forward passes of a step are divided among `accumulate` and the processes:
only the product of the two decides what is trained. LoRA gradients are small: processes add them up directly,
without a wrapper around the frozen model. Checkpoints are safetensors.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lynx import compat
from lynx.adapters.format import CONFIG, current_folder, read_adapter_config
from lynx.config import TrainConfig
from lynx.errors import AdapterError, DataError, writing
from lynx.training.checkpoints import Checkpoints, one_run
from lynx.training.options import NO_TRACKER, Watch
from lynx.training.processes import Processes
from lynx.training.run_log import RunLog
from lynx.training.trackers import Tracked, require_tracker
from lynx.training.validation import LOSS, PREFIX, HeldOut

logger = logging.getLogger(__name__)

Loss = Callable[[list[int]], dict[str, Tensor]]
"""Indices of examples -> {"loss": a scalar with gradients, other names: scalars for the log}.

"weight", where it is there, is not logged: of how many things the loss is the mean. The loss of a step is
then their mean over all its forward passes, as if there had been one.
"""

Pass = tuple[int, list[int]]
"""A forward pass that is to come: the seed of its random draws, and the indices of its examples."""

VECTOR_RATE = 10.0
"""Learning rate of a vector (a type embedding) relative to a LoRA's: AdamW moves every number by the
learning rate, and a LoRA acts through sums of many products of numbers, a vector by each number alone."""
UNSHOWN = ("step", "lr", "seconds")
"""Names in the log of which a mean says nothing."""
FEW_STEPS = 20
"""Steps below which a run that was told its epochs says how few they are."""
FREE = frozenset({"save_every", "resume", "epochs"})
"""Settings that do not affect a run's result (`epochs` does so through the number of steps)."""
PLAIN = {"accumulate": "accumulate times processes"}
"""What a setting of a run is, where that is not its name."""


def warmup_cosine(step: int, steps: int, peak: float, warmup: float, floor: float = 0.0) -> float:
    """The learning rate of step 0..steps-1: a linear rise over the first `warmup` of them, then a half cosine
    from `peak` to `floor * peak`.

    Closed form, so that a resumed run gets exactly the same rates: torch's CosineAnnealingLR computes each
    from the one before, and transformers' schedule begins with a step at 0.
    """
    rise = math.ceil(warmup * steps)
    if step < rise:
        return peak * (step + 1) / rise
    fall = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
    return peak * (floor + (1 - floor) * fall)


class Order:
    """Batches of indices of `examples` examples: one shuffle after the other, without gaps between them."""

    def __init__(self, examples: int, batch: int, seed: int) -> None:
        self.examples, self.size, self.seed = examples, batch, seed
        self._shuffles: dict[int, list[int]] = {}

    def batch(self, number: int) -> list[int]:
        """The indices of batch `number`, always `batch` of them."""
        places = range(number * self.size, (number + 1) * self.size)
        return [self._shuffle(place // self.examples)[place % self.examples] for place in places]

    def _shuffle(self, epoch: int) -> list[int]:
        if epoch not in self._shuffles:
            generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
            kept = {e: order for e, order in self._shuffles.items() if e == epoch - 1}  # older ones are done
            self._shuffles = kept | {epoch: torch.randperm(self.examples, generator=generator).tolist()}
        return self._shuffles[epoch]


def seed_of(*parts: Any) -> int:
    """A seed for torch from the parts: 63 bits of their digest."""
    return int(digest_of(*parts), 16) >> 1


def digest_of(*parts: Any) -> str:
    """16 hex digits that identify the parts, by their `repr`."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


class Trainer:
    """Trains `weights` in place, through copies in fp32 of those in a lower precision.

    weights: name -> parameter with gradients. folder: where the log and the checkpoint are kept.
    batch_size: examples a forward pass, if not the config's.
    of: JSON values that identify model and data; a checkpoint with other values is of another run.
    held_out: clips that are measured while it trains. watch: what is kept of the run, and where it is shown.
    expect: is told, before the first step, the passes of this process in their order, to read ahead.

    A recipe overrides `learning_rate` and `step`, and `state` and `load_state` where it keeps tensors of its
    own over the steps.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        examples: int,
        loss: Loss,
        config: TrainConfig,
        folder: Path,
        *,
        batch_size: int | None = None,
        of: Mapping[str, Any] | None = None,
        held_out: HeldOut | None = None,
        watch: Watch | None = None,
        expect: Callable[[Iterator[Pass]], None] | None = None,
        progress: bool = True,
    ) -> None:
        if not examples:
            raise DataError("there is nothing to train on: the data set is empty")
        self.weights, self.loss, self.config, self.folder = dict(weights), loss, config, folder
        self.held_out, self.watch, self.progress = held_out, watch or Watch(), progress
        self.expect = expect
        require_tracker(self.watch.log_with)
        self.checkpoints = Checkpoints(folder, self.watch.keep)
        device = next(iter(self.weights.values())).device
        self.processes, on_cpu = Processes(device), device.type == "cpu"
        # one for the process: where it is a GPU, asking for the CPU here would be an error
        taken = compat.accelerate_device()
        self.accelerator = Accelerator(
            cpu=on_cpu and (taken is None or taken.type == "cpu"),
            log_with=None if self.watch.log_with == NO_TRACKER else self.watch.log_with,
            project_dir=folder,
        )
        fused = {weight.device.type for weight in self.weights.values()} <= {"cpu", "cuda"}
        # What is optimized is fp32: bf16 has 8 bits, and would round most updates away.
        self._masters = {name: weight.detach().float() for name, weight in self.weights.items()}
        groups: dict[float, list[Tensor]] = {}
        for name, master in self._masters.items():
            groups.setdefault(1.0 if _is_lora(name) else VECTOR_RATE, []).append(master)
        rated = [{"params": masters, "rate": rate} for rate, masters in groups.items()]
        decay = config.weight_decay
        self.optimizer = torch.optim.AdamW(rated, lr=config.lr, weight_decay=decay, fused=fused)
        size = batch_size or config.batch_size
        self.order = Order(examples, size, config.seed)
        self.passes_a_step = config.accumulate * self.processes.count  # forward passes of a step
        self.per_step = size * self.passes_a_step  # examples
        epochs = config.epochs * examples / self.per_step  # in steps
        self.steps = math.ceil(epochs) if config.steps is None else config.steps
        self.without_gradient = {name for name in self.weights if ".lora_B." in name}
        self._best: dict[str, Tensor] = {}  # weights of the best measurement, where those are kept
        of = {**(of or {}), **(held_out.identity if held_out else {})}
        # the same for all numbers of processes that these passes are divided among
        settings = config.to_dict() | {"accumulate": self.passes_a_step}
        self._identity = {**of, "config": settings, "steps": self.steps, "examples": examples}

    @property
    def checkpoint(self) -> Path:
        """The file from which a killed run goes on."""
        return self.checkpoints.newest

    @property
    def id(self) -> str:
        """16 hex digits that are the same for a run of the same settings on the same data."""
        settings = _settings(self._identity)
        return digest_of(sorted((key, value) for key, value in settings.items() if key not in FREE))

    def finished(self, stage: str, *adapters: Path) -> dict[str, Any] | None:
        """The report of this run, if it has ended and all its adapters are saved; else None.

        stage: the key of its report among those that an adapter keeps. None without `config.resume`.
        """
        reports = [
            dict(read_adapter_config(folder).training.get(stage, {}))
            for folder in adapters
            if self.config.resume and (current_folder(folder) / CONFIG).is_file()
        ]
        if len(reports) < len(adapters) or any(report.get("run") != self.id for report in reports):
            return None
        logger.warning("%s finished already; --no-resume starts anew", " and ".join(map(str, adapters)))
        return reports[0]

    def run(self) -> dict[str, Any]:
        """Train to the last step; returns the report, with the means of the last tenth of the steps.

        Raises: DataError: the folder holds the checkpoint of another run, or another run is writing there.
        AdapterError: a weight of a LoRA gets no gradient, or the loss is not finite.
        """
        with writing(self.folder, DataError):
            self.folder.mkdir(parents=True, exist_ok=True)
        with one_run(self.folder, self.processes):
            return self._run()

    def _run(self) -> dict[str, Any]:
        start = self._resume() if self.config.resume else 0
        main = self.processes.main
        if main and not start:
            self.checkpoints.clear()  # of a run that is not gone on with
            if self.config.steps is None and self.steps < FEW_STEPS:
                logger.warning(
                    "%g epochs of %d examples are %d steps: few, give --steps or --epochs for more",
                    self.config.epochs, self.order.examples, self.steps,
                )  # fmt: skip
        tracked = Tracked(self.accelerator, self.folder, _settings(self._identity))
        log = RunLog(self.folder, start, self.steps, tracked, writes=main, progress=self.progress)
        if self._best and len(log.rows) < start:
            raise DataError(f"{log.path} lacks rows, which say what was best: start anew with --no-resume")
        if self.expect:
            self.expect(self.passes(start))
        with _random_state_kept(), log.open():
            for step in log.bar:
                if self.held_out and self.held_out.exhausted(log.rows):
                    logger.info("the held-out loss fell no more: ended after %d steps", step)
                    break
                row = self.step(step)
                log.add(row | self._measured(row, log))
                if self.config.save_every and (step + 1) % self.config.save_every == 0:
                    self._save(step + 1)
        for name, weight in self._best.items():
            self._put(name, weight)
        log.draw(self.held_out.best(log.rows) if self.held_out and self._best else None)
        return self._report(log.rows)

    def _measured(self, row: Mapping[str, float], log: RunLog) -> dict[str, float]:
        """What held-out clips say of the weights after a step, if it is time; the best weights are kept."""
        held_out = self.held_out
        if held_out is None or not held_out.due(step := int(row["step"]), self.steps):
            return {}
        found = held_out.row(self.processes)
        if not math.isfinite(found[LOSS]):
            raise AdapterError(f"the loss on held-out clips is {found[LOSS]} at step {step}: lower lr")
        if held_out.config.keep_best and held_out.best([*log.rows, found]) == len(log.rows):
            self._best = {name: master.clone() for name, master in self._masters.items()}
            logger.debug("step %d is the best so far", step + 1)
        return found

    def _report(self, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        done = int(rows[-1]["step"]) + 1 if rows else self.steps
        last = _means(rows[-max(1, len(rows) // 10) :])
        shown = sorted(name for name in last if not name.startswith(PREFIX) and name not in UNSHOWN)
        report = {
            "modules": sum(".lora_B." in name for name in self.weights),
            "parameters": sum(weight.numel() for weight in self.weights.values()),
            "without_gradient": sorted(self.without_gradient) if self.steps else [],
            "steps": done,
            "batch": self.per_step,
            "seconds": rows[-1]["seconds"] if rows else 0.0,
            "last": {name: last[name] for name in shown},
        }
        return report | ({"validation": self.held_out.report(rows)} if self.held_out else {})

    def finish(self) -> None:
        """Delete the checkpoints, once the adapter is saved, unless they are to be kept."""
        self.processes.wait()
        if self.processes.main and not self.watch.keep:
            self.checkpoints.clear()

    def learning_rate(self, step: int) -> float:
        """The learning rate of step 0..steps-1."""
        return warmup_cosine(step, self.steps, self.config.lr, self.config.warmup)

    def passes(self, start: int = 0) -> Iterator[Pass]:
        """The forward passes of this process, from those of step `start` on."""
        order = Order(self.order.examples, self.order.size, self.order.seed)  # which runs ahead of the steps
        for step in range(start, self.steps):
            for part in range(self.config.accumulate):
                number = self._number(step, part)
                yield self._seed(number), order.batch(number)

    def _number(self, step: int, part: int) -> int:
        """Of this process's pass among those of all steps and processes."""
        at = step * self.config.accumulate + part
        return at * self.processes.count + self.processes.index

    def _seed(self, number: int) -> int:
        return seed_of(self.config.seed, "step", number)

    def step(self, step: int) -> dict[str, Any]:
        """One update of the weights; returns its row of the log: means over its forward passes."""
        config, processes = self.config, self.processes
        for weight in self.weights.values():
            weight.grad = None
        mine = []
        for part in range(config.accumulate):
            number = self._number(step, part)
            torch.manual_seed(self._seed(number))
            found = self.loss(self.order.batch(number))
            counted = float(found.pop("weight", 1.0)) if self.passes_a_step > 1 else 1.0
            self.accelerator.backward(found["loss"] * counted)
            told = {name: float(value.detach()) for name, value in found.items() if name != "weight"}
            mine.append((counted, told))
        passes = [each for several in processes.gather(mine) for each in several]
        total = sum(counted for counted, _ in passes)
        row = _means([told for _, told in passes])
        row["loss"] = sum(counted * told["loss"] for counted, told in passes) / total
        if not math.isfinite(row["loss"]):
            raise AdapterError(f"the loss is {row['loss']} at step {step}: lower lr, or look at the data")
        norm = self._average_and_clip_gradients(total)
        lr = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        for name, master in self._masters.items():
            gradient = self.weights[name].grad
            master.grad = None if gradient is None else gradient.float()
        self.optimizer.step()
        for name, master in self._masters.items():
            self.weights[name].data.copy_(master)  # fp32 weights share their memory with it
        return {"step": step, **row, "lr": lr, "grad_norm": norm}

    def _average_and_clip_gradients(self, total: float) -> float:
        """The sum over processes, divided by the weight of all; note which `lora_B` got a gradient, clip;
        returns the norm before."""
        missing = [name for name, weight in self.weights.items() if weight.grad is None]
        if lost := [name for name in missing if _is_lora(name)]:
            raise AdapterError(f"{len(lost)} weights get no gradient, such as {lost[0]}")
        for name in missing:  # of senses that no clip of the batch shows
            self.weights[name].grad = torch.zeros_like(self.weights[name])
        gradients = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        for gradient in gradients.values() if self.passes_a_step > 1 else ():
            gradient.copy_(self.processes.sum(gradient) / total)
        self.without_gradient -= {name for name in self.without_gradient if bool(gradients[name].any())}
        limit = self.config.max_grad_norm or math.inf
        return float(nn.utils.clip_grad_norm_(list(self.weights.values()), limit))

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: the weights, the best ones, and the optimizer's own tensors."""
        tensors = {f"weight/{name}": master for name, master in self._masters.items()}
        tensors |= {f"best/{name}": weight for name, weight in self._best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "weight":
                self._put(rest, tensor)
            elif kind == "best":
                self._best[rest] = tensor.to(self._masters[rest])
            elif kind == "optimizer":
                index, _, key = rest.partition("/")
                state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _put(self, name: str, weight: Tensor) -> None:
        self._masters[name].copy_(weight)
        self.weights[name].data.copy_(weight)

    def _save(self, step: int) -> None:
        if self.processes.main:
            about = {"silent": sorted(self.without_gradient), "run": self._identity}
            self.checkpoints.save(self.state(), about, step)
        self.processes.wait()

    def _resume(self) -> int:
        """Load the checkpoint, if there is one of this run; returns the step to go on with."""
        if not self.checkpoint.exists():
            return 0
        path = self.checkpoint
        tensors, about = self.checkpoints.load()
        was, now = _settings(about["run"]), _settings(self._identity)
        free = {*FREE, "steps"}  # a run can be made longer
        differ = [name for name in now if name not in free and was.get(name) != now[name]]
        changed = [f"{PLAIN.get(name, name)} {was.get(name)} -> {now[name]}" for name in differ]
        if was["steps"] != now["steps"]:
            logger.warning("the run is of %s steps now, no longer of %s", now["steps"], was["steps"])
        if changed:
            raise DataError(
                f"{path} is of a run with other settings ({', '.join(changed)}): give those, another folder, "
                "or --no-resume"
            )
        self.load_state(tensors)
        self.without_gradient = set(about["silent"])
        logger.info("going on from step %s of %s", about["step"], path)
        return int(about["step"])


def _settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a run side by side, as JSON values."""
    values = json.loads(json.dumps(identity))
    return {**values.pop("config"), **values}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every name over the rows that have it."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in columns.items()}


def _is_lora(name: str) -> bool:
    return ".lora_" in name


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the caller's random state afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers inside depend on `seed` alone, and those outside are unchanged."""
    with _random_state_kept():
        torch.manual_seed(seed_of(seed, "weights"))
        yield
