"""The ablations on real photos and drawings, with 10 labels a class and with all.

Runs the pipeline by its flags alone on two folders of --data:
  fashion/  queries.tsv (image_id, query), images/, labels.tsv (image_id, articleType, split)
  emoji/    queries.tsv (concept, query), images.tsv (concept, path), labels.tsv (concept,
            subgroup, split)
with the MobileNet of --weights as pixel network and, with a trained head, as generator.
Prints the table of pixel-only, text-only and fused for each. What is done is not run again.

  ./run.sh bench real_data --data DATA --weights mobilenet.weights.h5 --workdir work/real
"""

import dataclasses
import os
import subprocess
import sys

from beam_jobs import pipeline
from schemas import config as config_lib
from schemas import storage
from schemas.config import flag
from schemas.errors import PhraseLensError
from schemas.manifest import Dataset

COLUMNS = {
    "fashion": {
        "columns": "image=image_id",
        "label_columns": "key=image_id,label=articleType,split=split",
    },
    "emoji": {
        "columns": "image=concept",
        "image_columns": "key=concept,path=path",
        "label_columns": "key=concept,label=subgroup,split=split",
    },
}
IMAGES = {"fashion": "images", "emoji": "images.tsv"}
SETTINGS = {
    "train_text_generator": {
        "backbone": "mobilenet",
        "image_size": "224",
        "trainable": "head",
        "head_hidden": "512",
        "epochs": "40",
        "patience": "8",
    },
    "train_text_embedder": {"buckets": "131072", "epochs": "8", "max_steps_per_epoch": "200"},
    "train_pixel_embedder": {"backbone": "mobilenet", "image_size": "224"},
    "embed_images": {"num_phrases": "10"},
}
MIN_LABEL_IMAGES = {"fashion": 20, "emoji": 1}
FEW = 10


@dataclasses.dataclass(frozen=True)
class Config:
    data: str = flag("Folder that holds fashion/ and emoji/.", role="input")
    weights: str = flag("MobileNet weights (.weights.h5).", role="input")
    workdir: str = flag("Folder for the datasets.", role="runtime")
    names: tuple[str, ...] = flag("Which of them.", default=tuple(COLUMNS))
    seeds: int = flag("Seeds of the classifiers.", default=5)


def embed(config: Config, name: str) -> str:
    """Runs the pipeline on one collection up to its features; returns its work folder.

    Raises:
      PhraseLensError: its files are missing, or a stage failed.
    """
    source = os.path.join(config.data, name)
    if not os.path.exists(os.path.join(source, "queries.tsv")):
        raise PhraseLensError(
            source, "queries.tsv, labels.tsv and images", "Give their folder with --data."
        )
    work = storage.join(config.workdir, name)
    stages = {stage: dict(flags) for stage, flags in SETTINGS.items()}
    for stage in ("train_text_generator", "train_pixel_embedder"):
        stages[stage]["weights"] = config.weights
    settings = [f"{stage}.{k}={v}" for stage, flags in stages.items() for k, v in flags.items()]
    flags = {
        "log": os.path.join(source, "queries.tsv"),
        "images": os.path.join(source, IMAGES[name]),
        "labels": os.path.join(source, "labels.tsv"),
        "workdir": work,
        "set": ",".join(settings),
        "until": "embed_images",
    }
    if pipeline.run([f"--{k}={v}" for k, v in (flags | COLUMNS[name]).items()]):
        raise PhraseLensError(work, "every stage to succeed", "See what it said above.")
    return work


def classify(config: Config, name: str, work: str, labels_per_class: int) -> dict:
    """Trains the classifiers on some labels of each class; returns their evaluation.

    Raises:
      PhraseLensError: a stage failed.
    """
    suffix = str(labels_per_class or "_all")
    examples, fusion = (storage.join(work, f"{kind}{suffix}") for kind in ("examples", "fusion"))
    commands = (
        [
            "beam_jobs.prepare_examples",
            f"--features={storage.join(work, 'features')}",
            f"--labels_per_class={labels_per_class}",
            f"--min_label_images={MIN_LABEL_IMAGES[name]}",
            f"--output={examples}",
        ],
        [
            "model_code.train_fusion",
            f"--examples={examples}",
            f"--seeds={config.seeds}",
            f"--output={fusion}",
        ],
    )
    for command in commands:
        if subprocess.run([sys.executable, "-m", *command]).returncode:
            raise PhraseLensError(command[0], "to succeed", "See what it said above.")
    return pipeline.read_evaluation(Dataset(fusion))


def work(config: Config) -> None:
    tables = []
    for name in config.names:
        work = embed(config, name)
        for labels in (FEW, 0):
            evaluation = classify(config, name, work, labels)
            tables.append(
                f"{name}, {labels or 'all'} labels a class, {evaluation['rows']['train']:,} "
                f"training and {evaluation['rows']['test']:,} test images:\n"
                f"{pipeline.ablation_table(evaluation)}"
            )
    print("\n" + "\n\n".join(tables))


def run(argv: list[str] | None = None) -> int:
    return config_lib.main(Config, "./run.sh bench real_data", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
