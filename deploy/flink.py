"""Runs Beam jobs on a Flink cluster of this machine: starts it, sends jobs to it, ends it.

The cluster is a JobManager, two TaskManagers and Beam's job server, each a process here; the
TaskManagers start Python workers. Java and, the first time, Maven must be installed.

  ./run.sh flink up
  ./run.sh flink submit embed_images --mined work/mined … --output work/features
  ./run.sh all … --beam "$(./run.sh flink options)"
  ./run.sh flink status
  ./run.sh flink down

A cluster elsewhere: --beam '--runner=PortableRunner --job_endpoint=HOST:PORT …' of Beam's flags.
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence

from beam_jobs.dataflow.submit import JOBS
from deploy.flink_cluster import Cluster, cache_folder
from schemas.base.errors import PhraseLensError, tell
from schemas.console import program
from schemas.console.flags import flag
from schemas.console.parser import parser_for
from schemas.runs import command_line


@dataclasses.dataclass(frozen=True)
class Config:
    port: int = flag(
        "Of Flink's web page; three more follow it.",
        default=8081,
        role="runtime",
        minimum=1,
        maximum=65532,
    )
    task_managers: int = flag(
        "TaskManagers that `up` starts.", default=2, role="runtime", minimum=1, essential=True
    )
    slots: int = flag(
        "Tasks that a TaskManager takes at once.",
        default=4,
        role="runtime",
        minimum=1,
        essential=True,
    )
    parallelism: int = flag("Tasks of a job, unless it says.", default=2, role="runtime", minimum=1)


def up(cluster: Cluster, config: Config) -> int:
    cluster.up(config.task_managers, config.slots, config.parallelism)
    status(cluster, config)
    print(f"next: {program.command('flink submit JOB FLAGS')}")
    return 0


def down(cluster: Cluster, config: Config) -> int:
    ended = cluster.down()
    print(f"ended {', '.join(ended)}" if ended else "nothing was running")
    return 0


def status(cluster: Cluster, config: Config) -> int:
    """Exit status 0 when every process lives, 1 otherwise."""
    for process in cluster.processes:
        state = "running" if process.alive else f"ended; see {cluster.log(process.name)}"
        print(f"{process.name}: {state} (process {process.pid})")
    healthy = bool(cluster.processes) and all(p.alive for p in cluster.processes)
    if not healthy:
        print(f"not up: {program.command('flink up')}")
        return 1
    print(f"web page: http://localhost:{cluster.port}")
    print(f"logs: {cluster.folder / 'logs'}")
    print(f"pipeline options: {shlex.join(cluster.options)}")
    return 0


def options(cluster: Cluster, config: Config) -> int:
    print(shlex.join(cluster.options))
    return 0


def submit(cluster: Cluster, words: Sequence[str]) -> None:
    """Becomes the command of a job, JOB FLAGS…; its flags come last and win.

    Raises:
      PhraseLensError: there is no such job, or no cluster.
    """
    job, *flags = words or [""]
    if job not in JOBS:
        raise PhraseLensError(f"submit {job}", f"one of {', '.join(JOBS)}", "See --help.")
    if not any(process.alive for process in cluster.processes):
        raise PhraseLensError(
            f"port {cluster.port}", "a cluster", f"Start it: {program.command('flink up')}."
        )
    command = [sys.executable, "-m", "schemas.console.launch", JOBS[job]]
    command += [*cluster.options, *flags]
    os.execv(sys.executable, command)


COMMANDS = {"up": up, "down": down, "status": status, "options": options}


def run(argv: Sequence[str] | None = None) -> int:
    parser = parser_for(Config, "flink", __doc__)
    parser.add_argument("command", choices=(*COMMANDS, "submit"))
    argv = list(sys.argv[1:] if argv is None else argv)
    # What follows `submit` is the job's; `--port` stands before it.
    place = argv.index("submit") + 1 if "submit" in argv else len(argv)
    try:
        args = parser.read(argv[:place])
        config = command_line.from_args(Config, args)
        cluster = Cluster(cache_folder(), config.port)
        if args.command == "submit":
            submit(cluster, argv[place:])
        return COMMANDS[args.command](cluster, config)
    except PhraseLensError as error:
        return tell(error)


if __name__ == "__main__":
    sys.exit(run())
