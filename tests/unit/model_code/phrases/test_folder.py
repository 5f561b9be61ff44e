"""What a phrase index is tuned with, and that it holds phrases."""

import numpy as np
import pytest

from model_code.index.choice import IndexSettings
from model_code.phrases import folder as folder_lib
from model_code.phrases.index import PhraseIndex
from schemas.base.errors import PhraseLensError
from schemas.tables.vectors import arrow_to_vectors
from tests.support.inputs.phrase_vectors import draw, images, phrases, scan


def test_probes_of_images_are_what_it_is_tuned_with(tmp_path):
    table = phrases(draw(2000), np.arange(2000) * 7)
    vectors = arrow_to_vectors(table["query_vector"])
    far = images(-vectors, 200)
    settings = IndexSettings("ivf_flat")
    folder_lib.build(str(tmp_path), table.to_batches(), 0.1, settings, far)
    index = PhraseIndex(str(tmp_path))
    found = index.search(far, 3)
    assert (found.rows == scan(vectors, far, 3)[0]).mean() >= 0.98


def test_no_phrases_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(PhraseLensError, match="min_prototype_images"):
        folder_lib.build(str(tmp_path), [], 0.1)
