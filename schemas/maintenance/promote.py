"""Says which snapshot of a work folder is in use: its models, its index, all together.

The pointer is one small file, replaced in one step. Whatever a reader has opened stays as it is.
What the gate refused, or what is held, is put in use only with a reason.

  ./run.sh promote --workdir work/mine --date 2026-01-31
  ./run.sh promote --workdir work/mine --date 2026-01-31 --despite "the new shop is meant"
  ./run.sh rollback --workdir work/mine --hold "labels of another team"
  ./run.sh hold --workdir work/mine --date 2026-01-31 --reason "labels of another team"
  ./run.sh hold --workdir work/mine --date 2026-01-31 --lift
  ./run.sh classify_images --model work/mine/current/model …
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.maintenance import pending
from schemas.runs import changes, command_line
from schemas.runs import pointer as pointer_lib


@dataclasses.dataclass(frozen=True)
class Promote:
    workdir: str = flag("Work folder of all stages.", role="output")
    date: str = flag("Snapshot to put in use.", role="runtime")
    despite: str = flag(
        "Why it is put in use although the gate refused it or it is held; ends the hold.",
        default="",
        role="runtime",
    )


@dataclasses.dataclass(frozen=True)
class Rollback:
    workdir: str = flag("Work folder of all stages.", role="output")
    hold: str = flag(
        "Why the snapshot in use shall not come back: its date is held.", default="", role="runtime"
    )


@dataclasses.dataclass(frozen=True)
class Hold:
    workdir: str = flag("Work folder of all stages.", role="output")
    date: str = flag("Date of which no snapshot may be put in use.", role="runtime")
    reason: str = flag("Why.", default="", role="runtime")
    lift: bool = flag("Ends the hold instead.", default=False, role="runtime")


def _say(pointer: pointer_lib.Pointer) -> None:
    before = f"; before it: {pointer.history[-1]}" if pointer.history else ""
    print(f"in use: {pointer.date or 'none'}{before}")
    for date, reason in pointer.holds.items():
        print(f"held: {date}: {reason}")


def promote(config: Promote) -> None:
    """Raises RefusedError: a deletion has not ended, or see `changes.promote`."""
    pending.check(config.workdir)
    _say(changes.promote(config.workdir, config.date, config.despite))


def rollback(config: Rollback) -> None:
    """Raises RefusedError: a deletion has not ended, and what was in use before may hold it."""
    pending.check(config.workdir)
    _say(changes.rollback(config.workdir, config.hold))


def hold(config: Hold) -> None:
    """Raises PhraseLensError: neither a reason nor --lift, or both."""
    if config.lift and config.reason:
        raise PhraseLensError("--lift, --reason", "one of them", "A hold that ends has no reason.")
    if config.lift:
        _say(changes.release(config.workdir, config.date))
    else:
        _say(changes.hold(config.workdir, config.date, config.reason))


COMMANDS: Mapping[str, tuple[type, Callable[[Any], None]]] = {
    "promote": (Promote, promote),
    "rollback": (Rollback, rollback),
    "hold": (Hold, hold),
}


def run(argv: Sequence[str]) -> int:
    """`promote FLAGS`, `rollback FLAGS` or `hold FLAGS`."""
    config, work = COMMANDS[argv[0]]
    return command_line.main(config, argv[0], __doc__, argv[1:], work)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
