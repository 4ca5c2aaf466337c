"""Many jobs as one index page with a page of its own for each: truth beside verdict, and a filter without scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.codes import Verdict
from schemas.verdict import VerdictEvent
from worker.report.entry import DeadEnd, ReportEntry
from worker.report.page import confidence_line, reason_lines, render_page, templates
from worker.report.pictures import Picture, centre_square, decode, picture
from worker.report.words import FINDINGS, STANDING, humanised, plain

THUMBNAIL_PX = 112
REASONS_SHOWN = 3
KINDS = (*(verdict.value for verdict in Verdict), "dead")
EXPECTED = {"genuine": Verdict.AUTHENTIC, "counterfeit": Verdict.COUNTERFEIT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    name: str
    picture: Picture | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One job of the index. `page` is its file beside the index, "" for a dead letter."""

    kind: str
    title: str
    job_id: str
    note: str
    headline: str
    truth: str
    agreement: str
    confidence: str
    reasons: tuple[str, ...]
    thumbnails: tuple[Thumbnail, ...]
    page: str


def render_index(
    entries: Sequence[ReportEntry],
    out_dir: Path,
    *,
    title: str = "Assay: what came out",
    summary: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write `out_dir/index.html` and `out_dir/jobs/*.html`; return the index.

    `summary` is a list of (label, value) lines for the head of the page, such as measured accuracy.
    """
    jobs = out_dir / "jobs"
    jobs.mkdir(parents=True, exist_ok=True)
    rows = [_row(entry, _write_page(entry, jobs, number)) for number, entry in enumerate(entries, start=1)]
    index = out_dir / "index.html"
    index.write_text(_index_html(rows, title, summary), encoding="utf-8")
    return index


def _index_html(rows: Sequence[Row], title: str, summary: Sequence[tuple[str, str]]) -> str:
    counts = Counter(row.kind for row in rows)
    return (
        templates()
        .get_template("index.html.j2")
        .render(
            title=plain(title),
            standing=STANDING,
            summary=[(plain(label), plain(value)) for label, value in summary],
            rows=rows,
            filters=[(kind, counts[kind]) for kind in KINDS if counts[kind]],
        )
    )


def _write_page(entry: ReportEntry, folder: Path, number: int) -> str:
    """Write the job's page; its name holds nothing that the job says."""
    if isinstance(entry.outcome, DeadEnd):
        return ""
    path = folder / f"{number:04d}.html"
    path.write_text(render_page(entry), encoding="utf-8")
    return f"{folder.name}/{path.name}"


def _row(entry: ReportEntry, page: str) -> Row:
    if isinstance(entry.outcome, DeadEnd):
        return _dead_row(entry, entry.outcome)
    event = entry.outcome
    return Row(
        kind=event.verdict.value,
        title=plain(event.sku),
        job_id=plain(event.job_id),
        note=plain(entry.note),
        headline=FINDINGS[event.verdict].headline,
        truth=entry.truth or "",
        agreement=_agreement(entry, event.verdict),
        confidence=confidence_line(event),
        reasons=_reasons(event),
        thumbnails=tuple(_thumbnail(entry, event.tenant, view.view, view.sha256) for view in event.views),
        page=page,
    )


def _dead_row(entry: ReportEntry, dead: DeadEnd) -> Row:
    return Row(
        kind="dead",
        title=plain(dead.sku) or "unreadable job",
        job_id=plain(dead.job_id),
        note=plain(entry.note),
        headline="Dead letter: it could not be judged",
        truth=entry.truth or "",
        agreement="",
        confidence="none stated",
        reasons=(f"{humanised(dead.code.value)}: {plain(dead.detail)}",),
        thumbnails=(),
        page="",
    )


def _agreement(entry: ReportEntry, verdict: Verdict) -> str:
    if entry.truth is None:
        return ""
    if verdict is Verdict.INCONCLUSIVE:
        return "abstained"
    return "right" if EXPECTED[entry.truth] is verdict else "wrong"


def _reasons(event: VerdictEvent) -> tuple[str, ...]:
    lines = reason_lines(event.reasons)
    said = tuple(f"{line.title} ({', '.join(line.views)})" if line.views else line.title for line in lines)
    more = len(said) - REASONS_SHOWN
    return (*said[:REASONS_SHOWN], f"and {more} more") if more > 0 else said


def _thumbnail(entry: ReportEntry, tenant: str, view: str, sha256: str) -> Thumbnail:
    data = entry.photographs.view(tenant, sha256)
    pixels = decode(data, THUMBNAIL_PX * 2) if data is not None else None
    if pixels is None:
        return Thumbnail(name=humanised(view), picture=None)
    return Thumbnail(name=humanised(view), picture=picture(centre_square(pixels)[::2, ::2]))
