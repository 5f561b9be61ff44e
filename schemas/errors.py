"""Errors a person can act on: what is wrong, what was expected, what to do."""

import re

from schemas.printable import printable

_NO_SPACE = "No space left on device"


class PhraseLensError(Exception):
    """A failure with its remedy; command lines print it without a traceback.

    Args:
      item: the file, column, flag or row that is wrong.
      expected: what should have been there.
      remedy: what the person can do about it.
    """

    def __init__(self, item: str, expected: str, remedy: str):
        self.item, self.expected, self.remedy = item, expected, remedy
        lines = f"{item}: expected {expected}. {remedy}".split("\n")
        super().__init__("\n".join(map(printable, lines)))

    def __reduce__(self):
        return type(self), (self.item, self.expected, self.remedy)


class RivalCommitError(PhraseLensError):
    """Another run committed this dataset while ours was working."""


class DeadShareError(PhraseLensError):
    """More rows died than `--max_dead_fraction` allows; nothing was committed."""


class RetryError(PhraseLensError):
    """A run that tries dead rows again has killed others; nothing was committed."""


class AccountingError(PhraseLensError):
    """Rows in differ from rows out plus rows dropped: a bug, never bad input."""


def message_of(error: BaseException) -> str | None:
    """What to tell people of a run that failed; None for what nobody but a developer can mend.

    Finds the PhraseLensError, or the refusal of a disk or bucket, that a runner or a library
    wrapped in errors of its own.
    """
    return _known(error) or _refusal(error)


def _known(error: BaseException) -> str | None:
    if isinstance(error, PhraseLensError):
        return str(error)
    for cause in (error.__cause__, error.__context__):
        if cause is not None and (found := _known(cause)):
            return found
    # A worker in another process sends its traceback as text.
    kinds: list[type] = [PhraseLensError, *PhraseLensError.__subclasses__()]
    names = "|".join(kind.__name__ for kind in kinds)
    matches = re.findall(rf"^(?:[\w.]+\.)?(?:{names}): (.*)$", str(error), re.MULTILINE)
    return matches[-1].partition(" [while running")[0] if matches else None


def _refusal(error: BaseException) -> str | None:
    remedy = "Mend it, then give the same command again: it goes on where it stopped."
    if isinstance(error, OSError) or type(error).__module__ == "google.api_core.exceptions":
        return f"{error}: expected a file that can be read or written. {remedy}"
    if _NO_SPACE in str(error):  # TensorFlow has errors of its own
        return f"{_NO_SPACE}: expected room for what the run writes. {remedy}"
    causes = (error.__cause__, error.__context__)
    return next((found for c in causes if c is not None and (found := _refusal(c))), None)
