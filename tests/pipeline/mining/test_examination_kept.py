"""How likely people look at a position is fitted once: a new day moves no score that it does not
touch."""

import csv

import pytest

from beam_jobs.mining import mine_log, mine_pairs
from schemas.datasets import checks, dataset, manifest
from schemas.tables import mined as tables
from transforms.mining.examination import EXAMINED_UNIT

FIELDS = ("query", "image", "clicks", "position", "user", "timestamp")


def rows_of(day, query, image, position, clicked, shown):
    """An image that was shown to so many people on a day, some of whom clicked."""
    return [
        dict(zip(FIELDS, row, strict=True))
        for row in (
            (query, image, int(n < clicked), position, f"{query} {n}", f"2026-11-0{day}T10:00:00Z")
            for n in range(shown)
        )
    ]


FIRST = rows_of(1, "red", "top", 1, 20, 40) + rows_of(1, "red", "low", 3, 10, 40)
# People look down to the third place on this day, and want other things.
SECOND = rows_of(2, "blue", "third", 3, 90, 100) + rows_of(2, "blue", "fifth", 5, 9, 100)


def write(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def mine(tmp_path, capsys):
    """Mines with --min_users 2; returns what was printed, and the scores by query and image."""

    def go(*flags, output="mined"):
        root = str(tmp_path / output)
        assert mine_pairs.run([*map(str, flags), f"--output={root}", "--min_users=2"]) == 0
        found = dataset.Dataset(root)
        assert checks.verify(root) == []
        texts = found.table("queries", ["query_id", "query"]).to_pylist()
        names = {row["query_id"]: row["query"] for row in texts}
        scores = {
            (names[row["query_id"]], row["image_id"]): row["score"]
            for row in found.table("pairs").to_pylist()
        }
        return capsys.readouterr().out, scores

    return go


def curve(tmp_path, output="mined"):
    table = dataset.Dataset(str(tmp_path / output)).table("examination")
    assert table.schema.equals(tables.EXAMINATION)
    assert table["position"].to_pylist() == list(range(101))
    return table["examination"].to_numpy() / EXAMINED_UNIT


def of_red(scores):
    return {name: score for name, score in scores.items() if name[0] == "red"}


def test_a_new_day_moves_no_score_that_it_does_not_touch(tmp_path, mine):
    first = write(tmp_path / "first.csv", FIRST)
    both = write(tmp_path / "both.csv", FIRST + SECOND)
    _, scores = mine(f"--log={first}")
    assert len(scores) == 2
    # Half as likely as the first place from the third on; and nothing is known of the second.
    assert curve(tmp_path)[:6].tolist() == [1, 1, 1, 0.5, 0.5, 0.5]

    before = manifest.read(str(tmp_path / "mined"))
    (shard,) = before.tables["examination"].shards
    (tmp_path / "mined" / shard.path).unlink()
    mine(f"--log={first}")
    assert manifest.read(str(tmp_path / "mined")) == before, "what was lost is made again"

    printed, later = mine(f"--log={both}")
    assert "examined as likely as an earlier run has fitted" in printed
    assert of_red(later) == scores
    assert len(later) == 4
    assert curve(tmp_path)[5] == 0.5

    printed, _ = mine(f"--log={both}")
    assert "already done" in printed
    printed, _ = mine(f"--log={first}")
    assert "already done" in printed, "the run that fitted it"

    mine(f"--log={both}")
    printed, renewed = mine(f"--log={both}", "--renew_examination=true")
    assert of_red(renewed) != scores
    assert curve(tmp_path)[3] > 0.9
    # From now on that one is kept.
    _, kept = mine(f"--log={both}", "--min_pair_clicks=2")
    assert of_red(kept) == of_red(renewed)


def test_days_and_reuse_keep_it_and_another_deletion_list_does_not(tmp_path, mine):
    for day, rows in enumerate((FIRST, SECOND), 1):
        name = f"2026-11-0{day}"
        log = write(tmp_path / f"{day}.csv", rows)
        argv = [f"--log={log}", f"--partition={name}", f"--output={tmp_path}/days/{name}"]
        assert mine_log.run(argv) == 0
        if day == 1:
            _, scores = mine(f"--days={tmp_path}/days")
    before = curve(tmp_path)
    _, later = mine(f"--days={tmp_path}/days", f"--reuse={tmp_path}/mined", output="later")
    assert of_red(later) == scores
    assert (curve(tmp_path, "later") == before).all()

    deletions = tmp_path / "deletions.csv"
    deletions.write_text("user\nsomebody\n")
    flags = (f"--days={tmp_path}/days", f"--forget={deletions}")
    _, forgetful = mine(*flags, output="later")
    assert of_red(forgetful) != scores
    fitted = curve(tmp_path, "later")
    mine(*flags, "--min_pair_clicks=2", output="later")
    assert (curve(tmp_path, "later") == fitted).all(), "the list is the same"
