"""Section `gallery`: exact search of a million embeddings on the device, and patch features compared: G17."""

from __future__ import annotations

from benchmarks.gpu.record import Section
from benchmarks.gpu_gallery import compared, searched
from engines.gpu.device import Device

ROWS = 1_000_000


def gallery_section(section: Section) -> None:
    if section.dry:
        section.fact("not dry", "the search is the device's alone; its twin is tested in tests/unit")
        return
    device = Device()
    try:
        found = section.step("search", 60, lambda: searched(device, ROWS))
        if found is not None:
            told = {name: value for name, value in found.items() if not isinstance(value, dict)}
            exact = float(str(found["recall"])) == 1.0
            section.find("G17", float(str(found["search with copies, ms"])) if exact else None, str(told))
        section.step("compare", 30, lambda: compared(device))
    finally:
        device.close()
