"""Flags of mining are there without what mines."""

import subprocess
import sys

from tests.support.datasets import work_folder


def test_flags_load_neither_beam_nor_tensorflow():
    code = "import sys, beam_jobs.mining.flags\n"
    code += "print({'apache_beam', 'tensorflow', 'keras'} & {*sys.modules})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=work_folder.environment(), capture_output=True, check=True)
    assert done.stdout == b"set()\n"
