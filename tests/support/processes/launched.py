"""Commands as run.sh starts them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def start(module: str, *flags: object, **environment: str) -> subprocess.Popen:
    """Starts one in a process group of its own, as a terminal does; what it prints is text."""
    ours = {"PYTHONUTF8": "1", "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, "-m", "schemas.console.launch", module, *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        cwd=ROOT,
        env=os.environ | ours | environment,
    )
