"""What people type to start a command: `./run.sh` in a clone, `phraselens` where it is installed.

Whatever names a command for people to type takes it from here, so that it works as printed. Nothing
that is kept may: a dataset is the same whoever started its stage.
"""

import os
import re

# Set by run.sh; what a command starts, such as stages and workers, inherits it.
VARIABLE = "PHRASELENS_PROGRAM"
# What run.sh alone does, with the files of a clone.
OF_RUN_SH = ("setup", "test", "bench", "lock")
_TYPED = re.compile(rf"\./run\.sh(?! (?:{'|'.join(OF_RUN_SH)})\b)")


def name() -> str:
    return os.environ.get(VARIABLE, "phraselens")


def command(words: str) -> str:
    """A command as people type it here: `./run.sh verify work/mine` of `verify work/mine`."""
    return in_text(f"./run.sh {words}")


def in_text(text: str) -> str:
    """A text, such as a help text, whose commands are written with `./run.sh`."""
    return _TYPED.sub(name(), text)
