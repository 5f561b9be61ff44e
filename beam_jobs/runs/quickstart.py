"""Draws sample data and runs every stage on it: about 10 minutes on two cores.

Takes the flags of `all`; what they are without being given suits the sample data.

  ./run.sh quickstart
  ./run.sh quickstart --workdir work/other --set make_samples.seed=2
"""

import dataclasses
import sys
from collections.abc import Sequence

from beam_jobs.runs import all_stages
from schemas.console.flags import flag


@dataclasses.dataclass(frozen=True)
class Config(all_stages.Config):
    workdir: str = flag(
        "Folder for the datasets of all stages; local or gs://.",
        default="work/quickstart",
        role="output",
    )
    samples: bool = flag("Draw sample data and use it as log, images and labels.", default=True)
    preset: str = flag(
        "Settings that come along, below those of --config.",
        default="quickstart",
        choices=all_stages.Config.__dataclass_fields__["preset"].metadata["choices"],
    )


def run(argv: Sequence[str] | None = None) -> int:
    return all_stages.run(argv, Config, "quickstart", __doc__)


if __name__ == "__main__":
    sys.exit(run())
