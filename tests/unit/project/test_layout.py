"""The rules of the layout that no type checker holds: who imports whom, what is installed."""

import ast
import re

import pytest

from tests.support.processes.locks import ROOT, locked, ranges

# Each package may import itself and the packages after it.
ORDER = ("beam_jobs", "transforms", "model_code", "schemas")
MAY_IMPORT = {package: set(ORDER[i:]) for i, package in enumerate(ORDER)}
MAY_IMPORT["samples"] = {"samples", "model_code", "schemas"}
MAY_IMPORT["phraselens"] = {"phraselens", *ORDER}
BEAM = {"apache_beam"}
TENSORFLOW = {"tensorflow", "keras", "tensorflow_transform", "tensorflow_hub"}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def modules(source: str) -> set[str]:
    """The modules that a module imports, top or nested, and what it takes of them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imports(source: str) -> set[str]:
    """The packages that a module imports."""
    # Half of tf.Transform is Beam, and belongs where Beam does.
    return {
        "apache_beam" if name == "tensorflow_transform.beam" else name.split(".")[0]
        for name in modules(source)
    }


def test_imports_finds_every_form():
    source = "import a.b, c\ndef f():\n  from d.e import g\nimport tensorflow_transform.beam as h"
    assert imports(source) == {"a", "c", "d", "apache_beam"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    found = imports(path.read_text())
    ours = found & {*MAY_IMPORT, "tests", "benchmarks"}
    assert ours <= MAY_IMPORT[package]
    if package not in ("beam_jobs", "transforms"):
        assert not found & BEAM, "only beam_jobs and transforms know Beam"
    if package not in ("model_code", "phraselens"):
        assert not found & TENSORFLOW, "only model_code knows TensorFlow, and who asks for devices"


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_tests_share_what_stands_in_support_alone(path):
    """None imports another test; of benchmarks, only their own tests do."""
    found = modules(path.read_text())
    assert not {name for name in found if ".test_" in name or ".conftest" in name}
    if path.parent.name != "benchmarks":
        assert not {name for name in found if name.split(".")[0] == "benchmarks"}


LIMIT = 12  # files of one folder, beside __init__.py
FOLDERS = sorted({path.parent for path in FILES})
TEST_FOLDERS = sorted({path.parent for path in TESTS})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_folder_can_be_taken_in_at_a_glance(folder):
    files = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    assert len(files) <= LIMIT
    assert folder.name not in files, "a file's name does not repeat its folder's"
    assert len(folder.relative_to(ROOT).parts) <= 3, "two levels below the layer, no more"


@pytest.mark.parametrize("folder", TEST_FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_folder_of_tests_can_be_taken_in_at_a_glance(folder):
    names = {"__init__", "__main__", "conftest"}
    assert len([path for path in folder.glob("*.py") if path.stem not in names]) <= LIMIT


def test_the_page_of_the_layout_names_every_folder_and_no_other():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    told = re.findall(r"^\| (\w+/[\w/]+) \|", page, re.MULTILINE)
    held = {path.parent for path in FILES if path.stem != "__init__"} - {
        ROOT / p for p in MAY_IMPORT
    }
    assert sorted(told) == sorted(str(folder.relative_to(ROOT)) for folder in held)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_keras_2(path):
    # tf.keras becomes Keras 2 as soon as tensorflow_transform is imported anywhere.
    assert not re.search(r"\btf\.keras\b", path.read_text())


LOCKS = ["", "-build", "-gpu", "-dev", "-bench", "-fuzz", "-airflow"]


@pytest.mark.parametrize("kind", LOCKS)
def test_locks_answer_their_requirements(kind):
    versions = locked(f"requirements{kind}.lock")
    for name, requirement in ranges(f"requirements{kind}.txt").items():
        assert requirement.specifier.contains(versions[name], prereleases=True), name


@pytest.mark.parametrize("kind", LOCKS)
def test_every_locked_package_has_a_hash_and_no_host(kind):
    text = (ROOT / f"requirements{kind}.lock").read_text()
    for entry in re.split(r"\n(?=[a-z])", text)[1:]:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "://" not in text


def test_gpu_and_cpu_differ_in_faiss_and_cuda_only():
    cpu, gpu = locked("requirements.lock"), locked("requirements-gpu.lock")
    assert set(cpu) - set(gpu) == {"faiss-cpu"}
    extra = set(gpu) - set(cpu)
    assert {name for name in extra if not name.startswith("nvidia-")} == {"faiss-gpu"}
    assert {name: gpu[name] for name in set(cpu) & set(gpu)} == {
        name: cpu[name] for name in set(cpu) & set(gpu)
    }


def test_tests_run_with_the_versions_that_people_install():
    cpu, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert cpu.items() <= dev.items()


@pytest.mark.parametrize("kind", ["-build", "-bench", "-fuzz"])
def test_what_is_added_leaves_the_environment_as_it_is(kind):
    added = locked(f"requirements{kind}.lock")
    for lock in ("requirements.lock", "requirements-dev.lock"):
        others = locked(lock)
        assert {n: v for n, v in added.items() if n in others and v != others[n]} == {}
