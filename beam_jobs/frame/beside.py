"""A job in a process beside this one, which has something else to do meanwhile.

  python -m beam_jobs.frame.beside MODULE

loads the job at once, waits for a line with its command line, and runs it; where whoever started it
has ended before, so does it.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from schemas.base.errors import Exit, say
from schemas.console import launch


class Beside:
    """The process, which loads the job's module from now on.

    Args:
      module: has `run(argv)`, which returns an exit status.
    """

    def __init__(self, module: str):
        command = launch.part([sys.executable, "-m", "beam_jobs.frame.beside", module])
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, encoding="utf-8")

    def run(self, name: str, argv: Sequence[str], meanwhile: Callable[[], None]) -> int:
        """Runs the job; returns its exit status.

        Args:
          name: the stage, for errors.
          argv: its command line.
          meanwhile: what this process does.
        """

        def stop(number: int, _: object) -> None:
            # No exception: what runs meanwhile could catch it. And no wait: this may be one.
            self._process.kill()
            signal.signal(number, before)
            signal.raise_signal(number)

        before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, stop)
        try:
            self._tell(argv)
            meanwhile()
            self._process.wait()
        finally:
            self.close()  # where this process is interrupted
            signal.signal(signal.SIGTERM, before)
        status = self._process.returncode
        if status < 0:
            return say(
                f"{name}: its process was ended: {signal.Signals(-status).name}", Exit.UNAVAILABLE
            )
        return status

    def _tell(self, argv: Sequence[str]) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError), self._process.stdin as line:
            line.write(json.dumps(list(argv)) + "\n")

    def close(self) -> None:
        """Ends the process, if it runs."""
        launch.end(self._process)


def main(module: str) -> int:
    job = importlib.import_module(module)
    line = sys.stdin.readline()
    if not line:
        return 0
    # Nothing that the job starts shall wait for more.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return job.run(json.loads(line))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
