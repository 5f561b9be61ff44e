"""How good phrases and classifiers are on real photos and drawings, with few labels and with all.

Runs the pipeline by its flags alone on two folders of --data:
  fashion/  queries.tsv (image_id, query), images/, labels.tsv (image_id, articleType, split)
  emoji/    queries.tsv (concept, query, language), images.tsv (concept, path), labels.tsv
            (concept, subgroup, split)
with the MobileNet of --weights as pixel network and, under a trained head, as generator. For
each it measures how well phrases of held-out images are found, and compares pixel-only,
text-only and fused: with 1, 2, 3, 5, 10 and all labels a class, and, with 10, what changes
with other phrases and text embeddings. Every figure is a mean over seeds, each with labels of
other images, with its standard error. Writes quality.md, and a JSON file for each, into --workdir;
what is done is not run again.

  ./run.sh bench quality --data DATA --weights mobilenet.weights.h5 --workdir work/quality
"""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc

from beam_jobs.runs import all_stages, overrides
from beam_jobs.runs import stages as stages_lib
from model_code.metrics.classification import mean_and_error
from model_code.models.fusion.family import FUSION
from schemas.base import fingerprint, storage
from schemas.base.errors import PhraseLensError
from schemas.console import launch
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line

FEW = 10
LABELS = (1, 2, 3, 5, FEW, 0)
# Each collection: its flags for the pipeline, and the fewest images of a label that is one of
# its classes. The task is set once, from all splits, before anything is trained.
COLLECTIONS: dict[str, tuple[dict[str, str], int]] = {
    "fashion": (
        {
            "columns": "image=image_id",
            "label_columns": "key=image_id,label=articleType,split=split",
            # Titles of products: no two are alike, but what they consist of is.
            "mine_pairs.query_parts": "2",
            "images": "images",
        },
        20,
    ),
    "emoji": (
        {
            "columns": "image=concept",
            "image_columns": "key=concept,path=path",
            "label_columns": "key=concept,label=subgroup,split=split",
            "images": "images.tsv",
        },
        1,
    ),
}
SETTINGS = {
    "prepare_pairs": {"backbone": "mobilenet", "min_query_images": "2"},
    "train_text_generator": {
        "backbone": "mobilenet",
        "trainable": "head",
        "head_hidden": "2048",
        "head_dropout": "0.5",
        "width": "128",
        "epochs": "40",
        "patience": "8",
    },
    "train_text_embedder": {"buckets": "131072", "epochs": "8", "max_steps_per_epoch": "200"},
    "train_pixel_embedder": {"backbone": "mobilenet", "image_size": "224"},
    "embed_images": {"num_phrases": "60"},
}
# What may be otherwise: stage → settings. "log" leaves a language out of the log.
VARIANTS: dict[str, dict[str, dict[str, str]]] = {
    "N = 1": {"embed_images": {"num_phrases": "1"}},
    "N = 3": {"embed_images": {"num_phrases": "3"}},
    "N = 10": {"embed_images": {"num_phrases": "10"}},
    "merged phrases": {"embed_images": {"diversity": "merge", "phrase_pool": "200"}},
    "maximal marginal relevance": {"embed_images": {"diversity": "mmr", "phrase_pool": "200"}},
    "weighted by probability": {"embed_images": {"phrase_weights": "probability"}},
    "weights w_c for the head": {"embed_phrases": {"head_vectors": "weight"}},
    "prototypes φ_c for the head": {"embed_phrases": {"head_vectors": "prototype"}},
    "bag without attention": {"train_text_embedder": {"attention": "false"}},
}
WITHOUT = {"emoji": "en"}
# Variants are compared, and with the standard, without tuning: they differ in their input alone.
UNTUNED = {"layers": "linear", "weight_decays": "3", "pixel_scales": "0.3"}
Scores = Mapping[str, list[float]]
METRICS = ("recall_at_1", "recall_at_3", "recall_at_10", "mrr")


@dataclasses.dataclass(frozen=True)
class Config:
    data: str = flag("Folder that holds fashion/ and emoji/.", role="input")
    weights: str = flag("MobileNet weights (.weights.h5).", role="input")
    workdir: str = flag("Folder for the datasets.", role="output")
    names: tuple[str, ...] = flag("Which of them.", default=tuple(COLLECTIONS))
    seeds: int = flag("Seeds of labels and classifiers.", default=5, minimum=1)
    variants: bool = flag("Measure what may be otherwise, too.", default=True)


@dataclasses.dataclass(frozen=True)
class Collection:
    """One folder of data, and where the pipeline works on it.

    Attributes:
      name: of the folder.
      base: the pipeline's configuration.
      seeds: of labels and classifiers.
    """

    name: str
    base: all_stages.Config
    seeds: int

    def run(self, module: str, flags: Mapping[str, str]) -> None:
        """Runs a stage; raises PhraseLensError when it fails."""
        command = [sys.executable, "-m", module, *(f"--{k}={v}" for k, v in flags.items())]
        if subprocess.run(launch.part(command)).returncode:
            raise PhraseLensError(" ".join(command[2:]), "to succeed", "See what it said above.")

    def embed(self, variant: str = "", changes: Mapping = {}) -> dict[str, str]:
        """Runs the stages up to the examples, anew only from what a variant changes.

        Returns:
          The folder of each stage's dataset, by the name of the folder in the work folder.
        """
        folders: dict[str, str] = {}
        changed: set[str] = set()
        for step in stages_lib.STAGES:
            here = step.name in changes or not changed.isdisjoint(step.inputs.values())
            parent = storage.join(self.base.workdir, "variants", variant) if here else None
            folders[step.output] = storage.join(parent or self.base.workdir, step.output)
            if here:
                changed.add(step.output)
            flags = overrides.flags_of(step, self.base) | changes.get(step.name, {})
            flags |= {name: folders[path] for name, path in step.inputs.items()}
            flags["output"] = folders[step.output]
            if step.name == "embed_images" and here:
                flags["reuse"] = storage.join(self.base.workdir, step.output)
            if here or not variant:
                self.run(step.module, flags)
            if step.name == "prepare_examples":
                return folders
        raise AssertionError("the pipeline prepares no examples")

    def classify(self, examples: str, labels: int, grid: Mapping[str, str] = {}) -> Scores:
        """Trains the classifiers with so many labels of each class.

        Returns:
          Test top-1 from each seed, by classifier.
        """
        name = f"fusion_{labels or 'all'}" + ("_untuned" if grid else "")
        output = storage.join(os.path.dirname(examples), name)
        flags = {"labels_per_class": str(labels), "seeds": str(self.seeds), **grid}
        self.run("model_code.models.fusion.train", flags | {"examples": examples, "output": output})
        seeds = all_stages.read_evaluation(Dataset(output))["seeds"]
        return {name: [seed[name]["top1"] for seed in seeds] for name in FUSION.systems}

    def phrases(self, folders: Mapping[str, str]) -> dict[str, dict[str, float]]:
        """How well the phrases of test images are found, by language and "all"."""
        from model_code.metrics import ranks as phrase_metrics
        from model_code.metrics.clicked_queries import ClickedQueries, Places
        from schemas.tables.vectors import arrow_to_vectors

        features = Dataset(folders["features"]).table("features", ["image_id", "query_emb"])
        phrases = Dataset(folders["phrases"]).table(
            "phrases", ["query_id", "language", "query_vector"]
        )
        pairs = Dataset(folders["mined"]).table(
            "pairs", ["image_id", "query_id", "split", "weight"]
        )
        images = pc.index_in(pairs["image_id"], features["image_id"])
        queries = Places(phrases["query_id"].to_numpy()).of(pairs["query_id"].to_numpy())
        is_asked = np.asarray(pc.equal(pairs["split"], "test")) & (queries >= 0)
        is_asked &= np.asarray(images.is_valid())
        asked, rows = np.unique(images.filter(is_asked).to_numpy(), return_inverse=True)
        clicked = ClickedQueries.from_pairs(
            rows, queries[is_asked], pairs["weight"].to_numpy()[is_asked], len(asked)
        )
        found = phrase_metrics.retrieval(
            arrow_to_vectors(features["query_emb"])[asked],
            arrow_to_vectors(phrases["query_vector"]),
            clicked,
            {"language": phrases["language"].to_pylist()},
        )
        return {"all": found["all"]} | found["language"]


def open_collection(config: Config, name: str) -> Collection:
    """Raises PhraseLensError when files of a collection are missing."""
    source = os.path.join(config.data, name)
    if not os.path.exists(os.path.join(source, "queries.tsv")):
        raise PhraseLensError(
            source, "queries.tsv, labels.tsv and images", "Give their folder with --data."
        )
    flags, least = COLLECTIONS[name]
    workdir = storage.join(config.workdir, name)
    stages = {stage: dict(settings) for stage, settings in SETTINGS.items()}
    for stage in ("train_text_generator", "train_pixel_embedder"):
        stages[stage]["weights"] = config.weights
    settings = [f"{stage}.{k}={v}" for stage, of in stages.items() for k, v in of.items()]
    settings += [f"{k}={v}" for k, v in flags.items() if "." in k]
    base = all_stages.Config(
        workdir=workdir,
        log=os.path.join(source, "queries.tsv"),
        images=os.path.join(source, flags["images"]),
        labels=frequent_labels(os.path.join(source, "labels.tsv"), flags, least, workdir),
        set=",".join(settings),
        **{k: v for k, v in flags.items() if k.endswith("columns")},
    )
    return Collection(name, base, config.seeds)


def frequent_labels(path: str, flags: Mapping[str, str], least: int, workdir: str) -> str:
    """The label file without the labels of fewer than `least` images: all rows keep their split."""
    if least <= 1:
        return path
    columns = dict(pair.split("=") for pair in flags["label_columns"].split(","))
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    images = Counter(row[columns["label"]] for row in rows)
    kept = os.path.join(workdir, "labels.tsv")
    os.makedirs(workdir, exist_ok=True)
    with open(kept, "w", encoding="utf-8", newline="") as file:
        file.write("\t".join(columns.values()) + "\n")
        for row in rows:
            if images[row[columns["label"]]] < least:
                row[columns["label"]] = ""
            file.write("\t".join(row[column] for column in columns.values()) + "\n")
    return kept


def without_language(collection: Collection, language: str) -> dict[str, dict[str, str]]:
    """The changes that leave a language out of the log."""
    path = os.path.join(collection.base.workdir, f"queries_without_{language}.tsv")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with (
        open(collection.base.log, encoding="utf-8", newline="") as log,
        open(path, "w", encoding="utf-8", newline="") as kept,
    ):
        rows = csv.DictReader(log, delimiter="\t", quoting=csv.QUOTE_NONE)
        kept.write("\t".join(rows.fieldnames or ()) + "\n")
        for row in rows:
            if row["language"] != language:
                kept.write("\t".join(row.values()) + "\n")
    return {"mine_pairs": {"log": path}}


def measure(config: Config, name: str) -> dict:
    """All figures of one collection."""
    collection = open_collection(config, name)
    folders = collection.embed()
    result: dict = {
        "phrases": {"standard": collection.phrases(folders)},
        "labels": {},
        "variants": {},
    }
    for labels in LABELS:
        result["labels"][labels] = collection.classify(folders["examples"], labels)
    if config.variants:
        untuned = collection.classify(folders["examples"], FEW, UNTUNED)
        result["variants"]["standard, N = 60"] = untuned
        variants = dict(VARIANTS)
        if name in WITHOUT:
            variants[f"log without {WITHOUT[name]}"] = without_language(collection, WITHOUT[name])
        for variant, changes in variants.items():
            changed = collection.embed(fingerprint.of_json(changes)[:8], changes)
            result["variants"][variant] = collection.classify(changed["examples"], FEW, UNTUNED)
            if "embed_images" not in changes:
                result["phrases"][variant] = collection.phrases(changed)
    return result


def cell(values: list[float], sign: str = "") -> str:
    mean, error = mean_and_error(np.array(values))
    return f"{mean:{sign}.3f}" + ("" if np.isnan(error) else f" ± {error:.3f}")


def row(title: str, found: Scores) -> str:
    """One line of a table: pixel-only, text-only, fused, and fused less pixel-only by seed."""
    gains = list(np.subtract(found["fused"], found["pixel"]))
    cells = [*(cell(found[name]) for name in FUSION.systems), cell(gains, "+")]
    return f"| {title} | " + " | ".join(cells) + " |"


def report(name: str, result: Mapping) -> str:
    """The figures of one collection as Markdown."""
    titles = " | ".join((*FUSION.systems.values(), "fused − pixel-only"))
    head = f"| {{}} | {titles} |\n|---|" + "---:|" * 4
    labels = [row(str(n or "all"), found) for n, found in result["labels"].items()]
    lines = [f"## {name}", "", head.format("labels a class"), *labels, "", curve(result["labels"])]
    if result["variants"]:
        changed = [row(title, found) for title, found in result["variants"].items()]
        lines += ["", head.format(f"{FEW} labels a class, not tuned"), *changed]
    lines += ["", "| phrases of test images | images | recall@1 | recall@3 | recall@10 | MRR |"]
    lines += ["|---|" + "---:|" * 5]
    for variant, languages in result["phrases"].items():
        shown = languages if variant == "standard" else {"all": languages["all"]}
        for language, found in shown.items():
            cells = " | ".join(f"{found[metric]:.3f}" for metric in METRICS)
            lines.append(f"| {variant}, {language} | {found['images']:,} | {cells} |")
    return "\n".join(lines)


def curve(labels: Mapping) -> str:
    """Top-1 over labels a class, as a Mermaid chart."""
    ticks = ", ".join(f'"{n or "all"}"' for n in labels)
    lines = [
        f"    line [{', '.join(f'{np.mean(found[name]):.3f}' for found in labels.values())}]"
        for name in FUSION.systems
    ]
    return "\n".join(
        [
            "```mermaid",
            "xychart-beta",
            f'    title "top-1: {", ".join(FUSION.systems.values())}"',
            f'    x-axis "labels a class" [{ticks}]',
            *lines,
            "```",
        ]
    )


def work(config: Config) -> None:
    texts = []
    for name in config.names:
        result = measure(config, name)
        texts.append(report(name, result))
        with open(os.path.join(config.workdir, f"{name}.json"), "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)
    text = "\n\n".join(texts) + "\n"
    with open(os.path.join(config.workdir, "quality.md"), "w", encoding="utf-8") as f:
        f.write(text)
    print("\n" + text)


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench quality", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
