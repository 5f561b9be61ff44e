"""The command line: `phraselens COMMAND FLAGS`, which `./run.sh COMMAND FLAGS` starts too."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from phraselens import commands, version
from schemas.base.errors import Exit, PhraseLensError, tell
from schemas.console import launch, program

ROOT = Path(__file__).resolve().parents[1]
# What text, file names and libraries go by, unless people say otherwise; Python reads the first two
# when it starts.
ENVIRONMENT = {
    # Text, file names and the command line are UTF-8, whatever the locale says.
    "PYTHONUTF8": "1",
    # Modules come from this installation, and never from the folder where the command was typed.
    "PYTHONSAFEPATH": "1",
    # TensorFlow's errors arrive as exceptions; its log calls even a missing GPU driver an error.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "ERROR",
}
_HELP = ("-h", "--help", "--help-all", "help")


def usage() -> str:
    return (
        "PhraseLens classifies images with the help of the words it predicts for them.\n\n"
        f"usage: {program.command('COMMAND [FLAGS]')}\n\n"
        f"{program.command('COMMAND --help')} says what each needs, --help-all also the rest.\n"
        "--verbose shows what libraries say; --log_format=text or json gives each line time and\n"
        f"level.\n\n{commands.help_text()}"
    )


def answer(words: Sequence[str]) -> str | None:
    """What is said of the words at once; None where they are a command to start.

    Raises:
      PhraseLensError: they are no command.
    """
    if not words or words[0] in _HELP:
        return usage()
    if words[0] == "--version":
        return f"phraselens {version.version()}"
    if len(words) > 1 and words[1] in _HELP and commands.choices_of(words[0]):
        form = program.command(f"{words[0]} NAME [FLAGS]")
        return f"usage: {form}\n\n{commands.help_of(words[0])}"
    commands.find(words)
    return None


def start(words: Sequence[str]) -> None:
    """Runs a command in this process; ends it with the command's exit status.

    Raises:
      PhraseLensError: it works on the files of the repository, which are not here.
    """
    command, flags = commands.find(words)
    if command.is_deployed and importlib.util.find_spec(command.module.partition(".")[0]) is None:
        raise PhraseLensError(
            command.name, "the files of the repository", f"Clone it: ./run.sh {command.name} …"
        )
    launch.main([command.module, *flags])


def main() -> int:
    """What `phraselens` and `python -m phraselens` start."""
    words = sys.argv[1:]
    try:
        said = answer(words)
        if said is not None:
            print(said)
            return Exit.DONE
        _restart_with_environment(words)
        start(words)
    except PhraseLensError as error:
        return tell(error)
    return Exit.DONE


def _restart_with_environment(words: Sequence[str]) -> None:
    """Starts Python again where it was started without what it reads only then."""
    given = dict(os.environ)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not {"PYTHONUTF8", "PYTHONSAFEPATH"} <= given.keys():
        # A clone is on no path of Python's own.
        paths = [str(ROOT), *filter(None, [given.get("PYTHONPATH")])]
        if "site-packages" not in ROOT.parts:
            os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        os.execv(sys.executable, [sys.executable, "-m", "phraselens", *words])


def check_words() -> int:
    """What run.sh asks before it makes an environment: exit status 0 for a command to start.

    Else the words are answered: 64 where that was all, and an error's status where they are none.
    """
    try:
        said = answer(sys.argv[1:])
    except PhraseLensError as error:
        return tell(error)
    if said is None:
        return Exit.DONE
    print(said)
    return 64


if __name__ == "__main__":
    sys.exit(check_words())
