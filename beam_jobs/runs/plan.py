"""The plan of a reprocess: which stages would run, why, and how many rows they would make anew."""

import dataclasses
import importlib
import json
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

import pyarrow as pa

from beam_jobs.frame import parsing
from beam_jobs.mining import log as log_lib
from beam_jobs.runs import chosen
from beam_jobs.runs.chosen import Config
from beam_jobs.runs.stages import Stage
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line
from schemas.runs import run as run_lib
from schemas.runs.run import Run
from transforms.images.plan import ImagePlan
from transforms.images.read import source_of
from transforms.images.readers import read_unit


@dataclasses.dataclass(frozen=True)
class Planned:
    """What would become of a stage.

    Attributes:
      stage: its name.
      runs: whether it runs; else the same work is done already.
      why: what has changed.
      images: that it decodes or that go through networks; at most so many where `most`.
      reused: images that it takes from an earlier run.
      most: whether `images` is an upper bound: only mining tells which images were clicked, and
        which are copies.
    """

    stage: str
    runs: bool
    why: str
    images: int = 0
    reused: int = 0
    most: bool = False


@dataclasses.dataclass(frozen=True)
class Sources:
    """The images behind --images, compared with those that an earlier run has read.

    Attributes:
      images: all, those that cannot be read among them.
      new: whose bytes the earlier run has not seen.
      gone: sources of the earlier run that are there no more.
      written: ids of images of the earlier run that are there still, and had a row of their own.
      copies: the same of images that another one stood for: once that is gone, they may have one.
    """

    images: int
    new: int
    gone: int
    written: frozenset[str] = frozenset()
    copies: frozenset[str] = frozenset()

    def lacking(self, ids: Collection[str]) -> int:
        """At most so many images get a row and have none among some ids."""
        known = self.written | self.copies if self.gone else self.written
        return self.new + len(known.difference(ids))


def compare_sources(config: Any, earlier: str) -> Sources:
    """Reads all images, and decodes none.

    Args:
      config: of mine_pairs.
      earlier: folder of its earlier run, or "".
    """
    known = _earlier_sources(earlier)
    forgotten = frozenset(log_lib.deletions(config).keys)
    units = ImagePlan.of(config).units
    images, new, seen = 0, 0, set()
    for unit in units:
        for batch in read_unit(unit, forgotten):
            if not isinstance(batch, pa.Table):
                images += len(batch.details)
                new += len(batch.details)
                continue
            rows = zip(batch["key"].to_pylist(), batch["image"].to_pylist(), strict=True)
            found = [source_of(data or b"") for key, data in rows if key not in forgotten]
            images += len(found)
            new += sum(source not in known for source in found)
            seen.update(found)
    return compared(images, new, known, seen)


def _earlier_sources(mined: str) -> dict[str, tuple[str, bool]]:
    """Source → its image's id, and whether that has a row of its own, of a run of mine_pairs."""
    if not mined or "sources" not in Dataset(mined).manifest.tables:
        return {}
    known: dict[str, tuple[str, bool]] = {}
    for batch in Dataset(mined).batches("sources", ["source", "image_id", "written"]):
        columns = (batch[name].to_pylist() for name in batch.schema.names)
        known |= {source: of for source, *of in zip(*columns, strict=True)}
    return known


def compared(
    images: int, new: int, known: Mapping[str, tuple[str, bool]], seen: Set[str]
) -> Sources:
    """Compares the sources that are there with those that an earlier run knows.

    Args:
      images, new: see `Sources`.
      known: source → its image's id, and whether that has a row of its own.
      seen: sources that are there.
    """
    here = [known[source] for source in known.keys() & seen]
    written = frozenset(image_id for image_id, is_written in here if is_written)
    copies = frozenset(image_id for image_id, _ in here) - written
    return Sources(images, new, len(known.keys() - seen), written, copies)


def run_of(stage: Stage, argv: Sequence[str]) -> tuple[Any, Run]:
    """A stage's config, and the run that it would do.

    Raises:
      PhraseLensError: an input is wrong or missing.
    """
    module = importlib.import_module(stage.module)
    if stage.is_beam_job:
        config, _ = parsing.parse(module.JOB.name, module.JOB.config, module.JOB.doc, argv)
        inputs = module.JOB.preflight(config)
        modules = [stage.module]
        return config, run_lib.plan(stage.name, config, modules, inputs.datasets, inputs.raw)
    config = command_line.parse(module.Config, stage.name, "", argv)
    datasets = {name: getattr(config, name) for name in stage.inputs}
    return config, run_lib.plan(stage.name, config, module.MODULES, datasets)


def changes(run: Run) -> str:
    """What tells a run from the last one of its dataset."""
    last = manifest.read(run.output)
    if last is None:
        return "never done before"
    found = [f"input {n}" for n in sorted(run.inputs) if last.inputs.get(n) != run.inputs[n]]
    found += [f"input {n} is gone" for n in sorted(last.inputs.keys() - run.inputs.keys())]
    # What was stored as JSON has lists where settings have tuples.
    settings = json.loads(json.dumps(run.settings))
    found += [f"--{n}" for n in sorted(settings) if last.config.get(n) != settings[n]]
    found += ["code"] if last.code != run.code else []
    return "changed: " + ", ".join(found or ["nothing that is known"])


def plan(config: Config) -> list[Planned]:
    """What `reprocess` would do, in order. Writes nothing.

    Raises:
      PhraseLensError: inputs are missing or wrong.
    """
    trained = chosen.retrained(config)
    models = chosen.models_in_use(config)
    earlier = chosen.earlier_runs(config, models)
    where = {name: path for name, path in models.items() if name not in trained}
    planned: list[Planned] = []
    changing: set[str] = set()
    sources: Sources | None = None
    for stage in chosen.stages_of(config):
        flags = chosen.flags_of(stage, config, where, earlier)
        upstream = sorted(changing & set(stage.inputs.values()))
        mined, argv = None, chosen.command_of(stage, flags, config)
        if stage.name in ("forget", "report"):
            planned.append(Planned(stage.name, True, "--forget"))
            continue
        if upstream:
            why = "to be made: " + ", ".join(upstream)
        elif stage.trains:
            why = "--retrain"
        else:
            mined, run = run_of(stage, argv)
            if last := run_lib.latest(run.output, run.fingerprint):
                where[stage.output] = manifest.run_folder(run.output, last.run_id)
                planned.append(Planned(stage.name, False, "nothing has changed"))
                continue
            why = changes(run)
        changing.add(stage.output)
        if stage.name == "mine_pairs":
            sources = compare_sources(mined, flags.get("reuse", ""))
        row = Planned(stage.name, True, why)
        planned.append(_with_images(row, stage, trained, earlier, sources))
    return planned


def _with_images(
    row: Planned,
    stage: Stage,
    trained: Sequence[str],
    earlier: Mapping[str, str],
    sources: Sources | None,
) -> Planned:
    """Adds the numbers of images."""
    if row.stage == "mine_pairs" and sources:
        what = f"; {sources.new:,} new images, {sources.gone:,} gone"
        return dataclasses.replace(
            row, why=row.why + what, images=sources.new, reused=sources.images - sources.new
        )
    if not stage.networks:
        return row
    seen = sources or _sources_of(earlier)
    known = set() if set(stage.networks) & set(trained) else _embedded(stage, earlier)
    if not known:
        return dataclasses.replace(row, images=seen.images, most=True)
    if stage.name == "classify_images":
        # It looks at every file, and each time anew at those that are no image.
        return dataclasses.replace(row, images=seen.new, reused=seen.images - seen.new)
    new = seen.lacking(known)
    return dataclasses.replace(row, images=new, reused=len(known), most=bool(new or seen.gone))


def _embedded(stage: Stage, earlier: Mapping[str, str]) -> set[str]:
    """Ids of the images that an earlier run has embedded."""
    if stage.keeps is None or stage.output not in earlier:
        return set()
    table, column = stage.keeps
    if table not in Dataset(earlier[stage.output]).manifest.tables:
        return set()
    batches = Dataset(earlier[stage.output]).batches(table, [column])
    return {value for batch in batches for value in batch[column].to_pylist()}


def _sources_of(earlier: Mapping[str, str]) -> Sources:
    """The images of the last mining, where they are the same today: new are those that are dead."""
    if "mined" not in earlier:
        return Sources(0, 0, 0)
    counters = Dataset(earlier["mined"]).manifest.counters
    images = counters.get("images.in", 0)
    known = _earlier_sources(earlier["mined"])
    return compared(images, images - counters.get("images.out", images), known, known.keys())


def text(planned: Sequence[Planned]) -> str:
    """The plan for people."""
    lines = [f"{'stage':<22}{'images':>12}{'taken over':>12}  why"]
    for row in planned:
        images = f"{'≤ ' if row.most and row.images else ''}{row.images:,}"
        shown = (images, f"{row.reused:,}") if row.runs else ("–", "–")
        lines.append(f"{row.stage:<22}{shown[0]:>12}{shown[1]:>12}  {row.why}")
    lines.append(
        "--dry_run: nothing was run. Every stage reads its input; images are those that it"
    )
    lines.append("decodes or sends through networks, and those that it takes from an earlier run.")
    return "\n".join(lines)
