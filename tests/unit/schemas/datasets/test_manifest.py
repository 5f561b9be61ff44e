import dataclasses
import multiprocessing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.tfrecordio import _TFRecordUtil

from schemas.base.errors import Exit, PhraseLensError, RivalCommitError
from schemas.datasets import checks, commit, manifest
from schemas.datasets import dataset as dataset_lib
from schemas.datasets import shards as shards_lib
from schemas.datasets.manifest import Manifest, Shard, Table
from schemas.maintenance import verify
from tests.support.datasets.committed import ROWS, plan, work


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "dataset")


@pytest.fixture
def committed(root):
    planned = plan(root)
    assert commit.commit(root, work(planned), planned.seen)
    return root


def test_nothing_is_there_before_the_commit(root):
    planned = plan(root)
    done = work(planned)
    assert not planned.done
    assert manifest.read(root) is None
    with pytest.raises(PhraseLensError, match="a committed dataset"):
        dataset_lib.Dataset(root)
    commit.commit(root, done, planned.seen)
    assert manifest.read(root) == done
    assert dataset_lib.Dataset(root).table("rows").equals(ROWS)
    assert checks.verify(root) == []
    assert plan(root).done
    assert not plan(root, size=2).done


@pytest.mark.parametrize("harm", ["missing", "cut", "flipped"])
def test_what_was_spoilt_is_made_again(committed, harm, capsys):
    """A file that is missing or short by the command alone; else as `verify` says."""
    found = manifest.read(committed)
    path = Path(committed, found.tables["rows"].shards[1].path)
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if harm == "cut" else bytes([data[0] ^ 1]) + data[1:])
    assert verify.run([committed]) == Exit.CORRUPT
    assert f"verify --repair {committed}" in capsys.readouterr().out
    assert plan(committed).done == (harm == "flipped")
    if harm == "flipped":
        assert verify.run(["--repair", committed]) == 0
        assert "give the command of" in capsys.readouterr().out
    again = plan(committed)
    assert not again.done
    assert commit.commit(committed, work(again), again.seen)
    assert manifest.read(committed) == found
    assert verify.run([committed]) == 0


def test_a_manifest_survives_json(committed):
    found = manifest.read(committed)
    assert Manifest.from_json(found.to_json()) == found


def test_a_manifest_of_a_later_format_is_refused(committed):
    found = manifest.read(committed)
    later = dataclasses.replace(found, format_version=manifest.FORMAT_VERSION + 1).to_json()
    with pytest.raises(PhraseLensError, match="newer version"):
        Manifest.from_json(later)


def test_a_rival_with_the_same_work_wins_quietly(root):
    ours, rival = plan(root), plan(root)
    assert commit.commit(root, work(rival), rival.seen)
    assert commit.commit(root, work(ours), ours.seen) is False
    assert checks.verify(root) == []


def test_a_rival_with_other_work_is_an_error(root):
    ours, rival = plan(root), plan(root, size=2)
    commit.commit(root, work(rival), rival.seen)
    with pytest.raises(RivalCommitError, match=rival.run_id):
        commit.commit(root, work(ours), ours.seen)
    assert manifest.read(root).fingerprint == rival.fingerprint


def test_a_later_run_replaces_an_earlier_one(committed):
    later = plan(committed, size=2)
    assert commit.commit(committed, work(later, ROWS.slice(1)), later.seen)
    assert dataset_lib.Dataset(committed).table("rows").num_rows == 2
    assert checks.verify(committed) == []


def _race(root, size, barrier, results):
    planned = plan(root, size)
    done = work(planned)
    barrier.wait()
    try:
        results.put((size, commit.commit(root, done, planned.seen)))
    except RivalCommitError:
        results.put((size, "error"))


def test_of_processes_that_race_one_wins(root):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    racers = [context.Process(target=_race, args=(root, s, barrier, results)) for s in (1, 1, 2, 2)]
    for racer in racers:
        racer.start()
    found = sorted((results.get(timeout=60) for _ in racers), key=str)
    for racer in racers:
        racer.join()
    (winner,) = [size for size, outcome in found if outcome is True]
    assert sorted(str(outcome) for size, outcome in found if size == winner) == ["False", "True"]
    assert [outcome for size, outcome in found if size != winner] == ["error", "error"]
    assert checks.verify(root) == []


@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_a_commit_checks_its_shards(root, tmp_path, harm):
    planned = plan(root)
    done = work(planned)
    path = tmp_path / "dataset" / done.tables["rows"].shards[1].path
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PhraseLensError, match="part-00001-of-00002"):
        commit.commit(root, done, planned.seen)
    assert manifest.read(root) is None


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, the manifest says"),
        (
            lambda path: path.write_bytes(
                path.read_bytes()[:40] + bytes([path.read_bytes()[40] ^ 1]) + path.read_bytes()[41:]
            ),
            "checksum differs",
        ),
        (lambda path: (path.parent / "part-00009.parquet").write_bytes(b"x"), "foreign file"),
    ],
    ids=["missing", "cut", "flipped", "foreign"],
)
def test_verify_names_what_is_wrong(committed, tmp_path, harm, problem):
    shard = manifest.read(committed).tables["rows"].shards[0]
    harm(tmp_path / "dataset" / shard.path)
    (found,) = checks.verify(committed)
    assert problem in found
    assert "part-00009" in found if problem == "foreign file" else shard.path in found


@pytest.mark.parametrize(
    ("table", "counters", "problem"),
    [
        ({"schema": "other"}, {}, "its schema is not the table's"),
        ({}, {"rows.in": 5}, "rows: 5 in, but 3 out + 1 dropped"),
    ],
)
def test_verify_checks_what_the_manifest_says(root, table, counters, problem):
    planned = plan(root)
    done = work(planned)
    wrong = dataclasses.replace(
        done,
        tables={"rows": dataclasses.replace(done.tables["rows"], **table)},
        counters=done.counters | counters,
    )
    commit.commit(root, wrong, planned.seen)
    assert problem in "\n".join(checks.verify(root))


def test_verify_counts_rows(root):
    planned = plan(root)
    done = work(planned)
    shards = tuple(dataclasses.replace(s, rows=7) for s in done.tables["rows"].shards)
    wrong = {"rows": dataclasses.replace(done.tables["rows"], shards=shards)}
    commit.commit(root, dataclasses.replace(done, tables=wrong), planned.seen)
    assert [p.rpartition(": ")[2] for p in checks.verify(root)] == [
        "has 2 rows, the manifest says 7",
        "has 1 rows, the manifest says 7",
    ]


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "records"
    with open(path, "wb") as file:
        for record in (b"a", b"", b"ccc"):
            _TFRecordUtil.write_record(file, record)
    return path


def test_count_tfrecords(records):
    assert shards_lib.count_tfrecords(str(records)) == 3


def test_every_cut_of_a_tfrecord_shows_in_its_count(records):
    whole = records.read_bytes()
    for end in range(len(whole)):
        records.write_bytes(whole[:end])
        try:
            assert shards_lib.count_tfrecords(str(records)) < 3
        except ValueError as error:
            assert "record" in str(error)  # noqa: PT017


def test_every_flip_of_a_tfrecord_is_found(records):
    whole = records.read_bytes()
    for place in range(len(whole)):
        records.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="record"):
            shards_lib.count_tfrecords(str(records))


def test_content_decides_the_hash_of_a_dataset():
    def dataset(*digests, run="r", model=""):
        shards = tuple(Shard(f"{run}/{d}", i, 1, 1, d) for i, d in enumerate(digests))
        tables = {"rows": Table("parquet", "s", shards)}
        return Manifest("job", run, run, {}, "c", {}, {}, tables, {}, model)

    assert dataset("a", "b").content_hash == dataset("b", "a", run="other").content_hash
    assert dataset("a").content_hash != dataset("b").content_hash
    assert dataset("a", model="m").content_hash == dataset("b", model="m").content_hash == "m"


def test_tables_that_are_not_there(committed):
    dataset = dataset_lib.Dataset(committed)
    with pytest.raises(PhraseLensError, match=r"table 'row'.*\['rows'\]"):
        dataset.table("row")
    assert [s.index for s in dataset.shards("rows")] == [0, 1]
    assert sum(b.num_rows for b in dataset.batches("rows", ["id"], batch_size=1)) == 3


def test_only_what_repeats_has_a_dictionary_and_images_are_not_compressed_again(root):
    rows = pa.table(
        {
            "key": ["a", "a", "b"],
            "words": [["x", "y"], ["x"], []],
            "weight": [0.5, 0.5, 1.5],
            "emb": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2)),
            "image": [b"\xff\xd8 1", b"\xff\xd8 2", b"\xff\xd8 3"],
        }
    )
    shard = shards_lib.write_parquet(root, "rows.parquet", 0, rows)
    file = pq.ParquetFile(f"{root}/{shard.path}")
    assert file.read().equals(rows)
    group = file.metadata.row_group(0)
    found = {
        column.path_in_schema: (column.compression, "RLE_DICTIONARY" in column.encodings)
        for column in map(group.column, range(group.num_columns))
    }
    assert found == {
        "key": ("ZSTD", True),
        "words.list.element": ("ZSTD", True),
        "weight": ("ZSTD", True),
        "emb.list.element": ("ZSTD", False),
        "image": ("UNCOMPRESSED", False),
    }
