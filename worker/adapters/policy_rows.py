"""Category profiles and score calibrations as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import structlog
from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects.postgresql import insert

from migrations.tables import calibrations, categories, view_requirements
from worker.core.policy import CategoryProfile, Policy, QualityLimits, ScoreCalibration, ViewRequirement
from worker.core.policy_json import from_json, to_json

LIMITS = ("min_sharpness", "min_brightness", "max_brightness", "max_clipped", "max_glare", "min_placed")
_log = structlog.get_logger()


def read_policy(connection: Connection) -> Policy:
    """All profiles, and the active calibrations, newest first."""
    views = connection.execute(select(view_requirements).order_by(view_requirements.c.position)).all()
    profiles = [_profile(row, views) for row in connection.execute(select(categories))]
    active = select(calibrations.c.document).where(calibrations.c.active)
    documents = connection.scalars(active.order_by(calibrations.c.created_at.desc(), calibrations.c.id))
    return Policy(
        profiles={profile.category: profile for profile in profiles},
        calibrations=tuple(_readable(documents)),
    )


def _readable(documents: Iterable[Mapping[str, Any]]) -> Iterator[ScoreCalibration]:
    """One of another version is passed over: its engines' verdicts are inconclusive until one is fitted anew."""
    for document in documents:
        try:
            yield from_json(document)
        except ValueError as error:
            _log.error("calibration_unreadable", calibration_id=document.get("calibration_id"), detail=str(error))


def write_profiles(connection: Connection, profiles: Sequence[CategoryProfile]) -> None:
    """Enter or replace the profiles, roles and all."""
    for profile in profiles:
        row = _category(profile)
        statement = insert(categories).values(row)
        connection.execute(statement.on_conflict_do_update(index_elements=["category"], set_=row))
        connection.execute(delete(view_requirements).where(view_requirements.c.category == profile.category))
        if profile.views:
            connection.execute(view_requirements.insert(), _requirements(profile))


def write_calibration(connection: Connection, calibration: ScoreCalibration, *, n: int) -> None:
    """Make it the one active calibration of its backend and engines."""
    digests = sorted(calibration.engine_digests)
    same = (calibrations.c.backend == calibration.backend) & (calibrations.c.engine_digests == digests)
    connection.execute(update(calibrations).where(same).values(active=False))
    row = {
        "id": calibration.calibration_id,
        "backend": calibration.backend,
        "engine_digests": digests,
        "document": to_json(calibration),
        "n": n,
        "active": True,
    }
    statement = insert(calibrations).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))


def _profile(row: Row[Any], views: Sequence[Row[Any]]) -> CategoryProfile:
    return CategoryProfile(
        category=row.category,
        views=tuple(_requirement(view) for view in views if view.category == row.category),
        alpha_accept=row.alpha_accept,
        alpha_reject=row.alpha_reject,
        prior_genuine=row.prior_genuine,
        min_references=row.min_references,
        quality=QualityLimits(**{name: getattr(row, name) for name in LIMITS}),
    )


def _requirement(row: Row[Any]) -> ViewRequirement:
    masked = tuple((left, top, right, bottom) for left, top, right, bottom in row.masked)
    quality = None if row.quality is None else _own_limits(row.quality)
    return ViewRequirement(view=row.view, required=row.required, critical=row.critical, masked=masked, quality=quality)


def _own_limits(stored: Mapping[str, float]) -> QualityLimits:
    """Those that this build knows: a newer one may have entered more, beside which this one works."""
    return QualityLimits(**{name: stored[name] for name in LIMITS if name in stored})


def _category(profile: CategoryProfile) -> dict[str, object]:
    return {
        "category": profile.category,
        "alpha_accept": profile.alpha_accept,
        "alpha_reject": profile.alpha_reject,
        "prior_genuine": profile.prior_genuine,
        "min_references": profile.min_references,
        **asdict(profile.quality),
    }


def _requirements(profile: CategoryProfile) -> list[dict[str, object]]:
    return [
        {
            "category": profile.category,
            "view": view.view,
            "position": position,
            "required": view.required,
            "critical": view.critical,
            "masked": [list(rectangle) for rectangle in view.masked],
            "quality": None if view.quality is None else asdict(view.quality),
        }
        for position, view in enumerate(profile.views)
    ]
