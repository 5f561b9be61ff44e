"""Does the text help? The whole quickstart from several seeds, samples included.

Each seed draws its own images, clicks and labels and trains its own networks, so that a
difference is one of the method and not of one lucky draw. Pixel-only, text-only and fused
share split, budget and tuning. Prints each classifier's top-1 on the test split, and mean
and standard error of the difference fused − pixel-only. Finished seeds are not run again.

  ./run.sh bench ablation --workdir work/ablation --seeds 5
"""

import dataclasses
import sys

import numpy as np

from beam_jobs.runs import all_stages
from model_code.metrics.classification import mean_and_error
from model_code.metrics.evaluation import decimals
from model_code.models.fusion.family import FUSION
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line

ABLATIONS = tuple(FUSION.systems)
SEEDED = (
    "make_samples",
    "train_text_generator",
    "train_text_embedder",
    "train_pixel_embedder",
    "train_fusion",
)


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Folder; each seed gets one below it.", role="output")
    seeds: int = flag("How many seeds.", default=5, minimum=1)
    metric: str = flag("Figure to compare.", default="top1", choices=("top1", "top5", "map"))


def measure(config: Config) -> np.ndarray:
    """Runs every seed up to its evaluation: [seeds, 3] float64, columns as in ABLATIONS.

    Raises:
      PhraseLensError: a stage failed.
    """
    rows = []
    for seed in range(config.seeds):
        folder = storage.join(config.workdir, f"seed-{seed}")
        settings = ",".join(f"{stage}.seed={seed}" for stage in SEEDED)
        flags = ["--samples", "--preset=quickstart", f"--workdir={folder}", f"--set={settings}"]
        if all_stages.run([*flags, "--until=train_fusion"]):
            raise PhraseLensError(folder, "every stage to succeed", "See what it said above.")
        evaluation = all_stages.read_evaluation(Dataset(storage.join(folder, "fusion")))
        rows.append([evaluation["test"][name][config.metric] for name in ABLATIONS])
    return np.array(rows)


def table(values: np.ndarray, metric: str) -> str:
    """[seeds, 3] values as a table, with means, standard errors and the difference."""
    lines = [f"{metric:6}" + "".join(f"{name:>16}" for name in ABLATIONS)]
    lines += [
        f"{seed:<6}" + "".join(f"{decimals(value):>16}" for value in row)
        for seed, row in enumerate(values)
    ]
    means = [mean_and_error(column) for column in values.T]
    cells = [f"{decimals(mean)} ± {decimals(error)}" for mean, error in means]
    lines.append("mean  " + "".join(f"{text:>16}" for text in cells))
    mean, error = mean_and_error(values[:, 2] - values[:, 0])
    ratio = mean / error if error else float("inf")
    lines.append(
        f"fused − pixel: {decimals(mean, '+')} ± {decimals(error)} (standard error), "
        f"{ratio:.1f} times it"
    )
    return "\n".join(lines)


def work(config: Config) -> None:
    print(table(measure(config), config.metric))


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench ablation", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
