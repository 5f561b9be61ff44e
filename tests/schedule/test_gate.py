"""The gate on made-up snapshots: days that differ by chance pass, a planted drift is named."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from model_code.gate import checks as gate_checks
from model_code.gate import command as gate
from model_code.gate import evaluation as gate_evaluation
from schemas.base.errors import Exit, RefusedError
from schemas.datasets import commit, manifest, shards
from schemas.runs import changes, snapshots
from schemas.runs import run as run_lib
from tests.support.datasets import gate_work
from tests.support.datasets.gate_work import Day

USED, CANDIDATE = "2026-01-01", "2026-01-02"


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A work folder with one snapshot, in use."""
    work = str(tmp_path_factory.mktemp("gate") / "work")
    gate_work.write(work, USED)
    changes.promote(work, USED)
    return work


def run(work, date, *flags):
    """(exit status, what the JSON says)."""
    status = gate.run([f"--workdir={work}", f"--date={date}", *flags])
    return status, json.loads(Path(work, "gates", f"{date}.json").read_bytes())


def refused_by(work, day, *flags):
    gate_work.write(work, CANDIDATE, day)
    status, result = run(work, CANDIDATE, *flags)
    assert status == (Exit.REFUSED if result["refused_by"] else 0)
    assert result["verdict"] == ("refuse" if status else "pass")
    return result["refused_by"]


def test_first_snapshot_passes_with_a_note(tmp_path, capsys):
    gate_work.write(str(tmp_path), USED, Day(images=30))
    status, result = run(str(tmp_path), USED)
    assert (status, result["verdict"], result["against"]) == (0, "pass", None)
    assert "nothing is in use yet" in capsys.readouterr().out


def test_snapshot_against_itself_has_drifted_by_nothing(used, capsys):
    status, result = run(used, USED, f"--against={USED}")
    assert status == 0
    *compared, alone = result["checks"]
    assert {(check["figure"], check["verdict"]) for check in compared} == {(0, "pass")}
    assert (alone["name"], alone["verdict"]) == ("evaluation.below_guess", "pass")
    assert not any(check["moved"] for check in result["checks"])
    assert (result["labels_gone"], result["labels_new"]) == ([], [])
    capsys.readouterr()
    status, result = run(used, USED)
    assert (status, result["checks"]) == (0, [])
    assert "is in use already; nothing was checked" in capsys.readouterr().out


def test_same_classifier_is_judged_by_what_the_model_says_with_other_phrases(used):
    gate_work.write(used, "2026-04-01", Day(seed=5))
    first = snapshots.read(used, USED)

    def without(name, runs):
        return {n: run for n, run in runs.items() if n != name}

    for number, error_rate in enumerate((0.2, 0.5)):
        date = f"2026-04-0{2 + number}"
        drawn = gate_work.write(used, date, Day(seed=6, error_rate=error_rate))
        date = f"2026-04-1{number}"
        changes.write(used, date, drawn.datasets | {"fusion": first.datasets["fusion"]})
        status, result = run(used, date)
        drops = [f"evaluation.{metric}_drop" for metric in ("top1", "map")]
        assert (status, result["refused_by"]) == ((Exit.REFUSED, drops) if number else (0, []))
        (top1,) = (c for c in result["checks"] if c["name"] == drops[0])
        assert top1["note"] == "200 shared test images"
        changes.write(used, date, without("predictions", snapshots.read(used, date).datasets))
        _, result = run(used, date)
        notes = {c["name"]: (c["verdict"], c["note"]) for c in result["checks"]}
        assert notes[drops[0]] == ("skip", "no predictions of both")


@pytest.mark.parametrize("retrained", [True, False])
def test_predictions_that_vanished_are_refused(used, retrained, monkeypatch):
    """A figure that cannot be made, because one side has none of them, is no reason to pass."""
    module, name = (gate, "read_cases") if retrained else (gate_evaluation, "served_cases")
    whole, sides = getattr(module, name), []

    def second_is_empty(*datasets):
        sides.append(datasets)
        return whole(*datasets) if len(sides) == 1 else []

    drawn = gate_work.write(used, "2026-05-01", Day(seed=3))
    date, runs = ("2026-05-02" if retrained else "2026-05-03"), dict(drawn.datasets)
    if not retrained:
        runs["fusion"] = snapshots.read(used, USED).datasets["fusion"]
    changes.write(used, date, runs)
    assert run(used, date)[0] == 0
    monkeypatch.setattr(module, name, second_is_empty)
    status, result = run(used, date)
    assert (status, result["refused_by"]) == (Exit.REFUSED, ["evaluation.top1_drop"])


def test_dataset_that_only_retraining_makes_is_not_missed(used):
    """Nor is it a loss when the snapshot in use was one of a retraining."""
    found = gate_work.write(used, "2026-03-01", Day(seed=5))
    pairs = run_lib.plan("prepare_pairs", gate_work._Config(f"{used}/training_pairs"), [], {})
    shard = shards.write_parquet(
        pairs.output, pairs.shard_path("train", 0, 1, "parquet"), 0, pa.table({"id": [1, 2]})
    )
    train = manifest.Table("parquet", "", (shard,))
    commit.commit(pairs.output, pairs.manifest({"train": train}, {}), pairs.seen)
    runs = found.datasets | {"training_pairs": pairs.run_id}
    changes.write(used, "2026-03-02", runs)
    status, result = run(used, "2026-03-01", "--against=2026-03-02")
    assert (status, result["refused_by"]) == (0, [])


def test_dead_rows_of_what_only_retraining_makes_are_no_rise():
    old = {"mined.images": (1, 100)}
    examples = {"examples.examples": (4, 100)}
    check = gate_checks._dead(old, old | examples, 0.01)
    assert (check.figure, check.verdict) == (0, "pass")
    assert gate_checks._dead(old | examples, old | examples, 0.01).verdict == "pass"
    assert gate_checks._dead(old, {"mined.images": (4, 100)}, 0.01).verdict == "refuse"
    assert gate_checks._dead(old, old | {"mined.labels": (4, 100)}, 0.01).verdict == "refuse"


def test_history_of_queries_may_grow(used):
    old = {"mined.query_days": 100, "mined.pairs": 100}
    limits = gate_checks.Limits()
    grown = {"mined.query_days": 900, "mined.pairs": 150}
    assert [c.verdict for c in gate_checks._rows(old, grown, limits)] == ["pass", "pass"]
    lost = {"mined.query_days": 10, "mined.pairs": 900}
    assert [c.verdict for c in gate_checks._rows(old, lost, limits)] == ["refuse", "refuse"]


@pytest.mark.parametrize("seed", range(1, 6))
def test_days_that_differ_by_chance_pass(used, seed):
    assert refused_by(used, Day(seed=seed)) == []


PLANTED = {
    "languages": ((0.1, 0.2, 0.7), {"queries.languages", "queries.clicks"}),
    "new_queries": (0.5, {"queries.new", "queries.clicks"}),
    "rare": (0.6, {"labels.images", "queries.clicks", "phrases.predicted"}),
    "blur": (0.6, {"embeddings.pixel_emb"}),
    "score": (0.3, {"phrases.top_score"}),
    "dead": (40, {"dead_letters"}),
    "images": (400, {"rows.lost"}),
    "error_rate": (0.5, {"evaluation.top1_drop", "evaluation.map_drop"}),
}
LIMITS = {
    "queries.clicks": "max_query_drift",
    "queries.new": "max_new_queries",
    "queries.languages": "max_language_drift",
    "phrases.predicted": "max_phrase_drift",
    "phrases.top_score": "max_score_shift",
    "embeddings.query_emb": "max_embedding_drift",
    "embeddings.text_emb": "max_embedding_drift",
    "embeddings.pixel_emb": "max_embedding_drift",
    "labels.images": "max_label_drift",
    "dead_letters": "max_dead_rise",
    "rows.lost": "max_row_loss",
    "rows.gained": "max_row_growth",
    "evaluation.top1_drop": "max_top1_drop",
    "evaluation.map_drop": "max_map_drop",
}


@pytest.mark.parametrize("what", PLANTED)
def test_planted_drift_is_refused_by_its_name_and_by_its_limit(used, what):
    value, expected = PLANTED[what]
    found = refused_by(used, Day(seed=9, **{what: value}))
    assert expected <= set(found)
    # Rarer labels move embeddings too; everything else is seen by its own checks alone.
    assert expected == set(found) or what == "rare"
    for name in found:
        _, result = run(used, CANDIDATE, f"--{LIMITS[name]}=99")
        assert result["refused_by"] == [n for n in found if LIMITS[n] != LIMITS[name]]


def test_twice_as_many_rows_are_the_limit(used):
    assert refused_by(used, Day(seed=9, images=1190)) == []
    assert refused_by(used, Day(seed=9, images=1300)) == ["rows.gained"]
    assert refused_by(used, Day(seed=9, images=1300), "--max_row_growth=1.5") == []


def test_better_model_passes_and_other_networks_are_not_compared(used):
    assert refused_by(used, Day(seed=3, error_rate=0.0, model="other", blur=9.0)) == []
    _, result = run(used, CANDIDATE)
    skipped = {check["name"] for check in result["checks"] if check["verdict"] == "skip"}
    embeddings = {"embeddings.query_emb", "embeddings.text_emb", "embeddings.pixel_emb"}
    assert skipped == embeddings | {"phrases.top_score"}


def test_how_sure_a_fall_must_be_is_a_flag(used):
    worse = Day(seed=9, error_rate=0.3)
    assert refused_by(used, worse, "--sure=0", "--max_map_drop=9") == ["evaluation.top1_drop"]
    assert refused_by(used, worse, "--sure=9") == []


def test_head_and_sample_decide_what_is_compared(used):
    _, all_rows = run(used, USED, f"--against={USED}")
    _, few = run(used, USED, f"--against={USED}", "--head=3", "--sample=300")
    chances = [{c["name"]: c["chance"] for c in r["checks"]} for r in (all_rows, few)]
    for name in ("queries.clicks", "embeddings.pixel_emb", "embeddings.query_emb"):
        assert chances[0][name] != chances[1][name]


def test_prints_each_check_with_figure_and_threshold(used, capsys):
    refused_by(used, Day(seed=9, dead=40))
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("dead_letters")]
    figures = ["0.0625", "0.0000", "0.020", "0.0200"]
    assert line.split() == ["dead_letters", *figures, "refuse", "(mined.images)"]
    assert "refused by dead_letters; what is in use stays" in printed


def test_earlier_date_is_refused_unless_asked_for(used, capsys):
    gate_work.write(used, "2025-12-31", Day(seed=1))
    status, result = run(used, "2025-12-31")
    assert (status, result["refused_by"]) == (Exit.REFUSED, ["date"])
    assert "only a person goes back" in capsys.readouterr().out
    assert run(used, "2025-12-31", f"--against={USED}")[0] == 0


def test_another_snapshot_can_be_the_measure(used):
    gate_work.write(used, "2026-01-03", Day(seed=2, blur=1.0))
    gate_work.write(used, "2026-01-04", Day(seed=4, blur=1.0))
    assert run(used, "2026-01-04")[0] == Exit.REFUSED
    status, result = run(used, "2026-01-04", "--against=2026-01-03")
    assert (status, result["against"]) == (0, "2026-01-03")


def test_gate_writes_the_same_bytes_again(used):
    gate_work.write(used, CANDIDATE, Day(seed=1))
    path = Path(used, "gates", f"{CANDIDATE}.json")
    run(used, CANDIDATE)
    first = path.read_bytes()
    run(used, CANDIDATE)
    assert path.read_bytes() == first


def test_what_is_missing_is_an_error(used, capsys):
    assert gate.run([f"--workdir={used}", "--date=2027-01-01"]) == 2
    assert "snapshot 2027-01-01" in capsys.readouterr().err
    found = snapshots.read(used, USED)
    without = {n: r for n, r in found.datasets.items() if n != "features"}
    changes.write(used, "2026-02-01", without)
    assert gate.run([f"--workdir={used}", "--date=2026-02-01"]) == 2
    assert "features" in capsys.readouterr().err
    verdict = json.loads(Path(used, "gates", "2026-02-01.json").read_bytes())
    assert verdict["verdict"] == "error"
    assert "features" in verdict["error"]


def test_a_gate_that_breaks_keeps_no_verdict(used, monkeypatch):
    """Whatever it dies of: a snapshot that passed once has not passed now."""
    gate_work.write(used, CANDIDATE, Day(seed=1))
    assert run(used, CANDIDATE)[1]["verdict"] == "pass"
    for error in (MemoryError("no room"), KeyboardInterrupt()):

        def break_down(*_, error=error):
            raise error

        monkeypatch.setattr(gate_evaluation, "compare", break_down)
        with pytest.raises(type(error)):
            gate.run([f"--workdir={used}", f"--date={CANDIDATE}"])
        assert snapshots.verdict(snapshots.read(used, CANDIDATE)) == "error"
        with pytest.raises(RefusedError):
            changes.promote(used, CANDIDATE)


def test_the_first_snapshot_must_be_better_than_a_guess(tmp_path, capsys):
    gate_work.write(str(tmp_path), USED, Day(images=600, error_rate=1.0))
    status, result = run(str(tmp_path), USED)
    assert (status, result["refused_by"]) == (Exit.REFUSED, ["evaluation.below_guess"])
    with pytest.raises(RefusedError):
        changes.promote(str(tmp_path), USED)


def moved(result, name):
    (check,) = (check for check in result["checks"] if check["name"] == name)
    return {key: (was, now) for key, was, now in check["moved"]}


def test_it_names_what_moved(used, capsys):
    status, result = run_of(used, Day(seed=9, languages=(0.1, 0.2, 0.7)))
    assert status == Exit.REFUSED
    # English and Japanese changed places, so that every query that moved most is of one of them.
    shares = moved(result, "queries.languages")
    assert shares["en"][0] > 0.6 > 0.2 > shares["en"][1]
    assert shares["ja"][0] < 0.2 < 0.6 < shares["ja"][1]
    assert {query.split()[-1] for query in moved(result, "queries.clicks")} <= {"en", "ja"}
    printed = capsys.readouterr().out
    assert re.search(r"^    en: [67]\d\.\d% → \d+\.\d%$", printed, re.MULTILINE)
    _, result = run_of(used, Day(seed=9, new_queries=0.5))
    new = moved(result, "queries.new")
    assert new
    assert all(was == 0 < now for was, now in new.values())


def test_classes_that_come_and_go_are_named(used, capsys):
    gone = gate_work.LABELS[-1]
    _, result = run_of(used, Day(seed=9, images=590, without=gone))
    assert (result["labels_gone"], result["labels_new"]) == ([gone], [])
    assert f"labels that are gone: {gone}\n" in capsys.readouterr().out
    _, result = run(used, USED, f"--against={CANDIDATE}")
    assert (result["labels_gone"], result["labels_new"]) == ([], [gone])


def run_of(work, day):
    gate_work.write(work, CANDIDATE, day)
    return run(work, CANDIDATE)


def test_what_is_held_is_refused(used):
    gate_work.write(used, CANDIDATE, Day(seed=1))
    changes.hold(used, CANDIDATE, "labels of another team")
    assert run(used, CANDIDATE)[1]["refused_by"] == ["hold"]
    changes.release(used, CANDIDATE)
    assert run(used, CANDIDATE)[1]["refused_by"] == []
