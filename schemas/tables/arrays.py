"""Arrays of files, which hold numbers and never objects."""

from typing import Literal

import numpy as np

from schemas.base.errors import PhraseLensError
from schemas.console import program


def load_array(path: str, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """Reads a .npy file. To read objects is to run what they were pickled with: there are none.

    Args:
      path: a local file.
      mmap_mode: "r" maps it into memory.

    Raises:
      PhraseLensError: it is no array of numbers.
      FileNotFoundError: there is none.
    """
    try:
        found = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _no_array(path, str(error)) from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise _no_array(path, "an archive of arrays")
    return found


def _no_array(path: str, what: str) -> PhraseLensError:
    return PhraseLensError(
        path,
        f"one array of numbers (.npy): {what}",
        f"Run {program.command('verify')} on its dataset: it says how to make it again.",
    )
