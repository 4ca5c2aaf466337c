"""INT8 against its float twin on the evaluation's jobs: `python -m demo.twins [SKUS]`, of the plan's first SKUs.

Both meet the INT8 gallery and the shipped score calibration, so that the arithmetic of the encoder is all that differs.
"""

from __future__ import annotations

import sys
from collections import Counter

from rich.console import Console

from demo.evaluate.photographs import manifest, render_all
from demo.evaluate.plan import first_skus, full
from demo.float_twin import twin_verdicts
from demo.framing import open_bench
from demo.mixed import gallery, judged
from schemas.codes import Verdict
from worker.items import read_items

SKUS = 60


def main() -> None:
    console, plan = Console(), first_skus(full(), int(sys.argv[1]) if len(sys.argv) > 1 else SKUS)
    folder = render_all(plan, progress=lambda done, of: None)
    jobs = read_items(manifest(folder, "twins", [*plan.genuine, *plan.forged]))
    int8 = open_bench()
    held = gallery(int8, read_items(manifest(folder, "twins-references", plan.references)))
    said = [one.verdict for one in judged(int8, held, jobs)]
    floats = twin_verdicts(jobs, int8.encoder, held)
    changes = Counter((a.value, b.value) for a, b in zip(said, floats, strict=True) if a is not b)
    soft = sum(n for pair, n in changes.items() if Verdict.INCONCLUSIVE.value in pair)
    console.print(
        f"{len(jobs)} jobs, {len(plan.skus)} SKUs: {changes.total() - soft} verdicts flipped, {soft} changed to or"
    )
    console.print(f"from inconclusive: {dict(changes)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
