"""How fast phrases are learned and found: steps of training, and search.

Two tables. Steps: sampled softmax against the full one and against an optimizer with dense
gradients, time and peak memory (benchmarks/models/softmax_steps.py). Search: each kind of index
against a scan by matrix product and against hnswlib, tuned to a recall@3 of .99 on other
images than those that are measured (benchmarks/models/phrase_search.py); and how far the estimated
denominator of equation (1) is off. Done measurements are not repeated.

  ./run.sh bench phrases --workdir work/bench
  ./run.sh bench phrases --workdir work/bench --parts search --queries 1000000 --engines ivf_pq
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

from benchmarks.models import phrase_search
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.runs import command_line

PARTS = ("steps", "search")
SHORT = {name.split()[0]: name for name in phrase_search.ENGINES}


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Folder for vectors, indexes and results.", role="output")
    queries: tuple[str, ...] = flag(
        "Numbers of phrases to search among, K.", default=("1000000", "4000000")
    )
    parts: tuple[str, ...] = flag("What to measure: steps, search.", default=PARTS)
    engines: tuple[str, ...] = flag("Ways to search.", default=tuple(SHORT))
    step_queries: tuple[str, ...] = flag(
        "Sizes of the query table for steps.", default=("100000", "1000000", "4000000")
    )
    seed: int = flag("Other vectors for each.", default=0, minimum=0, maximum=2**32 - 1)


def _check(flag_name: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise PhraseLensError(
                f"--{flag_name} {name}", f"some of {', '.join(known)}", "See --help."
            )


def search(config: Config) -> str:
    """Measures search; returns its tables."""
    workdir = Path(config.workdir, "search")
    lines, errors = [phrase_search.HEAD], [phrase_search.PARTITION_HEAD]
    for rows in map(int, config.queries):
        names = [SHORT[name] for name in config.engines]
        results = phrase_search.measure_all(rows, workdir, config.seed, names)
        lines.append(phrase_search.table(rows, results))
        print(lines[-1], flush=True)
        tables = workdir / f"{rows}-seed-{config.seed}"
        for name in (name for name in phrase_search.OURS if name in config.engines):
            found = phrase_search.partition_errors(tables, tables / name)
            errors.append(phrase_search.partition_table(rows, name, found))
    return "\n".join([*lines, "", *errors])


def steps(config: Config) -> str:
    """Measures steps of training; what is done is read back instead. Returns its table."""
    from benchmarks.models import softmax_steps

    rows = []
    for queries in map(int, config.step_queries):
        done = Path(config.workdir, "steps", f"{queries}.json")
        if not done.exists():
            print(f"{queries:,} queries: steps", flush=True)
            measured = softmax_steps.measure_steps([queries])
            done.parent.mkdir(parents=True, exist_ok=True)
            done.write_text(
                json.dumps([dataclasses.asdict(row) for row in measured]), encoding="utf-8"
            )
        rows += [softmax_steps.Row(**row) for row in json.loads(done.read_text(encoding="utf-8"))]
    return softmax_steps.table(rows)


def bench(config: Config) -> None:
    """Measures what is asked for and prints the tables.

    Raises:
      PhraseLensError: a flag names no such part or engine.
    """
    _check("parts", config.parts, PARTS)
    _check("engines", config.engines, tuple(SHORT))
    tables = []
    if "steps" in config.parts:
        tables.append(steps(config))
    if "search" in config.parts:
        tables.append(search(config))
    print("\n\n".join(["", *tables, f"{os.cpu_count()} cores."]))


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench phrases", __doc__, argv, bench)


if __name__ == "__main__":
    sys.exit(run())
