"""The bucket of tests/cloud.py, under the name by which other tests import it."""

from tests.cloud import bucket  # noqa: F401
