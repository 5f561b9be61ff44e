"""How many rows may die, or belong to nothing, before a job fails; and what it says then."""

import pytest

from beam_jobs.mining import mine_pairs
from schemas.datasets import checks, dataset, manifest
from tests.support.inputs.image_files import encode, photo
from transforms.mining import key_match

ROWS = 300


@pytest.mark.parametrize(("percent", "commits"), [(4, True), (6, False)], ids=["4 %", "6 %"])
def test_dead_rows_around_the_ceiling(percent, commits, tmp_path, capsys, figure):
    dead = ROWS * percent // 100
    rows = [f"q{n % 7},p{n},{'many' if n < dead else 1}" for n in range(ROWS)]
    (tmp_path / "log.csv").write_text("\n".join(["query,image,clicks", *rows]))
    output = str(tmp_path / "mined")
    argv = [f"--log={tmp_path / 'log.csv'}", f"--output={output}", "--max_dead_fraction=0.05"]
    assert mine_pairs.run(argv) == (0 if commits else 2)
    printed = capsys.readouterr().err
    if commits:
        found = dataset.Dataset(output)
        assert found.table("dead_letters")["reason"].to_pylist() == ["bad_clicks"] * dead
        assert checks.verify(output) == []
    else:
        assert manifest.read(output) is None
        assert f"{dead / ROWS:.1%} of events died: {dead} of {ROWS}" in printed
        assert "expected at most 5.0%" in printed
        named = printed.partition("Such as ")[2].partition(". All are in ")
        assert set(named[0].split(", ")) <= {f"'p{n}'" for n in range(dead)}
        assert len(named[0].split(", ")) == 3
        (run,) = (tmp_path / "mined" / "runs").iterdir()
        assert named[2].startswith(str(run / "dead_letters"))
        assert list((run / "dead_letters").glob("*.parquet"))
    figure(f"{dead} of {ROWS} rows dead: {'committed' if commits else 'nothing committed'}")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(5):
        (folder / f"p{n}.png").write_bytes(encode(photo(n), "PNG"))
    return folder


def mine(tmp_path, images, log, labels, *flags):
    (tmp_path / "log.csv").write_text("\n".join(["query,image,clicks", *log]))
    (tmp_path / "labels.csv").write_text("\n".join(["key,label", *labels]))
    argv = [f"--log={tmp_path / 'log.csv'}", f"--images={images}", *flags]
    argv += [f"--labels={tmp_path / 'labels.csv'}", f"--output={tmp_path / 'mined'}"]
    return mine_pairs.run([*argv, "--one_person_pairs"]), str(tmp_path / "mined")


def test_a_log_and_labels_of_a_larger_collection_are_no_dead_rows(tmp_path, photos):
    """And one of five images is no image, and one of 401 labels has a bad split."""
    (photos / "p4.png").write_bytes(b"<html>not found</html>")
    log = [f"red,p{n},1" for n in range(4000)]
    labels = [f"p{n},shoe" for n in range(400)]
    status, root = mine(tmp_path, photos, log, labels)
    assert status == 0
    found = dataset.Dataset(root)
    counters = found.manifest.counters
    assert (counters["clicks.out"], counters["clicks.dropped_unknown_image"]) == (4, 3996)
    assert (counters["known_labels.out"], counters["known_labels.dropped_unknown_image"]) == (
        4,
        396,
    )
    assert found.table("dead_letters")["reason"].to_pylist() == ["not_an_image"]
    images = found.table("images").to_pylist()
    assert sorted(key for row in images for key in row["keys"]) == ["p0", "p1", "p2", "p3"]
    assert all(row["labels"] == ["shoe"] for row in images)
    assert len(found.table("pairs")) == 4


def test_where_nothing_matches_the_error_names_both_sides(tmp_path, photos, capsys):
    table = tmp_path / "table.csv"
    table.write_text("key,path\n" + "".join(f"photo {n},photos/p{n}.png\n" for n in range(5)))
    status, root = mine(tmp_path, table, [f"red,p{n},1" for n in range(5)], ["p1,shoe"])
    assert status == 2
    error = capsys.readouterr().err
    assert "0 of 5 rows of the log name one of the 5 images" in error
    assert "'photo 4'" in error
    assert "not known are 'p4', 'p3', 'p2'" in error
    assert "--columns image_id=COLUMN" in error
    assert manifest.read(root) is None


@pytest.mark.parametrize(
    ("name", "asked", "right"),
    [("p{}.png", "stem", "name"), ("p{}", "name", "stem"), ("{folder}/p{}.png", "stem", "path")],
)
@pytest.mark.parametrize(
    "sides", [("the log",), ("the label file",), ("the log", "the label file")]
)
def test_a_key_of_another_kind_is_told_before_any_work(
    name, asked, right, sides, tmp_path, photos, capsys
):
    wrong = [name.format(n, folder=photos) for n in range(3)]
    good = [key_match.key_of_path(f"{photos}/p{n}.png", asked) for n in range(3)]
    log, labels = (wrong if side in sides else good for side in ("the log", "the label file"))
    rows = [f"red,{key},1" for key in log], [f"{key},shoe" for key in labels]
    status, _ = mine(tmp_path, photos, *rows, f"--image_key={asked}")
    assert status == 2
    error = capsys.readouterr().err
    assert f"{sides[0]} calls {photos}/p0.png {wrong[0]!r}" in error
    assert f"--image_key={asked} calls it {good[0]!r}" in error
    remedy = f"Give --image_key={right}." if len(sides) == 2 else "call an image alike"
    assert remedy in error
