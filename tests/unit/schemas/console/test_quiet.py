"""What libraries write while they load is kept back, and nothing else is."""

import ast
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.datasets import work_folder

ROOT = work_folder.ROOT

# Each way in which a library may write; the last of them is how C++ does.
WAYS = {
    "print": "print('NOISE', file=sys.stderr)",
    "standard error": "sys.stderr.write('NOISE')",
    "warning": "warnings.warn('NOISE')",
    "logging": "logging.getLogger('library').error('NOISE')",
    "part of a line": "print('NOISE', end='', file=sys.stderr)",
    "child process": "subprocess.run(['sh', '-c', 'echo NOISE >&2'])",
    "descriptor": "os.write(2, b'NOISE\\n')",
    "bytes that are no text": "os.write(2, b'\\xff NOISE \\xfe\\n')",
}


class Library:
    """A stand-in for a library, which is found before the real one."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, source: str, name: str = "tensorflow") -> None:
        package = self.folder / name
        package.mkdir(exist_ok=True)
        imports = "import ctypes, logging, os, signal, subprocess, sys, threading, time, warnings\n"
        (package / "__init__.py").write_text(imports + textwrap.dedent(source))

    def run(self, script: str, *argv: str, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command(script), *argv], **self.options() | options)

    def command(self, script: str) -> list[str]:
        start = "from schemas.console import quiet\nquiet.install()\n"
        return [sys.executable, "-c", start + textwrap.dedent(script)]

    def options(self) -> dict:
        path = os.pathsep.join([str(self.folder), str(ROOT)])
        env = os.environ | {"PYTHONPATH": path, "PHRASELENS_VERBOSE": ""}
        return {"env": env, "capture_output": True, "text": True, "errors": "replace"}


@pytest.fixture
def library(tmp_path) -> Library:
    return Library(tmp_path)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_a_library_writes_while_it_loads_is_kept_back(library, way):
    library.write(way)
    done = library.run("import sys, tensorflow\nprint('ours')\nprint('our error', file=sys.stderr)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ours\n", "our error\n")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_it_is_shown_when_loading_fails(library, way):
    library.write(f"{way}\nraise ImportError('it does not load')")
    done = library.run("import tensorflow")
    assert done.returncode == 1
    assert "NOISE" in done.stderr
    assert done.stderr.endswith("ImportError: it does not load\n")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_it_is_shown_to_who_asks_before_or_after(library, way, when):
    library.write(way)
    calls = ["quiet.be_verbose()", "import tensorflow"]
    done = library.run("\n".join(calls if when == "before" else reversed(calls)))
    assert done.returncode == 0
    assert done.stderr.count("NOISE") == 1 + (way == WAYS["warning"])  # with its line of source


DEATHS = {
    "segmentation fault": ("ctypes.string_at(0)", -signal.SIGSEGV),
    "abort": ("os.abort()", -signal.SIGABRT),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "exit of C": ("os._exit(3)", 3),
    "exit": ("sys.exit(4)", 4),
}


@pytest.mark.parametrize(("death", "status"), DEATHS.values(), ids=DEATHS)
def test_it_is_shown_when_the_process_dies_while_it_loads(library, death, status):
    library.write(f"os.write(2, b'NOISE\\n')\n{death}")
    process = subprocess.Popen(
        library.command("import tensorflow"), stderr=subprocess.PIPE, env=library.options()["env"]
    )
    assert process.stderr is not None
    shown = process.stderr.read()  # to the end of the last process that holds the pipe
    assert process.wait() == status
    assert shown.count(b"NOISE") == 1


def test_what_comes_after_loading_is_shown(library):
    library.write("os.write(2, b'NOISE')\ndef work():\n    os.write(2, b'an error of C++')")
    done = library.run("import tensorflow\ntensorflow.work()")
    assert done.stderr == "an error of C++"


def test_a_failure_after_loading_shows_its_traceback_alone(library):
    library.write("os.write(2, b'NOISE')")
    done = library.run("import tensorflow\nraise ValueError('ours')")
    assert done.returncode == 1
    assert re.fullmatch(r"Traceback.*ValueError: ours\n", done.stderr, re.DOTALL)


def test_a_device_that_fails_shows_what_was_written_before_it(library):
    """Why there is no GPU is told when TensorFlow is imported, long before it is missed."""
    library.write("os.write(2, b'no driver')")
    done = library.run(
        """
        import tensorflow
        with quiet.loading("the device"):
            raise RuntimeError("no GPU")
        """
    )
    assert done.stderr.index("no driver") < done.stderr.index("RuntimeError: no GPU")


def test_other_threads_are_heard_meanwhile(library):
    (library.folder / "flags.py").write_text(
        "import threading\nloading, said = threading.Event(), threading.Event()"
    )
    library.write(
        """
        from flags import loading, said
        os.write(2, b'NOISE')
        loading.set()
        said.wait(20)
        """
    )
    done = library.run(
        """
        import logging, sys, threading, flags
        logging.basicConfig(format="%(message)s")

        def other():
            flags.loading.wait(20)
            print("progress", file=sys.stderr)
            logging.error("an error")
            flags.said.set()

        thread = threading.Thread(target=other)
        thread.start()
        import tensorflow
        thread.join()
        logging.error("a later one")
        """
    )
    assert done.stderr == "progress\nan error\na later one\n"


def test_libraries_may_load_in_several_threads_at_once(library):
    for name in ("tensorflow", "faiss", "keras"):
        library.write("for i in range(20):\n os.write(2, b'NOISE')\n time.sleep(.002)", name)
    done = library.run(
        """
        import importlib, os, threading
        names = ["tensorflow", "faiss", "keras"]
        threads = [threading.Thread(target=importlib.import_module, args=[n]) for n in names]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os.write(2, b"after")
        """
    )
    assert (done.returncode, done.stderr) == (0, "after")


def test_a_process_without_standard_error_loads_and_works(library):
    library.write("os.write(1, b'')")
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh"]
    command = [*closed, *library.command("import tensorflow\nprint('ours')")]
    done = subprocess.run(command, **library.options())
    assert (done.returncode, done.stdout, done.stderr) == (0, "ours\n", "")


def test_a_machine_without_room_for_it_loads_all_the_same(library):
    library.write("os.write(2, b'NOISE')")
    env = library.options()["env"] | {"TMPDIR": str(library.folder / "none")}
    script = """
    import tempfile
    def refuse(*_, **__):
        raise OSError("no room")
    tempfile.TemporaryFile = refuse
    import tensorflow
    print("ours")
    """
    done = library.run(script, env=env)
    assert (done.returncode, done.stdout) == (0, "ours\n")


def test_a_terminal_stays_one(library):
    library.write("os.write(2, b'NOISE')")
    main, other = pty.openpty()
    script = "import tensorflow, os, sys\nprint(os.isatty(2), sys.stderr.isatty(), file=sys.stderr)"
    process = subprocess.Popen(
        library.command(script), stdout=other, stderr=other, env=library.options()["env"]
    )
    os.close(other)
    assert process.wait() == 0
    assert os.read(main, 1000) == b"True True\r\n"
    os.close(main)


def test_no_file_and_no_process_is_left(library):
    library.write("os.write(2, b'NOISE')")
    script = """
    import os
    def state():
        return sorted(os.listdir("/proc/self/fd"))
    import tensorflow  # the file that keeps it stays open
    before = state()
    for _ in range(50):
        with quiet.loading("again"):
            os.write(2, b"NOISE")
    assert state() == before, (before, state())
    try:
        os.wait()
    except ChildProcessError:
        print("none")
    """
    done = library.run(script)
    assert (done.stdout, done.stderr) == ("none\n", "")


ENTRIES = sorted(
    path.relative_to(ROOT)
    for package in ("beam_jobs", "model_code", "samples", "schemas", "deploy", "transforms")
    for path in (ROOT / package).rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)


@pytest.mark.parametrize("package", sorted({path.parts[0] for path in ENTRIES} - {"schemas"}))
def test_every_package_with_commands_keeps_libraries_quiet(package):
    """Whatever a module of it imports first: our packages run before their modules."""
    code = f"import {package}, sys; print([type(f).__module__ for f in sys.meta_path])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "schemas.console.quiet" in done.stdout


def parsers(source: str) -> int:
    """Calls that make a parser of a command line of ours."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return sum(ast.unparse(call.func).endswith("ArgumentParser") for call in calls)


# It reads --job alone, and hands all else to the job; its other one is Beam's.
HANDS_ON = {"beam_jobs/dataflow/submit.py", "beam_jobs/frame/job.py", "deploy/flink_worker.py"}


@pytest.mark.parametrize("path", ENTRIES, ids=str)
def test_every_command_takes_verbose(path):
    source = (ROOT / path).read_text()
    if parsers(source) and str(path) not in HANDS_ON:
        assert "quiet.add_flag(" in source


@pytest.mark.parametrize("argv", [["--verbose"], []])
def test_a_command_line_turns_it_on(library, argv):
    library.write("os.write(2, b'NOISE')")
    script = """
    import dataclasses, sys
    from schemas.console import flags as config
    from schemas.runs import command_line
    from schemas.console.flags import flag
    import tensorflow
    @dataclasses.dataclass(frozen=True)
    class Config:
        output: str = flag("Where.", role="runtime")
        epochs: int = flag("How often.", default=3)
    parsed = command_line.parse(Config, "command", "", ["--output=x", *sys.argv[1:]])
    print(*config.shown(parsed), *quiet.flags())
    """
    done = library.run(script, *argv)
    assert (done.returncode, "NOISE" in done.stderr) == (0, bool(argv))
    assert done.stdout.split() == (["--epochs=3", "--verbose"] if argv else [])
