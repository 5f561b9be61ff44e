"""Every Beam job on a Flink cluster of two TaskManagers, also when one of them dies."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_jobs.dataflow.submit import JOBS
from deploy import flink as flink_command
from deploy import flink_cluster
from deploy.flink_cluster import Cluster
from schemas.datasets import checks, manifest
from tests.support.datasets import work_folder
from tests.support.processes import engine_jobs, wheel


def free_ports() -> int:
    """The first of four free ports."""
    for first in range(21000 + os.getpid() % 1000 * 8, 30000, 8):
        if not any(flink_cluster.listens(first + place) for place in range(4)):
            return first
    pytest.skip("Flink needs four free ports")


def tools() -> None:
    """Skips where Flink cannot run."""
    for program, package in (("java", "openjdk-17-jre-headless"), ("mvn", "maven")):
        if not shutil.which(program):
            pytest.skip(f"Flink needs {program}: apt install {package}")


def cluster_at(port: str) -> Cluster:
    return Cluster(flink_cluster.cache_folder(), int(port.removeprefix("--port=")))


@pytest.fixture(scope="module")
def flink(tmp_path_factory) -> Iterator[Cluster]:
    """A cluster of two TaskManagers, whose workers have only what the wheel holds.

    A test that kills one leaves it to `up`.
    """
    tools()
    installed = wheel.install(tmp_path_factory.mktemp("wheel"))
    cluster = Cluster(flink_cluster.cache_folder(), free_ports(), installed)
    cluster.up(task_managers=2, slots=4, parallelism=2)
    yield cluster
    cluster.down()
    shutil.rmtree(cluster.folder)


@pytest.mark.slow
@pytest.mark.parametrize("job", engine_jobs.JOBS)
def test_job_writes_the_same_rows_on_flink(job, flink, tiny_run, tmp_path, capsys):
    figures = engine_jobs.compare(job, tiny_run, tmp_path, "flink", flink.options)
    with capsys.disabled():
        print(f"\n{figures}")


def last_job(cluster: Cluster) -> dict:
    """What Flink says of the job that was sent last: jid, state, duration (ms); {} for none."""
    jobs = cluster.rest("jobs/overview")["jobs"]
    return max(jobs, key=lambda job: job["start-time"], default={})


def wait_until_running(cluster: Cluster, process: subprocess.Popen) -> str:
    """Waits until the job of a command runs on the cluster; returns its id there."""
    before = last_job(cluster).get("jid")
    while process.poll() is None:
        job = last_job(cluster)
        if job.get("jid") != before and job["state"] == "RUNNING":
            return job["jid"]
        time.sleep(0.2)
    pytest.fail("the command ended before its job ran")


def members(groups: set[int]) -> set[int]:
    """Processes of some process groups, zombies left out."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {int(pid) for pid, group, state in rows if int(group) in groups and state[0] != "Z"}


@pytest.mark.slow
@pytest.mark.parametrize("job", ["mine_pairs", "embed_images"])
def test_a_killed_task_manager_costs_no_row(job, flink, tiny_run, tmp_path, capsys):
    expected, _ = engine_jobs.run(job, tiny_run, tmp_path / "undisturbed", flink.options)
    seconds = last_job(flink)["duration"] / 1000
    share = random.Random(job).uniform(0.2, 0.7)
    # Where the machine was busier before, half as long after the start is early enough.
    for attempt in range(4):
        output = tmp_path / f"killed {attempt}"
        victim = next(p for p in flink.processes if p.name == "taskmanager-1")
        command = [*engine_jobs.command(job, tiny_run, output), *flink.options]
        with open(tmp_path / "log", "w") as log:
            process = subprocess.Popen(
                command, env=work_folder.environment(), stdout=log, stderr=log, text=True
            )
        running = wait_until_running(flink, process)
        time.sleep(share * seconds / 2**attempt)
        os.kill(victim.pid, signal.SIGKILL)
        if manifest.read(str(output)) is None:
            break
        process.wait(900)
        flink.up(task_managers=2, slots=4, parallelism=2)
    else:
        pytest.fail("the job was always done before the kill")
    recovered = process.wait(900) == 0
    failures = flink.rest(f"jobs/{running}/exceptions")["exceptionHistory"]["entries"]
    assert failures, "the kill did not disturb the job"
    assert members({victim.pid}) == set(), "its workers outlive a TaskManager"
    flink.up(task_managers=2, slots=4, parallelism=2)
    if not recovered:
        work_folder.run(command)
    assert work_folder.rows_of(str(output)) == expected
    assert checks.verify(str(output)) == []
    rows = sum(len(hashes) for hashes in expected.values())
    how = "recovered by itself" if recovered else "failed and was submitted again"
    with capsys.disabled():
        print(
            f"\nflink, {job}: TaskManager killed {share / 2**attempt:.0%} in, "
            f"{len(failures)} tasks failed, it {how}, {rows:,} rows equal"
        )


@pytest.mark.slow
def test_up_submit_down(tmp_path):
    """The commands as people give them, on a log of four events; paths are relative."""
    tools()
    log = tmp_path / "log.csv"
    log.write_text("query,image,clicks\nred,a,1\nblue,b,1\nred,b,2\n,c,1\n")
    port = f"--port={free_ports()}"
    here, there = tmp_path / "here", tmp_path / "flink"
    job = ["mine_log", "--log=log.csv", "--num_shards=2", "--max_dead_fraction=1"]
    alone = [sys.executable, "-m", JOBS[job[0]], *job[1:], "--output=here"]
    work_folder.run(alone, cwd=tmp_path)
    command = [sys.executable, "-m", "deploy.flink"]
    assert port.split("=")[1] in work_folder.run([*command, "up", port])
    groups = {process.pid for process in cluster_at(port).processes}
    try:
        submit = [*command, port, "submit", *job, "--output=flink"]
        printed = work_folder.run(submit, cwd=tmp_path)
        assert "on PortableRunner" in printed
        assert work_folder.rows_of(str(there)) == work_folder.rows_of(str(here))
        assert len(groups) == 4
        assert groups < members(groups), "no worker was started"
    finally:
        assert "ended jobmanager" in work_folder.run([*command, "down", port])
    assert members(groups) == set()
    assert work_folder.run([*command, "down", port]) == "nothing was running\n"


def test_a_taken_port_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PHRASELENS_FLINK", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert flink_command.run(["up", f"--port={port}"]) == 2
    assert f"port {port} (rest): expected a free port" in capsys.readouterr().err
    assert list(Path(tmp_path).iterdir()) == []


def test_commands_say_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PHRASELENS_FLINK", str(tmp_path))
    port = f"--port={free_ports()}"
    assert flink_command.run(["status", port]) == 1
    assert flink_command.run([port, "submit", "mine_log", "--log=x"]) == 2
    assert "Start it: ./run.sh flink up" in capsys.readouterr().err
    assert flink_command.run([port, "submit", "mine_logs"]) == 2
    assert "submit mine_logs: expected one of" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert flink_command.run(["up", port]) == 2
    assert "java: expected it on PATH" in capsys.readouterr().err
