"""A benchmark on a folder: its questions asked and scored, or its folder looked at."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lynx.adapters.model_card import TABLE
from lynx.adapters.tuned_on import NEW
from lynx.datasets.base import Example
from lynx.datasets.public import PublicDataset
from lynx.errors import DataError
from lynx.evaluation.benchmarks import Benchmark
from lynx.evaluation.predictions import Prediction, PredictionFile, refuse_fewer
from lynx.evaluation.runner import (
    INTERNAL,
    Asked,
    Progress,
    Setting,
    answer,
    check,
    digest_of,
    draw,
    identity,
    left_out,
    questions_of,
    senses_of,
)
from lynx.evaluation.scorers import summarize
from lynx.evaluation.tuned_on import NO_RECORD, TUNED_ON, counted, overlap, warnings_of
from lynx.model import Lynx
from lynx.training.processes import Processes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkRun:
    """A benchmark on a folder: its questions, or some of them."""

    benchmark: Benchmark
    folder: Path
    split: str | None = None
    prompt: str | None = None
    n: int | None = None
    seed: int = 0

    @property
    def dataset(self) -> PublicDataset:
        """Where the questions come from."""
        return self.benchmark.dataset()

    def read(self) -> tuple[list[Example], Asked]:
        """All examples, and the questions that are asked."""
        examples = self.dataset.examples(self.folder, self.split or self.dataset.evaluated, self.prompt)
        return examples, questions_of(examples, self.benchmark.dialog)

    def settings(self) -> dict[str, Any]:
        """What the questions depend on, as JSON values."""
        split = self.split or self.dataset.evaluated
        return {
            "benchmark": self.benchmark.name,
            "split": split,
            "files": [file.name for file in self.dataset.files(self.folder, split)],
            "prompt": self.prompt or self.dataset.default,
            "drawn": self.n,
            "seed": self.seed,
        }

    def check(self) -> dict[str, Any]:
        """What the folder has; see `check`."""
        examples, asked = self.read()
        return self.settings() | check(examples, asked, self.dataset.prompt(self.prompt).system)

    def evaluate(
        self,
        model: Lynx,
        setting: Setting,
        without: Sequence[str] = (),
        out: Path | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Ask the questions and score the answers; with `out` both are written there.

        Raises: DataError: the data set has no medium for a sense of the model that is not left out, or no
        letters to choose among.
        """
        if setting.choose == "likelihood" and "{options}" not in self.dataset.prompt(self.prompt).template:
            raise DataError(f"{self.benchmark.name} has no letters to choose among: leave out --choose")
        senses = senses_of(model, without)
        examples, everything = self.read()
        if lost := [sense for sense in senses if not all(sense in each.media for each in examples)]:
            there = ", ".join(examples[0].media)
            raise DataError(
                f"{self.benchmark.name} has no {lost[0]!r}, it has {there}: leave the sense out with "
                f"--without {lost[0]}, or its adapter"
            )
        asked = draw(everything, self.n, self.seed)
        total = sum(len(mine) for _, mine in everything)
        setting = replace(setting, system=self.dataset.prompt(self.prompt).system)
        shown = {"frames": setting.frames, "max_new_tokens": setting.max_new_tokens, "choose": setting.choose}
        settings = self.settings() | {"questions": total, "without": list(without)} | shown
        count = sum(len(mine) for _, mine in asked)
        settings |= {"asked": digest_of(asked), "rows": count, **identity(model, senses)}
        file = PredictionFile(out, settings, resume, Processes(model.backbone.device))
        keys = answer(model, asked, senses, lambda given: {"": (given, given)}, file, setting, progress)
        predictions = [file.done[key] for key in keys]
        rows = [each.answered for each in predictions]
        told = {key: value for key, value in settings.items() if key not in INTERNAL}
        told |= {"subset": len(rows) < total, "left_out": left_out(predictions)}
        told |= overlap(model, predictions, senses)
        for warning in warnings_of(told):
            logger.warning("%s", warning)
        scores = told | summarize(rows, self.benchmark.judge()(rows))
        file.finish(keys, scores, self.benchmark.official(predictions))
        return scores


def score_benchmark(benchmark: Benchmark, predictions: Sequence[Prediction], run: Path) -> dict[str, Any]:
    """The scores of the predictions of a run. Raises: DataError: there are fewer than it has."""
    refuse_fewer(predictions, run)
    rows = [each.answered for each in predictions]
    told = {"benchmark": benchmark.name, TUNED_ON: counted(predictions)}
    return told | summarize(rows, benchmark.judge()(rows))


def for_card(report: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark's scores as figures for the card of the adapter that they are of: in percent, those of
    captions times 100."""
    keys = ("split", "prompt", "frames", "n", "failed", "subset")
    counts = {key: report[key] for key in keys if report[key] is not None}
    counts["of these new to it"] = "not known" if report[NO_RECORD] else report[TUNED_ON][NEW]
    counts |= {f"note {number}": text for number, text in enumerate(warnings_of(report), 1)}
    metrics = {name: value for name, value in report.items() if isinstance(value, dict) and "mean" in value}
    rows = [
        {"metric": name, "%": f"{100 * value['mean']:.1f}", "95 %": f"{100 * value['low']:.1f}-"
         f"{100 * value['high']:.1f}"}
        for name, value in metrics.items()
    ]  # fmt: skip
    return counts | {TABLE: {str(i): row for i, row in enumerate(rows, 1)}}
