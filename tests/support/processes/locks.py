"""The lock files: which version of which package."""

from pathlib import Path

from packaging.requirements import Requirement

from phraselens import doctor

ROOT = Path(__file__).resolve().parents[3]


def ranges(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {requirement.name: requirement for requirement in parsed}


def locked(name: str) -> dict[str, str]:
    return doctor.locked((ROOT / name).read_text())
