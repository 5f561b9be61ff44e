"""The bucket of tests/support/processes/cloud.py, for all tests of this folder."""

from tests.support.processes.cloud import bucket  # noqa: F401
