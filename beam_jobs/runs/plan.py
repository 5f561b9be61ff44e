"""The plan of a reprocess: which stages would run, why, and how many rows they would make anew."""

import dataclasses
import importlib
import json
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

import pyarrow as pa

from beam_jobs.frame import parsing
from beam_jobs.mining import log as log_lib
from beam_jobs.runs import steps as reprocess_steps
from beam_jobs.runs.stages import Step
from beam_jobs.runs.steps import Config
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line
from schemas.runs import stage as stage_lib
from schemas.runs.stage import Stage
from transforms.images.places import Places
from transforms.images.plan import plan_images
from transforms.images.read import source_of
from transforms.images.readers import read_unit
from transforms.images.units import IMAGE_FIELDS
from transforms.rows.columns import column_mapping


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
    known = _known_sources(earlier)
    mapping = column_mapping("image_columns", config.image_columns, IMAGE_FIELDS)
    forgotten = frozenset(log_lib.deletions(config).keys)
    args = "images", config.images, config.image_format, mapping, config.image_key
    units = plan_images(*args, places=Places.of(config)).units
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


def _known_sources(mined: str) -> dict[str, tuple[str, bool]]:
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


def stage_of(step: Step, argv: Sequence[str]) -> tuple[Any, Stage]:
    """A stage's config, and the run that it would do.

    Raises:
      PhraseLensError: an input is wrong or missing.
    """
    module = importlib.import_module(step.module)
    if step.is_beam_job:
        config, _ = parsing.parse(module.JOB.name, module.JOB.config, module.JOB.doc, argv)
        inputs = module.JOB.preflight(config)
        modules = [step.module]
        return config, stage_lib.plan(step.name, config, modules, inputs.datasets, inputs.raw)
    config = command_line.parse(module.Config, step.name, "", argv)
    datasets = {name: getattr(config, name) for name in step.inputs}
    return config, stage_lib.plan(step.name, config, module.MODULES, datasets)


def changes(stage: Stage) -> str:
    """What tells a run from the last one of its dataset."""
    last = manifest.read(stage.output)
    if last is None:
        return "never done before"
    found = [f"input {n}" for n in sorted(stage.inputs) if last.inputs.get(n) != stage.inputs[n]]
    found += [f"input {n} is gone" for n in sorted(last.inputs.keys() - stage.inputs.keys())]
    # What was stored as JSON has lists where settings have tuples.
    settings = json.loads(json.dumps(stage.settings))
    found += [f"--{n}" for n in sorted(settings) if last.config.get(n) != settings[n]]
    found += ["code"] if last.code != stage.code else []
    return "changed: " + ", ".join(found or ["nothing that is known"])


def plan(config: Config) -> list[Planned]:
    """What `reprocess` would do, in order. Writes nothing.

    Raises:
      PhraseLensError: inputs are missing or wrong.
    """
    trained = reprocess_steps.retrained(config)
    models = reprocess_steps.models_in_use(config)
    earlier = reprocess_steps.earlier_runs(config, models)
    where = {name: path for name, path in models.items() if name not in trained}
    planned: list[Planned] = []
    changing: set[str] = set()
    sources: Sources | None = None
    for step in reprocess_steps.steps_of(config):
        flags = reprocess_steps.flags_of(step, config, where, earlier)
        upstream = sorted(changing & set(step.inputs.values()))
        mined, argv = None, reprocess_steps.command_of(step, flags, config)
        if step.name in ("forget", "report"):
            planned.append(Planned(step.name, True, "--forget"))
            continue
        if upstream:
            why = "to be made: " + ", ".join(upstream)
        elif step.trains:
            why = "--retrain"
        else:
            mined, stage = stage_of(step, argv)
            if last := stage_lib.latest(stage.output, stage.fingerprint):
                where[step.output] = manifest.run_folder(stage.output, last.run_id)
                planned.append(Planned(step.name, False, "nothing has changed"))
                continue
            why = changes(stage)
        changing.add(step.output)
        if step.name == "mine_pairs":
            sources = compare_sources(mined, flags.get("reuse", ""))
        row = Planned(step.name, True, why)
        planned.append(_with_images(row, step, trained, earlier, sources))
    return planned


def _with_images(
    row: Planned,
    step: Step,
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
    if not step.networks:
        return row
    seen = sources or _sources_of(earlier)
    known = set() if set(step.networks) & set(trained) else _embedded(step, earlier)
    if not known:
        return dataclasses.replace(row, images=seen.images, most=True)
    if step.name == "classify_images":
        # It looks at every file, and each time anew at those that are no image.
        return dataclasses.replace(row, images=seen.new, reused=seen.images - seen.new)
    new = seen.lacking(known)
    return dataclasses.replace(row, images=new, reused=len(known), most=bool(new or seen.gone))


def _embedded(step: Step, earlier: Mapping[str, str]) -> set[str]:
    """Ids of the images that an earlier run has embedded."""
    if step.keeps is None or step.output not in earlier:
        return set()
    table, column = step.keeps
    if table not in Dataset(earlier[step.output]).manifest.tables:
        return set()
    batches = Dataset(earlier[step.output]).batches(table, [column])
    return {value for batch in batches for value in batch[column].to_pylist()}


def _sources_of(earlier: Mapping[str, str]) -> Sources:
    """The images of the last mining, where they are the same today: new are those that are dead."""
    if "mined" not in earlier:
        return Sources(0, 0, 0)
    counters = Dataset(earlier["mined"]).manifest.counters
    images = counters.get("images.in", 0)
    known = _known_sources(earlier["mined"])
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
