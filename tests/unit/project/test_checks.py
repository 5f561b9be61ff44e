"""What is checked before a commit is what run.sh and CI check."""

import hashlib
import re

from tests.support.datasets.work_folder import ROOT


def test_the_hooks_are_the_checks_of_run_sh():
    script = (ROOT / "run.sh").read_text()
    tests = script[script.index("run_tests()") : script.index("-m pytest")]
    checks = re.findall(r'^ +"\$python" -m ((?:ruff|mypy).*)$', tests, re.MULTILINE)
    config = (ROOT / ".pre-commit-config.yaml").read_text()
    hooks = re.findall(r"entry: .*/bin/python\" -m (.+)'$", config, re.MULTILINE)
    assert len(checks) == 3
    assert hooks == checks


def test_the_licence_is_the_text_that_everybody_knows():
    """Verbatim, as apache.org has it: by that hash tools know it."""
    found = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert found == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
