"""Which edits make a stage's rows anew: those of what makes them, however it is imported."""

import ast
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs.runs import stages
from schemas.base import code_fingerprint
from schemas.base.errors import PhraseLensError
from tests.support.datasets import work_folder
from tests.support.datasets.work_folder import ROOT

MODULES = {
    "mine_log": ("beam_jobs.mining.mine_log",),
    **{step.name: (step.module,) for step in stages.STAGES},
}
EMBED = "beam_jobs.models.embed_images"
FEATURES = "transforms/inference/embed_images.py"
numbers = itertools.count()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Writes a package of a new name and says what the fingerprint of one of its modules covers."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"toy{next(numbers)}"

    def covered(importing: str) -> set[str]:
        files = {
            "__init__": "",
            "job": importing.replace("PACKAGE", name),
            "fusion/__init__": "",
            "fusion/network": "X = 1",
            "other": "X = 2",
        }
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / f"{path}.py").write_text(text)
        found = code_fingerprint.sources_of([f"{name}.job"])
        return {module.removeprefix(name).removeprefix(".") for module in found}

    yield covered
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


NETWORK = {"", "job", "fusion", "fusion.network"}


@pytest.mark.parametrize(
    ("importing", "expected"),
    [
        ("from PACKAGE.fusion.network import X", NETWORK),
        ("from PACKAGE.fusion import network", NETWORK),
        ("import PACKAGE.fusion.network", NETWORK),
        ("import PACKAGE.fusion.network as n", NETWORK),
        ("from PACKAGE import fusion", {"", "job", "fusion"}),
        ("from . import other", {"", "job", "other"}),
        ("from .fusion.network import X", NETWORK),
        ("from .fusion import *", {"", "job", "fusion"}),
        ("def f():\n    from PACKAGE.fusion import network", NETWORK),
        ("import importlib\nimportlib.import_module('PACKAGE.fusion.network')", NETWORK),
        (
            "from importlib import import_module\nimport_module('.fusion.network', __package__)",
            NETWORK,
        ),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import other",
            {"", "job"},
        ),
        ("import numpy, json", {"", "job"}),
    ],
)
def test_every_form_of_import_is_followed(tree, importing, expected):
    assert tree(importing) == expected


def test_nothing_is_imported_to_look_at_it():
    lines = (
        "from schemas.base.code_fingerprint import *; of_code(['beam_jobs.models.embed_images'])"
    )
    lines += "\nprint({'apache_beam', 'tensorflow'} & {*sys.modules})"
    command = [sys.executable, "-c", lines]
    done = subprocess.run(command, env=work_folder.environment(), capture_output=True, check=True)
    assert done.stdout == b"set()\n"


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(PhraseLensError, match=r"module model_code\.fusionn"):
        code_fingerprint.of_code(["model_code.fusionn"])


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """The fingerprint of a module of one line or more."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def of(text: str) -> str:
        name = f"edited{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        (digest,) = code_fingerprint.sources_of([name]).values()
        return digest

    return of


FUNCTION = "def f(x: int) -> int:\n    return x + 1\n"


@pytest.mark.parametrize(
    "same",
    [
        "# why\n" + FUNCTION,
        '"""A module."""\n' + FUNCTION,
        'def f(x: int) -> int:\n    """Adds."""\n    return x + 1  # one\n',
        "def f(\n    x: int,\n) -> int:\n\n    return (x + 1)\n",
    ],
)
def test_prose_and_layout_decide_nothing(edited, same):
    assert edited(same) == edited(FUNCTION)


@pytest.mark.parametrize(
    "other",
    [
        "def f(x: int) -> int:\n    return x + 2\n",
        "def f(x: int) -> int:\n    'x'\n    return x - 1\n",
        FUNCTION + "y = 'text'\n",
    ],
)
def test_code_decides(edited, other):
    assert edited(other) != edited(FUNCTION)


def test_help_decides_nothing_and_defaults_do(edited):
    flags = "from schemas.console.flags import flag\nx: int = flag({!r}, default={})\n"
    assert edited(flags.format("One.", 1)) == edited(flags.format("Another.", 1))
    assert edited(flags.format("One.", 1)) != edited(flags.format("One.", 2))
    assert edited(flags.format("One.", 1)) == edited(flags.format("One.", "1, essential=True"))


# A module → the stages that its edit makes anew.
EDITS = {
    "schemas.console.progress": set(),
    "schemas.console.flags": set(),
    "beam_jobs.frame.job": set(),
    "beam_jobs.dataflow.plan": set(),
    "beam_jobs.runs.all_stages": set(),
    "model_code.models.fusion.classifier": {"export_model", "classify_images"},
    "model_code.models.fusion.fit": {"train_fusion"},
    "model_code.models.text_generator.trainer": {"train_text_generator"},
    "model_code.models.text_generator.network": {"train_text_generator"},
    "model_code.models.text_generator.evaluate": {"train_text_generator"},
    "model_code.models.pixel_embedder.network": {"train_pixel_embedder"},
    "model_code.models.text_embedder.network": {"train_text_embedder", "embed_phrases"},
    "model_code.phrases.index": {"embed_images"},
    "model_code.phrases.folder": {"embed_phrases", "embed_images"},
    "model_code.phrases.likelihood": {"embed_phrases"},
    "model_code.images.embedder": {
        "embed_phrases",
        "embed_images",
        "export_model",
        "classify_images",
    },
    "model_code.text.words": {"mine_log", "mine_pairs", "train_text_generator", "classify_images"},
    "model_code.text.language": {"mine_pairs"},
    "transforms.training_data.pairs": {"prepare_pairs"},
    "transforms.mining.spelling": {"mine_pairs"},
    "transforms.rows.layouts": {"mine_log", "mine_pairs"},
    "beam_jobs.mining.log": {"mine_log", "mine_pairs"},
    "beam_jobs.mining.mine_log": {"mine_log"},
    "beam_jobs.mining.queries": {"mine_pairs"},
    "transforms.phrases.build": {"embed_phrases"},
    "transforms.inference.embed_images": {"embed_images"},
    "model_code.models.fusion.preprocessing": {"prepare_examples", "export_model"},
    "model_code.models.fusion.serving_graph": {"export_model"},
    "model_code.models.fusion.network": {"train_fusion"},
    "beam_jobs.runs.stages": set(),
    "phraselens.commands": set(),
    "schemas.base.storage": {*MODULES},
    "schemas.datasets.manifest": {*MODULES},
}


@pytest.mark.parametrize("module", EDITS)
def test_an_edit_makes_anew_what_it_decides_and_nothing_else(module):
    covers = {stage: code_fingerprint.sources_of(given) for stage, given in MODULES.items()}
    found = {stage for stage, modules in covers.items() if module in modules}
    assert found == EDITS[module]


def test_what_is_left_out_exists():
    for name in code_fingerprint.FRAME:
        assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name


@pytest.mark.parametrize("stage", MODULES)
def test_no_stage_imports_what_cannot_be_seen(stage):
    """A module whose name is computed is in no fingerprint."""
    for name in code_fingerprint.sources_of(MODULES[stage]):
        path = ROOT / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                name = ast.unparse(node.args[0]).lstrip("f").strip("'")
                ours = name.split(".")[0] in code_fingerprint.PACKAGES
                is_text = isinstance(node.args[0], ast.Constant)
                is_others = isinstance(node.args[0], ast.JoinedStr) and not ours
                assert is_text or is_others, f"{path}:{node.lineno}"


def test_an_edit_of_the_real_tree_is_seen(tmp_path):
    """The functions, on a copy of the packages in a process of its own."""
    for package in code_fingerprint.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc"))
    before = _digest(tmp_path)
    edits = [
        ("schemas/console/progress.py", "import ", "import  ", False),
        ("transforms/inference/embed_images.py", '"""', '"""Some more. ', False),
        (
            "transforms/inference/embed_images.py",
            "CHOSEN_AT_ONCE = 256",
            "CHOSEN_AT_ONCE = 128",
            True,
        ),
    ]
    for path, old, new, differs in edits:
        text = (tmp_path / path).read_text()
        assert re.search(re.escape(old), text)
        (tmp_path / path).write_text(text.replace(old, new, 1))
        assert (_digest(tmp_path) != before) == differs, path


def _digest(root: Path) -> bytes:
    lines = f"from schemas.base.code_fingerprint import *; print(of_code([{EMBED!r}]))"
    environment = work_folder.environment() | {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", lines]
    return subprocess.run(command, env=environment, capture_output=True, check=True).stdout
