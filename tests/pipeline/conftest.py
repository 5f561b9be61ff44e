"""The bucket of tests/support/processes/cloud.py, under the name by which other tests import it."""

from tests.support.processes.cloud import bucket  # noqa: F401
