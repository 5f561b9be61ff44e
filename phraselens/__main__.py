"""`python -m phraselens`."""

import sys

from phraselens.cli import main

if __name__ == "__main__":
    sys.exit(main())
