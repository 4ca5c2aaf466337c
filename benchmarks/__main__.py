"""`python -m benchmarks`: the one benchmark that any machine can run."""

from __future__ import annotations

import sys

from benchmarks.cpu import main

if __name__ == "__main__":
    sys.exit(main())
