"""Days of a schedule as they come, and what must be so after each of them.

`Month` delivers images, labels and logs, gives the commands that a schedule and a person give, and
keeps beside them a model of its own: plain dictionaries of what must be in use, present and
forgotten. After each command it compares the two.
"""

import csv
import dataclasses
import datetime
import itertools
import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.mining import mine_log
from beam_jobs.models import classify_images
from beam_jobs.runs import chosen, reprocess
from model_code.gate import command as gate
from samples import scenes
from schemas.base import storage
from schemas.base.errors import Exit
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.maintenance import gc, pending, promote, status, verify
from schemas.runs import pointer as pointer_lib
from schemas.runs import snapshots
from tests.support.datasets import work_folder
from tests.support.processes import forked

FIRST_DAY = datetime.date(2026, 3, 2)
SEED, SIDE = 77, 48
FIRST_IMAGES, USERS, KEPT = 40, 12, 4
# Which of a snapshot's tables may be damaged: what can be made again.
MADE = {
    "mined": "images",
    "phrases": "image_embs",
    "features": "features",
    "predictions": "predictions",
}


@dataclasses.dataclass
class Content:
    """What a snapshot must hold.

    Attributes:
      labels: key of an image → its label, or "".
      clicks: (query, key) → clicks.
      broken: files that are no images.
    """

    labels: dict[str, str]
    clicks: Counter
    broken: int


class Month:
    """A work folder, what is delivered to it, and the model of what must be.

    Args:
      tiny_run: whose models are used.
      folder: an empty one.
      seed: of all that chance decides.
    """

    def __init__(self, tiny_run, folder: Path, seed: int):
        self.rng = random.Random(seed)
        self.folder, self.work, self.days = folder, str(folder / "work"), folder / "days"
        self.images, self.logs = folder / "images", folder / "logs"
        for path in (self.images, self.logs):
            path.mkdir(parents=True)
        for name in chosen.MODELS:
            shutil.copytree(f"{tiny_run.config.workdir}/{name}", f"{self.work}/{name}")
        self.today = FIRST_DAY - datetime.timedelta(days=1)
        self.scenes = (
            i
            for i in itertools.count()
            if not scenes.defect_of(SEED, i)
            if scenes.original_of(SEED, i) == i
        )
        # The model: what was delivered …
        self.labels: dict[str, str] = {}
        self.unlabelled: set[str] = set()
        self.broken: set[str] = set()
        self.rows: dict[str, list[tuple[str, str, str, str]]] = {}
        # … what must be in use …
        self.contents: dict[str, Content] = {}
        self.in_use, self.before, self.holds = "", [], {}
        # … and what must be nowhere.
        self.forgotten: set[bytes] = set()
        self.forgotten_users: set[str] = set()
        self.add_images(FIRST_IMAGES)

    # What people deliver.

    def add_images(self, count: int) -> None:
        for index in itertools.islice(self.scenes, count):
            key = f"img{index:05}x"
            (self.images / f"{key}.jpg").write_bytes(scenes.image_bytes(SEED, index, SIDE))
            self.labels[key] = scenes.shape_of(SEED, index)

    def break_image(self) -> None:
        key = f"broken{len(self.broken):03}"
        (self.images / f"{key}.jpg").write_bytes(b"<html>404</html>" + key.encode())
        self.broken.add(key)

    def remove(self, keys) -> None:
        for key in keys:
            (self.images / f"{key}.jpg").unlink()
            del self.labels[key]

    def draw_log(self, date: str, share: float = 1.0) -> list[tuple[str, str, str, str]]:
        """Rows (query, key, user, time): a person clicks an image once a query and day."""
        rows = set()
        for key, label in self.labels.items():
            for user in self.rng.sample(range(USERS), 2):
                rows.add((label, key, f"user{user:02}"))
        for user, key in zip(
            range(USERS), self.rng.sample(sorted(self.labels), USERS), strict=True
        ):
            rows.add((f"private{user:02}", key, f"user{user:02}"))
        kept = [row for row in sorted(rows) if self.rng.random() < share]
        start = datetime.datetime.fromisoformat(f"{date}T06:00:00+00:00")
        return [
            (*row, (start + datetime.timedelta(seconds=7 * n)).isoformat())
            for n, row in enumerate(kept)
        ]

    def deliver(self, date: str, rows, of: str = "", empty: bool = False) -> int:
        """Mines a day's log; returns the exit status, and notes what is there from then on."""
        path = self.logs / f"{date}.csv"
        with path.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerows([("query", "image", "user", "timestamp"), *rows])
        argv = [f"--log={path}", f"--partition={date}", f"--output={self.days / date}"]
        argv += ["--num_shards=1", "--max_person_clicks=100"]
        argv += ["--allow_empty"] * empty
        if self.forgotten:
            argv.append(f"--forget={self.folder / 'forget.csv'}")
        ended = mine_log.run(argv)
        if ended == Exit.DONE:
            self.rows[date] = [r for r in rows if r[2] not in self.forgotten_users]
        return ended

    # What is commanded.

    def flags(self, date: str) -> list[str]:
        labels = self.folder / "labels.csv"
        with labels.open("w", newline="") as file:
            rows = [(k, v) for k, v in sorted(self.labels.items()) if k not in self.unlabelled]
            csv.writer(file).writerows([("key", "label"), *rows])
        settings = work_folder.config(
            self.work, {"mine_pairs": {"num_shards": "2", "near_duplicates": "false"}}
        ).set
        return [
            *(f"--workdir={self.work}", f"--date={date}", f"--set={settings}"),
            *(f"--days={self.days}", f"--images={self.images}", f"--labels={labels}"),
        ]

    def reprocess(self, date: str, *more: str) -> int:
        """Makes the snapshot of a date in this process."""
        ended = reprocess.run([*self.flags(date), *more])
        if ended == Exit.DONE:
            self.contents.setdefault(date, self.content())
        return ended

    def start(self, date: str, *more: str):
        """The same in a process of its own."""
        command = ["python", "-m", "beam_jobs.runs.reprocess", *self.flags(date), *more]
        return forked.start(command, str(self.folder / "forked.log"))

    def content(self) -> Content:
        """What a snapshot that is made now must hold."""
        clicks: Counter = Counter()
        for query, key, user, _ in itertools.chain(*self.rows.values()):
            if key in self.labels and user not in self.forgotten_users:
                clicks[query, key] += 1
        labels = {k: "" if k in self.unlabelled else v for k, v in self.labels.items()}
        return Content(labels, clicks, len(self.broken))

    def judge(self, date: str) -> None:
        """The gate, and then what a person makes of it."""
        judged = gate.run([f"--workdir={self.work}", f"--date={date}"])
        assert judged in (Exit.DONE, Exit.REFUSED)
        found = json.loads(storage.read_bytes(f"{self.work}/{snapshots.GATES}/{date}.json"))
        assert found["verdict"] == ("pass" if judged == Exit.DONE else "refuse")
        if self.in_use:
            was, now = (self.classes(d) for d in (self.in_use, date))
            assert set(found["labels_gone"]) == was - now
            assert set(found["labels_new"]) == now - was
        argv = ["promote", f"--workdir={self.work}", f"--date={date}"]
        assert promote.run(argv) == judged, "what the gate refused is not put in use"
        if judged == Exit.REFUSED:
            assert pointer_lib.read_pointer(self.work).date == self.in_use
            assert promote.run([*argv, "--despite=we looked"]) == Exit.DONE
        if self.in_use:
            self.before.append(self.in_use)
        self.in_use = date

    def classes(self, date: str) -> set[str]:
        return set(self.contents[date].labels.values()) - {""}

    def check(self) -> None:
        """Compares all that is there with the model."""
        pointer = pointer_lib.read_pointer(self.work)
        assert (pointer.date, list(pointer.history)) == (self.in_use, self.before)
        assert dict(pointer.holds) == self.holds
        assert snapshots.dates(self.work) == sorted(self.contents)
        told = status.status(self.work, str(self.days))
        assert (told["in_use"], told["holds"]) == (self.in_use, self.holds)
        assert told["days"]["days"] == len(self.rows)
        assert told["days"]["empty"] == sorted(date for date, rows in self.rows.items() if not rows)
        assert told["days"]["newest"] == max(self.rows)
        assert told["deletion"] is None
        assert verify.run([self.work]) == Exit.DONE
        if self.in_use:
            self.check_content(snapshots.read(self.work, self.in_use), self.contents[self.in_use])
        for name, data in readable(self.folder):
            for secret in self.forgotten:
                assert secret not in data, f"{secret!r} is still in {name}"

    def check_content(self, snapshot: snapshots.Snapshot, must: Content) -> None:
        """Compares a snapshot with what it must hold."""
        mined = snapshot.dataset("mined")
        images = {row["keys"][0]: row for row in mined.table("images", COLUMNS).to_pylist()}
        assert {key: "".join(row["labels"]) for key, row in images.items()} == must.labels
        key_of = {row["image_id"]: key for key, row in images.items()}
        rows = mined.table("queries", ["query_id", "query"]).to_pylist()
        texts = {row["query_id"]: row["query"] for row in rows}
        pairs = mined.table("pairs", ["query_id", "image_id", "clicks"]).to_pylist()
        found = {(texts[p["query_id"]], key_of[p["image_id"]]): p["clicks"] for p in pairs}
        assert found == dict(must.clicks)
        counters = mined.manifest.counters
        assert counters["images.in"] - counters["images.out"] == must.broken
        assert counters["image_keys.all"] == len(must.labels)
        for name, table in (("features", "features"), ("predictions", "predictions")):
            ids = snapshot.dataset(name).table(table, ["image_id"])["image_id"].to_pylist()
            assert sorted(ids) == sorted(key_of), name

    # A day.

    def play(self, event: str) -> None:
        """One day of the schedule, on which something happens; see EVENTS."""
        self.today += datetime.timedelta(days=1)
        getattr(self, f"_{event}")(str(self.today))
        self.check()

    def usual(self, date: str) -> None:
        assert self.deliver(date, self.draw_log(date)) == Exit.DONE
        self.make(date)

    def make(self, date: str) -> None:
        assert self.reprocess(date) == Exit.DONE
        self.judge(date)

    _usual = usual

    def _new_images(self, date: str) -> None:
        self.add_images(2)
        self.usual(date)

    def _broken_image(self, date: str) -> None:
        self.break_image()
        self.usual(date)

    def _retired(self, date: str) -> None:
        """Their labels stay in the file of somebody else's, their clicks in the days."""
        gone = self.rng.sample(sorted(self.labels), 3)
        self.remove(gone)
        self.usual(date)
        counters = Dataset(f"{self.work}/mined").manifest.counters
        assert counters["image_keys.retired"] == len(gone)
        rows = sum(row[1] in gone for rows in self.rows.values() for row in rows)
        assert rows >= counters["clicks.dropped_retired_image"] > 0

    def _labels_gone(self, date: str) -> None:
        kind = self.rng.choice(sorted(set(self.content().labels.values()) - {""}))
        self.unlabelled |= {key for key, label in self.labels.items() if label == kind}
        self.usual(date)

    def _labels_new(self, date: str) -> None:
        for key in self.rng.sample(sorted(self.labels), 4):
            self.labels[key] = "brandnew"
            self.unlabelled.discard(key)
        self.usual(date)

    def _late(self, date: str) -> None:
        """Nothing is delivered: the snapshot is made of what there is."""
        self.make(date)

    def _corrected(self, date: str) -> None:
        """An earlier day comes again, and one that was missing."""
        known = self.rng.choice(sorted(self.rows))
        every = [FIRST_DAY + datetime.timedelta(days=n) for n in range(30)]
        missing = [str(d) for d in every if d < self.today and str(d) not in self.rows]
        for earlier in (known, *missing[:1]):
            assert self.deliver(earlier, self.draw_log(earlier)) == Exit.DONE
        self.usual(date)

    def _empty(self, date: str) -> None:
        """A log without a row, and rows of another day, are no day; the night ends there."""
        yesterday = str(self.today - datetime.timedelta(days=1))
        for rows in ([], self.draw_log(yesterday)):
            assert self.deliver(date, rows) == Exit.BAD_INPUT
        assert manifest.read(str(self.days / date)) is None

    def _meant_empty(self, date: str) -> None:
        assert self.deliver(date, [], empty=True) == Exit.DONE
        self.make(date)

    def _killed(self, date: str) -> None:
        assert self.deliver(date, self.draw_log(date)) == Exit.DONE
        for _ in range(2):
            process = self.start(date)
            time.sleep(self.rng.uniform(0.5, 9.0))
            forked.kill(process)
        if date in snapshots.dates(self.work):  # the kill came too late
            self.contents[date] = self.content()
        self.make(date)

    def _rivals(self, date: str) -> None:
        assert self.deliver(date, self.draw_log(date)) == Exit.DONE
        processes = [self.start(date), self.start(date)]
        for process in processes:
            process.join()
            assert process.exitcode in (Exit.DONE, Exit.BUSY)
        self.make(date)

    def _future(self, date: str) -> None:
        assert self.reprocess("2999-01-01") == Exit.BAD_INPUT
        assert self.reprocess("tomorrow") == Exit.BAD_INPUT
        self.usual(date)

    def _rolled_back(self, date: str) -> None:
        """The next night of a held date makes nothing of it."""
        self.usual(date)
        if not self.before:
            return
        argv = ["rollback", f"--workdir={self.work}", "--hold=wrong labels"]
        assert promote.run(argv) == Exit.DONE
        self.holds[date] = "wrong labels"
        self.in_use = self.before.pop()
        assert self.reprocess(date) == Exit.REFUSED
        assert gate.run([f"--workdir={self.work}", f"--date={date}"]) == Exit.REFUSED
        again = ["promote", f"--workdir={self.work}", f"--date={date}"]
        assert promote.run(again) == Exit.REFUSED

    def _lifted(self, date: str) -> None:
        for held in sorted(self.holds):
            argv = ["hold", f"--workdir={self.work}", f"--date={held}", "--lift"]
            assert promote.run(argv) == Exit.DONE
            del self.holds[held]
        self.usual(date)

    def _flipped(self, date: str) -> None:
        """A disk changes a byte of what is in use; verify finds it, and mends."""
        self.usual(date)
        name = self.rng.choice(sorted(MADE))
        dataset = pointer_lib.current(self.work).dataset(name)
        path = dataset.path(self.rng.choice(dataset.shards(MADE[name])))
        data = bytearray(storage.read_bytes(path))
        data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        storage.write_bytes(path, bytes(data))
        run_id = dataset.manifest.run_id
        lost = {
            d for d in self.contents if snapshots.read(self.work, d).datasets.get(name) == run_id
        }
        assert verify.run([f"{self.work}/current"]) == Exit.CORRUPT
        assert verify.run([self.work, "--repair"]) == Exit.DONE
        self.contents = {d: c for d, c in self.contents.items() if d not in lost}
        self.before = [d for d in self.before if d not in lost]
        assert self.in_use in lost
        self.in_use = self.before.pop() if self.before else ""
        # The night is done again, under another date: this one was judged already.
        self.make(f"{date}T1200")

    def _own_predictions(self, date: str) -> None:
        """Somebody keeps predictions of the images beside what the schedule makes."""
        self.usual(date)
        argv = [f"--model={self.work}/current/model", f"--images={self.images}"]
        assert classify_images.run([*argv, f"--output={self.work}/own/{date}"]) == Exit.DONE

    def _forget(self, date: str) -> None:
        self._own_predictions(date)
        self.forget(f"{date}T1200")

    def _forget_killed(self, date: str) -> None:
        """It dies in the middle; the next night ends it first."""
        self.usual(date)
        self.forget(f"{date}T1200", kill=True)

    def forget(self, date: str, kill: bool = False) -> None:
        """Forgets an image and a person."""
        key = self.rng.choice(sorted(self.labels))
        user = self.rng.choice([f"user{u:02}" for u in range(USERS)])
        rows = Dataset(f"{self.work}/mined").table("images", COLUMNS).to_pylist()
        (row,) = (row for row in rows if key in row["keys"])
        data = (self.images / f"{key}.jpg").read_bytes()
        listed = self.folder / "forget.csv"
        with listed.open("a", newline="") as file:
            if not self.forgotten:
                file.write("image,user,query\n")
            csv.writer(file).writerows([(key, "", ""), ("", user, "")])
        self.remove([key])
        self.forgotten |= {key.encode(), row["image_id"].encode(), data[-80:-16]}
        self.forgotten |= {user.replace("user", "private").encode()}
        self.forgotten_users.add(user)
        for name, of_day in self.rows.items():
            self.rows[name] = [r for r in of_day if r[1] != key and r[2] != user]
        flags = [f"--forget={listed}"]
        self.contents = {date: self.content()}
        was_used, self.in_use, self.before = self.in_use, "", []
        if kill:
            process = self.start(date, *flags)
            while pending.read(self.work) is None and process.is_alive():
                time.sleep(0.05)
            time.sleep(self.rng.uniform(0.0, 8.0))
            forked.kill(process)
            # The next night ends the deletion before it does anything else.
            assert self.reprocess(f"{date[:10]}T1800") == Exit.DONE
        else:
            assert self.reprocess(date, *flags) == Exit.DONE
        if was_used:
            self.in_use = date

    def _collected(self, date: str) -> None:
        self.usual(date)
        assert gc.run([f"--workdir={self.work}", f"--keep={KEPT}"]) == Exit.DONE
        kept = {*sorted(self.contents)[-KEPT:], self.in_use, *self.before[-1:]}
        self.contents = {d: c for d, c in self.contents.items() if d in kept}
        self.before = [d for d in self.before if d in kept]


COLUMNS = ["image_id", "keys", "labels"]
EVENTS = [
    name[1:]
    for name, value in vars(Month).items()
    if name.startswith("_") and not name.startswith("__") and callable(value)
]


# What people deliver, and what commands print.
GIVEN = ("images", "logs", "forget.csv", "labels.csv", "forked.log")


def readable(folder: Path):
    """The names and contents of all files that commands write; Parquet without its compression."""
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if not path.is_file() or below.parts[0] in GIVEN:
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":
            sink = pa.BufferOutputStream()
            table = pq.read_table(path)
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            data = sink.getvalue().to_pybytes()
        yield str(below), data
