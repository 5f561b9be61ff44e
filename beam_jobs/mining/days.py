"""The folder of days that mine_log wrote, and what must be forgotten in them."""

from collections.abc import Mapping

from beam_jobs.mining import log as log_lib
from beam_jobs.mining.flags import Config
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import FILE_NAME
from transforms.files.secret_files import FromFiles
from transforms.mining import evidence
from transforms.mining.deletions import Deletions
from transforms.shards.ceilings import EXAMPLES


def find_days(folder: str) -> dict[str, Dataset]:
    """The committed days below a folder, by name.

    Raises:
      PhraseLensError: there is none, a dataset there is no day, or two are of the same one.
    """
    ends = f"/{FILE_NAME}"
    names = [
        file.removesuffix(ends)
        for file in storage.list_files(folder)
        if file.endswith(ends) and file.count("/") == 1
    ]
    found = {name: Dataset(storage.join(folder, name)) for name in sorted(names)}
    for name, day in found.items():
        if day.manifest.stage != "mine_log":
            raise PhraseLensError(
                f"{storage.join(folder, name)}, written by {day.manifest.stage}",
                "a day that mine_log wrote",
                "Keep days in a folder of their own.",
            )
    by_partition: dict[str, str] = {}
    for name, day in found.items():
        partition = day.manifest.config.get("partition")
        if partition and (other := by_partition.setdefault(partition, name)) != name:
            raise PhraseLensError(
                f"days {other} and {name} of {folder}",
                f"one folder for {partition}, which both were mined for: it would count twice",
                "Delete one of them. A day that came late or was corrected goes into the same "
                "--output, which replaces it.",
            )
    if not found:
        raise PhraseLensError(
            f"--days {folder}", "days that mine_log wrote", "Run mine_log for each day."
        )
    return found


def check_robots_of(days: Mapping[str, Dataset], max_robot_share: float) -> None:
    """As `evidence.check_robots`, over all days: an older version did not check them.

    Raises:
      PhraseLensError: too much was dropped as a robot's.
    """
    counters = {name: day.manifest.counters for name, day in days.items()}
    robots = {name: of_day.get(evidence.ROBOTS, 0) for name, of_day in counters.items()}
    worst = sorted(((n, f"day {name} ({n:,})") for name, n in robots.items() if n), reverse=True)
    events = sum(of_day.get("deliveries.in", 0) for of_day in counters.values())
    totals = {evidence.ROBOTS: sum(robots.values()), "deliveries.in": events}
    evidence.check_robots(totals, {evidence.ROBOTS: worst[:EXAMPLES]}, max_robot_share)


def query_parts_of(days: Mapping[str, Dataset]) -> int:
    """Words of the longest part of a query that counted on any of these days."""
    return max(day.manifest.config.get("query_parts", 0) for day in days.values())


def read_deletions_of(days: Mapping[str, Dataset], path: str, person_key: str) -> Deletions:
    """A deletion list in the terms of days: people hashed as they are, and parts of queries.

    Args:
      days: name → day.
      path: the list; "" for none.
      person_key: the key file that mine_log was given; "" for none.

    Raises:
      PhraseLensError: the list cannot be read, or names people, and a day has another key.
    """
    if not path:
        return Deletions()
    deletions = log_lib.deletions_of(path, person_key, query_parts_of(days))
    if deletions.users or deletions.user_queries:
        ours = log_lib.key_identity(person_key) if person_key else None
        for name, day in days.items():
            if not _may_be(day.manifest.inputs.get("person_key"), ours):
                raise PhraseLensError(
                    f"day {name}: its people have other hashes than those of {path}",
                    "the key file that mine_log was given for it",
                    "Give it with --person_key, or leave that out where mine_log had none.",
                )
    return deletions


def _may_be(of_day: str | None, ours: str | None) -> bool:
    """Whether a day was mined with our key; an older version noted only which file it was."""
    if of_day is None or ours is None:
        return of_day is ours
    return of_day == ours or not of_day.startswith(log_lib.KEY_IDENTITY)


def deletions_by_flags(config: Config) -> Deletions:
    """What mine_pairs must forget, in the terms of its log or of its days.

    Raises:
      PhraseLensError: see `read_deletions_of`.
    """
    if config.days and config.forget:
        return read_deletions_of(find_days(config.days), config.forget, config.person_key)
    return log_lib.deletions(config)


def deletions_on_workers(config: Config) -> FromFiles[Deletions]:
    """The same, read where it is needed: the graph holds nothing of it."""
    parts = config.query_parts
    if config.days and config.forget:
        parts = query_parts_of(find_days(config.days))
    files = config.forget, config.person_key
    return FromFiles.of(log_lib.deletions_of, *files, parts, files=files)
