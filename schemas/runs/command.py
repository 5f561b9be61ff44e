"""The frame of every command that is no Beam job: parse, plan, skip what is done, run.

Free of TensorFlow, so that `--help` and a skipped run take no time.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from schemas.base import fingerprint, storage
from schemas.base.errors import PhraseLensError
from schemas.console import flags as flags_lib
from schemas.console import heartbeat, quiet
from schemas.datasets import checks
from schemas.runs import command_line
from schemas.runs import run as run_lib
from schemas.runs.run import Run


def main(
    name: str,
    config_class: type,
    doc: str | None,
    argv: Sequence[str] | None,
    *,
    work: Callable[[Any, Run], int],
    datasets: Callable[[Any], Mapping[str, str]],
    modules: Sequence[str],
    raw_inputs: Callable[[Any], Mapping[str, str]] | None = None,
) -> int:
    """Runs a command to its exit status.

    Args:
      name: the stage's name.
      config_class: the dataclass of its flags; has `output` and `dry_run`.
      doc: the module's docstring, shown by `--help`.
      argv: flags, or None for those of the process.
      work: does the work, commits it to the run, prints results, returns the exit status.
      datasets: config → name and folder of each input dataset.
      modules: the modules whose sources make the rows; the first one is the command itself.
      raw_inputs: config → name and content hash of each input that is no dataset.

    Returns:
      The exit status: 0 when done (now or before, or for `--dry_run`), else see `errors.Exit`.
    """
    inputs: Mapping[str, str] = {}
    try:
        config = command_line.parse(config_class, name.replace("train_", "train ", 1), doc, argv)
        raw = raw_inputs(config) if raw_inputs else {}
        inputs = datasets(config)
        planned = run_lib.plan(name, config, modules, inputs, raw)
        if planned.done:
            if not config.dry_run:
                planned.restore()
            print(f"{name}: already done: {config.output}")
            return 0
        print(describe(planned, config), flush=True)
        if config.dry_run:
            return 0
        checks.check_inputs(inputs.values())
        # Workers that train together run the same command, each with a TF_CONFIG of its own.
        task = json.loads(os.environ.get("TF_CONFIG") or "{}").get("task", {})
        with planned.alone(int(task.get("index", 0))), heartbeat.doing(name):
            return work(config, planned)
    except Exception as error:
        return checks.tell_of_inputs(error, inputs.values())


def describe(planned: Run, config: Any) -> str:
    """The plan of a run, for people."""
    lines = [f"{planned.name}: run {planned.run_id} → {planned.output}"]
    if quiet.verbose():
        lines += [f"  input {k}: {v}" for k, v in fingerprint.short(planned.inputs).items()]
    return "\n".join([*lines, *(f"  {line}" for line in flags_lib.shown(config))])


def weights_input(weights: str) -> dict[str, str]:
    """The raw input that `--weights` names: a file by its content, a hub by its name.

    Raises:
      PhraseLensError: there is no such file.
    """
    if weights in ("", "imagenet"):
        return {"weights": weights} if weights else {}
    if storage.size(weights) is None:
        raise PhraseLensError(weights, "the file that --weights names", "Check the path.")
    return {"weights": storage.sha256(weights)}
