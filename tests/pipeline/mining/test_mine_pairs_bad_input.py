"""Whatever arrives becomes a good row or a dead letter with its reason, or stops the job early."""

import gzip
import io
import json
import os
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_jobs.mining import mine_pairs
from schemas.datasets import checks, dataset, manifest
from tests.support.inputs import image_files
from tests.support.inputs.image_files import encode, photo
from transforms.rows.checked import HARMLESS

GOOD_IMAGES = {
    "good": encode(photo(0), "PNG"),
    "cmyk": encode(Image.new("CMYK", (24, 16), (0, 255, 255, 0)), "JPEG"),
    "grey16": image_files.png16(np.full((16, 24), 65535, np.uint16)),
    "rgb16": image_files.png16(np.full((16, 24, 3), (0, 65535, 0), np.uint16)),
    "gif": image_files.animation("GIF"),
    "webp": image_files.animation("WEBP"),
    "apng": image_files.animation("PNG"),
    "palette": encode(Image.new("RGB", (24, 16), (9, 0, 99)).quantize(4), "PNG"),
    "alpha": encode(Image.new("RGBA", (24, 16), (0, 0, 0, 128)), "PNG"),
    "rotated": image_files.rotated_jpeg(photo(2), 6),
    "no_suffix": encode(photo(3), "JPEG"),
}
BAD_IMAGES = {
    "empty": (b"", "empty_image"),
    "html": (image_files.HTML, "not_an_image"),
    "huge": (image_files.huge_png(), "too_many_pixels"),
    "cut": (encode(photo(1, 200, 200), "JPEG")[:-400], "truncated_image"),
}
# Changes of a good row → why it dies; None where it does not.
LOG = [
    ({}, None),
    ({"query": "mail jane.doe@example.com"}, "private_query"),
    ({"query": "R\x00ed\u200e "}, None),
    ({"clicks": "2.5", "timestamp": "2024-05-01T10:00:00Z"}, None),
    ({"clicks": "0", "impressions": "0"}, "no_click"),
    ({"clicks": "0"}, None),
    ({"position": "top"}, "bad_position"),
    ({"impressions": "-1"}, "bad_impressions"),
    ({"query": ""}, "empty_query"),
    ({"query": " \u3000"}, "empty_query"),
    ({"query": "\x00"}, "empty_query"),
    ({"query": "x" * (1 << 20)}, "query_too_long"),
    ({"query": "\ud800"}, "bad_encoding"),
    ({"image": "nobody knows"}, "unknown_image"),
    ({"image": "cut"}, "unknown_image"),
    ({"image": ""}, "missing_image_key"),
    ({"clicks": "-3"}, "negative_clicks"),
    ({"clicks": "many"}, "bad_clicks"),
    ({"clicks": "nan"}, "bad_clicks"),
    ({"clicks": "inf"}, "bad_clicks"),
    ({"timestamp": "soon"}, "bad_timestamp"),
]
EXTRA = {
    "jsonl": ([b"no json", b"[1, 2]", b'{"query": "red", "ima'], "bad_row"),
    "tsv": ([b"too\tfew", b"\xff", b"\t".join([b"too many"] * 9)], "bad_row"),
    "parquet": ([], "bad_row"),
}
FIELDS = ("query", "image", "clicks", "impressions", "position", "timestamp", "session", "user")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder that tests leave as it is."""
    folder = tmp_path_factory.mktemp("images")
    for key, data in GOOD_IMAGES.items():
        (folder / (key if key == "no_suffix" else f"{key}.jpg")).write_bytes(data)
    for key, (data, _) in BAD_IMAGES.items():
        (folder / f"{key}.jpg").write_bytes(data)
    for i in range(32):
        (folder / f"p{i}.png").write_bytes(encode(photo(100 + i), "PNG"))
    return folder


def mine(tmp_path, log, images, *flags):
    """Mines the log of one person, whose clicks count all the same."""
    root = str(tmp_path / "mined")
    argv = ["--log", str(log), "--images", str(images), "--output", root, *map(str, flags)]
    argv += ["--min_users", "1", "--one_person_pairs"]
    return mine_pairs.run(argv), root


def write_log(tmp_path, kind):
    base = {"query": "red", "image": "good", "clicks": "1", "timestamp": "5"}
    base |= {"session": "session of somebody", "user": "somebody"}
    base |= {"impressions": "", "position": ""}
    rows = [base | change for change, _ in LOG]
    lines, _ = EXTRA[kind]
    path = tmp_path / f"log.{kind}"
    if kind == "jsonl":
        path.write_bytes(b"\n".join([json.dumps(r).encode() for r in rows] + lines) + b"\n")
    elif kind == "tsv":
        good = ["\t".join(r[f] for f in FIELDS).encode("utf-8", "surrogatepass") for r in rows]
        path.write_bytes(b"\n".join(["\t".join(FIELDS).encode(), *good, *lines]) + b"\n")
    else:
        columns = {
            f: pa.array([r[f].encode("utf-8", "surrogatepass") for r in rows], pa.binary())
            for f in FIELDS
        }
        as_text = pa.StringArray.from_buffers(len(rows), *columns["query"].buffers()[1:])
        pq.write_table(pa.table(columns | {"query": as_text}), path)
    return path


@pytest.fixture(scope="module", params=EXTRA)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def mined(tmp_path_factory, images, kind):
    """What becomes of all these rows and images."""
    folder = tmp_path_factory.mktemp(kind)
    status, root = mine(folder, write_log(folder, kind), images, "--max_dead_fraction", 1)
    assert status == 0
    return dataset.Dataset(root)


def test_every_row_is_good_or_dead(mined, kind):
    assert checks.verify(mined.root) == []
    dead = mined.table("dead_letters").to_pylist()
    expected = [reason for _, reason in LOG if reason not in (None, *HARMLESS)]
    expected += [EXTRA[kind][1]] * len(EXTRA[kind][0])
    expected += [reason for _, reason in BAD_IMAGES.values()]
    assert sorted(row["reason"] for row in dead) == sorted(expected)
    by_key = {row["key"]: row["reason"] for row in dead}
    assert {key: by_key[key] for key in BAD_IMAGES if key != "cut"} == {
        key: reason for key, (_, reason) in BAD_IMAGES.items() if key != "cut"
    }
    assert "somebody" not in str(dead)
    assert not any(row["payload"] for row in dead if row["key"] == "good"), "what people typed"
    assert max(len(row["payload"]) for row in dead) <= 256

    keys = [key for row in mined.table("images").to_pylist() for key in row["keys"]]
    assert sorted(keys) == sorted([*GOOD_IMAGES, *(f"p{i}" for i in range(32))])
    (pair,) = mined.table("pairs").to_pylist()
    # The row with NULs is the first one again, which stands before 2024.
    assert (pair["clicks"], pair["examined"]) == (1 + 2.5, 1 + 1 + 3)
    (query,) = mined.table("queries").to_pylist()
    assert query["query"] == "red"

    counters = mined.manifest.counters
    assert counters["images.in"] == len(GOOD_IMAGES) + 32 + len(BAD_IMAGES)
    assert counters["images.out"] == len(GOOD_IMAGES) + 32
    assert counters["events.in"] == len(LOG) + len(EXTRA[kind][0])
    assert counters["events.dropped_no_click"] == 1
    assert counters["events.dropped_private_query"] == 1
    assert counters["deliveries.dropped_delivered_twice"] == 1
    dropped = {k: n for k, n in counters.items() if ".dropped_" in k}
    harmless = ("events.dropped_no_click", "events.dropped_private_query")
    for name in (*harmless, "deliveries.dropped_delivered_twice"):
        dropped.pop(name)
    assert dropped.pop("clicks.dropped_unknown_image") == 2
    # The stills of the GIF, the WebP and the APNG are the CMYK picture: all red.
    assert dropped.pop("unique_images.dropped_duplicate") == 3
    assert sum(dropped.values()) == len(dead)


def test_clean_images_decode_to_what_they_claim(mined):
    rows = mined.table("images").to_pylist()
    assert rows
    for row in rows:
        image = Image.open(io.BytesIO(row["image"]))
        image.load()
        assert image.size == (row["width"], row["height"])
        assert (image.format, image.mode) in {("JPEG", "RGB"), ("PNG", "RGB")}


GOOD_LOG = b"query,image\nred,p1\n"


@pytest.mark.parametrize(
    ("files", "flags", "message"),
    [
        ({"log.csv": b"q,image\nred,p1\n"}, (), "column 'query' of LOG: expected a column for"),
        ({"log.csv": b""}, (), "--log LOG: .*found none .empty: LOG"),
        ({"log.csv": GOOD_LOG}, ("--columns", "clicks=n"), "column 'n' of LOG"),
        ({"log.csv": GOOD_LOG}, ("--columns", "click=n"), "--columns click=n"),
        ({"log.parquet": b"garbage"}, (), "LOG: expected a readable"),
        ({"log.csv.gz": b"\x1f\x8b\x08garbage"}, (), "LOG: expected a readable"),
        ({"log.bin": b"\x00garbage"}, (), "LOG: expected "),
        ({"log.csv": GOOD_LOG}, ("--days", "days"), "--log and --days"),
        ({"log.csv": GOOD_LOG}, ("--forget", "nowhere.csv"), "nowhere.csv"),
        ({"log.csv": GOOD_LOG}, ("--person_key", "nowhere"), "--person_key: expected the path"),
        ({"log.csv": GOOD_LOG}, ("--blocklist", "nowhere"), "--blocklist nowhere"),
        ({}, (), "--log LOG: expected at least one file"),
        ({"log.csv": GOOD_LOG}, ("--images", "nowhere/*.jpg"), "--images nowhere/.*at least one"),
        ({"log.csv": GOOD_LOG, "l.csv": b"key,tag\n"}, ("--labels", "l.csv"), "'label' and 'spli"),
        ({"log.csv": GOOD_LOG, "l.csv": b"id,label\n"}, ("--labels", "l.csv"), "column 'key' of"),
        ({"log.csv": GOOD_LOG, "i.csv": b"key,url\n"}, ("--images", "i.csv"), "'image' and 'path'"),
        ({"log.csv": GOOD_LOG, "i.tfrecord": b"garbage"}, ("--images", "i.tfrecord"), "TFRecord"),
        (
            {"log.csv": GOOD_LOG},
            ("--num_shards=-1",),
            "--num_shards=-1: expected a whole number, at least 0",
        ),
        ({"log.csv": GOOD_LOG}, ("--test_share", "0.95"), "--test_share 0.95"),
        ({"log.csv": GOOD_LOG}, ("--num_shard", "2"), "Did you mean --num_shards"),
    ],
)
def test_wrong_inputs_fail_before_any_work(tmp_path, monkeypatch, capsys, files, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p1.png").write_bytes(GOOD_IMAGES["good"])
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    log = next(iter(files), "log.csv")
    images = () if "--images" in flags else ("--images", "p1.png")
    argv = ["--log", log, *images, "--output", str(tmp_path / "mined"), *flags]
    assert mine_pairs.run(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message.replace("LOG", log), error), error
    assert not (tmp_path / "mined").exists()


def test_log_without_rows_is_an_error_and_commits_nothing(tmp_path, images, capsys):
    log = tmp_path / "log.csv"
    log.write_text("query,image\n")
    status, root = mine(tmp_path, log, images, "--max_dead_fraction", 1)
    assert status == 2
    assert "error: table 'pairs': expected at least one row" in capsys.readouterr().err
    assert manifest.read(root) is None


def test_too_many_dead_rows_fail_with_the_reason(tmp_path, images, capsys):
    log = tmp_path / "log.csv"
    log.write_text("query,image,clicks\n" + "red,p1,1\n" * 8 + "red,p1,many\n" * 11)
    status, root = mine(tmp_path, log, images)
    assert status == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert "died" in error
    assert "--max_dead_fraction" in error
    assert "Traceback" not in error
    assert manifest.read(root) is None


def test_half_a_file_is_not_taken_for_a_whole(tmp_path, images, capsys):
    lines = "".join(f"query {i * 7919 % 100_003},p{i % 32}\n" for i in range(100_000))
    data = gzip.compress(f"query,image\n{lines}".encode())
    (tmp_path / "log.csv.gz").write_bytes(data[: len(data) * 9 // 10])
    status, root = mine(tmp_path, tmp_path / "log.csv.gz", images, "--max_dead_fraction", 0.2)
    assert status == 2
    assert "100.0% of events_files died" in capsys.readouterr().err
    assert manifest.read(root) is None


def test_file_names_that_are_no_text_die_alone(tmp_path, images):
    folder = shutil.copytree(images, tmp_path / "images")
    with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb") as file:
        file.write(GOOD_IMAGES["good"])
    log = tmp_path / "log.csv"
    log.write_text("query,image\nred,p1\n")
    status, root = mine(tmp_path, log, folder, "--max_dead_fraction", 0.2)
    assert status == 0
    reasons = dataset.Dataset(root).table("dead_letters")["reason"].to_pylist()
    assert len(reasons) == len(BAD_IMAGES) + 1
    assert set(reasons) - {reason for _, reason in BAD_IMAGES.values()} <= {
        "bad_encoding",
        "unreadable_image",
    }
