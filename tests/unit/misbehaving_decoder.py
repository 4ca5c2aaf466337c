"""A decode helper whose decoder does what a photograph's `teSt` chunk says; started by test_engines_sandbox.py."""

from __future__ import annotations

import ctypes
import os
import sys

from engines import sandbox_child
from engines.decode import Decoded, DecodeLimits, ImageFault, decode_photograph


def _decode(blob: bytes, *, size: int, limits: DecodeLimits, reduced: bool) -> Decoded | ImageFault:
    deed = blob[41 : blob.index(b"\0\0\0\0", 41)] if blob[37:41] == b"teSt" else b""
    if deed == b"crash":
        ctypes.string_at(0)
    elif deed == b"loop":
        while True:
            pass
    elif deed == b"eat memory":
        bytearray(1 << 28)
    elif deed == b"exit":
        os._exit(3)
    elif deed == b"say nonsense":
        os.write(0, b"\xff" * 64)
    elif deed == b"write a file":
        os.write(os.memfd_create("file"), b"x")
    return decode_photograph(blob, size=size, limits=limits, reduced=reduced)


sandbox_child.decode_photograph = _decode  # type: ignore[attr-defined]

if __name__ == "__main__":
    sandbox_child.main(sys.argv[1])
