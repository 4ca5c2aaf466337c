"""Hostile photographs through the decoder that a worker uses: each ends as a square or as one code, in bounded time and
memory, the same when it comes again, and this process, which stands for the worker, lives."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engines.decode import Decoded, DecodeLimits, ImageFault
from engines.decoder import PillowDecoder
from schemas.codes import ViewCode
from tests.fuzz.bombs import bombs
from tests.fuzz.corpus import own_images, pillow_images
from tests.fuzz.findings import Findings
from tests.fuzz.mutants import mutants

SIZE = 32  # a small square lets small images through to the decoders
CPU_S = 2.0
MEMORY_BYTES = 512 << 20
WITNESS = "plain.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one image ended: its code or `decoded`, a digest of what came of it, and what it took of this process."""

    code: str
    digest: str
    cpu_s: float
    wall_s: float
    memory_bytes: int


def run(mutant_count: int, seed: int) -> list[Findings]:
    """Bombs made to measure, the Pillow corpus, then mutants of it and of our own photographs."""
    corpus, own = pillow_images(), own_images()
    return [
        _through("bombs", bombs(), own[WITNESS]),
        _through("images of the Pillow source distribution", corpus.items(), own[WITNESS]),
        _through(f"mutants, seed {seed}", mutants({**corpus, **own}, mutant_count, seed), own[WITNESS]),
    ]


def _through(part: str, images: Iterable[tuple[str, bytes]], witness: bytes) -> Findings:
    """Each image once, then all of them again through another decoder, last first: no answer may hang on the order."""
    found, kept = Findings(part=part), list(images)
    began_s = time.monotonic()
    first = [_judged(found, name, ending) for name, ending in _decoded(kept)]
    found.facts["images a second"] = f"{len(kept) / (time.monotonic() - began_s):.0f}"
    again = [ending for _, ending in _decoded(kept[::-1])][::-1]
    for (name, _), one, other in zip(kept, first, again, strict=True):
        found.expect(
            (one.code, one.digest) == (other.code, other.digest), f"{name}: {one.code}, and {other.code} on replay"
        )
    (_, alive) = next(_decoded([("witness", witness)]))
    found.expect(alive.code == "decoded", "a good photograph is no longer decoded")
    found.facts["most CPU time in the worker"] = f"{max(ending.cpu_s for ending in first):.2f} s"
    found.facts["longest"] = f"{max(ending.wall_s for ending in first):.2f} s"
    found.facts["most memory in the worker"] = f"{max(ending.memory_bytes for ending in first) >> 20} MiB"
    found.facts["longest by name"] = max(zip(kept, first, strict=True), key=lambda pair: pair[1].wall_s)[0][0]
    return found


def _judged(found: Findings, name: str, ending: Ending) -> Ending:
    found.ended(ending.code)
    found.expect(
        ending.code == "decoded" or ending.code in set(ViewCode), f"{name}: {ending.code} is no code of a view"
    )
    found.expect(ending.cpu_s < CPU_S, f"{name}: {ending.cpu_s:.1f} s of CPU time")
    found.expect(ending.memory_bytes < MEMORY_BYTES, f"{name}: {ending.memory_bytes >> 20} MiB")
    return ending


def _decoded(images: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, Ending]]:
    decoder = PillowDecoder(SIZE, threads=1, limits=DecodeLimits(), helpers=1)
    try:
        for name, blob in images:
            yield name, _ending(decoder, blob)
    finally:
        decoder.close()


def _ending(decoder: PillowDecoder, blob: bytes) -> Ending:
    """One image at a time, so that what this process takes is that image's doing."""
    before = _memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    try:
        result: Decoded | ImageFault | Exception = decoder.decode([blob])[0].result()
    except Exception as error:
        result = error
    return Ending(
        code=_code(result),
        digest=hashlib.sha256(result.pixels.tobytes()).hexdigest() if isinstance(result, Decoded) else "",
        cpu_s=time.process_time() - cpu_began_s,
        wall_s=time.monotonic() - began_s,
        memory_bytes=max(0, _memory_bytes("VmHWM") - before),
    )


def _code(result: Decoded | ImageFault | Exception) -> str:
    if isinstance(result, Decoded):
        return "decoded"
    return result.code if isinstance(result, ImageFault) else f"raised {type(result).__name__}: {result}"


def _memory_bytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
