"""Personal data that people typed into the search never leaves: every output is searched for it."""

import csv
import os
import re

import pyarrow.parquet as pq
import pytest

from beam_jobs.mining import mine_log, mine_pairs
from model_code.text.normalise import normalize_query
from schemas.base import storage
from schemas.datasets import dataset
from tests.support.inputs.image_files import encode, photo
from tests.support.inputs.personal_queries import PLANTED

FIELDS = ("query", "image", "clicks", "position", "user", "session", "timestamp")
SECRETS = sorted({query for queries in PLANTED.values() for query in queries})
USERS, SESSIONS = (tuple(f"{kind}-{i:04d}-of-somebody" for i in range(7)) for kind in "us")
RARE = "a query that only four people typed"


def write_log(folder):
    """Each secret is typed by many people: nothing but the look of it can keep it back."""
    os.makedirs(folder)
    rows = []
    for i, query in enumerate((*SECRETS, "red shoe", "blue hat", RARE)):
        for user, session in zip(USERS[: 4 if query == RARE else 7], SESSIONS, strict=False):
            row = {"query": query, "image": f"p{i % 5}", "clicks": 1, "position": 1 + i % 9}
            rows.append(row | {"user": user, "session": session, "timestamp": 1_800_000_000 + i})
        # Rows that die take nothing of it along.
        spoilt = [{"clicks": "many"}, {"position": "top"}, {"timestamp": "soon"}]
        spoilt += [{"image": "nobody knows"}, {"query": query + " " * 2000 + query}]
        rows += [rows[-1] | change for change in spoilt]
    with open(f"{folder}/log.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    with open(f"{folder}/bad.csv", "w", encoding="utf-8", newline="") as file:
        file.write(",".join(FIELDS) + "\n")
        file.writelines(f"{query!r},p1\n" for query in SECRETS)  # columns are missing
    return rows


def everything(root):
    """All bytes of all files of a dataset, and the values of its Parquet, which is compressed."""
    found = []
    for name in storage.list_files(root):
        path = storage.join(root, name)
        found.append(storage.read_bytes(path).decode("latin-1"))
        if name.endswith(".parquet"):
            for column in pq.read_table(path).columns:
                found += [str(value) for value in column.to_pylist()]
    return "\n".join(found)


def leaks(text, secrets):
    return [s for s in secrets if s in text or normalize_query(s) in text]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("privacy")
    write_log(f"{folder}/log")
    os.makedirs(folder / "images")
    for i in range(5):
        (folder / "images" / f"p{i}.png").write_bytes(encode(photo(i), "PNG"))
    common = ["--log", f"{folder}/log", "--max_dead_fraction", "1"]
    assert mine_log.run([*common, "--output", f"{folder}/days/all"]) == 0
    images = ["--images", f"{folder}/images"]
    assert mine_pairs.run([*common, *images, "--output", f"{folder}/mined"]) == 0
    return folder


def test_nothing_private_and_nobody_is_in_any_output(outputs):
    mined, days = everything(f"{outputs}/mined"), everything(f"{outputs}/days")
    assert len(SECRETS) >= 150
    for text in (mined, days):
        assert leaks(text, SECRETS) == []
        assert leaks(text, (*USERS, *SESSIONS)) == []
        # Nor do the digits of a number that was typed with blanks between them.
        digits = [re.sub(r"\D", "", s) for s in PLANTED["card"]]
        assert leaks(text, [d for d in digits if len(d) > 12]) == []
    assert leaks(mined, [RARE]) == []


def test_what_is_not_private_is_there(outputs):
    """The search above finds what there is to find."""
    text = everything(f"{outputs}/mined")
    assert leaks(text, ["red shoe", "blue hat"]) == ["red shoe", "blue hat"]
    mined = dataset.Dataset(f"{outputs}/mined")
    counters = mined.manifest.counters
    assert counters["events.dropped_private_query"] >= 7 * len(SECRETS)
    assert {"bad_clicks", "bad_position", "bad_timestamp", "query_too_long", "bad_row"} <= set(
        mined.table("dead_letters")["reason"].to_pylist()
    )
