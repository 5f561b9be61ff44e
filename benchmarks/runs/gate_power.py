"""How often the gate refuses a classifier that is as good, and one that is worse, by test images.

Draws pairs of made-up classifiers that err on the same hard images more than on others, the second
one more often by a known share, and compares them as the gate does, with its default limits.

  ./run.sh bench gate_power
"""

import dataclasses
import sys

import numpy as np

from model_code.gate import evaluation as gate_evaluation
from model_code.gate.checks import Limits
from model_code.gate.evaluation import Drop
from model_code.report.data import Case
from schemas.console.flags import flag
from schemas.runs import command_line

LABELS = tuple(f"label {i}" for i in range(20))
ERROR_RATE = 0.2
WORSE = (0.0, 0.02, 0.05, 0.1)


@dataclasses.dataclass(frozen=True)
class Config:
    images: tuple[str, ...] = flag("Test images.", default=("100", "300", "1000", "3000"))
    pairs: int = flag("Pairs of classifiers of each kind.", default=100, minimum=1)


def draw(hard: np.ndarray, error_rate: float, rng: np.random.Generator) -> list[Case]:
    """A classifier's predictions of [n] images, each as hard as said (mean 0.5)."""
    cases = []
    for i, hardness in enumerate(hard):
        true, scores = i % len(LABELS), rng.random(len(LABELS))
        wrong = rng.random() < 2 * error_rate * hardness
        aim = (true + rng.integers(1, len(LABELS))) % len(LABELS) if wrong else true
        scores[aim] += 1.5
        best = np.argsort(-scores)[:5]
        predicted = tuple((LABELS[k], float(scores[k])) for k in best)
        cases.append(Case(f"{i}", (LABELS[true],), (), {"fused": predicted}))
    return cases


def refused(drop: Drop, limit: float, sure: float) -> bool:
    return drop.drop > limit + sure * drop.error


def bench(config: Config) -> None:
    limits = Limits()
    print(f"| test images |{''.join(f' {worse:.0%} worse |' for worse in WORSE)}")
    print("|---|" + "---|" * len(WORSE))
    for count in map(int, config.images):
        cells = []
        for worse in WORSE:
            top1 = either = 0
            for pair in range(config.pairs):
                rng = np.random.default_rng([count, round(1000 * worse), pair])
                hard = rng.random(count)
                sides = [draw(hard, rate, rng) for rate in (ERROR_RATE, ERROR_RATE + worse)]
                drops = gate_evaluation.compare(*sides)
                by_top1 = refused(drops["top1"], limits.max_top1_drop, limits.sure)
                by_map = refused(drops["map"], limits.max_map_drop, limits.sure)
                top1, either = top1 + by_top1, either + (by_top1 or by_map)
            cells.append(f" {top1 / config.pairs:.0%}, {either / config.pairs:.0%} |")
        print(f"| {count:,} |{''.join(cells)}", flush=True)


if __name__ == "__main__":
    sys.exit(command_line.main(Config, "bench gate_power", __doc__, None, bench))
