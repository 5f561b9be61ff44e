import json
import math
import re
from pathlib import Path

import markupsafe
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_code.report import charts as report_charts
from model_code.report import data as report_data
from model_code.report import effects as report_effects
from model_code.report import pages as report
from schemas.datasets import dataset, manifest
from tests.support.datasets import report_work


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    root = report_work.write(str(tmp_path_factory.mktemp("work")))
    assert report.run(["--work", root, "--output", f"{root}/report"]) == 0
    return root


@pytest.fixture(scope="module")
def texts(work):
    folder = dataset.Dataset(f"{work}/report").folder("report")
    return {name: Path(folder, name).read_text(encoding="utf-8") for name in report.FILES}


def test_verdicts_and_gallery_agree_with_the_predictions(work):
    cases = report_data.read_cases(dataset.Dataset(f"{work}/fusion"))
    assert [case.image_id for case in cases] == sorted(case.image_id for case in cases)
    expected = {
        (True, True): "right",
        (False, False): "wrong",
        (False, True): "corrected",
        (True, False): "broke",
    }
    for case in cases:
        pixel = case.predictions["pixel"][0][0] == case.true[0]
        fused = case.predictions["fused"][0][0] == case.true[0]
        assert case.verdict == expected[pixel, fused]
    chosen = report_data.gallery(cases, 3)
    for verdict, shown in chosen.items():
        others = [c for c in cases if c.verdict == verdict and c not in shown]
        assert len(shown) == min(3, len(shown) + len(others))
        surest = [case.predictions["fused"][0][1] for case in shown]
        assert surest == sorted(surest, reverse=True)
        assert all(c.predictions["fused"][0][1] <= surest[-1] for c in others)


def test_the_pool_is_told(texts):
    told = "pixel-only × 0.25, text-only × 0.00, fused × 1.50; the weights were fitted"
    assert told in texts["report.html"]


def test_paired_difference_is_the_difference_of_the_accuracies(work):
    fusion = dataset.Dataset(f"{work}/fusion")
    test = report_data.read_evaluation(fusion)["test"]
    cases = report_data.read_cases(fusion)
    mean, error = report_data.paired_difference(cases, "fused", "pixel")
    assert mean == pytest.approx(test["fused"]["top1"] - test["pixel"]["top1"])
    values = [int(c.right("fused")) - int(c.right("pixel")) for c in cases]
    assert error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))


@pytest.mark.parametrize(
    ("difference", "error", "says"),
    [(0.1, 0.02, "help"), (-0.1, 0.02, "hurt"), (0.1, 0.06, "too small"), (0.1, math.nan, "small")],
)
def test_finding_says_no_more_than_the_error_allows(difference, error, says):
    assert says in report.finding(difference, error)


def test_most_confused_leaves_out_what_is_right():
    found = report_data.most_confused([[9, 1, 0], [3, 9, 0], [1, 0, 9]], ["a", "b", "c"], 2)
    assert found == [("b", "a", 3), ("a", "b", 1)]


def test_row_counts_tell_dead_rows_from_those_left_out():
    counters = {
        "images.in": 9,
        "images.out": 3,
        "images.dropped_empty_image": 2,
        "images.dropped_duplicate": 4,
        "images.seen": 1,
    }
    (found,) = report_data.row_counts(counters)
    assert found == {
        "kind": "images",
        "rows_in": 9,
        "rows_out": 3,
        "dead": {"empty_image": 2},
        "left_out": {"duplicate": 4},
    }
    assert report_data.other_counters(counters) == {"images.seen": 1}


def test_dead_rows_are_counted_and_explained(work):
    (found,) = report_data.dead_rows(dataset.Dataset(f"{work}/features"))
    assert (found["reason"], found["rows"]) == ("not_an_image", 2)
    assert "no image" in found["meaning"]
    assert report_data.dead_rows(dataset.Dataset(f"{work}/fusion")) == []


def test_large_images_become_thumbnails(work):
    ids = [f"{i:032x}" for i in (0, 1)]
    images = report_data.read_images(dataset.Dataset(f"{work}/mined"), ids)
    assert sorted(images) == ids
    large, small = (report_data.data_uri(images[key]) for key in ids)
    assert large.startswith("data:image/jpeg;base64,")
    assert len(large) < len(images[ids[0]])
    assert len(small) > len(images[ids[1]])


def test_page_holds_the_figures(work, texts):
    fusion = dataset.Dataset(f"{work}/fusion")
    page = texts["report.html"]
    table = page.partition('id="ablation-table"')[2].partition("</table>")[0]
    for metrics in report_data.read_evaluation(fusion)["test"].values():
        assert report.percent(metrics["top1"]) in table
        assert report.percent(metrics["map"]) in table
    assert page.count('<figure class="case"') == sum(
        len(shown) for shown in report_data.gallery(report_data.read_cases(fusion), 8).values()
    )
    assert page.count("<img ") == page.count('src="data:image/')
    assert "not_an_image" in page
    assert fusion.manifest.fingerprint[:12] in page


def gallery_of(work: str) -> list[report_data.Case]:
    cases = report_data.read_cases(dataset.Dataset(f"{work}/fusion"))
    return [case for shown in report_data.gallery(cases, 8).values() for case in shown]


def test_effects_are_those_of_the_label_that_was_chosen(work):
    datasets = {
        name: dataset.Dataset(f"{work}/{name}") for name in ("fusion", "model", "predictions")
    }
    cases = gallery_of(work)
    effects = report_effects.read_effects(datasets, cases)
    predicted = datasets["predictions"].table("predictions")["image_id"].to_pylist()
    assert effects.keys() == {case.image_id for case in cases} & set(predicted)
    assert 0 < len(effects) < len(cases)
    chosen = {case.image_id: case.predictions["fused"][0][0] for case in cases}
    largest = max(abs(v) for e in effects.values() for _, v, _ in e.phrases)
    for image_id, found in effects.items():
        assert found.label == chosen[image_id]
        place = report_work.LABELS.index(found.label)
        for k, (_, value, share) in enumerate(found.phrases):
            assert value == report_work.effect(place, k)
            assert share == pytest.approx(value / largest)


def test_predictions_of_another_classifier_say_nothing(work):
    names = ("fusion", "model", "predictions")
    datasets = {name: dataset.Dataset(f"{work}/{name}") for name in names}
    cases = gallery_of(work)
    for name in names:
        others = {other: datasets[other] for other in names if other != name}
        assert report_effects.read_effects(others, cases) == {}
        swapped = datasets | {name: dataset.Dataset(f"{work}/features")}
        assert report_effects.read_effects(swapped, cases) == {}


def test_page_says_what_each_phrase_did(work, texts):
    page = texts["report.html"]
    lists = re.findall(r'<ul class="effects">(.*?)</ul>', page, re.DOTALL)
    predicted = dataset.Dataset(f"{work}/predictions").table("predictions")["image_id"]
    shown = [case for case in gallery_of(work) if case.image_id in predicted.to_pylist()]
    assert len(lists) == len(shown)
    assert page.count('class="chip"') == 3 * (len(gallery_of(work)) - len(shown))
    for case, text in zip(shown, lists, strict=True):
        place = report_work.LABELS.index(case.predictions["fused"][0][0])
        values = [report_work.effect(place, k) for k in range(3)]
        assert re.findall(r">([+−]?\d+\.\d\d)<", text) == [report.signed(v) for v in values]
        up, none, down = re.findall(r"left: ([\d.]+)%; width: ([\d.]+)%", text)
        assert (up[0], none[1]) == ("50.0", "0.0")
        assert float(down[0]) + float(down[1]) == pytest.approx(50)
        assert float(up[1]) == pytest.approx(2 * float(down[1]), abs=0.11)


@pytest.mark.parametrize(
    ("value", "text"), [(1.234, "+1.23"), (-0.5, "−0.50"), (-0.001, "0.00"), (0.0, "0.00")]
)
def test_signed(value, text):
    assert report.signed(value) == text


@pytest.mark.parametrize("name", report.FILES)
def test_what_people_typed_is_escaped(texts, name):
    text = texts[name]
    assert text.count("<script") == (name == "report.html")
    assert "<img src=http" not in text
    assert "<b>grey" not in text
    if name == "report.html":
        assert str(markupsafe.escape(report_work.HOSTILE)) in text


def test_page_loads_nothing(texts):
    page = texts["report.html"]
    tags = re.findall(r"<[a-z][^>]*>", page)
    loads = [url for tag in tags for url in re.findall(r'(?:src|href)="([^"]*)"', tag)]
    assert loads
    assert all(url.startswith(("data:", "#")) for url in loads)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_hostile_labels_do_not_break_markdown_tables(texts):
    for name in ("model_card.md", "data_card.md"):
        assert r"a\|b $x$ &lt;b&gt;grey&lt;/b&gt;" in texts[name]


def test_same_input_gives_the_same_bytes(work, texts):
    again = report.render(
        report.describe(
            {name: dataset.Dataset(path) for name, path in report.folders(_config(work)).items()},
            8,
        )
    )
    assert again == texts


def _config(work):
    return report.Config(output=f"{work}/report", work=work)


def test_done_is_skipped_and_another_evaluation_is_not(tmp_path, capsys):
    root = report_work.write(str(tmp_path), images=12)
    flags = ["--work", root, "--output", f"{root}/report"]
    assert report.run(flags) == 0
    assert report.run(flags) == 0
    assert "report: already done" in capsys.readouterr().out
    path = tmp_path / "fusion" / manifest.FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "0" * 64}))
    assert report.run([*flags, "--dry_run"]) == 0
    assert "already done" not in capsys.readouterr().out


def test_missing_evaluation_is_named(tmp_path, capsys):
    assert report.run(["--work", str(tmp_path), "--output", str(tmp_path / "report")]) == 2
    assert f"{tmp_path}/mined: expected a committed dataset" in capsys.readouterr().err


def test_many_labels_and_no_confusion(work):
    labels = [f"label {i}" for i in range(60)]
    svg = report_charts.confusion(np.eye(60).tolist(), labels)
    assert "label 7" not in svg
    assert svg.startswith("<svg")


@settings(max_examples=25)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30))
def test_any_label_can_be_drawn_and_is_escaped(label):
    svg = report_charts.confusion([[1, 0], [0, 1]], [label, "--><script>alert(1)</script>"])
    assert "<script" not in svg
