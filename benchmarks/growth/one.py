"""Runs one command and counts: what it asked of storage, and what its graph moved.

python -m benchmarks.growth.one MODULE FLAGS…     the last line is JSON
"""

import dataclasses
import importlib
import json
import sys
import time

from benchmarks.growth import moved
from tests.support.processes import cloud


def main(module: str, *flags: str) -> int:
    run = importlib.import_module(module).run
    launcher: dict[str, int] = {}
    before = cloud.requests()

    def sent() -> None:
        launcher.update(cloud.requests())

    start = time.monotonic()
    with moved.counted(sent) as found:
        status = run(list(flags))
    seconds = time.monotonic() - start
    after = cloud.requests()
    counts = {kind: after[kind] - before.get(kind, 0) for kind in after}
    of_launcher = {f"launcher_{kind}": launcher[kind] - before.get(kind, 0) for kind in launcher}
    print(json.dumps(counts | of_launcher | dataclasses.asdict(found) | {"seconds": seconds}))
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
