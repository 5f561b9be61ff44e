"""Checks this machine and says what to do, a line for each thing.

  ./run.sh doctor
  ./run.sh doctor --workdir /data/work
  ./run.sh doctor --locks requirements-build.lock requirements.lock

Checks Python, the disk below --workdir, memory, cores, installed packages against requirements.txt,
the build of Faiss, the GPU, and access to Google Cloud. With --locks only one thing: whether the
environment holds what these lock files name, and nothing else. Exit status 1 when something fails;
a warning is no failure. Runs before anything is installed, with the standard library alone.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.base.errors import PhraseLensError, tell
from schemas.console import program, quiet
from schemas.console.parser import Parser

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
DISK_GIB, MEMORY_GIB, CORES = 5, 8, 2


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line: `state` is ok, warn or fail; `remedy` says what to do when it is not ok."""

    state: str
    item: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.state:<5} {self.item:<13} {self.found}"
        return f"{line}\n{'':20}→ {self.remedy}" if self.state != "ok" else line


def check_python(version: tuple[int, ...]) -> Finding:
    found = ".".join(str(part) for part in version)
    if version[:2] == (3, 11):
        return Finding("ok", "Python", found)
    return Finding("fail", "Python", found, "Install Python 3.11; the lock files are made for it.")


def check_disk(free: int, workdir: str) -> Finding:
    """Args: free: bytes on the disk that holds `workdir`."""
    found = f"{free / GIB:.0f} GiB free below {workdir}"
    if free >= DISK_GIB * GIB:
        return Finding("ok", "disk", found)
    remedy = f"Free {DISK_GIB} GiB: the environment takes 3, the quickstart less than 1."
    return Finding("fail", "disk", found, remedy)


def check_memory(total: int) -> Finding:
    """Args: total: bytes of memory."""
    found = f"{total / GIB:.0f} GiB"
    if total >= MEMORY_GIB * GIB:
        return Finding("ok", "memory", found)
    remedy = f"Below {MEMORY_GIB} GiB large networks may not fit; lower --batch_size."
    return Finding("warn", "memory", found, remedy)


def check_cores(cores: int) -> Finding:
    if cores >= CORES:
        return Finding("ok", "cores", str(cores))
    return Finding("warn", "cores", str(cores), "The quickstart takes longer than 10 minutes.")


def installed() -> dict[str, str]:
    """Name, in lower case with hyphens, and version of every installed package."""
    return {
        re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version
        for d in importlib.metadata.distributions()
        if d.metadata["Name"]
    }


def check_packages(requirements: str, versions: dict[str, str]) -> Finding:
    """Compares versions with the ranges of a requirements file.

    Args:
      requirements: the text of the file.
      versions: what is installed.
    """
    if "apache-beam" not in versions:
        remedy = "Run ./run.sh setup; every other command does it by itself."
        return Finding("warn", "packages", "nothing is installed yet", remedy)
    from packaging.requirements import Requirement

    wrong = []
    needed = list(map(Requirement, requirements.splitlines()))
    # What was installed names what each of its extras adds; none of them is needed.
    needed = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    for requirement in needed:
        version = versions.get(requirement.name)
        # Whether the right Faiss is there is a check of its own.
        if requirement.name.startswith("faiss-") or (
            version and requirement.specifier.contains(version, prereleases=True)
        ):
            continue
        wrong.append(f"{requirement.name} {version or 'missing'} (needs {requirement.specifier})")
    if wrong:
        remedy = "Remove the environment (.venv) and run ./run.sh setup."
        return Finding("fail", "packages", ", ".join(wrong), remedy)
    return Finding("ok", "packages", f"{len(needed)} within their ranges")


def locked(text: str) -> dict[str, str]:
    """Name, in lower case with hyphens, and version of every package of a lock file's text."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", text, re.MULTILINE))


def check_locks(locks: Sequence[str], versions: dict[str, str]) -> Finding:
    """Compares what is installed with what lock files name.

    Args:
      locks: the texts of the files; of two versions of a package the last one counts.
      versions: what is installed. It may hold the pip that made the environment, too.
    """
    named: dict[str, str] = {}
    for text in locks:
        named |= locked(text)
    found = {name: version for name, version in versions.items() if name != "pip" or "pip" in named}
    wrong = [
        f"{name} {found.get(name, 'missing')} (locked: {named.get(name, 'not at all')})"
        for name in sorted(named.keys() | found.keys())
        if named.get(name) != found.get(name)
    ]
    if wrong:
        remedy = "Remove the environment and run ./run.sh setup; nothing else may install into it."
        return Finding("fail", "locks", ", ".join(wrong), remedy)
    return Finding("ok", "locks", f"{len(named)} packages, each as locked, and no others")


def check_faiss(versions: dict[str, str], gpus: int) -> Finding:
    """Args: versions: what is installed. gpus: how many GPUs TensorFlow sees."""
    builds = [name for name in ("faiss-cpu", "faiss-gpu") if name in versions]
    if len(builds) == 2:
        remedy = "They overwrite each other: remove the environment, set up with or without --gpu."
        return Finding("fail", "Faiss", "faiss-cpu and faiss-gpu together", remedy)
    if not builds:
        return Finding("warn", "Faiss", "not installed", "Run ./run.sh setup.")
    found = f"{builds[0]} {versions[builds[0]]}"
    if builds[0] == "faiss-gpu" and not gpus:
        return Finding("warn", "Faiss", found, "There is no GPU to use it; it searches on the CPU.")
    return Finding("ok", "Faiss", found)


def gpu_names() -> list[str] | None:
    """The GPUs that TensorFlow can use, or None without TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it calls a missing driver an error
    try:
        import tensorflow as tf
    except ImportError:
        return None
    with quiet.loading("the GPU"):
        devices = tf.config.list_physical_devices("GPU")
    return [
        tf.config.experimental.get_device_details(d).get("device_name", d.name) for d in devices
    ]


def check_gpu(names: list[str] | None, driver: bool) -> Finding:
    """Args: names: from `gpu_names`. driver: whether the machine has NVIDIA's nvidia-smi."""
    if names:
        return Finding("ok", "GPU", ", ".join(names))
    if driver:
        remedy = "Run PHRASELENS_VENV=.venv-gpu ./run.sh setup --gpu, and keep that variable set."
        return Finding("warn", "GPU", "there, but TensorFlow cannot use it", remedy)
    return Finding("ok", "GPU", "none; everything runs on the CPU")


def check_credentials(emulator: str, find: Callable[[], object]) -> Finding:
    """Looks for access to Cloud Storage and Dataflow; only gs:// paths and Dataflow need it.

    Args:
      emulator: the value of STORAGE_EMULATOR_HOST.
      find: google.auth.default, or anything that raises when there are no credentials.
    """
    if emulator:
        return Finding("ok", "Google Cloud", f"gs:// goes to the emulator at {emulator}")
    try:
        find()
    except Exception:
        remedy = "Only for gs:// and Dataflow: run gcloud auth application-default login."
        return Finding("warn", "Google Cloud", "no credentials", remedy)
    return Finding("ok", "Google Cloud", "credentials found")


def _find_credentials() -> object:
    # The metadata server is asked only on a machine of Google's, where it answers.
    os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")
    os.environ.setdefault("GCE_METADATA_DETECT_RETRIES", "1")
    import google.auth

    return google.auth.default()


def _free(path: str) -> int:
    """Free bytes of the disk where `path` is, or will be."""
    place = Path(path).resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _has_driver() -> bool:
    """Whether NVIDIA's driver answers."""
    command = shutil.which("nvidia-smi")
    return (
        command is not None and subprocess.run([command, "-L"], capture_output=True).returncode == 0
    )


def findings(workdir: str) -> list[Finding]:
    versions = installed()
    names = gpu_names()
    kind = "-gpu" if "faiss-gpu" in versions else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [
        check_python(tuple(sys.version_info[:3])),
        check_disk(_free(workdir), workdir),
        check_memory(memory),
        check_cores(len(os.sched_getaffinity(0))),
        check_packages(_ranges(kind), versions),
        check_faiss(versions, len(names or [])),
        check_gpu(names, _has_driver()),
        check_credentials(os.environ.get("STORAGE_EMULATOR_HOST", ""), _find_credentials),
    ]


def _ranges(kind: str) -> str:
    """The lines of the requirements file, or what it said when the project was installed."""
    path = ROOT / f"requirements{kind}.txt"
    if path.exists():
        return path.read_text(encoding="utf-8")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return "\n".join(importlib.metadata.requires("phraselens") or ())
    return ""


def run(argv: Sequence[str] | None = None) -> int:
    parser = Parser("doctor", __doc__)
    parser.add_argument("--workdir", default="work", help="where the datasets will be [work]")
    parser.add_argument("--locks", nargs="+", metavar="FILE", help="check nothing but these locks")
    try:
        args = parser.read(argv)
    except PhraseLensError as error:
        return tell(error)
    if args.locks:
        texts = [Path(name).read_text(encoding="utf-8") for name in args.locks]
        finding = check_locks(texts, installed())
        print(finding)
        return int(finding.state == "fail")
    found = findings(args.workdir)
    for finding in found:
        print(finding)
    failed = sum(finding.state == "fail" for finding in found)
    print(f"\n{failed} to mend first" if failed else f"\nready: {program.command('quickstart')}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run())
