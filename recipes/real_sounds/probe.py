"""What the vision encoder hears of real recordings: a linear probe on its tokens.

Ridge regression on one-hot labels, each fold or speaker held out in turn. `pooled`: mean and deviation over
the moments of every place in the picture; `placed`: every token as it is; `pixels`: the pictures themselves,
pooled, without the tower.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import lynx
from lynx.adapters.format import Adapter
from lynx.datasets.base import Example
from lynx.datasets.clips import render_clip
from lynx.media.audio import read_audio
from lynx.modalities.audio import Audio, AudioRendering
from lynx.model import Lynx
from recipes.real_sounds.data import folds_of, open_recordings

LEVELED = AudioRendering(n_mels=20, hop_s=0.004, fmax=4000.0, least_s=0.32, level_db=-14.0)
RENDERINGS: dict[str, AudioRendering] = {
    "default": AudioRendering(),
    "0.64 s": AudioRendering(seconds_per_frame=0.64),
    "0.32 s": AudioRendering(seconds_per_frame=0.32),
    "hop 2 ms": AudioRendering(hop_s=0.002),
    "hop 4 ms": AudioRendering(hop_s=0.004),
    "32 bands": AudioRendering(hop_s=0.004, n_mels=32),
    "floor -60": AudioRendering(hop_s=0.004, floor_db=-60.0),
    "levelled, 20 bands": LEVELED,
    "the same in slopes": replace(LEVELED, show="slopes"),
}
RIDGE = (0.01, 0.03, 0.1, 0.3)
"""Penalties, relative to the mean eigenvalue; the best over all folds is reported."""


@dataclass(frozen=True)
class Data:
    """Recordings as waveforms, with the name and the group of each."""

    clips: Sequence[Example]
    names: Sequence[str]
    groups: Sequence[str]

    @classmethod
    def read(cls, source: str, path: Path, takes: int | None, rate: int) -> "Data":
        """All recordings of a source, or the first `takes` of every name and group."""
        clips, names, groups = [], [], []
        seen: dict[tuple[str, str], int] = {}
        for group in folds_of(source, path):
            for example in open_recordings(source, path, split="test", held_out=(group,)):
                name = example.turns[0].answer
                seen[name, group] = seen.get((name, group), 0) + 1
                if takes is None or seen[name, group] <= takes:
                    sound = read_audio(Path(str(example.media["audio"])), rate)
                    clips.append(Example(example.id, {"audio": sound}))
                    names.append(name)
                    groups.append(group)
        return cls(clips, names, groups)


def pictures(data: Data, rendering: AudioRendering, moments: int) -> Iterator[Tensor]:
    """The pictures of each recording: (T, 3, F, columns) uint8."""
    sense = Audio(rendering)
    for clip in data.clips:
        yield render_clip({"audio": sense}, clip, moments)["audio"].pixels


@torch.no_grad()
def tokens(model: Lynx, sense: str, drawn: Sequence[Tensor]) -> Tensor:
    """(clips, T, N, D): the interface tokens of the pictures of every clip."""
    encoded = []
    with model.sensing(sense):
        for frames in drawn:
            found, layout = model.backbone.encode(model.backbone.pixels(frames))
            encoded.append(found[layout.frame >= 0].unflatten(0, (len(frames), -1)))
    return torch.stack(encoded)


def pooled(x: Tensor) -> Tensor:
    """(clips, T, ...) -> (clips, d): mean and deviation over the moments."""
    return torch.cat([x.mean(1).flatten(1), x.std(1).flatten(1)], 1)


def probe(features: Tensor, data: Data) -> dict[str, float]:
    """Accuracy in percent with each group held out, and their mean."""
    labels = sorted(set(data.names))
    y = torch.tensor([labels.index(name) for name in data.names])
    held = {group: torch.tensor([g == group for g in data.groups]) for group in sorted(set(data.groups))}
    runs = [{group: _fit(features, y, test, penalty) for group, test in held.items()} for penalty in RIDGE]
    best = max(runs, key=lambda run: sum(run.values()))
    return {"mean": round(sum(best.values()) / len(best), 1), **best}


def _fit(x: Tensor, y: Tensor, test: Tensor, penalty: float) -> float:
    """Ridge in its dual form: there are far more features than recordings."""
    train = ~test
    mean, deviation = x[train].mean(0), x[train].std(0)
    x = (x - mean) / (deviation + 1e-3 * deviation.mean())
    kernel = (x @ x[train].T / x.shape[1]).double()
    targets = F.one_hot(y[train]).double() - 1 / (int(y.max()) + 1)
    weights = torch.linalg.solve(kernel[train] + penalty * torch.eye(len(targets)).double(), targets)
    right = (kernel[test] @ weights).argmax(1) == y[test]
    return round(100 * float(right.double().mean()), 1)


def measure(
    model: Lynx, sense: str, data: Data, rendering: AudioRendering, moments: int
) -> dict[str, object]:
    """The probe's accuracies on one rendering."""
    drawn = list(pictures(data, rendering, moments))
    encoded = tokens(model, sense, drawn)
    size = model.backbone.pixels(drawn[0]).shape[-1]
    seen = torch.stack(
        [F.interpolate(each[:, :1].float(), (size // 2, size // 4), mode="area") for each in drawn]
    )
    return {
        "pooled": probe(pooled(encoded), data),
        "placed": probe(encoded.flatten(1), data),
        "pixels": probe(pooled(seen), data),
    }


def compare(
    paths: Mapping[str, Path],
    adapter: Path | None = None,
    renderings: Sequence[str] = tuple(RENDERINGS),
    moments: int = 8,
    takes: int | None = None,
) -> dict[str, dict[str, object]]:
    """The accuracies on each rendering of each collection, through an adapter's vision LoRA or none."""
    model = lynx.load("lynx-tiny", adapters=[adapter] if adapter else [])
    sense = next(iter(model.adapters), "bare")
    if not adapter:
        model.add_adapter(Adapter("bare", "audio"))
    table: dict[str, dict[str, object]] = {}
    for source, path in paths.items():
        data = Data.read(source, path, takes, AudioRendering().sample_rate)
        for name in renderings:
            table.setdefault(name, {})[source] = measure(model, sense, data, RENDERINGS[name], moments)
    return table
