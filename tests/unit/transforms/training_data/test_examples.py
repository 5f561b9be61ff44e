"""A vector of several dimensions on its way from features to the classifier's batches."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.models import prepare_examples
from model_code.models.fusion.data import open_examples
from model_code.models.fusion.family import INPUTS
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.datasets import commit, dataset, manifest
from schemas.datasets import shards as shards_lib
from schemas.runs import run as run_lib
from schemas.tables import embedded
from schemas.tables.mined import SPLITS
from schemas.tables.vectors import vectors_to_arrow
from transforms.training_data.select import shapes_of

VECTORS = {"text_emb": (3,), "pixel_emb": (2,), "patch_embs": (4, 6)}
ROWS = 40


@dataclasses.dataclass(frozen=True)
class _Features:
    output: str = flag("Dataset.", role="runtime")


def made() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {n: rng.normal(2, 3, (ROWS, *s)).astype(np.float32) for n, s in VECTORS.items()}
    found["text_emb"] /= np.linalg.norm(found["text_emb"], axis=1, keepdims=True)
    # Not a number: the row is dead.
    found["patch_embs"][5, 3, 2] = np.nan
    return found


def write_features(root: str) -> dataset.Dataset:
    """Rows of features in one shard; row r is of split r modulo 3, or of label r modulo 2."""
    schema = embedded.features(VECTORS)
    columns = {
        "image_id": [f"{row:032x}" for row in range(ROWS)],
        "split": [SPLITS[row % 3] for row in range(ROWS)],
        "labels": [["ab"[row % 2]] for row in range(ROWS)],
        "phrases": [["p"]] * ROWS,
        **{name: vectors_to_arrow(values) for name, values in made().items()},
    }
    nothing = {name: pa.nulls(ROWS, schema.field(name).type) for name in schema.names}
    table = pa.table(nothing | {n: pa.array(c, schema.field(n).type) for n, c in columns.items()})
    planned = run_lib.plan("embed_images", _Features(root), [], {})
    path = planned.shard_path("features", 0, 1, "parquet")
    shard = shards_lib.write_parquet(root, path, 0, table.cast(schema))
    described = manifest.Table("parquet", shards_lib.schema_fingerprint(schema), (shard,))
    commit.commit(root, planned.manifest({"features": described}, {}, 1), planned.seen)
    return dataset.Dataset(root)


def test_a_batch_has_the_vectors_that_were_asked_for_normalised_in_their_shapes(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(INPUTS, "fused", ("text_emb", "patch_embs"))
    write_features(f"{tmp_path}/features")
    argv = [f"--features={tmp_path}/features", f"--output={tmp_path}/examples", "--num_shards=2"]
    assert prepare_examples.run([*argv, "--max_dead_fraction=0.1"]) == 0
    rows = np.arange(ROWS)
    alive = rows != 5
    with open_examples(f"{tmp_path}/examples", 4, 0) as reader:
        assert reader.vectors == {"text_emb": (3,), "patch_embs": (4, 6)}
        for place, split in enumerate(SPLITS):
            ids, _ = reader.names(split)
            of_split = [int(image_id, 16) for image_id in ids]
            assert sorted(of_split) == rows[alive & (rows % 3 == place)].tolist()
            batches = list(reader.batches(split))
            assert batches[0].keys() == {"text_emb", "patch_embs", "label_ids"}
            for name, values in made().items():
                if name in reader.vectors:
                    trained = values[alive & (rows % 3 == 0)]
                    expected = (values - trained.mean(axis=0)) / trained.std(axis=0)
                    found = np.concatenate([batch[name] for batch in batches])
                    np.testing.assert_allclose(found, expected[of_split], atol=1e-4, strict=True)


def test_features_without_a_vector_are_an_error_that_names_it(tmp_path):
    features = write_features(str(tmp_path))
    path = features.path(features.shards("features")[0])
    assert shapes_of(path, ["patch_embs"]) == {"patch_embs": (4, 6)}
    for missing in ("region_embs", "labels"):
        with pytest.raises(PhraseLensError, match=missing):
            shapes_of(path, ["text_emb", missing])
