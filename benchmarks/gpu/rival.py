"""`python -m benchmarks.gpu.rival FAMILY --out FILE`: torch.compile in FP16, channels last, CUDA graphs: what most
would serve these networks with. A process of its own, so that its memory and its compiler are apart from TensorRT's."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.gpu.networks import FAMILIES, Family, network_of
from benchmarks.gpu.record import write_json

# CUDA graphs around the default kernels. `--modes max-autotune` tries every kernel first: its compilation of ResNet-50
# did not end within 153 s on an H200's host.
MODES: Final = ("reduce-overhead",)
BATCHES: Final = (256, 128, 64, 8, 512)  # by value: the one that is best for most comes first
REPEATS: Final = 5
TIMED_S: Final = 0.2


def cache_environment(folder: Path) -> dict[str, str]:
    """So that what one process compiled another takes."""
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}


def measure(
    family: Family,
    size: int,
    out: Path,
    *,
    budget_s: float,
    modes: tuple[str, ...] = MODES,
    batches: tuple[int, ...] = BATCHES,
) -> None:
    """Rates by mode and batch into `out`, each written when it is known; what does not fit the budget is named."""
    import torch

    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = served(family, size, device)
    until = time.monotonic() + budget_s
    found: dict[str, Any] = {"rates": {}, "compile_s": {}, "failed": {}, "skipped": [], "size": size}
    for mode, batch in product(modes, batches):
        name = f"{mode} b{batch}"
        if time.monotonic() > until:
            found["skipped"].append(name)
            continue
        try:
            began = time.monotonic()
            run = compiled(torch, network, mode, batch, size, device)
            found["compile_s"][name] = round(time.monotonic() - began, 1)
            found["rates"][name] = rate(torch, run, batch)
        except Exception as error:  # a compiler can raise anything; the other modes are still to be tried
            found["failed"][name] = f"{type(error).__name__}: {error}"[:500]
        write_json(out, found)
        print(name, found["rates"].get(name), found["compile_s"].get(name), found["failed"].get(name, ""), flush=True)
    write_json(out, found)


def served(family: Family, size: int, device: Any) -> Any:
    """In FP16 where there is a GPU."""
    import torch

    network = without_classifier(network_of(family, size)).to(device)
    return network.half().to(memory_format=torch.channels_last) if device.type == "cuda" else network


def without_classifier(network: Any) -> Any:
    """The features are what is compared; a classifier would only cost time."""
    import torch

    if hasattr(network, "fc"):
        network.fc = torch.nn.Identity()
    return network


def compiled(torch: Any, network: Any, mode: str, batch: int, size: int, device: Any) -> Callable[[], None]:
    """A call that enqueues one batch; compiled and warm when this returns."""
    torch._dynamo.reset()  # noqa: SLF001 (the public way to begin anew)
    images = torch.randn(batch, 3, size, size, device=device).half().to(memory_format=torch.channels_last)
    call = torch.compile(network, mode=mode, dynamic=False)

    def run() -> None:
        with torch.inference_mode():
            torch.nn.functional.normalize(call(images), dim=-1)

    for _ in range(4):
        run()
    return run


def rate(torch: Any, run: Callable[[], None], batch: int) -> float:
    """Images a second, by the device's events, median of some repeats."""

    def seconds(turns: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(turns):
            run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    turns = max(2, int(TIMED_S / (seconds(2) / 2)))
    return median(turns * batch / seconds(turns) for _ in range(REPEATS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=150.0)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--modes", default=",".join(MODES), help="torch.compile's own names")
    given = parser.parse_args()
    family = FAMILIES[given.family]
    chosen = {"modes": tuple(given.modes.split(",")), "batches": tuple(int(b) for b in given.batches.split(","))}
    measure(family, given.size or family.size, given.out, budget_s=given.budget, **chosen)


if __name__ == "__main__":
    main()
