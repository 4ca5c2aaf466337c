"""Quality limits for the demo's profiles, from the photographs of the calibration's SKUs: `python -m demo.limits`.

What honest photographs of a category's view measure, and some room: nothing that the evaluation judges is looked at.
`min_placed` depends on the encoders that are shipped: make the limits anew with them.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console

from demo.framing import honest, least_placed, open_bench
from demo.photographs import references
from demo.recalibrate import calibration_set, calibration_skus, rendered
from engines.preprocess import resized
from engines.quality import QualityMeasures, measured
from worker.core.policy import QualityLimits
from worker.items import Item, read_items

SIDE_PX = 448
LIMITS = ("min_sharpness", "min_brightness", "max_brightness", "max_clipped", "max_glare")
# Six tenths of the least sharp, and a fifth beyond the darkest, the brightest and the most burnt out.
SHARPNESS_ROOM, ROOM = 0.6, 0.2
LEAST_CLIPPED, LEAST_GLARE = 0.01, 0.02  # shares: a lamp's reflection is no fault


def limits_of(found: Sequence[QualityMeasures]) -> QualityLimits:
    """Limits that all of these photographs pass, with room."""
    brightness = np.array([one.brightness for one in found])
    clipped = max(one.clipped_low + one.clipped_high for one in found)
    return QualityLimits(
        min_sharpness=round(SHARPNESS_ROOM * min(one.sharpness for one in found), 1),
        min_brightness=round(float(brightness.min()) * (1 - ROOM), 3),
        max_brightness=round(float(brightness.max()) + ROOM * float(1 - brightness.max()), 3),
        max_clipped=round(max(LEAST_CLIPPED, clipped * (1 + ROOM)), 3),
        max_glare=round(max(LEAST_GLARE, max(one.glare for one in found) * (1 + ROOM)), 3),
    )


def by_view(items: Sequence[Item]) -> Mapping[tuple[str, str], list[QualityMeasures]]:
    """By category and view, the photographs of genuine items."""
    found: dict[tuple[str, str], list[QualityMeasures]] = defaultdict(list)
    for item in items:
        for view, path in item.views.items():
            if item.label == "genuine":
                found[item.category, view].append(_measured(Path(path)))
    return found


def _measured(path: Path) -> QualityMeasures:
    """On the square that encoders look at."""
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        return measured(resized(ImageOps.exif_transpose(opened).convert("RGB"), SIDE_PX))


def main() -> None:
    console = Console()
    items = read_items(rendered("calibration-references", references(calibration_skus()), console))
    placed = least_placed(honest(open_bench(), items))
    for category, least in sorted(placed.items()):
        console.print(f"{category}: quality = {{ min_placed = {least} }}", highlight=False)
    labelled = read_items(rendered("calibration-items", calibration_set(), console))
    for (category, view), found in sorted(by_view([*items, *labelled]).items()):
        limits = limits_of(found)
        values = ", ".join(f"{name} = {getattr(limits, name)}" for name in LIMITS)
        told = f"{category} {view} ({len(found)} photographs): quality = {{ {values} }}"
        console.print(told, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
