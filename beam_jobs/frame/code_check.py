"""Whether workers elsewhere hold the code that drew a job: its manifest says which code made it."""

import apache_beam as beam

from schemas.base import code_fingerprint
from schemas.base.errors import PhraseLensError


def check_code(module: str, expected: str) -> None:
    """Raises PhraseLensError unless the sources of a module have the fingerprint `expected`."""
    if code_fingerprint.of_code([module]) != expected:
        raise PhraseLensError(
            f"the workers' {module}",
            "the code that drew this job",
            "Build the workers' image anew, or send the code along: --setup_file=./setup.py.",
        )


class CheckCode(beam.PTransform):
    """A step that fails the job where its workers hold other code than drew it: an old image."""

    def __init__(self, module: str):
        super().__init__()
        self._module = module

    def expand(self, pipeline):
        expected = code_fingerprint.of_code([self._module])
        return pipeline | beam.Create([self._module]) | beam.Map(check_code, expected)
