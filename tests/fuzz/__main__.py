"""`python -m tests.fuzz [PART ...]`: hostile input of every kind; prints how it ended, and ends with 1 on any fault."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from tests.fuzz import addresses, images, messages, mixed, tampered
from tests.fuzz.findings import Findings, closing_line
from worker.observe import configure_logs

Part = Callable[[argparse.Namespace], list[Findings]]
PARTS: dict[str, Part] = {
    "images": lambda given: images.run(given.mutants, given.seed),
    "messages": lambda given: messages.run(given.messages, given.seed),
    "addresses": lambda given: addresses.run(),
    "engines": lambda given: tampered.run(given.engines, given.seed),
    "mixed": lambda given: mixed.run(given.good_jobs, given.seed),
}


def main(argv: Sequence[str] | None = None) -> int:
    given = _arguments(argv)
    configure_logs(level="error", form="console")
    found: list[Findings] = []
    for name in given.parts or PARTS:
        began_s = time.monotonic()
        made = PARTS[name](given)
        _say([line for part in made for line in part.lines()] + [f"  in {time.monotonic() - began_s:.0f} s", ""])
        found += made
    _say([closing_line(found)])
    return 1 if any(part.faults for part in found) else 0


def _say(lines: Sequence[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none is all of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutants", type=int, default=5000, help="mutants of images")
    parser.add_argument("--messages", type=int, default=2000, help="malformed messages")
    parser.add_argument("--engines", type=int, default=200, help="tampered engines")
    parser.add_argument("--good-jobs", type=int, default=900, help="good jobs of the mixed run; one in ten is hostile")
    given = parser.parse_args(argv)
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    return given


if __name__ == "__main__":
    sys.exit(main())
