"""mine_pairs on messy logs of a few pictures."""

import random

from beam_jobs.mining import mine_pairs
from schemas.datasets import dataset

TABLES = ("images", "pairs", "queries", "query_days", "query_pairs")


FEW_PEOPLE = ["--min_users=1", "--one_person_pairs"]  # what one of them did counts


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
    argv += FEW_PEOPLE
    return mine_pairs.run(argv), root


def checksums(root):
    """What the tables of a dataset hold, byte by byte."""
    committed = dataset.Dataset(root).manifest
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
