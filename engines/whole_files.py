"""Files that readers see whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` in the place of whatever lies at `path`; it is on the disk before it has the name. Raises OSError, and
    leaves nothing behind then."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        written = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            written.chmod(mode)
            written.replace(path)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
