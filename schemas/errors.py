"""Errors a person can act on: what is wrong, what was expected, what to do."""

from schemas.printable import printable


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


class AccountingError(PhraseLensError):
    """Rows in differ from rows out plus rows dropped: a bug, never bad input."""
