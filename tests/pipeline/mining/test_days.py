"""Days that merge into one run, are replaced, and forget."""

import csv
import datetime
import importlib
import os
import re
import shutil

import pyarrow.parquet as pq
import pytest

from beam_jobs.mining import forget, mine_log, mine_pairs
from beam_jobs.runs import all_stages
from schemas.base import fingerprint, storage
from schemas.base.errors import PhraseLensError
from schemas.console import launch
from schemas.datasets import checks, dataset, manifest
from schemas.runs import folders as run_folders
from tests.support.inputs.image_files import encode, photo

FIELDS = ("query", "image", "clicks", "impressions", "position", "user", "session", "timestamp")
FIRST = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
FLAGS = ("--min_users", "2", "--max_dead_fraction", "1")
QUERIES = ("red shoe", "red sheo", "blue hat", "mütze", "secret of one")


def rows_of(days=4, people=6):
    """Every day people look for things; sessions pass midnight, and events come twice."""
    rows = []
    for person in range(people):
        for day in range(days):
            for step in range(8):
                moment = FIRST + datetime.timedelta(days=day, hours=23, minutes=52 + 2 * step)
                query = QUERIES[(person + day + step) % 4]
                row = {"query": query, "image": f"p{(person * step) % 5}", "clicks": step % 2}
                row |= {"impressions": 1, "position": 1 + step % 3, "user": f"user-{person}"}
                rows.append(row | {"session": f"s{person}-{day}", "timestamp": moment.isoformat()})
    lone = rows[-1] | {"query": "secret of one", "user": "user-5", "clicks": 1}
    return [*rows, *rows[::7], lone]


def write(path, rows):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_images(folder):
    folder.mkdir()
    for i in range(5):
        (folder / f"p{i}.png").write_bytes(encode(photo(i), "PNG"))
    return str(folder)


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture(scope="module")
def mined_days(tmp_path_factory):
    """A folder of images, a log and its five days."""
    folder = tmp_path_factory.mktemp("five days")
    write_images(folder / "images")
    log = write(folder / "log" / "all.csv", rows_of())
    for day in (3, 0, 4, 2, 1):
        mine_day(folder, log, day)
    return folder


@pytest.fixture
def five_days(mined_days, tmp_path):
    """A copy of them for a test alone: the images, the log, and the folder of the days."""
    shutil.copytree(mined_days, tmp_path, dirs_exist_ok=True)
    return tuple(str(tmp_path / name) for name in ("images", "log/all.csv", "days"))


def mine_day(tmp_path, log, day, *flags):
    name = (FIRST + datetime.timedelta(days=day)).date().isoformat()
    output = str(tmp_path / "days" / name)
    argv = ["--log", log, "--partition", name, "--output", output, "--max_dead_fraction", "1"]
    assert mine_log.run([*argv, *flags]) == 0
    return output


def merge(tmp_path, images, output, *flags):
    root = str(tmp_path / output)
    argv = ["--images", images, "--output", root, *FLAGS, *flags]
    assert mine_pairs.run(argv) == 0
    return root


def tables_of(root):
    mined = dataset.Dataset(root)
    assert checks.verify(root) == []
    return {
        name: [row for batch in mined.batches(name) for row in batch.to_pylist()]
        for name in ("images", "pairs", "queries", "query_days", "query_pairs")
    }


def files_below(folder):
    return b"".join(
        storage.read_bytes(storage.join(folder, name)) for name in storage.list_files(folder)
    )


def test_days_merge_into_one_run_whatever_their_order(tmp_path, five_days):
    images, log, days = five_days
    whole = merge(tmp_path, images, "whole", "--log", log)
    merged = merge(tmp_path, images, "merged", "--days", days)
    found = tables_of(merged)
    assert found == tables_of(whole)
    assert len(found["query_days"]) > 5
    steps = sum(row["reformulations"] for row in found["query_pairs"])
    assert steps, "no session passes midnight: the test is too tame"
    assert "secret of one" not in {row["query"] for row in found["queries"]}


def test_a_corrected_day_replaces_what_was_there(tmp_path, five_days):
    images, _, days = five_days
    # November 2nd and 3rd had seen an image that was none.
    wrong = [
        row for row in rows_of() if row["image"] == "p1" and row["timestamp"][8:10] in ("02", "03")
    ]
    assert wrong
    second = write(tmp_path / "second" / "all.csv", [row for row in rows_of() if row not in wrong])
    for day in (1, 2):
        mine_day(tmp_path, second, day)
    merged = merge(tmp_path, images, "merged", "--days", days)
    whole = merge(tmp_path, images, "whole", "--log", second)
    assert tables_of(merged) == tables_of(whole)


def test_what_is_forgotten_was_never_there(tmp_path, five_days, capsys):
    images, log, days = five_days
    rows = rows_of()
    deletions = tmp_path / "deletions.csv"
    deletions.write_text(
        "image,user,query\np1,,\n,user-0,\n,user-5,Secret  of one\n", encoding="utf-8"
    )
    assert b"secret of one" in _texts(days)
    assert forget.run(["--list", str(deletions), "--days", days]) == 0
    left = [
        row
        for row in rows
        if row["image"] != "p1"
        and row["user"] != "user-0"
        and (row["user"], row["query"]) != ("user-5", "secret of one")
    ]
    for name in os.listdir(days):
        assert checks.verify(storage.join(days, name)) == []
        assert len(os.listdir(storage.join(days, name, "runs"))) == 1, "the old run is gone"
    assert b"secret of one" not in _texts(days)

    flags = ("--forget", str(deletions))
    merged = tables_of(merge(tmp_path, images, "merged", "--days", days, *flags))
    assert not any("p1" in row["keys"] for row in merged["images"])
    direct = merge(tmp_path, images, "direct", "--log", log, *flags)
    assert tables_of(direct) == merged
    second = write(tmp_path / "second" / "all.csv", left)
    os.remove(storage.join(images, "p1.png"))
    never = tables_of(merge(tmp_path, images, "whole", "--log", second))
    for table in (never["query_pairs"], merged["query_pairs"]):
        for row in table:  # in which order people typed, whatever image they saw, is theirs
            for name in ("reformulations", "weight", "evidence"):
                row.pop(name)
    assert merged == never

    # A second time there is nothing left to do.
    before = files_below(days)
    assert forget.run(["--list", str(deletions), "--days", days]) == 0
    assert files_below(days) == before
    assert "next: ./run.sh all" in capsys.readouterr().out


def run_here(command):
    """A stage of the driver in this process, which has the libraries; returns its exit status."""
    return importlib.import_module(command[2]).run(command[3:])


def test_one_command_forgets_everywhere(tmp_path, five_days, monkeypatch):
    """`all --days … --forget …`, as far as mining: the days, what is mined, and older runs."""
    monkeypatch.setattr(launch, "call", run_here)
    images, _, days = five_days
    labels = tmp_path / "labels.csv"
    labels.write_text("key,label\n" + "".join(f"p{i},label of p{i}\n" for i in range(5)))
    work = str(tmp_path / "work")
    command = ["--days", days, "--images", images, "--labels", str(labels)]
    command += ["--workdir", work, "--until", "mine_pairs", "--set", "mine_pairs.min_users=2"]
    assert all_stages.run(command) == 0
    assert "label of p1" in _plain_text(work)
    # A later stage made this of it, and is not run again.
    shutil.copytree(f"{work}/mined", f"{work}/features")
    deletions = tmp_path / "deletions.csv"
    deletions.write_text("image,user\np1,\n,user-0\n")
    assert all_stages.run([*command, "--forget", str(deletions)]) == 0
    for folder in (work, days):
        text = _plain_text(folder)
        assert "label of p1" not in text
        assert "'p1'" not in text
        assert str(fingerprint.hash64("user-0")) not in text
    assert "label of p2" in _plain_text(work)
    assert len(os.listdir(storage.join(work, "mined", "runs"))) == 1


def one_person_is_gone(root):
    """Whether one run is left, and in the whole folder neither user-0 nor what they typed."""
    text = _plain_text(root)
    assert str(fingerprint.hash64("user-0")) not in text
    assert "spilled by user-0" not in text
    assert checks.verify(root) == []
    return len(os.listdir(storage.join(root, "runs"))) == 1


def test_a_forgetting_that_was_killed_before_it_purged_purges_when_it_runs_again(
    tmp_path, monkeypatch
):
    day = mine_day(tmp_path, write(tmp_path / "log.csv", rows_of(1)), 0)
    for folder in ("spill", "scratch"):  # of a run that was killed
        storage.write_bytes(f"{day}/{folder}/dead/rows.arrow", b"spilled by user-0")
    deletions = tmp_path / "deletions.csv"
    deletions.write_text("user\nuser-0\n")
    command = ["--list", str(deletions), "--days", str(tmp_path / "days")]

    def killed(*_):
        raise PhraseLensError("the process", "to live", "Run it again.")

    with monkeypatch.context() as patch:
        patch.setattr(run_folders, "purge", killed)
        assert forget.run(command) == 2
    assert len(os.listdir(storage.join(day, "runs"))) == 2
    assert forget.run(command) == 0
    assert one_person_is_gone(day)


def test_runs_from_before_a_log_was_mined_without_a_person_are_forgotten(tmp_path):
    log, deletions = write(tmp_path / "log.csv", rows_of(1)), tmp_path / "deletions.csv"
    deletions.write_text("user\nuser-0\n")
    mine_day(tmp_path, log, 0)
    day = mine_day(tmp_path, log, 0, "--forget", str(deletions))
    assert len(os.listdir(storage.join(day, "runs"))) == 2
    assert forget.run(["--list", str(deletions), "--days", str(tmp_path / "days")]) == 0
    assert one_person_is_gone(day)


def test_a_day_whose_only_run_died_is_forgotten(tmp_path):
    mine_day(tmp_path, write(tmp_path / "log.csv", rows_of(1)), 0)
    died = str(tmp_path / "days" / "died")
    for folder in ("runs", "spill", "scratch"):
        storage.write_bytes(f"{died}/{folder}/dead/rows.arrow", b"spilled by user-0")
    deletions = tmp_path / "deletions.csv"
    deletions.write_text("user\nuser-0\n")
    assert forget.run(["--list", str(deletions), "--days", str(tmp_path / "days")]) == 0
    assert storage.list_files(died) == []


def test_a_query_is_forgotten_with_its_parts(tmp_path, capsys):
    day = mine_day(tmp_path, write(tmp_path / "log.csv", rows_of(1)), 1, "--query_parts", "2")
    typed = _texts(str(tmp_path / "days"))
    assert b"secret" in typed
    deletions = tmp_path / "deletions.csv"
    deletions.write_text("user,query\nuser-5,Secret of one\n")
    assert forget.run(["--list", str(deletions), "--days", str(tmp_path / "days")]) == 0
    assert b"secret" not in _texts(str(tmp_path / "days"))
    (gone,) = re.findall(rf"forget: (\d+) rows of {day}", capsys.readouterr().err)
    assert int(gone) >= 5


@pytest.mark.parametrize("keyed", [True, False])
def test_people_are_forgotten_with_the_key_of_the_days_only(tmp_path, images, keyed, capsys):
    for name in ("key", "other"):
        (tmp_path / name).write_text(f"the {name} of 16 bytes or more")
    given = ("--person_key", str(tmp_path / "key"))
    log = write(tmp_path / "log.csv", rows_of(1))
    day = mine_day(tmp_path, log, 0, *(given if keyed else ()))
    days, people = str(tmp_path / "days"), tmp_path / "people.csv"
    people.write_text("user\nuser-0\n")
    before = manifest.read(day)
    wrong = [("--person_key", str(tmp_path / "other")), () if keyed else given]
    for flags in wrong:
        assert forget.run(["--list", str(people), "--days", days, *flags]) == 2
        assert "its people have other hashes" in capsys.readouterr().err
        argv = ["--days", days, "--images", images, "--output", str(tmp_path / "mined")]
        assert mine_pairs.run([*argv, "--forget", str(people), *flags]) == 2
    assert manifest.read(day) == before
    (tmp_path / "image.csv").write_text("image\nno such image\n")
    assert forget.run(["--list", str(tmp_path / "image.csv"), "--days", days]) == 0
    assert manifest.read(day) == before
    if keyed:  # which may lie elsewhere by now
        moved = tmp_path / "moved" / "key"
        storage.write_bytes(str(moved), (tmp_path / "key").read_bytes() + b"\n")
        given = ("--person_key", str(moved))
    assert forget.run(["--list", str(people), "--days", days, *(given if keyed else ())]) == 0
    assert manifest.read(day) != before


def test_a_log_of_other_days_alone_is_no_day(tmp_path, capsys):
    """As where folders are of another time zone, or timestamps are wrong."""
    log = write(tmp_path / "log.csv", rows_of(1))
    argv = ["--log", log, "--partition", "2020-02-02", "--output", str(tmp_path / "day")]
    assert mine_log.run(argv) == 2
    assert "all of other days than --partition" in capsys.readouterr().err
    assert manifest.read(str(tmp_path / "day")) is None


def _plain_text(folder):
    return b"".join(
        _plain(storage.join(folder, name)) for name in storage.list_files(folder)
    ).decode("latin-1")


def _texts(days):
    return b" ".join(
        text.encode()
        for name in sorted(os.listdir(days))
        for batch in dataset.Dataset(storage.join(days, name)).batches("texts", ["query"])
        for text in batch["query"].to_pylist()
    )


USERS = [f"user-{i}".encode() for i in range(6)]
SESSIONS = [f"s{i}-0".encode() for i in range(6)]


def test_no_output_names_a_person(tmp_path, images):
    rows = rows_of(1)
    bad = {"clicks": "many", "timestamp": "soon", "image": "nobody knows", "query": "\x00"}
    rows += [row | {name: value} for row in rows[:6] for name, value in bad.items()]
    log = write(tmp_path / "log" / "all.csv", rows)
    key = tmp_path / "key"
    key.write_text("a key of more than 16 bytes")
    for day in range(2):
        mine_day(tmp_path, log, day, "--person_key", str(key))
    merge(tmp_path, images, "merged", "--days", str(tmp_path / "days"))
    merge(tmp_path, images, "whole", "--log", log, "--person_key", str(key))
    for folder in ("days", "merged", "whole"):
        root = str(tmp_path / folder)
        for name in storage.list_files(root):
            data = _plain(storage.join(root, name))
            for person in (*USERS, *SESSIONS, b"a key of more than"):
                assert person not in data, (name, person)


def _plain(path):
    """All values of a file: Parquet is compressed."""
    if not path.endswith(".parquet"):
        return storage.read_bytes(path)
    return storage.read_bytes(path) + repr(pq.read_table(path).to_pylist()).encode()


def test_a_partition_must_be_a_date(tmp_path, capsys):
    log = write(tmp_path / "log.csv", rows_of(1))
    argv = ["--log", log, "--partition", "yesterday", "--output", str(tmp_path / "d")]
    assert mine_log.run(argv) == 2
    assert "--partition yesterday: expected a date" in capsys.readouterr().err


def test_a_folder_of_other_datasets_is_no_folder_of_days(tmp_path, images, capsys):
    log = write(tmp_path / "log.csv", rows_of(1))
    merge(tmp_path, images, "not_days/mined", "--log", log)
    argv = ["--days", str(tmp_path / "not_days"), "--images", images]
    assert mine_pairs.run([*argv, "--output", str(tmp_path / "out")]) == 2
    assert "written by mine_pairs: expected a day" in capsys.readouterr().err
    os.makedirs(tmp_path / "empty")
    argv[1] = str(tmp_path / "empty")
    assert mine_pairs.run([*argv, "--output", str(tmp_path / "out")]) == 2
    assert "expected days that mine_log wrote" in capsys.readouterr().err
