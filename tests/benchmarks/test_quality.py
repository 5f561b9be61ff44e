"""The quality benchmark's own arithmetic; the pipeline that it runs is tested elsewhere."""

import csv
import dataclasses
import importlib

import numpy as np
import pytest

from beam_jobs.runs import stages
from benchmarks.models import quality
from schemas.base.errors import PhraseLensError


@pytest.fixture
def data(tmp_path):
    (tmp_path / "emoji").mkdir()
    rows = [("a", 'say "hi"', "en"), ("b", "hallo", "de"), ("b", "hello", "en")]
    lines = ["concept\tquery\tlanguage", *("\t".join(row) for row in rows)]
    (tmp_path / "emoji" / "queries.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def config(data) -> quality.Config:
    return quality.Config(str(data), "mobilenet.weights.h5", str(data / "work"))


def test_gains_are_of_the_same_seed():
    found = {"pixel": [0.5, 0.7], "text": [0.4, 0.4], "fused": [0.6, 0.8]}
    line = quality.row("3", found)
    assert line == "| 3 | 0.600 ± 0.100 | 0.400 ± 0.000 | 0.700 ± 0.100 | +0.100 ± 0.000 |"
    assert quality.cell([0.5]) == "0.500"


def test_curve_has_a_line_for_each_classifier():
    labels = {
        1: {n: [0.25, 0.75] for n in quality.FUSION.systems},
        0: {n: [1.0] for n in quality.FUSION.systems},
    }
    chart = quality.curve(labels)
    assert chart.count("line [0.500, 1.000]") == 3
    assert '["1", "all"]' in chart


def test_a_language_is_left_out_of_the_log_and_nothing_else(data):
    collection = quality.open_collection(config(data), "emoji")
    changes = quality.without_language(collection, "de")
    with open(changes["mine_pairs"]["log"], newline="") as log:
        kept = list(csv.DictReader(log, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [row["query"] for row in kept] == ['say "hi"', "hello"]


def test_labels_of_few_images_are_no_classes_and_their_rows_keep_their_split(data):
    (data / "labels.tsv").write_text("id\tkind\tsplit\n1\ta\ttrain\n2\ta\ttest\n3\tb\ttrain\n")
    flags = {"label_columns": "key=id,label=kind,split=split"}
    path = str(data / "labels.tsv")
    assert quality.frequent_labels(path, flags, 1, str(data / "work")) == path
    with open(quality.frequent_labels(path, flags, 2, str(data / "work"))) as kept:
        assert kept.read() == "id\tkind\tsplit\n1\ta\ttrain\n2\ta\ttest\n3\t\ttrain\n"


def test_variants_and_collections_set_flags_that_exist():
    steps = {step.name: step for step in stages.STAGES}
    for name, changes in {**quality.VARIANTS, "all": quality.SETTINGS}.items():
        for stage, settings in changes.items():
            config = importlib.import_module(steps[stage].module).Config
            known = {field.name for field in dataclasses.fields(config)}
            assert set(settings) <= known, name


def test_missing_data_is_named(tmp_path):
    with pytest.raises(PhraseLensError, match="fashion"):
        quality.open_collection(config(tmp_path), "fashion")


def test_all_classifiers_are_shown():
    found = {name: [0.1] for name in quality.FUSION.systems}
    metrics = dict.fromkeys(quality.METRICS, 0.5) | {"images": 7}
    result = {
        "labels": {1: found, 0: found},
        "variants": {"N = 3": found},
        "phrases": {"standard": {"all": metrics, "de": metrics}, "other": {"all": metrics}},
    }
    text = quality.report("emoji", result)
    for part in ("| all | 0.100 |", "| N = 3 |", "| standard, de | 7 | 0.500 |", "| other, all |"):
        assert part in text
    assert np.all([title in text for title in quality.FUSION.systems.values()])
