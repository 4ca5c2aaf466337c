"""Are the libraries there? Nothing of ours is imported here, for that needs some of them."""

from __future__ import annotations

import time
from importlib import import_module

import numpy as np
import PIL

from layers.telling import tell

WANTED = (
    *("pycuda.driver", "tensorrt", "nvidia.nvimgcodec"),
    *("cuda.bindings.runtime", "cryptography", "onnxruntime"),
)


def imports() -> None:
    """Versions, and how long the first import takes."""
    for name in WANTED:
        began = time.perf_counter()
        try:
            module = import_module(name)
        except Exception as error:
            tell(f"import {name} FAILED", repr(error))
            continue
        version = getattr(module, "__version__", getattr(module, "VERSION_TEXT", "?"))
        tell(f"import {name}", f"{version} {(time.perf_counter() - began) * 1e3:.0f} ms")
    tell("pillow, numpy", (PIL.__version__, np.__version__))
