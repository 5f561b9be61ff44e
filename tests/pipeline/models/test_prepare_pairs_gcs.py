"""prepare_pairs from gs:// to gs://, and reading its examples from there, as on a local disk."""

import numpy as np

from model_code.models.text_generator.data import open_pairs
from schemas.datasets import checks
from tests.support.datasets.mined_dataset import prepare, write_colours


def test_pairs_in_a_bucket_are_those_of_a_local_disk(bucket, tmp_path):
    read = {}
    for base in (bucket, str(tmp_path)):
        write_colours(f"{base}/colours", per_colour=8)
        root = prepare(f"{base}/colours", f"{base}/pairs", "--image_size=16")
        assert checks.verify(root) == []
        with open_pairs(root, 0) as pairs:
            read[base] = list(pairs.train.shuffled(5, 0, 1, 9))
            assert len(pairs.validation.texts) == pairs.validation.rows > 0
    there, here = read.values()
    assert len(there) == len(here) > 0
    for batch, expected in zip(there, here, strict=True):
        assert all(map(np.array_equal, batch, expected))
