"""Which version this is: that of pyproject.toml, which installed metadata take from it."""

import importlib.metadata
import tomllib
from pathlib import Path

_NAME = "phraselens"


def version() -> str:
    """The version of the clone in which this module lies, or else of what is installed."""
    path = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if path.exists():
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == _NAME:  # other packages leave theirs where they are installed
            return project["version"]
    return importlib.metadata.version(_NAME)
