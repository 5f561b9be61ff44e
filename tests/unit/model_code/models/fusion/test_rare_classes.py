"""Labels of few images: training, report and gate end well, and say which figures do not exist."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.runs import all_stages
from model_code.gate import checks as gate_checks
from model_code.gate import evaluation as gate_evaluation
from model_code.metrics import evaluation
from model_code.models.fusion import train as train_fusion
from model_code.models.fusion.family import FUSION
from model_code.report import data as report_data
from model_code.report import pages as report
from schemas.datasets.dataset import Dataset
from tests.support.datasets import mined_dataset
from tests.support.datasets.examples_dataset import Rows, write_examples

FLAGS = (
    "--layers=linear",
    "--weight_decays=0.1",
    "--pixel_scales=1",
    "--epochs=1",
    "--min_steps=1",
)
# Which labels the images of train, validation and test have; −1 is one that training has not.
KINDS: dict[str, tuple[str, Sequence, Sequence, Sequence]] = {
    "a class without a test image": ("single", [0, 1, 2] * 4, [0, 1, 2], [0, 1, 0]),
    "a class without a validation image": ("single", [0, 1, 2] * 4, [0, 1], [0, 1, 2]),
    "a class without a training image": ("single", [0, 1] * 4, [0, -1], [0, 1, -1]),
    "a class of one image": ("single", [0] * 6 + [1], [0], [0, 0]),
    "one test image": ("single", [0, 1] * 4, [0, 1], [1]),
    "no test image of a known label": ("single", [0, 1] * 4, [0, 1], [-1, -1]),
    "200 classes of few images": ("single", range(200), range(0, 200, 9), range(0, 200, 7)),
    "several labels": ("multi", [(0, 1), (2,), (0, 2)], [(0,)], [(0, 1), (1,)]),
}


def ids_of(labels: Sequence) -> list[list[int]]:
    return [list(of) if isinstance(of, tuple) else [of] for of in labels]


def rows_of(labels: Sequence, seed: int) -> Rows:
    rng, ids = np.random.default_rng(seed), ids_of(labels)
    return Rows(
        rng.normal(size=(len(ids), 2)).astype(np.float32),
        rng.normal(size=(len(ids), 3)).astype(np.float32),
        ids,
    )


QUICK = ("a class without a test image", "a class without a training image")
QUICK += ("200 classes of few images", "several labels")


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=[pytest.mark.slow] * (kind not in QUICK)) for kind in KINDS],
)
def made(request, tmp_path_factory):
    """The kind, the work folder with a trained classifier and its report, and what was printed."""
    task, *parts = KINDS[request.param]
    root = str(tmp_path_factory.mktemp("rare"))
    names = [f"label {n}" for n in range(1 + max(max(of) for of in ids_of(parts[0])))]
    splits = {
        name: rows_of(of, n)
        for n, (name, of) in enumerate(zip(("train", "validation", "test"), parts, strict=True))
    }
    write_examples(f"{root}/examples", splits, names, task)
    argv = [f"--examples={root}/examples", f"--output={root}/fusion", *FLAGS]
    assert train_fusion.run(argv) == 0
    images = [
        {"image_id": f"{n:032x}", "keys": [str(n)], "split": "train", "labels": [name]}
        | {"width": 8, "height": 8, "image": b""}
        for n, name in enumerate([*names, "unknown"])
    ]
    mined_dataset.write_mined(f"{root}/mined", images, [], [], [])
    assert report.run(["--work", root, "--output", f"{root}/report"]) == 0
    return request.param, root


def texts_of(root: str) -> dict[str, str]:
    folder = Dataset(f"{root}/report").folder("report")
    return {name: Path(folder, name).read_text(encoding="utf-8") for name in report.FILES}


def test_training_and_report_end_and_show_dashes(made):
    kind, root = made
    found = report_data.read_evaluation(Dataset(f"{root}/fusion"))
    _, _, _, test = KINDS[kind]
    support = [sum(c in of for of in ids_of(test)) for c in range(len(found["labels"]))]
    for name in FUSION.systems:
        classes = found["test"][name]["per_class"]
        assert [row["support"] for row in classes] == support
        for row in classes:
            assert np.isnan(row["recall"]) == np.isnan(row["average_precision"])
            assert np.isnan(row["recall"]) == (row["support"] == 0)
        assert np.isnan(found["test"][name]["map"]) == (not any(support))
    page = texts_of(root)["report.html"]
    table = page.partition('id="class-table"')[2].partition("</table>")[0]
    rows = re.findall(r"<tr><td>label \d+</td>(.*?)</tr>", table, re.DOTALL)
    assert len(rows) == len(support)
    for row, images in zip(rows, support, strict=True):
        recall = re.findall(r"<td[^>]*>([^<]*)</td>", row)[2]
        assert (recall == "–") == (images == 0)


def test_no_text_shows_what_is_no_number(made):
    _, root = made
    shown = list(texts_of(root).values())
    found = report_data.read_evaluation(Dataset(f"{root}/fusion"))
    shown += [all_stages.ablation_table(found), "\n".join(train_fusion.report_lines(found))]
    for text in shown:
        body = re.sub(r"(?s)<script>.*?</script>", "", text).replace(">None.</p>", "")
        assert not re.search(r"\b(nan|NaN|None)\b", body)


def test_what_has_no_figure_is_told_with_its_cause(made):
    kind, root = made
    found = report_data.read_evaluation(Dataset(f"{root}/fusion"))
    told = {
        "a class without a test image": "1 of 3 labels have no test image",
        "a class without a training image": "1 of 3 test images have no label that a training",
        "a class of one image": "1 of 2 labels have no test image",
        "one test image": "one test image only",
        "no test image of a known label": "2 of 2 labels have no test image",
        "200 classes of few images": "171 of 200 labels have no test image",
        "several labels": "1 of 3 labels have no test image",
    }.get(kind, "")
    texts = [texts_of(root)["report.html"], texts_of(root)["model_card.md"]]
    texts += [all_stages.ablation_table(found), "\n".join(train_fusion.report_lines(found))]
    for text in texts:
        assert told in text
    assert "labels of the collection are unknown to the classifiers" in texts[0]


def test_the_gate_compares_what_there_is(made):
    _, root = made
    cases = report_data.read_cases(Dataset(f"{root}/fusion"))
    for old, new, verdict, note in (
        (cases, cases, "pass", "test images"),
        ([], cases, "skip", "no labelled test image before"),
        (cases, [], "refuse", "no labelled test image any more"),
    ):
        checks = gate_checks._evaluation(gate_evaluation.compare(old, new), gate_checks.Limits())
        assert checks[0].verdict == verdict
        assert note in checks[0].note
        assert checks[1].verdict in ("pass", "skip")
        assert "nan" not in gate_checks.table(checks)


def _evaluation(draw_probabilities: np.ndarray, truth: np.ndarray, multi: bool) -> Mapping:
    labels = [f"label {c}" for c in range(truth.shape[1])]
    found = evaluation.evaluate(draw_probabilities, truth, multi)
    found |= evaluation.evaluate_classes(draw_probabilities, truth, multi, labels)
    return {
        "labels": labels,
        "rows": {"train": 1, "validation": 1, "test": len(truth)},
        "unknown_test_rows": int((~truth.any(axis=1)).sum()),
        "test": dict.fromkeys(FUSION.systems, found),
        "seeds": [dict.fromkeys(FUSION.systems, found)] * 2,
    }


@given(
    st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 6), st.booleans(), st.floats(0, 0.4)
)
def test_any_split_has_a_table_and_only_figures_that_exist(seed, rows, classes, multi, share):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), rows).astype(np.float32)
    truth = rng.random((rows, classes)) < share
    if not multi:
        truth &= np.cumsum(truth, axis=1) == 1
    found = _evaluation(probabilities, truth, multi)
    stored = json.dumps(evaluation.without_nan(found), allow_nan=False)
    read = evaluation.with_nan(json.loads(stored))
    np.testing.assert_equal(read, found)
    for text in (all_stages.ablation_table(read), "\n".join(train_fusion.report_lines(read))):
        assert "nan" not in text
        assert ("no test image," in text) == (not truth.any(axis=0).all())
        assert ("that a training image has" in text) == (not truth.any(axis=1).all())


def test_validation_images_of_unknown_labels_alone_are_an_error(tmp_path, capsys):
    splits = {"train": rows_of([0, 1], 0), "validation": rows_of([-1], 1), "test": rows_of([0], 2)}
    write_examples(f"{tmp_path}/examples", splits, ["a", "b"])
    argv = [f"--examples={tmp_path}/examples", f"--output={tmp_path}/fusion", *FLAGS]
    assert train_fusion.run(argv) == 2
    assert "split 'validation'" in capsys.readouterr().err
