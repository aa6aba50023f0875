"""`python -m prime`: the same program as the `prime` script."""

from __future__ import annotations

import sys

from prime.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
