"""Errors a person can act on: what is wrong, what was expected, what to do.

And the exit status that each of them ends a command with, which tells a scheduler what to do.
"""

import enum
import re
import sys
from typing import ClassVar

from schemas.base.printable import printable

_NO_SPACE = "No space left on device"


class Exit(enum.IntEnum):
    """A command's exit status; docs/operate/exit_codes.md says what to do about each."""

    DONE = 0
    BUG = 1  # what nobody foresaw, with a traceback; Python's own
    BAD_INPUT = 2  # flags, files or settings: the same again would fail again
    REFUSED = 3  # the gate's verdict, or what asks for a person's word
    BUSY = 4  # another process works on the same; it passes
    UNAVAILABLE = 5  # a disk, a bucket, a network or an engine; it may pass
    CORRUPT = 6  # what was committed is damaged
    NOTHING = 10  # there was nothing to do; only where --detailed_exit_code asks for it


class PhraseLensError(Exception):
    """A failure with its remedy; command lines print it without a traceback.

    Attributes:
      status: the exit status of a command that ends with it.

    Args:
      item: the file, column, flag or row that is wrong.
      expected: what should have been there.
      remedy: what the person can do about it.
    """

    status: ClassVar[Exit] = Exit.BAD_INPUT

    def __init__(self, item: str, expected: str, remedy: str):
        self.item, self.expected, self.remedy = item, expected, remedy
        lines = f"{item}: expected {expected}. {remedy}".split("\n")
        super().__init__("\n".join(map(printable, lines)))

    def __reduce__(self):
        return type(self), (self.item, self.expected, self.remedy)


class RivalCommitError(PhraseLensError):
    """Another run committed this dataset while ours was working."""

    status = Exit.BUSY


class BusyError(PhraseLensError):
    """Another process works on the same."""

    status = Exit.BUSY


class RefusedError(PhraseLensError):
    """What the gate or a person has refused; only a person's word lifts that."""

    status = Exit.REFUSED


class UnavailableError(PhraseLensError):
    """A disk, a bucket, a network or an engine did not do what it should."""

    status = Exit.UNAVAILABLE


class CorruptError(PhraseLensError):
    """What was committed is gone or is not what it was."""

    status = Exit.CORRUPT


class DeadShareError(PhraseLensError):
    """More rows died than `--max_dead_fraction` allows; nothing was committed."""


class RetryError(PhraseLensError):
    """A run that tries dead rows again has killed others; nothing was committed."""

    status = Exit.UNAVAILABLE


class AccountingError(PhraseLensError):
    """Rows in differ from rows out plus rows dropped: a bug, never bad input."""

    status = Exit.BUG


def known(error: BaseException) -> tuple[str, Exit] | None:
    """What to tell people of a failure, and the exit status; None where only a developer can help.

    Finds the PhraseLensError, or the refusal of a disk or bucket, that a runner or a library
    wrapped in errors of its own.
    """
    return _ours(error) or _refusal(error)


def tell(error: BaseException) -> int:
    """Prints what a command failed of; returns its exit status. A bug is raised again."""
    found = known(error)
    if found is None:
        raise error
    return say(*found)


def say(text: str, status: int) -> int:
    """Prints what a command failed of; returns its exit status."""
    print(f"error: {text}", file=sys.stderr)
    return status


def _kinds() -> dict[str, type[PhraseLensError]]:
    kinds: list[type[PhraseLensError]] = [PhraseLensError, *PhraseLensError.__subclasses__()]
    return {kind.__name__: kind for kind in kinds}


def _ours(error: BaseException) -> tuple[str, Exit] | None:
    if isinstance(error, PhraseLensError):
        return str(error), error.status
    for cause in (error.__cause__, error.__context__):
        if cause is not None and (found := _ours(cause)):
            return found
    # A worker in another process sends its traceback as text.
    kinds = _kinds()
    pattern = rf"^(?:[\w.]+\.)?({'|'.join(kinds)}): (.*)$"
    matches = re.findall(pattern, str(error), re.MULTILINE)
    if not matches:
        return None
    name, text = matches[-1]
    return text.partition(" [while running")[0], kinds[name].status


def status_of_service(error: BaseException) -> Exit:
    """The exit status of what a disk or Google Cloud answered: what was asked wrongly stays wrong.

    Of HTTP's codes below 500, only 408 (timeout) and 429 (too many requests) pass by themselves.
    """
    code = getattr(error, "code", None)
    is_lasting = isinstance(code, int) and 400 <= code < 500 and code not in (408, 429)
    return Exit.BAD_INPUT if is_lasting else Exit.UNAVAILABLE


def _refusal(error: BaseException) -> tuple[str, Exit] | None:
    remedy = "Mend it, then give the same command again: it goes on where it stopped."
    if isinstance(error, OSError) or type(error).__module__ == "google.api_core.exceptions":
        text = f"{error}: expected a file that can be read or written. {remedy}"
        return text, status_of_service(error)
    if _NO_SPACE in str(error):  # TensorFlow has errors of its own
        return f"{_NO_SPACE}: expected room for what the run writes. {remedy}", Exit.UNAVAILABLE
    causes = (error.__cause__, error.__context__)
    return next((found for c in causes if c is not None and (found := _refusal(c))), None)
