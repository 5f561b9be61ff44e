"""A model family as somebody else would add it: a folder, a schema, a row in the table of stages.

It finds images of the same label by the text embeddings of their phrases, some of whose dimensions
it has learned to trust more.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.datasets.work_folder import ROOT

TREE = (
    "beam_jobs",
    "transforms",
    "model_code",
    "schemas",
    "samples",
    "configs",
    "phraselens",
    "deploy",
)
FILES = ("run.sh", "setup.py", "pyproject.toml", "requirements.txt", "README.md")

# What its author writes, and where.
SOURCES = {
    "model_code/models/toy/family.py": '''
"""Images of the same label, by what people would type for them."""

from model_code.models.family import Family, Metric

TOY = Family(
    name="toy",
    title="Toy retrieval",
    makes="ranking",
    reads={"text_emb": (None,)},
    metrics={"recall_at_1": Metric("recall@1"), "rank": Metric("mean rank", more_is_better=False)},
    systems={"toy": "weighted", "plain": "unweighted"},
    main="toy",
)
''',
    "schemas/tables/toy.py": '''
"""The weight of each dimension of a vector."""

import pyarrow as pa

WEIGHTS = pa.schema([("dimension", pa.int64()), ("weight", pa.float32())])
''',
    "model_code/models/toy/train.py": '''
"""Learns which dimensions of text embeddings tell labels apart.

  ./run.sh train toy --features work/features --output work/toy
"""

import dataclasses
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model_code.models import family
from model_code.models.toy.family import TOY
from schemas.base import fingerprint
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.runs import command
from schemas.tables.toy import WEIGHTS

MODULES = ("model_code.models.toy.train",)


@dataclasses.dataclass(frozen=True)
class Config:
    features: str = flag("Dataset of embed_images.", role="input")
    output: str = flag("Dataset to write.", role="output")
    power: float = flag("How much the spread of a dimension counts.", default=1.0)
    farthest: bool = flag("Rank what is farthest first.", default=False)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


def read(root, split):
    """Ids, first labels and [rows, width] float32 vectors of a split's labelled images."""
    columns = ["image_id", "split", "labels", "text_emb"]
    rows = [r for b in Dataset(root).batches("features", columns) for r in b.to_pylist()]
    rows = [r for r in rows if r["split"] == split and r["labels"]]
    rows.sort(key=lambda r: r["image_id"])
    vectors = np.array([r["text_emb"] for r in rows], np.float32)
    return [r["image_id"] for r in rows], np.array([r["labels"][0] for r in rows]), vectors


def ranks(queries, labels, gallery, gallery_labels, weights):
    """[rows] float64: the rank of the nearest image of the same label, from 1."""
    scores = (queries * weights) @ gallery.T
    order = np.argsort(-scores, axis=1, kind="stable")
    same = gallery_labels[order] == labels[:, None]
    return np.where(same.any(axis=1), same.argmax(axis=1), len(gallery_labels)) + 1.0


def work(config, stage):
    _, gallery_labels, gallery = read(config.features, "train")
    ids, labels, queries = read(config.features, "test")
    TOY.check_reads({"text_emb": gallery.shape[1:]}, config.features)
    weights = {"toy": gallery.std(axis=0) ** config.power, "plain": np.ones(gallery.shape[1])}
    weights["toy"] *= -1 if config.farthest else 1
    found = {n: ranks(queries, labels, gallery, gallery_labels, w) for n, w in weights.items()}
    values = {n: {"recall_at_1": (r == 1) * 1.0, "rank": r} for n, r in found.items()}
    figures = {n: {m: float(v.mean()) for m, v in of.items()} for n, of in values.items()}
    local = {name: os.path.join(stage.scratch, name) for name in ("model", family.TABLE)}
    os.makedirs(local["model"])
    kept = pa.table([np.arange(len(weights["toy"])), weights["toy"]], schema=WEIGHTS)
    pq.write_table(kept, os.path.join(local["model"], "weights.parquet"))
    evaluation = family.Evaluation(TOY, len(ids), figures)
    family.write(local[family.TABLE], evaluation, ids, values["toy"])
    identity = fingerprint.of_arrays({}, [weights["toy"]])
    stage.commit_tables(local, {"examples.rows": len(ids)}, identity)
    print(f"recall@1 {figures['toy']['recall_at_1']:.3f}")
    return 0


def run(argv=None):
    return command.main(
        "train_toy",
        Config,
        __doc__,
        argv,
        work=work,
        datasets=lambda c: {"features": c.features},
        modules=MODULES,
    )


if __name__ == "__main__":
    sys.exit(run())
''',
}
TABLE = "beam_jobs/runs/stages.py"
ROW = """    Stage(
        name="train_toy",
        module="model_code.models.toy.train",
        does="learns which dimensions of text embeddings tell labels apart",
        output="toy",
        inputs=_same("features"),
    ),
"""
LAST = '    Stage(\n        name="report",'


def add(folder: Path) -> Path:
    """A copy of the repository with the family in it; returns its root."""
    root = folder / "tree"
    for name in TREE:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, root / name)
    for name, text in SOURCES.items():
        path = root / name
        assert not path.exists(), f"{path} is nobody's"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.lstrip("\n"))
    (root / "model_code/models/toy/__init__.py").touch()
    table = (root / TABLE).read_text()
    assert table.count(LAST) == 1
    (root / TABLE).write_text(table.replace(LAST, ROW + LAST))
    return root


def phraselens(root: Path, *words: str, status: int = 0) -> str:
    """Runs a command of that copy; returns all that it printed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PHRASELENS"))}
    done = subprocess.run(
        [sys.executable, "-m", "phraselens", *words],
        env=kept | {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert done.returncode == status, done.stdout
    return done.stdout
