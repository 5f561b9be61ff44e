"""The phrase index that Beam builds in parts, against one built in one place."""

import dataclasses
import json
import os
import random
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from model_code.index.choice import IndexSettings
from model_code.phrases import folder
from model_code.phrases.index import PhraseIndex
from schemas.console.flags import flag
from schemas.datasets import commit as commit_lib
from schemas.datasets import manifest
from schemas.datasets import shards as shards_lib
from schemas.runs import run as run_lib
from schemas.tables.vectors import vectors_to_arrow
from tests.support.inputs.phrase_vectors import draw, images, phrases, scan
from transforms.phrases.index import BuildIndex, choose_probes

ROWS = 3000


@dataclasses.dataclass(frozen=True)
class _Config:
    output: str = flag("Dataset.", role="runtime")
    day: int = flag("Another run.", default=0)


def write_phrases(planned, table: pa.Table, num_shards: int) -> list:
    bounds = np.linspace(0, table.num_rows, num_shards + 1).astype(int)
    return [
        (
            "phrases",
            shards_lib.write_parquet(
                planned.output,
                planned.shard_path("phrases", i, num_shards, "parquet"),
                i,
                table.slice(bounds[i], bounds[i + 1] - bounds[i]),
            ),
        )
        for i in range(num_shards)
    ]


def write_images(planned, vectors: np.ndarray) -> list:
    asked = images(vectors, 400)
    splits = ["train", "validation"] * 200
    columns = {"image_id": [f"{i}" for i in range(400)], "split": splits}
    columns["query_emb"] = vectors_to_arrow(asked)
    path = planned.shard_path("image_embs", 0, 1, "parquet")
    return [("image_embs", shards_lib.write_parquet(planned.output, path, 0, pa.table(columns)))]


def build(planned, shards, settings, earlier="", *beam_flags) -> dict[str, bytes]:
    """Runs the transform; returns the index's files."""
    # A file, because another process may hold the pipeline's last step.
    found = Path(planned.output, f"found-{planned.run_id}")
    options = PipelineOptions(["--runner=FnApiRunner", *beam_flags])
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create(shards)
            | beam.Reshuffle()
            | BuildIndex(planned, 0.1, settings, earlier)
            | beam.Map(lambda named: f"{named[0]} {named[1].path}")
            | beam.combiners.ToList()
            | beam.Map(lambda lines: found.write_text("\n".join(sorted(lines))))
        )
    files = {}
    for line in found.read_text().splitlines():
        name, path = line.split(" ", 1)
        assert name == "index"
        files[os.path.basename(path)] = Path(planned.output, path).read_bytes()
    return files


def plan(root, day=0):
    return run_lib.plan("embed_phrases", _Config(str(root), day), [], {})


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf_flat", "ivf_pq"])
def test_parts_make_the_index_of_the_whole(kind, tmp_path, capsys):
    settings = IndexSettings(kind)
    table = phrases(draw(ROWS), np.arange(ROWS) * 3)
    planned = plan(tmp_path / "parts")
    shards = write_phrases(planned, table, 4)
    random.Random(0).shuffle(shards)
    files = build(planned, shards, settings)
    (tmp_path / "whole").mkdir()
    folder.build(str(tmp_path / "whole"), table.to_batches(), 0.1, settings)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert set(files) == names
    # Parquet and Arrow files show how rows came in batches.
    for name in names - {"queries.parquet", "queries.arrow"}:
        assert files[name] == (tmp_path / "whole" / name).read_bytes(), name
    index = PhraseIndex(planned.absolute(planned.folder("index")))
    assert index.queries == table["query"].to_pylist()
    assert f"{kind} of 3,000 phrases, built in" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    table = phrases(draw(ROWS), np.arange(ROWS))
    found = []
    for workers in (1, 2):
        planned = plan(tmp_path / str(workers))
        shards = write_phrases(planned, table, 5) + write_images(planned, draw(ROWS))
        flags = ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
        found.append(build(planned, shards, IndexSettings("ivf_pq"), "", *flags))
    assert found[0] == found[1]


def test_probes_are_images_that_were_held_out(tmp_path):
    planned = plan(tmp_path)
    vectors = draw(ROWS)
    ((_, shard),) = write_images(planned, vectors)
    held_out = images(vectors, 400)[1::2]
    probes = choose_probes([planned.absolute(shard.path)], 150)
    assert len(probes) == 150
    assert all((probe == held_out).all(axis=1).any() for probe in probes)
    assert len(choose_probes([planned.absolute(shard.path)], 1000)) == 400
    assert choose_probes([]) is None


def commit(planned, index_shards: dict[str, bytes], generator: str) -> None:
    planned = dataclasses.replace(planned, models={"generator": generator})
    names = sorted(index_shards)
    shards = shards_lib.describe_files(planned.output, planned.folder("index"), names)
    done = planned.manifest({"index": manifest.Table("files", "", tuple(shards))}, {})
    assert commit_lib.commit(planned.output, done, planned.seen)


@pytest.mark.parametrize(
    ("generator", "max_drift", "said"),
    [
        ("same", 0.2, "updated"),
        ("same", 0.01, "built in 3 parts"),
        ("another", 0.2, "built in 3 parts"),
    ],
)
def test_the_next_day_updates_or_builds_anew(tmp_path, capsys, generator, max_drift, said):
    settings = IndexSettings("ivf_flat", max_drift=max_drift)
    vectors, ids = draw(ROWS), np.arange(ROWS)
    first = plan(tmp_path / "first")
    commit(first, build(first, write_phrases(first, phrases(vectors, ids), 3), settings), "same")
    keep = ids >= 100
    vectors = np.concatenate([vectors[keep], draw(80, seed=5)])
    ids = np.concatenate([ids[keep], ROWS + np.arange(80)])
    second = dataclasses.replace(plan(tmp_path / "second", 1), models={"generator": generator})
    shards = write_phrases(second, phrases(vectors, ids), 3)
    files = build(second, shards, settings, first.output)
    assert ("places.npy" in files) == (said == "updated")
    assert f"ivf_flat of 2,980 phrases, {said}" in capsys.readouterr().err
    index = PhraseIndex(second.absolute(second.folder("index")))
    asked = images(vectors, 200)
    found = index.search(asked, 3)
    assert (ids[found.rows] == ids[scan(vectors, asked, 3)[0]]).mean() >= 0.97
    drifted = json.loads(files["config.json"])["drift"]["drifted_rows"]
    assert drifted == (180 if said == "updated" else 0)
