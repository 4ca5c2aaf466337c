"""One job as one self-contained HTML page: no address outside it, every field of the job escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from schemas.codes import ReasonCode
from schemas.verdict import Reason, VerdictEvent
from worker.report.entry import DeadEnd, ReportEntry
from worker.report.panels import ViewPanel, view_panel
from worker.report.words import ADVICE, FINDINGS, REASONS, STANDING, humanised, number, percent, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonLine:
    """A reason as a person reads it, with all views that it concerns; none: the whole item."""

    code: str
    title: str
    views: tuple[str, ...]
    details: tuple[str, ...]
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    judged: int
    asked: int
    missing: tuple[str, ...]
    unusable: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    label: str
    value: str


def render_page(entry: ReportEntry) -> str:
    """The report of one judged job as HTML. Raises ValueError for a dead letter, which has no page."""
    event = entry.outcome
    if isinstance(event, DeadEnd):
        raise ValueError(f"job {event.job_id} is a dead letter ({event.code}); it has no verdict to report")
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            standing=STANDING,
            verdict=event.verdict.value,
            finding=FINDINGS[event.verdict],
            confidence=confidence_line(event),
            p_genuine=percent(event.p_genuine),
            identity=_identity(entry, event),
            coverage=coverage(event),
            reasons=reason_lines(event.reasons),
            views=_panels(event, entry),
            nearest=[plain(sku) for sku in event.nearest_skus],
            footer=_footer(event, entry),
            engines=_engines(event),
            title=f"{plain(event.sku)}, job {plain(event.job_id)}",
            truth=entry.truth,
            degraded=event.provenance.degraded,
        )
    )


def templates() -> Environment:
    return Environment(
        loader=PackageLoader("worker.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def confidence_line(event: VerdictEvent) -> str:
    return "none stated" if event.confidence is None else percent(event.confidence)


def reason_lines(reasons: Sequence[Reason]) -> list[ReasonLine]:
    """One line a code, in the order of the codes' first reasons."""
    by_code: dict[ReasonCode, list[Reason]] = {}
    for reason in reasons:
        by_code.setdefault(reason.code, []).append(reason)
    return [_reason_line(code, found) for code, found in by_code.items()]


def _reason_line(code: ReasonCode, reasons: Sequence[Reason]) -> ReasonLine:
    return ReasonLine(
        code=code.value,
        title=REASONS[code],
        views=tuple(dict.fromkeys(humanised(reason.view) for reason in reasons if reason.view)),
        details=tuple(dict.fromkeys(plain(reason.detail) for reason in reasons if reason.detail)),
        advice=ADVICE.get(code, ""),
    )


def coverage(event: VerdictEvent) -> Coverage:
    unusable = tuple(humanised(view.view) for view in event.views if not view.usable)
    return Coverage(
        judged=len(event.views) - len(unusable),
        asked=len(event.views) + len(set(event.missing_views) - {view.view for view in event.views}),
        missing=tuple(humanised(view) for view in event.missing_views),
        unusable=unusable,
    )


def _panels(event: VerdictEvent, entry: ReportEntry) -> list[ViewPanel]:
    return [
        view_panel(view, event.tenant, entry.photographs, [r for r in event.reasons if r.view == view.view])
        for view in event.views
    ]


def _identity(entry: ReportEntry, event: VerdictEvent) -> list[Fact]:
    facts = [("SKU", event.sku), ("Category", humanised(event.category)), ("Tenant", event.tenant)]
    facts.append(("Job", event.job_id))
    if entry.note:
        facts.append(("Note", entry.note))
    return _facts(facts)


def _footer(event: VerdictEvent, entry: ReportEntry) -> list[Fact]:
    provenance = event.provenance
    calibrated_on = "n not recorded" if entry.calibration_n is None else f"n = {entry.calibration_n}"
    calibration = f"{provenance.calibration_id} ({calibrated_on})" if provenance.calibration_id else "none"
    return _facts(
        [
            ("Job", event.job_id),
            ("Result", f"{event.result_id} (revision {event.revision})"),
            ("Judged", event.judged_at.strftime("%Y-%m-%d %H:%M:%S UTC")),
            ("Gallery revision", str(provenance.gallery_revision)),
            ("Score calibration", calibration),
            ("Build", provenance.build),
            ("Payload digest", event.payload_digest),
            ("Time taken", f"{number(event.timings.total_ms, 0)} ms from submission to verdict"),
        ]
    )


def _engines(event: VerdictEvent) -> list[dict[str, str]]:
    return [
        {
            "name": plain(engine.name),
            "precision": plain(engine.precision),
            "backend": plain(engine.backend),
            "digest": plain(engine.digest),
            "space": plain(engine.embedding_space),
        }
        for engine in event.provenance.engines
    ]


def _facts(pairs: Iterable[tuple[str, str]]) -> list[Fact]:
    return [Fact(label=label, value=plain(value)) for label, value in pairs]
