"""Figures of a work folder for a monitor, as OpenMetrics text.

Source: the OpenMetrics specification 1.0 (its text format). Prometheus' node exporter reads such a
file with `--collector.textfile.directory`.
"""

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.datasets import dataset, manifest
from schemas.maintenance import pending
from schemas.runs import pointer as pointer_lib
from schemas.runs import snapshots
from schemas.tables.dead_letters import REASONS

FILE_NAME = "metrics.prom"

Samples = Iterable[tuple[Mapping[str, str], float]]

# Name → what it is; all are gauges of the last run or of now.
HELP = {
    "run_exit_status": "Exit status of the last reprocess.",
    "run_seconds": "How long it took.",
    "run_ended_timestamp_seconds": "When it ended, since 1970.",
    "stage_seconds": "How long a stage of it took; 0 where it was done already.",
    "stage_images": "Images that a stage of it decoded or sent through networks.",
    "rows": "Rows of a table of the last run of a dataset.",
    "dead_rows": "Rows of a kind that died in it.",
    "bytes": "Bytes of it.",
    "in_use_timestamp_seconds": "When the snapshot in use was put in use, since 1970; 0 for none.",
    "snapshots": "Snapshots that are kept.",
    "holds": "Dates that are held.",
    "deletion_pending": "1 while a deletion has begun and not ended.",
}


def text(samples: Mapping[str, Samples]) -> str:
    """Metrics as OpenMetrics text.

    Args:
      samples: name, a key of `HELP` → its samples: labels and value.
    """
    lines = []
    for name, of_name in samples.items():
        full = f"phraselens_{name}"
        unit = name.rpartition("_")[2] if name.endswith(("_seconds", "bytes")) else ""
        lines.append(f"# TYPE {full} gauge")
        lines += [f"# UNIT {full} {unit}"] if unit and full.endswith(f"_{unit}") else []
        lines.append(f"# HELP {full} {escaped(HELP[name])}")
        for labels, value in of_name:
            shown = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
            lines.append(f"{full}{f'{{{shown}}}' if shown else ''} {shown_number(value)}")
    return "\n".join([*lines, "# EOF", ""])


def shown_number(value: float) -> str:
    """The fewest digits that come back as the same number."""
    return repr(float(value)).removesuffix(".0")


def escaped(value: str) -> str:
    """A label's value or a help text, as it stands between quotation marks."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def of(work: str, summary: Mapping[str, Any]) -> str:
    """The metrics of a work folder after a run.

    Args:
      work: the work folder.
      summary: what the run has written of itself.
    """
    pointer = pointer_lib.read_pointer(work)
    found: dict[str, list[tuple[dict[str, str], float]]] = {name: [] for name in HELP}
    found["run_exit_status"].append(({}, summary["exit"]))
    found["run_seconds"].append(({}, summary["seconds"]))
    found["run_ended_timestamp_seconds"].append(({}, _seconds(summary["ended"])))
    for row in summary["stages"]:
        labels = {"stage": row["stage"]}
        found["stage_seconds"].append((labels, 0.0 if row["skipped"] else row["seconds"]))
        found["stage_images"].append((labels, row["images"]))
    for name in snapshots.dataset_names(work):
        try:
            done = dataset.Dataset(storage.join(work, name)).manifest
        except PhraseLensError:
            continue  # damaged, or of another program: whoever reads it says so
        size = sum(shard.bytes for shard in manifest.shards_of(done))
        found["bytes"].append(({"dataset": name}, size))
        for table, of_table in done.tables.items():
            if of_table.format != "files":
                found["rows"].append(({"dataset": name, "table": table}, of_table.rows))
        dead: dict[str, int] = {}
        for counter, rows in done.counters.items():
            kind, _, what = counter.partition(".")
            if what == "in":
                dead.setdefault(kind, 0)
            if what.removeprefix("dropped_") in REASONS:
                dead[kind] = dead.get(kind, 0) + rows
        found["dead_rows"] += [({"dataset": name, "kind": k}, n) for k, n in sorted(dead.items())]
    found["in_use_timestamp_seconds"].append(({}, _seconds(pointer.since)))
    found["snapshots"].append(({}, len(snapshots.dates(work))))
    found["holds"].append(({}, len(pointer.holds)))
    found["deletion_pending"].append(({}, pending.read(work) is not None))
    return text(found)


def _seconds(moment: str) -> float:
    """Seconds since 1970 of a moment such as 2026-01-31T03:12:00Z; 0 for ""."""
    return datetime.datetime.fromisoformat(moment).timestamp() if moment else 0.0
