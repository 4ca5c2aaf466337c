"""scripts/lock_rest.py LOCK LARGER: leaves in LARGER what LOCK does not hold; both are installed together."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ENTRY = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)  # a requirement, its hashes on indented lines behind it


def entries(lock: Path) -> list[str]:
    return [entry for entry in ENTRY.split(lock.read_text()) if entry.strip()]


if __name__ == "__main__":
    lock, larger = map(Path, sys.argv[1:])
    held = set(entries(lock))
    larger.write_text("".join(entry for entry in entries(larger) if entry not in held))
