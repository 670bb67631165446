"""The benchmarks by name: those that are built in, and those that other installed packages bring.

A new one is a file in `lynx/datasets/` and a row here.
"""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from lynx.config import Extensions
from lynx.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lynx.datasets.public import PublicDataset
    from lynx.evaluation.predictions import Prediction
    from lynx.evaluation.scorers import Scorer


@dataclass(frozen=True)
class Benchmark:
    """A split of a data set with its prompt and its metric; `data` and `scorer` are import strings."""

    name: str
    data: str  # a PublicDataset
    scorer: str  # of `lynx.evaluation.scorers`, or alike
    max_new_tokens: int = 16
    dialog: bool = False  # whether the last turn alone is asked, behind the others and their true answers
    results: str = ""  # import string of what makes the authors' own file of results from the predictions

    def dataset(self) -> "PublicDataset":
        """Where its questions come from."""
        found: PublicDataset = resolve_name(self.data)
        return found

    def official(self, predictions: "Sequence[Prediction]") -> Any:
        """What the authors' own scorer reads, as JSON values; None where it is not known."""
        return resolve_name(self.results)(predictions) if self.results else None

    def judge(self) -> "Scorer":
        """What scores its answers."""
        found: Scorer = resolve_name(self.scorer)
        return found


_ROWS = (
    Benchmark("avsd", "lynx.datasets.avsd:AVSD", "lynx.evaluation.scorers:dialog", 64, dialog=True),
    Benchmark("avqa", "lynx.datasets.avqa:AVQA", "lynx.evaluation.scorers:choices"),
    Benchmark("music-avqa", "lynx.datasets.music_avqa:MUSIC_AVQA", "lynx.evaluation.scorers:closed_set", 32),
    Benchmark("scanqa", "lynx.datasets.scanqa:SCANQA", "lynx.evaluation.scorers:scanqa", 32),
    Benchmark("sqa3d", "lynx.datasets.sqa3d:SQA3D", "lynx.evaluation.scorers:situated", 32),
    Benchmark(
        "video-mme",
        "lynx.datasets.video_mme:VIDEO_MME",
        "lynx.evaluation.scorers:video_mme",
        results="lynx.evaluation.official_results:video_mme",
    ),
    Benchmark("mvbench", "lynx.datasets.mvbench:MVBENCH", "lynx.evaluation.scorers:mvbench"),
    Benchmark("mlvu", "lynx.datasets.mlvu:MLVU", "lynx.evaluation.scorers:mlvu"),
    Benchmark("ego-exo", "lynx.datasets.ego_exo:EGO_EXO", "lynx.evaluation.scorers:labels"),
    Benchmark("avut", "lynx.datasets.avut:AVUT", "lynx.evaluation.scorers:choices"),
)
REGISTRY: dict[str, Any] = {row.name: row for row in _ROWS}
extensions = Extensions("lynx.benchmarks", REGISTRY, object, ("name", "dataset", "judge"))


def get(name: str) -> Any:
    """The benchmark of that name. Raises DataError when there is none."""
    if (found := extensions.find(name)) is None:
        known = ", ".join(sorted(extensions.all()))
        message = f"There is no benchmark {name!r}; known are: {known}. {extensions.problem(name)}"
        raise DataError(message.strip())
    return found
