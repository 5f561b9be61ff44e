"""mine_pairs on small messy data, against SQL over the same log."""

import csv
import gzip
import json
import random
import subprocess
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.tfrecordio import _TFRecordUtil

from beam_jobs import mine_pairs
from model_code.text import normalize_query
from schemas import manifest
from schemas.fingerprint import hash64
from tests.image_files import encode, photo

TABLES = ("images", "pairs", "queries", "query_pairs")
COLUMNS = ("query", "image", "clicks", "session", "user", "timestamp", "position", "language")
PICTURES = 20
# Two files of one picture each; the second file of a picture has its own key and format.
FILES = {f"p{i}": (i, "PNG") for i in range(PICTURES)} | {
    f"copy{i}": (i, "BMP") for i in range(0, PICTURES, 5)
}


def mine(tmp_path, log, images, *flags, output="mined"):
    """Runs the job in this process; returns its exit status and dataset folder."""
    root = str(tmp_path / output)
    argv = ["--log", str(log), "--images", str(images), "--output", root, *map(str, flags)]
    return mine_pairs.run(argv), root


def checksums(root):
    """What the tables of a dataset hold, byte by byte."""
    committed = manifest.Dataset(root).manifest
    return {
        name: [(s.index, s.rows, s.sha256) for s in committed.tables[name].shards]
        for name in TABLES
    }


def messy_log(seed, rows=400):
    """Rows as people log them: spellings, misses, repeats, and some that are no use."""
    rng = random.Random(seed)
    words = [
        "red",
        "Red ",
        "RED SHOE",
        "red  shoe",
        "赤い靴",
        "rot",
        "Straße",
        "strasse",
        "",
        "\x00",
    ]
    log = []
    for _ in range(rows):
        log.append(
            {
                "query": rng.choice(words),
                "image": rng.choice([*FILES, "unknown", ""]),
                "clicks": rng.choice(["1", "2", "0.25", "0", "-1", "many", "nan", ""]),
                "session": rng.choice(["s1", "s2", "s3", ""]),
                "user": rng.choice(["u1", ""]),
                "timestamp": rng.choice([str(rng.randrange(5000)), "1970-01-01T01:00:00", "", "x"]),
                "position": str(rng.randrange(3)),
                "language": rng.choice(["en", "de"]),
            }
        )
    return log + rng.sample(log, rows // 10)


def write_csv(path, rows, delimiter="\t", opener=open):
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, COLUMNS, delimiter=delimiter, quoting=quoting, lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_images(folder):
    folder.mkdir()
    for key, (i, format_) in FILES.items():
        (folder / f"{key}.{format_.lower()}").write_bytes(encode(photo(i), format_))
    return folder


def write_labels(path):
    """Every fourth picture is test; a copy that says train does not bring it back."""
    lines = ["key\tlabel\tsplit"]
    for key, (i, _) in FILES.items():
        is_copy = key.startswith("copy")
        lines.append(f"{key}\tlabel{i % 3}\t{'train' if is_copy or i % 4 else 'test'}")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def labels(tmp_path):
    return write_labels(tmp_path / "labels.tsv")


ORACLE = """
create table events as
select distinct norm(query) as q, qid(query) as id, image, clicks_given as clicks,
  coalesce(nullif(session, ''), nullif("user", '')) as person, moment, position
from (
  select *, coalesce(try_cast(nullif(clicks, '') as double), case clicks when '' then 1 end)
      as clicks_given,
    coalesce(try_cast(timestamp as double),
      epoch(try_cast(nullif(timestamp, '') as timestamp))) as moment
  from log)
where norm(query) <> '' and image <> '' and clicks_given > 0 and not isnan(clicks_given)
  and (timestamp = '' or moment is not null);
create table clicked as select e.*, f.picture, f.split from events e join files f using (image);
create table pairs as
  select picture, split, q, sum(clicks) as clicks from clicked group by all having clicks >= 1;
create table stats as
  select q, sum(clicks), count(*), coalesce(sum(clicks) filter (split = 'train'), 0),
    count(*) filter (split = 'train') from pairs group by q;
create table co_clicks as
  select least(a.q, b.q) as a, greatest(a.q, b.q) as b, sum(least(a.clicks, b.clicks)) as n
  from pairs a join pairs b on a.picture = b.picture and a.q < b.q
  where a.split = 'train' group by all;
create table steps as
  select q, lead(q) over w as next, moment, lead(moment) over w as later
  from (select distinct person, moment, q, id from clicked
        where split = 'train' and person is not null and moment is not null)
  window w as (partition by person order by moment, id);
create table reformulations as
  select least(q, next) as a, greatest(q, next) as b, count(*)::double as n
  from steps where q <> next and later - moment <= 1800 group by all;
"""


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tables_are_what_sql_says(tmp_path, images, labels, seed):
    log = messy_log(seed)
    path = write_csv(tmp_path / "log.tsv", log)
    status, root = mine(tmp_path, path, images, "--labels", labels, "--max_dead_fraction", 1)
    assert status == 0
    assert manifest.verify(root) == []
    mined = manifest.Dataset(root)

    db = duckdb.connect()
    db.create_function("norm", normalize_query, ["VARCHAR"], "VARCHAR")
    db.create_function("qid", lambda q: hash64(normalize_query(q)), ["VARCHAR"], "BIGINT")
    rows = pa.Table.from_pylist(log)
    db.register("rows", rows)
    db.execute("create table log as select * from rows")
    split = {i: "train" if i % 4 else "test" for i in range(PICTURES)}
    files = [{"image": k, "picture": i, "split": split[i]} for k, (i, _) in FILES.items()]
    db.register("file_rows", pa.Table.from_pylist(files))
    db.execute("create table files as select * from file_rows")
    db.execute(ORACLE)

    text = {r["query_id"]: r["query"] for r in mined.table("queries").to_pylist()}
    found_images = mined.table("images").to_pylist()
    picture = {r["image_id"]: FILES[r["keys"][0]][0] for r in found_images}
    assert {picture[r["image_id"]]: r["split"] for r in found_images} == split
    assert sorted(k for r in found_images for k in r["keys"]) == sorted(FILES)
    assert all(r["labels"] == [f"label{picture[r['image_id']] % 3}"] for r in found_images)

    pairs = mined.table("pairs").to_pylist()
    assert sorted(
        (picture[r["image_id"]], r["split"], text[r["query_id"]], r["clicks"]) for r in pairs
    ) == sorted(db.execute("from pairs").fetchall())
    for image_id in picture:
        weights = [r["weight"] for r in pairs if r["image_id"] == image_id]
        assert not weights or abs(sum(weights) - 1) < 1e-6

    names = ("query", "clicks", "images", "train_clicks", "train_images")
    queries = [tuple(r[name] for name in names) for r in mined.table("queries").to_pylist()]
    assert sorted(queries) == sorted(db.execute("from stats").fetchall())

    edges = mined.table("query_pairs").to_pylist()
    for name in ("co_clicks", "reformulations"):
        expected = {frozenset((a, b)): n for a, b, n in db.execute(f"from {name}").fetchall()}
        # A reformulation may name a query that is too rare for a pair.
        by_id = {hash64(q): q for q in map(normalize_query, {r["query"] for r in log})}
        found = {
            frozenset((by_id[r["query_a"]], by_id[r["query_b"]])): r[name] for r in edges if r[name]
        }
        assert found == expected
        assert found, "the log has none: the test is too tame"

    counters = mined.manifest.counters
    assert counters["events.in"] == len(log)
    (distinct,) = db.execute("select count(*) from events").fetchone()
    assert counters["clicks.in"] - counters["clicks.dropped_delivered_twice"] == distinct
    dead = mined.table("dead_letters")
    reasons = {c["values"]: c["counts"] for c in dead["reason"].value_counts().to_pylist()}
    assert reasons.pop("unknown_image") == counters["clicks.dropped_unknown_image"]
    assert reasons == {
        name.partition(".dropped_")[2]: n
        for name, n in counters.items()
        if name.startswith("events.dropped_") and not name.endswith("no_click")
    }


def log_as(tmp_path, kind, rows):
    path = tmp_path / f"log.{kind}"
    if kind == "tsv":
        write_csv(path, rows)
    elif kind == "csv.gz":
        write_csv(path, rows, ",", gzip.open)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def images_as(tmp_path, kind, folder):
    rows = [{"key": p.stem, "path": f"images/{p.name}"} for p in sorted(folder.iterdir())]
    with_bytes = [{"key": r["key"], "image": (tmp_path / r["path"]).read_bytes()} for r in rows]
    if kind == "files":
        return folder / "*"
    if kind == "paths":
        path = tmp_path / "images.csv"
        path.write_text("key,path\n" + "".join(f"{r['key']},{r['path']}\n" for r in rows))
    elif kind == "bytes":
        path = tmp_path / "images.parquet"
        pq.write_table(pa.Table.from_pylist(with_bytes), path)
    else:
        from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

        path = tmp_path / "images.tfrecord"
        lists = {name: [[row[name]] for row in with_bytes] for name in ("key", "image")}
        schema = pa.schema([(name, pa.large_list(pa.large_binary())) for name in lists])
        (batch,) = pa.table(
            {
                n: [[v.encode() if isinstance(v, str) else v for v in r] for r in c]
                for n, c in lists.items()
            },
            schema,
        ).to_batches()
        with open(path, "wb") as file:
            for record in RecordBatchToExamplesEncoder().encode(batch):
                _TFRecordUtil.write_record(file, record)
    return path


def test_every_format_gives_the_same_shards(tmp_path, images, labels):
    log = messy_log(7)
    found = []
    for log_kind, image_kind in (
        ("tsv", "files"),
        ("csv.gz", "bytes"),
        ("jsonl", "paths"),
        ("parquet", "tfrecord"),
    ):
        status, root = mine(
            tmp_path,
            log_as(tmp_path, log_kind, log),
            images_as(tmp_path, image_kind, images),
            "--labels",
            labels,
            "--max_dead_fraction",
            1,
            output=f"from_{log_kind}",
        )
        assert status == 0
        found.append(checksums(root))
    assert all(other == found[0] for other in found[1:])


def test_order_repeats_and_workers_do_not_matter(tmp_path, images, labels):
    log = messy_log(8)
    flags = ("--labels", labels, "--max_dead_fraction", 1)
    status, root = mine(tmp_path, write_csv(tmp_path / "log.tsv", log), images, *flags)
    assert status == 0
    again = tmp_path / "again"
    again.mkdir()
    rng = random.Random(1)
    for name in ("a", "b"):
        rng.shuffle(log)
        write_csv(again / f"{name}0.tsv", log[:100])
        write_csv(again / f"{name}1.csv", log[100:], ",")
    other = str(tmp_path / "other")
    command = [sys.executable, "-m", "beam_jobs.mine_pairs", "--output", other]
    command += ["--log", str(again), "--images", str(images), *map(str, flags)]
    command += ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "committed" in done.stdout
    assert checksums(other) == checksums(root)


def test_done_work_is_not_done_again(tmp_path, images, capsys):
    log = write_csv(tmp_path / "log.tsv", [{"query": "red", "image": f"p{i}"} for i in range(9)])
    assert mine(tmp_path, log, images, "--dry_run")[0] == 0
    assert "--dry_run: nothing was run" in capsys.readouterr().out
    assert not (tmp_path / "mined").exists()
    assert mine(tmp_path, log, images)[0] == 0
    assert "next: ./run.sh train text_generator" in capsys.readouterr().out
    assert mine(tmp_path, log, images)[0] == 0
    assert "already done" in capsys.readouterr().out
