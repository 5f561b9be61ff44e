"""The table of stages: what each does, reads, writes and takes, in the order in which they run.

`all`, `reprocess`, `submit`, Flex Templates, the DAG and the command line are made of it. To add a
stage is to add a row. It needs nothing but Python, and no stage may import it: a row is no reason
to do the work of another stage again.
"""

import dataclasses
from collections.abc import Collection, Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run.

    Attributes:
      name: the stage, and the part before the dot in --set; `train_` and the dataset's name for
        one that trains a model.
      module: what `python -m` runs.
      does: what people see while it runs.
      output: its dataset's folder below the work folder; "" for none.
      inputs: flag → dataset below the work folder.
      takes: flag → flag of the run from which it gets its value; `datasets` are those of all
        other stages.
      networks: models whose networks an image goes through here; such a stage runs on GPUs.
      keeps: table and column of ids in which its dataset keeps what networks made of each image.
      reuses: whether it takes rows over from an earlier run, by --reuse.
    """

    name: str
    module: str
    does: str
    output: str
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    takes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    networks: tuple[str, ...] = ()
    keeps: tuple[str, str] | None = None
    reuses: bool = False

    @property
    def is_beam_job(self) -> bool:
        return self.module.startswith("beam_jobs.")

    @property
    def trains(self) -> bool:
        return self.name.startswith("train_")


def _same(*names: str, **others: str) -> dict[str, str]:
    """Flag → name, where most are called alike."""
    return {name: name for name in names} | others


SAMPLES = Stage(
    name="make_samples",
    module="samples.make_samples",
    does="draws scenes, a click log and labels",
    output="samples",
)

# Before all others where something must be forgotten; it makes no dataset.
FORGET = Stage(
    name="forget",
    module="beam_jobs.mining.forget",
    does="deletes from days what must be forgotten",
    output="",
    takes=_same("days", "person_key", list="forget"),
)

# Once a day, before a run; its days are no dataset of the work folder.
MINE_LOG = Stage(
    name="mine_log",
    module="beam_jobs.mining.mine_log",
    does="makes a day of its click log, which merges with others",
    output="",
)

STAGES = (
    Stage(
        name="mine_pairs",
        module="beam_jobs.mining.mine_pairs",
        does="finds who chose which image for which query",
        output="mined",
        takes=_same(
            "log",
            "days",
            "forget",
            "person_key",
            "images",
            "labels",
            "columns",
            "image_columns",
            "label_columns",
        ),
        reuses=True,
    ),
    Stage(
        name="prepare_pairs",
        module="beam_jobs.models.prepare_pairs",
        does="brings clicked images to training resolution, with their queries",
        output="training_pairs",
        inputs=_same("mined"),
    ),
    Stage(
        name="train_text_generator",
        module="model_code.models.text_generator.train",
        does="learns to predict queries from pixels",
        output="text_generator",
        inputs=_same(pairs="training_pairs"),
    ),
    Stage(
        name="train_text_embedder",
        module="model_code.models.text_embedder.train",
        does="learns which queries mean alike",
        output="text_embedder",
        inputs=_same("mined"),
    ),
    Stage(
        name="embed_phrases",
        module="beam_jobs.models.embed_phrases",
        does="gives every query its vectors and builds the phrase index",
        output="phrases",
        inputs=_same("mined", "text_embedder", generator="text_generator"),
        networks=("text_generator",),
        keeps=("image_embs", "image_id"),
        reuses=True,
    ),
    Stage(
        name="train_pixel_embedder",
        module="model_code.models.pixel_embedder.train",
        does="prepares the pixel network",
        output="pixel_embedder",
        inputs=_same("mined"),
    ),
    Stage(
        name="embed_images",
        module="beam_jobs.models.embed_images",
        does="predicts phrases and embeds text and pixels of every image",
        output="features",
        inputs=_same("mined", "pixel_embedder", "phrases", generator="text_generator"),
        networks=("text_generator", "pixel_embedder"),
        keeps=("features", "image_id"),
        reuses=True,
    ),
    Stage(
        name="prepare_examples",
        module="beam_jobs.models.prepare_examples",
        does="checks and normalises the labelled images' features",
        output="examples",
        inputs=_same("features"),
    ),
    Stage(
        name="train_fusion",
        module="model_code.models.fusion.train",
        does="trains and compares the pixel-only, text-only and fused classifiers",
        output="fusion",
        inputs=_same("examples"),
    ),
    Stage(
        name="export_model",
        module="model_code.models.fusion.export",
        does="joins all networks into one model: image bytes to labels and phrases",
        output="model",
        inputs=_same("pixel_embedder", "phrases", "fusion", generator="text_generator"),
    ),
    Stage(
        name="classify_images",
        module="beam_jobs.models.classify_images",
        does="classifies every image",
        output="predictions",
        inputs=_same("model"),
        takes=_same("images", "image_columns"),
        networks=("text_generator", "pixel_embedder"),
        keeps=("embeddings", "source"),
        reuses=True,
    ),
    Stage(
        name="report",
        module="model_code.report.pages",
        does="writes the report and the cards",
        output="report",
        takes=_same("datasets", work="workdir"),
    ),
)


def beam_jobs() -> dict[str, Stage]:
    """The Beam jobs by their names: those of every day, then those of a run."""
    todo = (MINE_LOG, *STAGES, FORGET)
    return {stage.name: stage for stage in todo if stage.is_beam_job}


def models() -> tuple[str, ...]:
    """The datasets of the models that are trained, in the order of their stages."""
    return tuple(stage.output for stage in STAGES if stage.trains)


def readers(dataset: str) -> tuple[Stage, ...]:
    """The stages that read a dataset."""
    return tuple(stage for stage in STAGES if dataset in stage.inputs.values())


def needed_models() -> tuple[str, ...]:
    """The models without which a run cannot be done: those that another stage reads."""
    return tuple(m for m in models() if not all(stage.trains for stage in readers(m)))


def trained_with(names: Collection[str]) -> tuple[str, ...]:
    """The models to train where some are trained: also those that are made of what they make.

    A classifier knows only the embeddings that it was trained on.
    """
    changed = set(names)
    for stage in STAGES:
        if changed & set(stage.inputs.values()):
            changed.add(stage.output)
    return tuple(name for name in models() if name in changed)


def only_trained_on(stage: Stage) -> tuple[str, ...]:
    """The models that alone read what a stage makes; () where another stage reads it, or none."""
    found = readers(stage.output)
    return tuple(s.output for s in found) if all(s.trains for s in found) else ()
