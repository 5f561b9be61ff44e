"""The DAG: a snapshot a date, compared with the one in use, and promoted where it is no worse.

Beside it lies phraselens_commands.py, and its settings: phraselens.json, or the file that the
environment variable PHRASELENS_SETTINGS names. docs/operate/schedule.md says more.
"""

import json
import logging
import os
import re
import shlex
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import phraselens_commands
from airflow.exceptions import AirflowException, AirflowFailException
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.sdk.bases.operator import chain
from airflow.timetables.interval import CronDataIntervalTimetable
from phraselens_commands import Command, Settings

SETTINGS_FILE = os.environ.get("PHRASELENS_SETTINGS") or Path(__file__).with_name("phraselens.json")


def alert(context: dict) -> None:
    """Called when a task has failed for good: logs it and tells `alert_url`, where one is set."""
    task = context["task_instance"]
    text = f"PhraseLens: {task.task_id} of {context['ds']} failed; what is in use stays in use."
    logging.error(text)
    if settings.alert_url:
        request = urllib.request.Request(
            settings.alert_url,
            json.dumps({"text": text}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=30).close()


class RunShOperator(BashOperator):
    """A command of run.sh, which is tried again only after what may pass."""

    def execute(self, context):
        try:
            return super().execute(context)
        except AirflowException as error:
            found = re.search(r"exit code (\d+)", str(error))
            if found and int(found[1]) in phraselens_commands.LASTING:
                raise AirflowFailException(str(error)) from error
            raise


def operator(command: Command, settings: Settings):
    """The task of a command."""
    kind = {"task_id": command.name} | ({} if command.retried else {"retries": 0})
    kind |= {"trigger_rule": "all_done"} if command.always else {}
    if settings.variant == "bash":
        # Arguments are variables, so that no shell reads what they hold once dates are filled in.
        # run.sh is none: Airflow takes a value that ends in .sh for a file of templates.
        words = {f"WORD_{i}": word for i, word in enumerate(command.arguments)}
        return RunShOperator(
            bash_command=" ".join(
                ["exec", shlex.quote(settings.run_sh), *(f'"${w}"' for w in words)]
            ),
            env=words,
            append_env=True,
            skip_on_exit_code=None,
            **kind,
        )
    place = {"project_id": settings.project}
    if command.on_dataflow:
        from airflow.providers.google.cloud.operators.dataflow import (
            DataflowStartFlexTemplateOperator,
        )

        return DataflowStartFlexTemplateOperator(
            body=phraselens_commands.flex_template(settings, command),
            location=settings.region,
            wait_until_finished=True,
            **place,
            **kind,
        )
    from airflow.providers.google.cloud.operators.cloud_run import CloudRunExecuteJobOperator

    return CloudRunExecuteJobOperator(
        job_name=settings.cloud_run_job,
        region=settings.region,
        overrides=phraselens_commands.cloud_run(command),
        **place,
        **kind,
    )


settings = phraselens_commands.read_settings(SETTINGS_FILE)

with DAG(
    "phraselens",
    description=__doc__,
    schedule=CronDataIntervalTimetable(settings.schedule, timezone="UTC"),
    start_date=datetime.fromisoformat(settings.start_date).replace(tzinfo=UTC),
    catchup=True,
    max_active_runs=1,  # Dates in order: each is compared with the one before it.
    default_args={
        "retries": settings.retries,
        "retry_delay": timedelta(minutes=settings.retry_minutes),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
        "on_failure_callback": alert,
    },
) as dag:
    tasks = [operator(command, settings) for command in phraselens_commands.commands(settings)]
    chain(*tasks)
    # What always runs would make a date a success whose gate or stage failed; this does not.
    tasks[-2] >> EmptyOperator(task_id="in_use")
