"""Which version this is."""

import importlib.metadata
import tomllib
from pathlib import Path


def version() -> str:
    """The version that pyproject.toml names, or that was installed from it."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if project.exists():
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    return importlib.metadata.version("phraselens")
