"""Says which snapshot of a work folder is in use: its models, its index, all together.

The pointer is one small file, replaced in one step. Whatever a reader has opened stays as it is.

  ./run.sh promote --workdir work/mine --date 2026-01-31
  ./run.sh rollback --workdir work/mine
  ./run.sh classify_images --model work/mine/current/model …
"""

import dataclasses
import sys
from collections.abc import Sequence

from schemas import config as config_lib
from schemas import snapshots
from schemas.config import flag


@dataclasses.dataclass(frozen=True)
class Promote:
    workdir: str = flag("Work folder of all stages.", role="output")
    date: str = flag("Snapshot to put in use.", role="runtime")


@dataclasses.dataclass(frozen=True)
class Rollback:
    workdir: str = flag("Work folder of all stages.", role="output")


def _say(pointer: snapshots.Pointer) -> None:
    before = f"; before it: {pointer.history[-1]}" if pointer.history else ""
    print(f"in use: {pointer.date}{before}")


def run(argv: Sequence[str]) -> int:
    """`promote FLAGS` or `rollback FLAGS`."""
    command, doc = argv[0], __doc__ or ""
    prog = f"./run.sh {command}"
    if command == "promote":
        return config_lib.main(
            Promote, prog, doc, argv[1:], lambda c: _say(snapshots.promote(c.workdir, c.date))
        )
    return config_lib.main(
        Rollback, prog, doc, argv[1:], lambda c: _say(snapshots.rollback(c.workdir))
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
