"""What families say of themselves, and how the gate compares two runs of one."""

import math
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from model_code.gate import families
from model_code.gate.checks import Limits
from model_code.metrics.evaluation import predictions_table
from model_code.models import family
from model_code.models.family import Evaluation, Family, Metric
from model_code.models.fusion.family import FUSION
from schemas.base.errors import PhraseLensError
from schemas.datasets.dataset import Dataset
from schemas.runs import run as run_lib
from tests.support.datasets.snapshot_work import Config

RANKING = Family(
    name="ranking",
    title="Ranking",
    makes="ranking",
    reads={"patch_embs": (196, None), "text_emb": (None,)},
    metrics={"recall": Metric("recall@1"), "rank": Metric("rank", more_is_better=False)},
    systems={"new": "ours", "old": "theirs"},
    main="new",
)
FIGURES = {"new": {"recall": 0.5, "rank": 3.0}, "old": {"recall": 0.25, "rank": math.nan}}


def dataset(root, evaluation, case_ids=(), values=None, predictions=None):
    """A dataset that holds an evaluation."""
    planned = run_lib.plan("train", Config(str(root), str(values)), [], {})
    folder = os.path.join(planned.scratch, family.TABLE)
    family.write(folder, evaluation, case_ids, values)
    if predictions is not None:
        pq.write_table(predictions, os.path.join(folder, "predictions.parquet"))
    planned.commit_tables({family.TABLE: folder}, {})
    return Dataset(str(root))


def test_an_evaluation_is_read_as_it_was_written(tmp_path):
    written = Evaluation(RANKING, 8, FIGURES)
    ids = [f"case {i}" for i in range(8)]
    values = {"recall": np.arange(8) % 2, "rank": np.linspace(1, 9, 8)}
    found = dataset(tmp_path / "ranking", written, ids, values)
    read = family.read(found)
    assert read.family == RANKING
    assert read.cases == 8
    assert repr(read.figures) == repr(FIGURES)  # NaN is not equal to itself
    cases = family.read_cases(found)
    assert cases["case_id"].to_pylist() == ids
    for name, column in values.items():
        np.testing.assert_array_equal(cases[name].to_numpy(), column)


def test_other_datasets_have_no_evaluation(tmp_path):
    planned = run_lib.plan("train", Config(str(tmp_path / "other")), [], {})
    planned.commit_files("model", planned.empty_folder("model"), {})
    other = Dataset(str(tmp_path / "other"))
    assert family.read(other) is None
    ours = dataset(tmp_path / "ours", Evaluation(RANKING, 1, FIGURES))
    assert family.read_cases(ours) is None
    assert list(family.evaluations({"other": other, "ours": ours})) == ["ours"]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"makes": "music"}, "labels, ranking, text"), ({"main": "mine"}, "one of new, old")],
)
def test_a_family_that_contradicts_itself_is_refused(change, said):
    fields = {name: getattr(RANKING, name) for name in RANKING.__dataclass_fields__}
    with pytest.raises(PhraseLensError, match=said):
        Family(**(fields | change))


@pytest.mark.parametrize(
    ("vectors", "wrong"),
    [
        ({"patch_embs": (196, 768), "text_emb": (200,)}, None),
        ({"patch_embs": (196, 1), "text_emb": (1,), "pixel_emb": (9,)}, None),
        ({"patch_embs": (49, 768), "text_emb": (200,)}, "patch_embs"),
        ({"patch_embs": (196,), "text_emb": (200,)}, "patch_embs"),
        ({"patch_embs": (196, 768, 1), "text_emb": (200,)}, "patch_embs"),
        ({"patch_embs": (196, 768)}, "text_emb"),
    ],
)
def test_vectors_of_another_shape_are_refused_by_name(vectors, wrong):
    if wrong is None:
        RANKING.check_reads(vectors, "features")
        return
    with pytest.raises(PhraseLensError, match=f"vectors {wrong} of features: expected shape"):
        RANKING.check_reads(vectors, "features")


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_the_gate_compares_the_cases_that_both_have(tmp_path_factory, both, gone, new):
    """Against scipy's standard error; cases of one side alone count for nothing."""
    tmp_path = tmp_path_factory.mktemp("families")
    shared = [f"shared {i}" for i in range(len(both))]
    sides = []
    for side, (own, seed) in enumerate(((gone, 0.0), (new, 1.0))):
        values = np.array([*(pair[side] for pair in both), *([seed] * own)])
        ids = [*shared, *(f"only {side} {i}" for i in range(own))]
        order = np.random.default_rng(side).permutation(len(ids))
        sides.append(
            dataset(
                tmp_path / str(side) / "ranking",
                Evaluation(RANKING, len(ids), FIGURES),
                [ids[i] for i in order],
                {"recall": values[order], "rank": values[order]},
            )
        )
    old, now = ({"ranking": side} for side in sides)
    checks = {c.name: c for c in families.compare(old, now, Limits(), but="fusion")}
    differences = np.array([was - is_now for was, is_now in both])
    recall, rank = checks["ranking.recall_drop"], checks["ranking.rank_drop"]
    assert recall.figure == pytest.approx(differences.mean(), abs=1e-12)
    assert rank.figure == pytest.approx(-differences.mean(), abs=1e-12)
    assert recall.chance == pytest.approx(2 * stats.sem(differences), abs=1e-9)
    assert recall.limit == Limits().max_family_drop
    assert f"{len(both):,} shared cases" in recall.note


def test_a_family_of_labels_is_compared_as_classifiers_are(tmp_path):
    """40 images; the new one is wrong on 10 of those that the old one was right on."""
    systems = {"ours": "ours", "rival": "rival"}
    tagger = Family(
        name="tagger",
        title="Tagger",
        makes="labels",
        reads={},
        metrics={"top1": Metric("top-1")},
        systems=systems,
        main="ours",
    )
    truth = np.eye(2, dtype=bool)[np.arange(40) % 2]
    sides = []
    for side, wrong in enumerate((0, 10)):
        said = np.where(truth, 0.9, 0.1).astype(np.float32)
        said[:wrong] = 1 - said[:wrong]
        table = predictions_table(
            [f"{i:02}" for i in range(40)],
            [[]] * 40,
            truth,
            ["a", "b"],
            {"ours": said, "rival": 1 - said},
        )
        figures = {name: {"top1": 0.5} for name in systems}
        evaluation = Evaluation(tagger, 40, figures)
        sides.append({"tagger": dataset(tmp_path / f"{side}", evaluation, predictions=table)})
    (gone, drop) = families.compare(*sides, Limits(), but="fusion")
    assert (gone.name, gone.verdict) == ("families.gone", "pass")
    assert drop.name == "tagger.top1_drop"
    assert drop.figure == pytest.approx(0.25)
    assert drop.verdict == "refuse"


def test_a_family_that_is_gone_is_refused_and_one_with_checks_of_its_own_left_to_them(tmp_path):
    ours = dataset(tmp_path / "ours", Evaluation(RANKING, 1, FIGURES))
    figures = {name: dict.fromkeys(FUSION.metrics, 0.5) for name in FUSION.systems}
    fusion = dataset(tmp_path / "fusion", Evaluation(FUSION, 1, figures))
    (gone,) = families.compare(
        {"ours": ours, "fusion": fusion}, {"fusion": fusion}, Limits(), but="fusion"
    )
    assert (gone.name, gone.note, gone.verdict) == ("families.gone", "ours", "refuse")
    # What has no cases of its own cannot be compared, and is no reason to refuse.
    (kept,) = families.compare({"ours": ours}, {"ours": ours, "fusion": fusion}, Limits(), "fusion")
    assert kept.verdict == "pass"


def test_nothing_is_checked_where_no_family_was(tmp_path):
    assert families.compare({}, {}, Limits(), but="fusion") == []
