"""Text embeddings on real phrases: across 28 languages, of captions, and of titles for few labels.

Mines and trains by flags alone, each step in a process of its own, on three folders of --data:
  emoji/      queries.tsv (concept, query, language), labels.tsv (concept, split)
  flickr1k/   captions_text_only_7k.tsv (image_name, caption)
  fashion/    queries.tsv (image_id, query), labels.tsv (image_id, articleType, split)
Only phrases of training images are mined. Prints how high a query ranks its partner (recall@1,
recall@10, MRR) with every variant of the network beside tf-idf and the mean of words: pairs and
queries held out, and emoji that training never saw; by language; and the accuracy of a linear probe
on titles with 10 labels a class. What is done is not run again.

  ./run.sh bench text_embedder --data DATA
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks import measured
from model_code.metrics.classification import mean_and_error
from model_code.models.text_embedder import evaluate as text_evaluation
from model_code.models.text_embedder.data import Neighbours, load_associations
from model_code.text.normalise import normalize_query
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console import launch
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset

# The first is the default; each other one differs from it in what its name says.
VARIANTS: dict[str, dict[str, dict[str, str]]] = {
    "emoji": {
        "default": {},
        "bag": {"attention": "false"},
        "not_debiased": {"debias": "false"},
    },
    "flickr1k": {"default": {}},
    "fashion": {"default": {}, "by_frequency": {"frequency_power": "0.5"}},
}
SETTINGS = {
    "emoji": {"epochs": "4", "max_steps_per_epoch": "300"},
    "flickr1k": {"epochs": "4", "max_steps_per_epoch": "200"},
    "fashion": {"epochs": "4"},
}
COLUMNS = {
    "emoji": "image=concept",
    "flickr1k": "image=image_name,query=caption",
    "fashion": "image=image_id",
}
LINKED = {"emoji": "64", "flickr1k": "5", "fashion": "5"}
MIN_CLASS = 20
LABELS = 10
PAIRS = CANDIDATES = 10_000


@dataclasses.dataclass(frozen=True)
class Config:
    data: str = flag("Folder that holds emoji/, flickr1k/ and fashion/.", role="input")
    workdir: str = flag(
        "Folder for the datasets.", default="work/bench_text_embedder", role="output"
    )
    names: tuple[str, ...] = flag("Which of them.", default=tuple(VARIANTS))
    seeds: int = flag("Draws of the probe's labels.", default=5, minimum=1)


def read_tsv(path: str) -> pa.Table:
    """A table of strings.

    Raises:
      PhraseLensError: there is no such file.
    """
    if not os.path.exists(path):
        raise PhraseLensError(path, "a table of the data", "Give its folder with --data.")
    parse = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
    with open(path, encoding="utf-8") as f:
        names = f.readline().rstrip("\n").split("\t")
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    return pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert)


def phrases(config: Config, name: str, split: str) -> pa.Table:
    """The phrases of a collection's images of one split; captions all are of one."""
    folder = os.path.join(config.data, name)
    if name == "flickr1k":
        return read_tsv(os.path.join(folder, "captions_text_only_7k.tsv"))
    key = COLUMNS[name].removeprefix("image=")
    labels = read_tsv(os.path.join(folder, "labels.tsv"))
    wanted = labels.filter(pc.equal(labels["split"], split))[key]
    found = read_tsv(os.path.join(folder, "queries.tsv"))
    return found.filter(pc.is_in(found[key], value_set=wanted.combine_chunks()))


def _run(module: str, flags: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", module, *(f"--{k}={v}" for k, v in flags.items())]
    if subprocess.run(launch.part(command)).returncode:
        raise PhraseLensError(module, "to succeed", "See what it said above.")


def prepare(config: Config, name: str) -> dict[str, Dataset]:
    """Mines a collection and trains every variant on it: variant → its dataset."""
    work = storage.join(config.workdir, name)
    os.makedirs(work, exist_ok=True)
    log, mined = (storage.join(work, part) for part in ("log.parquet", "mined"))
    pq.write_table(phrases(config, name, "train"), log)
    mining = {"log": log, "columns": COLUMNS[name], "max_linked_queries": LINKED[name]}
    mining |= {"validation_share": "0", "test_share": "0", "output": mined}
    _run("beam_jobs.mining.mine_pairs", mining)
    found = {}
    for variant, changes in VARIANTS[name].items():
        output = storage.join(work, variant)
        flags = SETTINGS[name] | changes | {"mined": mined, "output": output}
        _run("model_code.models.text_embedder.train", flags)
        found[variant] = Dataset(output)
    return found


def held_out_tables(trained: Mapping[str, Dataset]) -> list[str]:
    """The figures of all variants and the baselines on what each run held out."""
    found = {}
    for variant, dataset in trained.items():
        with open(os.path.join(dataset.folder("model"), "evaluation.json"), encoding="utf-8") as f:
            found[variant] = json.load(f)
    first = found[next(iter(found))]
    tables = []
    for kind, baselines in first.items():
        methods = {variant: figures[kind]["methods"]["model"] for variant, figures in found.items()}
        methods |= {n: m for n, m in baselines["methods"].items() if n != "model"}
        title = f"{kind.replace('_', ' ')}, 1 of {baselines['candidates']:,}"
        tables.append(text_evaluation.table(title, methods))
        if len(baselines["methods"]["model"]["by_language"]) > 2:
            tables.append(language_table(kind.replace("_", " "), baselines["methods"]))
    return tables


def language_table(title: str, methods: Mapping) -> str:
    """recall@1 and recall@10 of each language: found in the same and in other languages."""
    names = ("model", "tf_idf")
    heads = [f"{kind} {name}" for kind in ("within", "across") for name in names]
    lines = [f"{title + ', by language':32}" + "".join(f"{head:>16}" for head in heads)]
    for language in methods["model"]["by_language"]:
        cells = []
        for kind in ("within", "across"):
            for name in names:
                found = methods[name]["by_language"].get(language, {}).get(kind, {})
                some = found.get("pairs", 0)
                figures = (found[k] for k in ("recall_at_1", "recall_at_10")) if some else ()
                cells.append(" ".join(f"{figure:.3f}" for figure in figures) or "–")
        lines.append(f"{language:32}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def unseen_images(config: Config, trained: Mapping[str, Dataset]) -> str:
    """Phrases of test emoji that no training emoji has: does one find another of its emoji?"""
    from model_code.models.text_embedder.held_out import make_bags
    from model_code.models.text_embedder.network import TextEmbedder

    mined = Dataset(storage.join(config.workdir, "emoji", "mined"))
    known_texts = load_associations(mined).texts.to_pylist()
    rows = phrases(config, "emoji", "test").to_pylist()
    groups: dict[str, set[str]] = {}
    languages: dict[str, str] = {}
    for row in rows:
        query = normalize_query(row["query"])
        groups.setdefault(row["concept"], set()).add(query)
        languages.setdefault(query, row["language"])
    texts = sorted(languages.keys() - set(known_texts))
    place = {text: i for i, text in enumerate(texts)}
    pairs = []
    for group in groups.values():
        members = np.array(sorted(place[text] for text in group if text in place), np.int64)
        pairs.append(members[np.argwhere(~np.eye(len(members), dtype=bool))])
    every = np.unique(np.concatenate(pairs), axis=0)
    known = Neighbours(every, len(texts))
    some = np.sort(np.random.default_rng(0).permutation(len(every))[:PAIRS])
    asked = every[some]
    candidates = text_evaluation.choose_candidates(asked, len(texts), CANDIDATES)
    bags = make_bags(pa.array([*texts, *known_texts]), 2**40, 64)
    fitted = np.arange(len(texts), len(texts) + len(known_texts))
    similarities = {
        variant: text_evaluation.cosines(TextEmbedder(dataset.folder("model")).embed(texts))
        for variant, dataset in trained.items()
    }
    ids = bags.rows(np.arange(len(bags)))
    similarities["tf_idf"] = text_evaluation.TfIdf(ids, fitted).similarity
    spoken = np.array([languages[text] for text in texts], object)
    popular = text_evaluation.most_popular(known.count())
    methods = {
        name: text_evaluation.summary(
            text_evaluation.rank_partners(similarity, asked, candidates, known),
            asked,
            spoken,
            popular,
        )
        for name, similarity in similarities.items()
    }
    return text_evaluation.table(f"unseen images, 1 of {len(candidates):,}", methods)


def ridge_probe(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A linear classifier on few labels: ridge regression on one-hot classes.

    Its penalty is the one of least squared error when each row is left out in turn, which
    has a closed form (Allen, Technometrics 1974).

    Args:
      train: [rows, rows] float: dot products among the training rows.
      test: [tested, rows] float: dot products with them.
      labels: [rows] int64.

    Returns:
      [tested] int64 labels.
    """
    targets = np.eye(labels.max() + 1)[labels]
    # The constant feature is the intercept.
    values, vectors = np.linalg.eigh(train.astype(np.float64) + 1)
    values = np.maximum(values, 0)
    turned = vectors.T @ targets
    best, best_error = targets, np.inf
    for penalty in np.logspace(-4, 2, 19) * values.mean():
        fitted = vectors @ (turned * (values / (values + penalty))[:, None])
        leverage = vectors**2 @ (values / (values + penalty))
        error = np.mean(((targets - fitted) / (1 - leverage)[:, None]) ** 2)
        if error < best_error:
            best_error, best = error, vectors @ (turned / (values + penalty)[:, None])
    return np.argmax((test + 1) @ best, axis=1)


def probe(config: Config, trained: Mapping[str, Dataset]) -> str:
    """Accuracy on validation titles of probes that see LABELS training titles a class."""
    from model_code.models.text_embedder.held_out import make_bags
    from model_code.models.text_embedder.network import TextEmbedder

    labels = read_tsv(os.path.join(config.data, "fashion", "labels.tsv"))
    count = pc.value_counts(labels["articleType"])
    names = sorted(row["values"] for row in count.to_pylist() if row["counts"] >= MIN_CLASS)
    titles, classes, is_train = [], [], []
    for split in ("train", "val"):
        found = phrases(config, "fashion", split).join(labels, "image_id").sort_by("image_id")
        found = found.filter(pc.is_in(found["articleType"], value_set=pa.array(names)))
        titles += [normalize_query(title) for title in found["query"].to_pylist()]
        classes += [names.index(name) for name in found["articleType"].to_pylist()]
        is_train += [split == "train"] * len(found)
    train, test = np.flatnonzero(is_train), np.flatnonzero(~np.array(is_train))
    truth = np.array(classes)
    similarities = {
        variant: text_evaluation.cosines(TextEmbedder(dataset.folder("model")).embed(titles))
        for variant, dataset in trained.items()
    }
    ids = make_bags(pa.array(titles), 2**40, 64).rows(np.arange(len(titles)))
    similarities["tf_idf"] = text_evaluation.TfIdf(ids, train).similarity
    lines = [f"{f'titles, {len(names)} classes, {LABELS} labels each':44}   accuracy"]
    for name, similarity in similarities.items():
        accuracy = []
        for seed in range(config.seeds):
            chosen = few(truth[train], LABELS, seed)
            some = train[chosen]
            found = ridge_probe(similarity(some, some), similarity(test, some), truth[some])
            accuracy.append(float(np.mean(found == truth[test])))
        mean, error = mean_and_error(np.array(accuracy))
        lines.append(f"{name:44}   {mean:.3f} ± {error:.3f}")
    return "\n".join(lines)


def few(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many rows of each class, at random: [chosen] int64 sorted."""
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == label][:most] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def work(config: Config) -> str:
    tables = []
    for name in config.names:
        trained = prepare(config, name)
        found = held_out_tables(trained) if name != "fashion" else [probe(config, trained)]
        if name == "emoji":
            found.append(unseen_images(config, trained))
        tables += [f"```\n{name}: {table}\n```" for table in found]
    return "\n\n".join(tables)


def run(argv: Sequence[str] | None = None) -> int:
    return measured.main(Config, __file__, __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
