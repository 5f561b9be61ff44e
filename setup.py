"""What Beam stages for its workers: `--setup_file=./setup.py`. The rest is in pyproject.toml."""

import setuptools

setuptools.setup()
