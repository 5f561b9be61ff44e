"""The plan of a reprocess: which stages would run, why, and how many rows they would make anew."""

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from beam_jobs import job, mine_log, reprocess_steps
from beam_jobs.pipeline import Step
from beam_jobs.reprocess_steps import Config
from schemas import config as config_lib
from schemas import manifest
from schemas import stage as stage_lib
from schemas.manifest import Dataset
from schemas.stage import Stage
from transforms.image_places import Places
from transforms.image_units import IMAGE_FIELDS, plan_images, read_unit
from transforms.images import source_of
from transforms.tabular import column_mapping


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
    """

    images: int
    new: int
    gone: int


def compare_sources(config: Any, earlier: str) -> Sources:
    """Reads all images, and decodes none.

    Args:
      config: of mine_pairs.
      earlier: folder of its earlier run, or "".
    """
    known: set[str] = set()
    if earlier and "sources" in Dataset(earlier).manifest.tables:
        for batch in Dataset(earlier).batches("sources", ["source"]):
            known.update(batch["source"].to_pylist())
    mapping = column_mapping("image_columns", config.image_columns, IMAGE_FIELDS)
    forgotten = mine_log.deletions(config).keys
    args = "images", config.images, config.image_format, mapping, config.image_key
    units = plan_images(*args, Places.of(config)).units
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
    return Sources(images, new, len(known - seen))


def stage_of(step: Step, argv: Sequence[str]) -> tuple[Any, Stage]:
    """A stage's config, and the run that it would do.

    Raises:
      PhraseLensError: an input is wrong or missing.
    """
    module = importlib.import_module(step.module)
    if step.module.startswith("beam_jobs."):
        config, _ = job.parse(module.JOB.name, module.JOB.config, module.JOB.doc, argv)
        inputs = module.JOB.preflight(config)
        modules = [step.module]
        return config, stage_lib.plan(step.name, config, modules, inputs.datasets, inputs.raw)
    config = config_lib.parse(module.Config, step.name, "", argv)
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
        elif step.name.startswith("train_"):
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
        planned.append(_with_images(Planned(step.name, True, why), trained, earlier, sources))
    return planned


def _with_images(
    row: Planned, trained: Sequence[str], earlier: Mapping[str, str], sources: Sources | None
) -> Planned:
    """Adds the numbers of images."""
    if row.stage == "mine_pairs" and sources:
        what = f"; {sources.new:,} new images, {sources.gone:,} gone"
        return dataclasses.replace(
            row, why=row.why + what, images=sources.new, reused=sources.images - sources.new
        )
    networks = {
        "embed_phrases": ("text_generator",),
        "embed_images": ("text_generator", "pixel_embedder"),
        "classify_images": ("text_generator", "pixel_embedder"),
    }.get(row.stage)
    if networks is None:
        return row
    output = {"embed_phrases": "phrases", "embed_images": "features"}.get(row.stage, "predictions")
    table = {"phrases": "image_embs", "predictions": "embeddings"}.get(output, "features")
    known = 0
    if output in earlier and not set(networks) & set(trained):
        tables = Dataset(earlier[output]).manifest.tables
        known = tables[table].rows if table in tables else 0
    seen = sources or _sources_of(earlier)
    if row.stage == "classify_images":
        # It looks at every file, and each time anew at those that are no image.
        new = seen.new if known else seen.images
        return dataclasses.replace(row, images=new, reused=seen.images - new)
    if known:
        changed = sources is not None and bool(sources.new or sources.gone)
        new = sources.new if sources else 0
        return dataclasses.replace(row, images=new, reused=known, most=changed)
    return dataclasses.replace(row, images=seen.images, most=True)


def _sources_of(earlier: Mapping[str, str]) -> Sources:
    """The images of the last mining, where they are the same today: new are those that are dead."""
    counters = Dataset(earlier["mined"]).manifest.counters if "mined" in earlier else {}
    images = counters.get("images.in", 0)
    return Sources(images, images - counters.get("images.out", images), 0)


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
