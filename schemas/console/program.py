"""What people type to start a command: `./run.sh` in a clone, `phraselens` where it is installed.

Whatever names a command for people to type takes it from here, so that it works as printed. Nothing
that is kept may: a dataset is the same whoever started its stage.
"""

import os
import re
import shlex

# Set by run.sh; what a command starts, such as stages and workers, inherits it.
VARIABLE = "PHRASELENS_PROGRAM"
# What run.sh alone does, with the files of a clone.
OF_RUN_SH = ("setup", "test", "bench", "lock")
_TYPED = re.compile(rf"\./run\.sh(?! (?:{'|'.join(OF_RUN_SH)})\b)")


def name() -> str:
    return os.environ.get(VARIABLE, "phraselens")


def command(words: str, *args: str, **flags: str) -> str:
    """A command as people type it here, such as `./run.sh verify --repair work/mine`.

    Args:
      words: its name, of one word or two, and flags without a value.
      args: what follows.
      flags: name → value.
    """
    parts = [in_text(f"./run.sh {words}"), *map(shlex.quote, args)]
    for flag, value in flags.items():
        parts += [f"--{flag}", shlex.quote(value)]
    return " ".join(parts)


def beside(path: str, name: str) -> str:
    """The dataset of another stage, where `all` writes it: in the same work folder."""
    folder, slash, _ = path.rstrip("/").rpartition("/")
    return f"{folder}{slash}{name}"


def in_text(text: str) -> str:
    """A text, such as a help text, whose commands are written with `./run.sh`."""
    return _TYPED.sub(name(), text)
