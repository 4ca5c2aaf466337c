"""What a soak run measures of one worker over time: samples, the trend of each quantity, a table and a plot."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

MIB = 1024 * 1024
WARM_SHARE = 0.2  # of a run passes before its trend counts: pools open, caches fill
WIDTH, HEIGHT, LEFT, TOP = 900, 110, 150, 26  # of one panel, px
Buckets = Mapping[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One worker at `at_s` of the run. `p99_s` and `jobs_s` are of the time since the sample before."""

    at_s: float
    rss_mib: float
    descriptors: int
    threads: int
    connections: int
    jobs_s: float
    p99_s: float | None  # None: no job was judged meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Least squares: `slope` a hour and its standard error, widened by how much neighbouring residuals agree."""

    slope: float
    error: float

    def clearly_above(self, limit: float) -> bool:
        return self.slope - 3.0 * self.error > limit

    def __str__(self) -> str:
        return f"{self.slope:+.2f} ± {self.error:.2f} an hour"


QUANTITIES: Mapping[str, Callable[[Sample], float | None]] = {
    "memory, MiB": lambda one: one.rss_mib,
    "descriptors": lambda one: one.descriptors,
    "threads": lambda one: one.threads,
    "connections": lambda one: one.connections,
    "p99 latency, s": lambda one: one.p99_s,
    "jobs a second": lambda one: one.jobs_s,
}


def latency_buckets(health: str) -> Buckets:
    """Cumulative counts of assay_job_seconds by upper bound, as the worker's page has them. Raises OSError."""
    with urllib.request.urlopen(f"{health}/metrics", timeout=5.0) as page:  # noqa: S310 (our own worker)
        text = page.read().decode()
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "assay_job_seconds_bucket"
    }


def quantile(before: Buckets, after: Buckets, share: float) -> float | None:
    """Seconds below which `share` of the jobs between two looks were; between two bounds of buckets, by a line."""
    counts = [(bound, after[bound] - before.get(bound, 0.0)) for bound in sorted(after)]
    if not counts or counts[-1][1] <= 0.0:
        return None
    wanted, low_s, below = share * counts[-1][1], 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            return low_s if math.isinf(bound) else low_s + (bound - low_s) * (wanted - below) / (count - below)
        low_s, below = bound, count
    return low_s


def trend(points: Sequence[tuple[float, float]]) -> Trend | None:
    """Of (seconds, value); None for fewer than five points."""
    if len(points) < 5:
        return None
    hours, values = [at_s / 3600.0 for at_s, _ in points], [value for _, value in points]
    middle, mean = sum(hours) / len(hours), sum(values) / len(values)
    spread = sum((hour - middle) ** 2 for hour in hours)
    slope = sum((h - middle) * (v - mean) for h, v in zip(hours, values, strict=True)) / spread
    rest = [v - mean - slope * (h - middle) for h, v in zip(hours, values, strict=True)]
    square = sum(r * r for r in rest)
    alike = sum(a * b for a, b in pairwise(rest)) / square if square else 0.0
    alike = min(0.95, max(0.0, alike))
    error = math.sqrt(square / (len(points) - 2) / spread * (1.0 + alike) / (1.0 - alike))
    return Trend(slope=slope, error=error)


def trends(samples: Sequence[Sample], duration_s: float) -> dict[str, Trend | None]:
    warm = [one for one in samples if one.at_s >= WARM_SHARE * duration_s]
    return {name: trend(_points(warm, read)) for name, read in QUANTITIES.items()}


def table(samples: Sequence[Sample], *, most_rows: int = 20) -> str:
    """Markdown, of evenly chosen samples."""
    step = max(1, math.ceil(len(samples) / most_rows))
    lines = ["| minute | " + " | ".join(QUANTITIES) + " |", "|---" * (len(QUANTITIES) + 1) + "|"]
    for one in samples[::step]:
        cells = [_shown(read(one)) for read in QUANTITIES.values()]
        lines.append(f"| {one.at_s / 60.0:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(samples: Sequence[Sample], faults: Iterable[tuple[float, str]]) -> str:
    """An SVG: one panel a quantity over the minutes of the run, with a line at each fault."""
    end_s = max((one.at_s for one in samples), default=1.0) or 1.0
    marks = [(LEFT + (WIDTH - LEFT - 10) * min(1.0, at_s / end_s), what) for at_s, what in faults]
    panels = [
        _panel(name, _points(samples, read), end_s, TOP + place * HEIGHT, marks)
        for place, (name, read) in enumerate(QUANTITIES.items())
    ]
    height = TOP + HEIGHT * len(QUANTITIES) + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{LEFT}" y="16">{end_s / 60.0:.1f} minutes; dashed: a fault</text>{"".join(panels)}</svg>\n'
    )


def _panel(
    name: str, points: Sequence[tuple[float, float]], end_s: float, top: int, marks: Sequence[tuple[float, str]]
) -> str:
    low, high = min((v for _, v in points), default=0.0), max((v for _, v in points), default=1.0)
    bottom, tall, wide = top + HEIGHT - 22, HEIGHT - 32, WIDTH - LEFT - 10
    scale = tall / (high - low) if high > low else 0.0
    line = " ".join(f"{LEFT + wide * at_s / end_s:.1f},{bottom - scale * (v - low):.1f}" for at_s, v in points)
    dashes = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom - tall}" y2="{bottom}" stroke="#c44" stroke-dasharray="3 3">'
        f"<title>{escape(what)}</title></line>"
        for x, what in marks
    )
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{bottom}" y2="{bottom}" stroke="#aaa"/>{dashes}'
        f'<text x="8" y="{top + HEIGHT // 2}">{escape(name)}</text>'
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">{_shown(low)}</text>'
        f'<text x="{LEFT - 6}" y="{bottom - tall + 10}" text-anchor="end">{_shown(high)}</text>'
        f'<polyline points="{line}" fill="none" stroke="#246" stroke-width="1.5"/>'
    )


def _points(samples: Iterable[Sample], read: Callable[[Sample], float | None]) -> list[tuple[float, float]]:
    return [(one.at_s, value) for one in samples if (value := read(one)) is not None]


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}" if value < 10 else f"{value:.1f}"
