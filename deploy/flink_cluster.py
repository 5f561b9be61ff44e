"""A Flink cluster on this machine: its packages, its processes, and what it says of itself.

One JobManager, some TaskManagers and Beam's job server, which all run from the one folder of jars
that flink_pom.xml names. A TaskManager starts Python workers by itself, with flink_worker.sh.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from schemas.base.errors import PhraseLensError

ROOT = Path(__file__).resolve().parent.parent
POM = Path(__file__).with_name("flink_pom.xml")
JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
# A pool of workers that TaskManagers share will not do: theirs have the same ids, and one that is
# done with its worker ends the other's.
WORKER = Path(__file__).with_name("flink_worker.sh")
# Flink reaches into these packages of the JDK, which are closed since Java 16.
OPENED = ("lang", "net", "io", "nio", "text", "time", "util", "util.concurrent")
OPEN = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED] + [
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED"
]
START_SECONDS = 180


def cache_folder() -> Path:
    """Where jars, logs and state lie: $PHRASELENS_FLINK, or a folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PHRASELENS_FLINK") or Path(base, "phraselens", "flink")).absolute()


def program(name: str, package: str) -> str:
    """Path of a program.

    Raises:
      PhraseLensError: it is not on PATH.
    """
    found = shutil.which(name)
    if found is None:
        raise PhraseLensError(name, "it on PATH", f"Debian, Ubuntu: apt install {package}.")
    return found


def fetch_jars(cache: Path) -> Path:
    """The folder of jars that flink_pom.xml names; Maven copies them there when it is missing.

    Raises:
      PhraseLensError: Maven is missing or fails.
    """
    jars = cache / f"jars-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    if jars.is_dir():
        return jars
    maven = program("mvn", "maven")
    partial = jars.with_suffix(f".partial-{os.getpid()}")
    print(f"Fetching Flink and Beam's job server into {jars} (some minutes, once)…", flush=True)
    command = [maven, "--batch-mode", "--quiet", f"--file={POM}"]
    command += ["dependency:copy-dependencies", "dependency:copy", "-DincludeScope=runtime"]
    command += [f"-DoutputDirectory={partial}"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise PhraseLensError(
            "mvn", f"the packages of {POM}, got: {done.stdout[:800]}", "Try again when online."
        )
    with contextlib.suppress(OSError):  # another process was faster
        partial.rename(jars)
    shutil.rmtree(partial, ignore_errors=True)
    return jars


@dataclasses.dataclass(frozen=True)
class Process:
    """A process that we started; `started` tells it from a later one with the same id."""

    name: str
    command: list[str]
    pid: int
    started: str

    @property
    def alive(self) -> bool:
        state, started = _stat(self.pid)
        return started == self.started and state != "Z"


def _stat(pid: int) -> tuple[str, str]:
    """State and start time of a process; two empty strings where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def stop(processes: list[Process], seconds: float = 10) -> None:
    """Ends processes and what they started (each leads a group of its own)."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        deadline = time.monotonic() + seconds
        while any(p.alive for p in processes) and time.monotonic() < deadline:
            time.sleep(0.1)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster known by its port: Flink's REST port, and the three after it.

    Attributes:
      cache: folder of jars; the cluster's logs and state lie below it.
      port: of Flink's REST API and web page.
      code: folder of the packages that workers import, as they are in a checkout or installed.
    """

    cache: Path
    port: int
    code: Path = ROOT

    @property
    def folder(self) -> Path:
        return self.cache / f"cluster-{self.port}"

    @property
    def ports(self) -> dict[str, int]:
        names = ("rest", "rpc", "job server", "artifacts")
        return {name: self.port + place for place, name in enumerate(names)}

    @property
    def options(self) -> list[str]:
        """The pipeline options that send a Beam job here."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{self.ports['job server']}",
            "--environment_type=PROCESS",
            f"--environment_option=process_command={WORKER}",
            f"--environment_option=process_variables=PHRASELENS_FOLDER={os.getcwd()}",
            # Python starts once a job, not once a step of it.
            "--environment_cache_millis=60000",
        ]

    @property
    def processes(self) -> list[Process]:
        """What `up` started, whether it lives or not; [] when nothing was."""
        try:
            rows = json.loads((self.folder / "processes.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return [Process(**row) for row in rows]

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def rest(self, path: str) -> Any:
        """An answer of Flink's REST API. Raises OSError."""
        with urllib.request.urlopen(f"http://localhost:{self.port}/{path}", timeout=10) as answer:
            return json.load(answer)

    def up(self, task_managers: int, slots: int, parallelism: int) -> None:
        """Starts the cluster and waits until it is whole; what started is ended if it fails.

        Of a cluster that is up already, the processes that ended start again.

        Raises:
          PhraseLensError: a port is taken, a package or program is missing, or a process ended;
            its log is quoted.
        """
        if any(process.alive for process in self.processes):
            for process in self.processes:
                if not process.alive:
                    self.start(process.name, process.command)
            return self._wait(self._whole)
        java = program("java", "openjdk-17-jre-headless")
        for name, port in self.ports.items():
            if listens(port):
                raise PhraseLensError(
                    f"port {port} ({name})", "a free port", "Give another one: --port=18081."
                )
        jars = fetch_jars(self.cache)
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("logs", "temp", "conf", "artifacts"):
            (self.folder / name).mkdir(parents=True)
        settings = _settings(self.ports, self.folder / "temp", slots, parallelism)
        text = "".join(f"{key}: {value}\n" for key, value in settings.items())
        (self.folder / "conf" / "config.yaml").write_text(text, encoding="utf-8")
        try:
            for name, command in self._commands(java, jars, task_managers):
                self.start(name, command)
                if name == "jobmanager":  # a TaskManager that is faster waits 10 s to ask again
                    self._wait(lambda: listens(self.ports["rpc"]))
            self._wait(self._whole)
        except BaseException:
            self.down()
            raise

    def _commands(self, java: str, jars: Path, count: int) -> Iterator[tuple[str, list[str]]]:
        def run(heap: str, main: str, *more: str) -> list[str]:
            # Its temporary files go where `down` can find them.
            temp = f"-Djava.io.tmpdir={self.folder / 'temp'}"
            return [java, f"-Xmx{heap}", temp, *OPEN, "-cp", f"{jars}/*", main, *more]

        configured = ["--configDir", str(self.folder / "conf")]
        yield "jobmanager", run("768m", JOB_MANAGER, *configured)
        for number in range(count):
            name = f"taskmanager-{number}"
            named = ["-D", f"taskmanager.resource-id={name}"]
            yield name, run("1g", TASK_MANAGER, *configured, *named)
        flags = [
            f"--flink-master=localhost:{self.port}",
            f"--flink-conf-dir={self.folder / 'conf'}",
            f"--job-port={self.ports['job server']}",
            f"--artifact-port={self.ports['artifacts']}",
            "--expansion-port=-1",
            f"--artifacts-dir={self.folder / 'artifacts'}",
        ]
        yield "jobserver", run("1g", JOB_SERVER, *flags)

    def start(self, name: str, command: list[str]) -> None:
        """Starts one process of the cluster and notes it."""
        # For the workers: this Python comes first, and they import this project's modules.
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(self.code),
            "FLINK_WORKER_LOG": str(self.log("workers")),
        }
        with open(self.log(name), "ab") as log:
            started = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        process = Process(name, command, started.pid, _stat(started.pid)[1])
        others = [p for p in self.processes if p.name != name]
        rows = [dataclasses.asdict(p) for p in [*others, process]]
        (self.folder / "processes.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")

    def _whole(self) -> bool:
        count = sum(process.name.startswith("taskmanager") for process in self.processes)
        with contextlib.suppress(OSError):
            whole = self.rest("overview")["taskmanagers"] == count
            return whole and all(listens(port) for port in self.ports.values())
        return False

    def _wait(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not reached():
            for process in self.processes:
                if not process.alive:
                    lines = self.log(process.name).read_text(encoding="utf-8").splitlines()
                    why = [line for line in lines if "Exception" in line or "Error" in line]
                    raise PhraseLensError(
                        f"{process.name} ended ({'; '.join(why[-3:])})",
                        "it running",
                        f"Read {self.log(process.name)}.",
                    )
            if time.monotonic() > deadline:
                raise PhraseLensError(
                    f"the cluster at port {self.port}",
                    f"all of it within {START_SECONDS} s",
                    f"Read the logs in {self.folder / 'logs'}.",
                )
            time.sleep(0.2)

    def down(self) -> list[str]:
        """Ends the processes that `up` started, and no others; returns their names."""
        living = [process for process in self.processes if process.alive]
        stop(living)
        (self.folder / "processes.json").unlink(missing_ok=True)
        for name in ("temp", "artifacts"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return [process.name for process in living]


def listens(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), 1).close()
    except OSError:
        return False
    return True


def _settings(ports: dict[str, int], temp: Path, slots: int, parallelism: int) -> dict[str, Any]:
    return {
        "rest.address": "localhost",
        "rest.port": ports["rest"],
        "jobmanager.rpc.address": "localhost",
        "jobmanager.rpc.port": ports["rpc"],
        "jobmanager.bind-host": "localhost",
        "taskmanager.host": "localhost",
        "taskmanager.bind-host": "localhost",
        "taskmanager.numberOfTaskSlots": slots,
        "taskmanager.load-balance.mode": "SLOTS",  # all TaskManagers work, not the first alone
        "parallelism.default": parallelism,
        "io.tmp.dirs": temp,
        # A TaskManager that dies is noticed within seconds and its work done by the others.
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": 8,
        "restart-strategy.fixed-delay.delay": "2 s",
        "heartbeat.interval": 2000,
        "heartbeat.timeout": 30000,
        # Jobs find the same jars on the cluster's own path; loading them twice fills memory.
        "classloader.resolve-order": "parent-first",
        # Flink's scripts work these out; without them every one must be given.
        "taskmanager.cpu.cores": 2.0,
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.task.heap.size": "512m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.task.off-heap.size": "128m",
        "taskmanager.memory.network.min": "384m",
        "taskmanager.memory.network.max": "384m",
        # A graph of a hundred shuffles would need gigabytes of them by default (512).
        "taskmanager.network.sort-shuffle.min-buffers": 64,
        "taskmanager.memory.managed.size": "256m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "128m",
        "taskmanager.memory.jvm-overhead.max": "128m",
    }
