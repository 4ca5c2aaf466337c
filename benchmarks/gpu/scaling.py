"""Section `gpus`: one worker a GPU, photographs by URI, at one, two and four GPUs of one host: G12."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from benchmarks.gpu.loading import saturated, shared
from benchmarks.gpu.machine import gpus
from benchmarks.gpu.photographs import USUAL
from benchmarks.gpu.record import Section
from benchmarks.gpu.serving import Deployed, Load
from benchmarks.gpu.standing import standing

COUNTS: Final = (1, 2, 4)
TIMED_S: Final = 12.0


def gpus_section(section: Section) -> None:
    engine = "tiny_resnet" if section.dry else "resnet50"
    there = 2 if section.dry else len(gpus())
    section.fact("GPUs there", there)
    with standing(section, (engine,)) as stand:
        if stand is not None and (place := stand.deployed(engine)) is not None:
            _measured(section, place, stand.load(USUAL), [n for n in COUNTS if n <= there])


def _measured(section: Section, place: Deployed, load: Load, counts: Sequence[int]) -> None:
    pilot = section.step("pilot", 15, lambda: saturated(place, load, 12 if section.dry else 600, "pilot").jobs_per_s)
    rates: dict[int, float] = {}
    for count in counts:
        jobs = 16 * count if section.dry else int((pilot or 300.0) * count * TIMED_S)
        settings = [{"CUDA_VISIBLE_DEVICES": str(n)} for n in range(count)]
        rate = section.step(f"{count} GPUs", 40, partial(shared, place, load, jobs, f"gpus-{count}", settings))
        if rate is not None:
            rates[count] = rate
            section.fact("jobs/s by GPUs", {str(n): round(r, 1) for n, r in rates.items()})
    for count in (n for n in counts if n > 1 and n in rates and 1 in rates):
        section.find(f"G12-x{count}", rates[count] / (count * rates[1]), str({n: round(r) for n, r in rates.items()}))
