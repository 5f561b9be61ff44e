"""Does cost grow as the work grows? Every job at N, 4 N and 16 N images, on storage that counts.

Draws a click log and tiny images of each size, runs the jobs on them from bucket to bucket in an
emulator of Cloud Storage, and counts requests, bytes, what goes through shuffles, the largest
group that one worker must take, the graph and the launcher's memory. Shards are small, so that the
largest size has thousands of them. Prints each count with its exponent: 1 where it grows as N does,
0 where it does not grow. Models are those of a tiny quickstart.

  ./run.sh bench growth --workdir /tmp/growth
  ./run.sh bench growth --workdir /tmp/growth --images 100 --jobs mine_pairs --case popular_image
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from beam_jobs.runs import stages
from benchmarks import measured
from benchmarks.growth import inputs
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console import heartbeat
from schemas.console.flags import flag
from tests.support.datasets import work_folder
from tests.support.processes import cloud

STEPS = (1, 4, 16)
# They may grow as the work does.
TOTALS = (
    "lists",
    "looks",
    "reads",
    "writes",
    "deletes",
    "bytes_read",
    "bytes_written",
    "shuffled_bytes",
)
# They are of the whole job, or of its largest part, and must not grow at all.
FLAT = (
    "largest_element",
    "group_bytes",
    "group_rows",
    "side_bytes",
    "graph_bytes",
    "launcher_bytes",
    "launcher_lists",
    "launcher_reads",
)
COUNTS = (*TOTALS, *FLAT, "seconds")
MODELS = ("text_generator", "text_embedder", "pixel_embedder", "model")
LOG_SETTINGS = ("--min_users=1", "--one_person_pairs=true", "--max_person_events=1000000000")


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Folder for the models that are trained.", role="output")
    images: int = flag("Images of the smallest size, N.", default=500, minimum=40)
    images_per_shard: int = flag("Images of a shard.", default=8, minimum=1)
    jobs: tuple[str, ...] = flag("Only these, and what they need.", default=())
    case: str = flag("What the inputs are like.", default="plain", choices=inputs.CASES)
    steps: int = flag("How many of the three sizes.", default=len(STEPS), minimum=1, maximum=3)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the datasets of one size lie.

    Attributes:
      root: their folder.
      models: the folder of the models.
      drawn: the inputs.
      shards: of every table.
      more: the inputs of a day later, with one per cent more images.
    """

    root: str
    models: str
    drawn: inputs.Drawn
    shards: int
    more: inputs.Drawn

    def mined(self, days: bool = False) -> list[str]:
        of = f"--days={self.root}/days" if days else f"--log={self.drawn.log}"
        return [of, f"--images={self.drawn.images}", f"--labels={self.drawn.labels}", *LOG_SETTINGS]

    def dataset(self, name: str) -> str:
        return f"{self.models if name in MODELS else self.root}/{name}"

    def stage(self, name: str, output: str = "", *more: str) -> list[str]:
        """The flags of a stage on the datasets of this place."""
        stage = next(stage for stage in stages.STAGES if stage.name == name)
        found = [f"--{of}={self.dataset(dataset)}" for of, dataset in stage.inputs.items()]
        return [*found, *more, f"--output={self.root}/{output or stage.output}"]


def _module(name: str) -> str:
    found = {**stages.beam_jobs(), **{stage.name: stage for stage in stages.STAGES}}
    return found[name].module


@dataclasses.dataclass(frozen=True)
class Work:
    """One thing that is counted: a command, and what must be there before it."""

    name: str
    module: str
    flags: Callable[[Place], list[str]]
    needs: tuple[str, ...] = ()


def _num_shards(place: Place) -> str:
    return f"--num_shards={place.shards}"


WORKS = (
    Work(
        "mine_log",
        _module("mine_log"),
        lambda p: [
            f"--log={p.drawn.log}",
            f"--output={p.root}/days/2026-01-01",
            "--partition=2026-01-01",
            "--max_person_events=1000000000",
            _num_shards(p),
        ],
    ),
    Work(
        "mine_pairs",
        _module("mine_pairs"),
        lambda p: [*p.mined(), f"--output={p.root}/mined", _num_shards(p)],
    ),
    Work(
        "mine_pairs of days",
        _module("mine_pairs"),
        lambda p: [*p.mined(days=True), f"--output={p.root}/of_days", _num_shards(p)],
        ("mine_log",),
    ),
    Work(
        "prepare_pairs",
        _module("prepare_pairs"),
        lambda p: p.stage("prepare_pairs", "", "--backbone=small_resnet", "--image_size=32"),
        ("mine_pairs",),
    ),
    Work(
        "embed_phrases",
        _module("embed_phrases"),
        lambda p: p.stage("embed_phrases"),
        ("mine_pairs",),
    ),
    Work(
        "embed_images",
        _module("embed_images"),
        lambda p: p.stage("embed_images"),
        ("mine_pairs", "embed_phrases"),
    ),
    Work(
        "prepare_examples",
        _module("prepare_examples"),
        lambda p: p.stage("prepare_examples", "", _num_shards(p)),
        ("embed_images",),
    ),
    Work(
        "classify_images",
        _module("classify_images"),
        lambda p: p.stage("classify_images", "", f"--images={p.drawn.images}"),
    ),
    Work(
        "mine_pairs, one per cent more",
        _module("mine_pairs"),
        lambda p: [
            f"--log={p.more.log}",
            f"--images={p.more.images}",
            f"--labels={p.more.labels}",
            *LOG_SETTINGS,
            f"--reuse={p.root}/mined",
            f"--output={p.root}/mined_more",
            f"--num_shards={p.shards + 1}",
        ],
        ("mine_pairs",),
    ),
    Work(
        "embed_images, one per cent more",
        _module("embed_images"),
        lambda p: [
            *(f for f in p.stage("embed_images", "features_more") if not f.startswith("--mined=")),
            f"--mined={p.root}/mined_more",
            f"--reuse={p.root}/features",
        ],
        ("embed_images", "mine_pairs, one per cent more"),
    ),
    Work(
        "classify_images, one per cent more",
        _module("classify_images"),
        lambda p: p.stage(
            "classify_images",
            "predictions_more",
            f"--images={p.more.images}",
            f"--reuse={p.root}/predictions",
        ),
        ("classify_images",),
    ),
    Work(
        "verify",
        "schemas.maintenance.verify",
        lambda p: [f"{p.root}/mined"],
        ("mine_pairs",),
    ),
)


def chosen(names: Sequence[str]) -> list[Work]:
    """The works of these names and what they need, in their order; all where none is named.

    Raises:
      PhraseLensError: there is none of a name.
    """
    known = {work.name: work for work in WORKS}
    for name in names:
        if name not in known:
            raise PhraseLensError(f"--jobs {name}", f"one of: {', '.join(known)}", "See --help.")
    wanted = set(names or known)
    for work in reversed(WORKS):
        if work.name in wanted:
            wanted |= set(work.needs)
    return [work for work in WORKS if work.name in wanted]


def train(folder: str) -> None:
    """Leaves the models of a tiny run in a folder of this machine, unless they are there.

    Raises:
      PhraseLensError: it failed.
    """
    of = work_folder.config(folder)
    if not os.path.exists(f"{folder}/model/manifest.json"):
        done = work_folder.drive(of, "--until=export_model")
        if done.returncode:
            raise PhraseLensError(folder, f"a run of all stages ({done.stderr})", "See above.")


def measure(work: Work, place: Place) -> dict[str, float]:
    """Runs it in a process of its own.

    Raises:
      PhraseLensError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.growth.one", work.module, *work.flags(place)]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env=work_folder.environment()
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise PhraseLensError(work.name, f"to succeed ({said})", "Mend that first.")
    return json.loads(done.stdout.strip().splitlines()[-1])


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of a count between the two largest sizes, both in logarithms; 0 where it is 0."""
    if len(values) < 2 or values[-1] <= 0:
        return 0.0
    return math.log(values[-1] / max(values[-2], 1e-9)) / math.log(sizes[-1] / sizes[-2])


def table(sizes: Sequence[int], found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Count by count, job by job, in Markdown: what it was at each size, and its exponent."""
    rows = []
    for name, counts in found.items():
        for kind in COUNTS:
            values = [count.get(kind, 0) for count in counts]
            if any(values):
                shown = [f"{value:,.0f}" for value in values]
                rows.append([name, kind, *shown, f"{exponent(sizes, values):.2f}"])
    names = ["job", "count", *(f"{size:,}" for size in sizes), "exponent"]
    return measured.table(names, rows, texts=2)


def growing(
    sizes: Sequence[int], found: Mapping[str, Sequence[Mapping[str, float]]], limit: float = 1.05
) -> list[str]:
    """A line for each count that grows faster than it may."""
    lines = []
    for name, counts in found.items():
        for kind in COUNTS:
            slope = exponent(sizes, [count.get(kind, 0) for count in counts])
            most = 0.2 if kind in FLAT else limit
            if slope > most and kind != "seconds":
                lines.append(f"{name}: {kind} grows with exponent {slope:.2f}, at most {most}")
    return lines


def grow(
    config: Config, bucket: str, works: Sequence[Work]
) -> tuple[list[int], dict[str, list[dict[str, float]]]]:
    """Runs the works at every size.

    Returns:
      The sizes, and the counts of each work at each of them.
    """
    for name in MODELS:
        storage.upload_dir(f"{config.workdir}/{name}", f"{bucket}/models/{name}")
    sizes = [config.images * step for step in STEPS[: config.steps]]
    found: dict[str, list[dict[str, float]]] = {work.name: [] for work in works}
    for size in sizes:
        root = f"{bucket}/{size}"
        drawn = inputs.write(root, size, config.case)
        more = inputs.write(root, size + max(size // 100, 1), config.case, first=size)
        shards = max(size // config.images_per_shard, 1)
        place = Place(root, f"{bucket}/models", drawn, shards, more)
        for work in works:
            found[work.name].append(measure(work, place))
            heartbeat.say(f"{size:,} images, {work.name}: {found[work.name][-1]['seconds']:.1f} s")
    return sizes, found


def work(config: Config) -> str:
    works = chosen(config.jobs)
    os.makedirs(config.workdir, exist_ok=True)
    train(config.workdir)
    with cloud.nobody(Path(config.workdir)), cloud.emulated() as bucket:
        sizes, found = grow(config, bucket, works)
    case = config.case.replace("_", " ")
    lines = [f"The inputs are {case}; {config.images_per_shard} images are a shard.", ""]
    lines += [table(sizes, found), "", "What grows faster than it may:", ""]
    return "\n".join([*lines, *(f"- {line}" for line in growing(sizes, found) or ["nothing"])])


def run(argv: Sequence[str] | None = None) -> int:
    return measured.main(Config, __file__, __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
