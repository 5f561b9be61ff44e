"""Who people are, what images are called, and how much may be bad: kinds of inputs of mining."""

import types
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_jobs.mining import mine_pairs
from schemas.base.errors import PhraseLensError
from tests.inputs.case import Case, command, error_of
from transforms.images.plan import plan_images
from transforms.images.readers import read_unit
from transforms.images.units import IMAGE_FIELDS
from transforms.mining import evidence, key_match, pairs
from transforms.mining.events import DAY_MS, EVENTS, LogRules, parse_events
from transforms.mining.evidence import DayRules
from transforms.mining.examination import Log
from transforms.mining.images import EARLIER_KEYS, IMAGE_KEYS, join_labels
from transforms.mining.labels import parse_labels
from transforms.shards.ceilings import Ceilings, check_counters

STAGE = types.SimpleNamespace(name="mine_pairs", run_id="run")
DECOMPOSED, COMPOSED = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))


def _binary(**columns: list[str | None]) -> pa.Table:
    return pa.table(
        {
            name: pa.array([None if v is None else v.encode() for v in values], pa.binary())
            for name, values in columns.items()
        }
    )


def _events(**columns: list[str | None]) -> pa.Table:
    return parse_events(_binary(**columns), STAGE, LogRules()).tables["events"]


def _users(*names: str | None):
    """How many people some users are."""

    def run(_: Path) -> str:
        log = _events(query=["red"] * len(names), image=["a"] * len(names), user=list(names))
        known = log["user"].drop_null()
        return (
            f"{len(names)} rows: {len(known.unique())} people, {log['user'].null_count} of nobody"
        )

    return run


def _named_nobody(_: Path) -> str:
    table = _binary(query=["red"], image=["a"], user=["Visitor"])
    events = parse_events(table, STAGE, LogRules(nobody=("visitor",))).tables["events"]
    return f"1 row: {events['user'].null_count} of nobody"


def _robots(per_user: dict[int, int], most: float):
    """What becomes of users with so many events on a day, where more than 100 are a robot's."""

    def run(_: Path) -> str:
        users = [user for user, n in per_user.items() for _ in range(n)]
        row = dict.fromkeys(EVENTS.names) | {"key": "a", "query_id": 1, "clicks": 1024}
        row |= {"impressions": 1, "position": 0, "part": 0}
        rows = [row | {"user": user, "time": i % DAY_MS} for i, user in enumerate(users)]
        mined = evidence.mine_days(pa.Table.from_pylist(rows, EVENTS), DayRules(100))
        try:
            evidence.check_robots(mined.counts, mined.notes, most)
        except PhraseLensError as error:
            return "refused: " + str(error).partition(", most of them")[0]
        return f"{mined.counts['deliveries.out']:,} of {len(rows):,} events kept"

    return run


def _ceiling(kind: str, dead: int, rows: int, reason: str, **ceilings):
    """What becomes of so many rows of a kind, some of which have died."""

    def run(_: Path) -> str:
        counted = {f"{kind}.in": rows, f"{kind}.out": rows - dead}
        try:
            check_counters(
                counted | {f"{kind}.dropped_{reason}": dead},
                Ceilings(**ceilings),
                lambda _: ["'p1'", "'p2'", "'p3'"],
                "OUTPUT/runs/RUN/dead_letters",
            )
        except PhraseLensError as error:
            return f"refused: {error}"
        return f"{rows - dead} good, {dead} dead"

    return run


def _matches(logged: list[str], images: list[str]):
    """What becomes of a log that names these images, where those are there."""

    def run(_: Path) -> str:
        named, keys = pa.chunked_array([logged]), pa.chunked_array([images])
        found = key_match.match(named, keys, "clicks", found="in_log")
        counts = found.counts | {"image_keys.all": len(images)}
        try:
            key_match.check_matches(counts, found.notes, 0.05)
        except PhraseLensError as error:
            return "refused: " + str(error).partition(". Name the column")[0]
        return (
            f"{counts['clicks.out']} rows kept, {counts['clicks.dropped_unknown_image']} left out"
        )

    return run


def _labels(_: Path) -> str:
    keys = [f"p{i}" for i in range(18)]
    labels = _binary(key=[*keys, "of another image"], label=["shoe"] * 19)
    parsed = parse_labels(labels, STAGE, pa.array([], pa.string()))
    images = pa.table([keys, keys], IMAGE_KEYS)
    counts = (
        parsed.counts
        | join_labels(parsed.tables["labels"], images, EARLIER_KEYS.empty_table()).counts
    )
    check_counters(counts, Ceilings())
    kept, left_out = (counts[f"known_labels.{n}"] for n in ("out", "dropped_unknown_image"))
    return f"{kept} labels kept, {left_out} left out"


def _wrong_key(key: str, log_key: str):
    """What mine_pairs says of an image file `photos/p1.png`."""

    def run(folder: Path) -> str:
        (folder / "photos").mkdir()
        (folder / "photos" / "p1.png").write_bytes(b"never opened")
        (folder / "log.csv").write_text(f"query,image\nred,{log_key}\n")
        argv = [f"--log={folder}/log.csv", f"--images={folder}/photos", f"--image_key={key}"]
        return error_of(command(mine_pairs.run, folder, *argv, f"--output={folder}/mined"))

    return run


def _file_and_log(folder: Path) -> str:
    (folder / f"{DECOMPOSED}.png").write_bytes(b"an image")
    mapping = {field: field for field in IMAGE_FIELDS}
    (unit,) = plan_images("images", [str(folder)], "auto", mapping, "stem").units
    (batch,) = read_unit(unit)
    log = _events(query=["red"], image=[COMPOSED])
    same = batch["key"].to_pylist() == log["key"].to_pylist() == [COMPOSED]
    return "the image of the click" if same else "unknown"


def _label_forms(_: Path) -> str:
    table = _binary(key=["a", "b"], label=[DECOMPOSED, COMPOSED])
    parsed = parse_labels(table, STAGE, pa.array([], pa.string()))
    return f"{len(parsed.tables['labels']['label'].unique())} label"


def _score_after_a_day(kept: bool):
    """The score of a pair at position 3 before and after a day on which people look further."""

    def run(_: Path) -> str:
        first = {"unclicked": 1, "clicks@1": 20, "impressions@1": 40}
        first |= {"clicks@3": 10, "impressions@3": 40}
        both = first | {"clicks@3": 100, "impressions@3": 140}
        log = Log.of_facts(first)
        later = Log.of_facts(both, log.examination if kept else None)
        row = {"image_id": "a", "query_id": 1, "position": 3, "clicks": 10 * 1024}
        row |= {"impressions": 40, "first_person": 1, "last_person": 2, "rows": 40}
        table = pa.Table.from_pylist([row], pairs.IMAGE_EVIDENCE)
        scores = [
            pairs.weigh(table, of_log, pairs.PairRules()).tables["candidates"]["score"].to_numpy()
            for of_log in (log, later)
        ]
        return " → ".join(f"{score:.2f}" for score in np.concatenate(scores))

    return run


PEOPLE, CEILING, DEAD = "placeholder people", "one ceiling for all", "errors of dead shares"
CASES = [
    Case(
        PEOPLE,
        "users `anonymous`, `ANONYMOUS`, `null`, `-`, `0`, `Unknown`, empty",
        "8 rows: 1 people, 7 of nobody",
        _users("anonymous", " ANONYMOUS", "null", "-", "0", "Unknown", "", "jane"),
    ),
    Case(
        PEOPLE,
        "users `(not set)`, `NaN`, `\\N`, `00000000-0000-0000-0000-000000000000`",
        "5 rows: 1 people, 4 of nobody",
        _users("(not set)", "NaN", "\\N", "00000000-0000-0000-0000-000000000000", "jane"),
    ),
    Case(
        PEOPLE,
        "users `anonymous1`, `10`",
        "2 rows: 2 people, 0 of nobody",
        _users("anonymous1", "10"),
    ),
    Case(PEOPLE, "user `Visitor` with `--nobody=visitor`", "1 row: 1 of nobody", _named_nobody),
    Case(
        PEOPLE,
        "90 % of a log under one name that is not known to be nobody's",
        "refused: 90.0% of the events (180 of 200) would be dropped as a robot's",
        _robots({7: 180, 8: 20}, 0.25),
    ),
    Case(
        PEOPLE,
        "a robot with 20 % of a log",
        "600 of 750 events kept",
        _robots({7: 150} | dict.fromkeys(range(10, 20), 60), 0.25),
    ),
    Case(
        CEILING,
        "1 of 19 labels is of an image that is not there",
        "18 labels kept, 1 left out",
        _labels,
    ),
    Case(
        CEILING,
        "10 photos and one HTML page",
        "10 good, 1 dead",
        _ceiling("images", 1, 11, "not_an_image"),
    ),
    Case(
        CEILING,
        "a log of 1,000 images, of which 3 are at hand",
        "3 rows kept, 997 left out",
        _matches([f"p{i}" for i in range(1000)], ["p1", "p2", "p3"]),
    ),
    Case(
        CEILING,
        "1,000 images, of which the log knows 3",
        "3 rows kept, 0 left out",
        _matches(["p1", "p2", "p3"], [f"p{i}" for i in range(1000)]),
    ),
    Case(
        CEILING,
        "30 % of the images are bad, with `--max_dead_images=0.3`",
        "70 good, 30 dead",
        _ceiling("images", 30, 100, "truncated_image", of_kinds=(("images", 0.3),)),
    ),
    Case(
        CEILING,
        "8 of 11 images are HTML pages",
        "refused: 72.7% of images died: 8 of 11 (not_an_image 8): expected at most 5.0%, or "
        "10 while half are good. Most are not_an_image: The bytes are no image that is read: the "
        "detail names their format or damage. Such as 'p1', 'p2', 'p3'. All are in "
        "OUTPUT/runs/RUN/dead_letters. Or raise --max_dead_fraction.",
        _ceiling("images", 8, 11, "not_an_image"),
    ),
    Case(
        DEAD,
        "6 % of the clicks are no number",
        "refused: 6.0% of events died: 18 of 300 (bad_clicks 18): expected at most 5.0%, or "
        "10 while half are good. Most are bad_clicks: The clicks are no number. Such as 'p1', "
        "'p2', 'p3'. All are in OUTPUT/runs/RUN/dead_letters. Or raise --max_dead_fraction.",
        _ceiling("events", 18, 300, "bad_clicks"),
    ),
    Case(
        DEAD,
        "the log says `p1.jpg`, an image table `p1`",
        "refused: 0 of 2 rows of the log name one of the 2 images, whose keys are such as 'p1', "
        "'p2'; not known are 'p2.jpg', 'p1.jpg': expected at least 5% of the rows of the log, "
        "or of the images, to match",
        _matches(["p1.jpg", "p2.jpg"], ["p1", "p2"]),
    ),
    Case(
        DEAD,
        "the log says `p1.png`, the image is the file `photos/p1.png`",
        "refused: the log calls photos/p1.png 'p1.png', but --image_key=stem calls it 'p1', and so "
        "none of the images matches: expected one name for an image everywhere. Give "
        "--image_key=name.",
        _wrong_key("stem", "p1.png"),
    ),
    Case(
        DEAD,
        "the log says `p1`, with `--image_key=name`",
        "refused: the log calls photos/p1.png 'p1', but --image_key=name calls it 'p1.png', and so "
        "none of the images matches: expected one name for an image everywhere. Give "
        "--image_key=stem.",
        _wrong_key("name", "p1"),
    ),
    Case(
        "Unicode",
        "a file `café.png` of a Mac (NFD), a log in NFC",
        "the image of the click",
        _file_and_log,
    ),
    Case("Unicode", "a label in NFD and in NFC", "1 label", _label_forms),
    Case(
        "a new day",
        "people look further down than before, and say nothing of an old pair",
        "0.33 → 0.33",
        _score_after_a_day(True),
    ),
    Case(
        "a new day", "the same with `--renew_examination`", "0.33 → 0.16", _score_after_a_day(False)
    ),
]
