"""Runs the command line."""

import sys

from ..cli.generate import main

if __name__ == "__main__":
    sys.exit(main())
