"""Which GPUs there are, asked of `nvidia-smi`: whoever starts a process a GPU must hold no context on any of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from typing import Final

from engines.errors import EngineRefused, RefusalCode

Ask = Callable[[], str]
_QUERY: Final = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
_ANSWER_WITHIN_S: Final = 30.0  # a driver that starts for this call takes seconds


def visible_gpus(environment: Mapping[str, str], ask: Ask | None = None) -> list[str]:
    """GPUs as CUDA_VISIBLE_DEVICES names them: those that it lists already, else all by number, in the order of the PCI
    bus, which is nvidia-smi's. Raises EngineRefused (backend_unavailable) where there are none."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    text = (ask or _asked)() if listed is None else listed.replace(",", "\n")
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found or found[0] in ("-1", "NoDevFiles"):
        told = "nvidia-smi lists none" if listed is None else f"CUDA_VISIBLE_DEVICES is {listed!r}"
        raise _none(told)
    return found


def chosen_gpus(wanted: str, visible: list[str]) -> list[str]:
    """`all`, a count (the first N), or numbers of `visible` with commas (`0,2`, and `3,` for that one alone). Raises
    EngineRefused (backend_unavailable) for what is not there, ValueError for what is none of the three."""
    if wanted == "all":
        return visible
    if "," not in wanted:
        numbers = list(range(int(wanted)))
    else:
        numbers = [int(part) for part in wanted.split(",") if part.strip()]
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ValueError(wanted)
    if max(numbers) >= len(visible):
        fix = f"name GPUs from 0 to {len(visible) - 1}, or a count up to {len(visible)}, or all"
        message = f"--gpus {wanted} asks for GPU {max(numbers)}, and {len(visible)} can be seen"
        raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, message, fix)
    return [visible[number] for number in numbers]


def _asked() -> str:
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_ANSWER_WITHIN_S, check=True)  # noqa: S603 # fixed
    except FileNotFoundError as error:
        raise _none("there is no nvidia-smi") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise _none(f"nvidia-smi failed: {error}") from error
    return done.stdout


def _none(told: str) -> EngineRefused:
    fix = (
        "install the NVIDIA driver (in a container: the NVIDIA runtime, --gpus all), or leave --gpus away for a CPU, "
        "where --processes N starts several workers"
    )
    return EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, f"no GPU can be used: {told}", fix)
