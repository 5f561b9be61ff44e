"""What `pip install phraselens[EXTRA]` adds is what the requirements say, as the locks do."""

import tomllib

import pytest

from tests.support.datasets.work_folder import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def required(name: str) -> list[str]:
    lines = (ROOT / f"requirements{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r "))]


@pytest.mark.parametrize("extra", ["dev", "bench", "fuzz"])
def test_an_extra_is_its_requirements(extra):
    assert EXTRAS[extra] == required(f"-{extra}")


def test_a_gpu_needs_what_its_requirements_have_in_place_of_others():
    more = set(required("-gpu")) - set(required(""))
    assert set(EXTRAS["gpu"]) == {line for line in more if not line.startswith("faiss")}
