"""Runs in Airflow's own environment: loads the DAG, says what is in it, and launches templates.

python dag_probe.py                       JSON of the DAG that PHRASELENS_SETTINGS describes
python dag_probe.py http://localhost:PORT  also executes its Dataflow tasks against that service
"""

import json
import os
import sys
from pathlib import Path
from unittest import mock

from airflow.models.dagbag import BundleDagBag
from airflow.providers.google.cloud.hooks.dataflow import DataflowHook
from airflow.timetables.base import TimeRestriction
from google.api_core.client_options import ClientOptions
from google.cloud.run_v2 import RunJobRequest

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "airflow"
RENDERED = {"ds": "2026-01-31", "ds_nodash": "20260131"}


def first_dates(dag, count: int) -> list[str]:
    """The dates that are caught up first."""
    restriction = TimeRestriction(dag.start_date, None, catchup=dag.catchup)
    dates, last = [], None
    for _ in range(count):
        info = dag.timetable.next_dagrun_info(
            last_automated_data_interval=last, restriction=restriction
        )
        last = info.data_interval
        dates.append([str(last.start.date()), str(info.run_after)])
    return dates


def describe(task) -> dict:
    task.render_template_fields(RENDERED, task.get_template_env())
    fields = {
        name: getattr(task, name, None) for name in ("bash_command", "env", "body", "overrides")
    }
    found = {
        "task": task.task_id,
        "kind": type(task).__name__,
        "retries": task.retries,
        "backoff": bool(task.retry_exponential_backoff),
        "alerts": bool(task.on_failure_callback),
        "after": sorted(task.upstream_task_ids),
        "when": str(getattr(task.trigger_rule, "value", task.trigger_rule)),
    }
    if fields["overrides"]:
        # The API's own message knows no other names.
        RunJobRequest(name="job", overrides=fields["overrides"])
    return found | {name: value for name, value in fields.items() if value}


def launch(task, endpoint: str) -> dict:
    """What the service answers in the end."""
    options = ClientOptions(api_endpoint=endpoint)
    task.poll_sleep = 0
    with mock.patch.object(DataflowHook, "get_client_options", return_value=options):
        return task.execute(mock.MagicMock())


def main() -> None:
    bag = BundleDagBag(str(FOLDER), bundle_path=FOLDER)
    (dag,) = bag.dags.values() if bag.dags else (None,)
    found = {"errors": {os.path.basename(k): v for k, v in bag.import_errors.items()}}
    if dag:
        tasks = sorted(dag.tasks, key=lambda t: len(t.get_flat_relative_ids(upstream=True)))
        found |= {
            "dag": dag.dag_id,
            "catchup": dag.catchup,
            "max_active_runs": dag.max_active_runs,
            "dates": first_dates(dag, 3),
            "tasks": [describe(task) for task in tasks],
        }
    if sys.argv[1:]:
        found["launched"] = [
            launch(task, sys.argv[1]) for task in dag.tasks if "FlexTemplate" in type(task).__name__
        ]
    print(f"\n{json.dumps(found, default=str)}")


if __name__ == "__main__":
    main()
