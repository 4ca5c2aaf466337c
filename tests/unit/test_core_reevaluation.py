"""What a past verdict may be decided again from, and the job that asks for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from schemas.codec import checked_job
from schemas.job import JobView, kept_uri, probe_uri
from schemas.verdict import EngineUse
from worker.core.policy import ScoreCalibration
from worker.core.reevaluation import Again, Means, OutOfReach, PastVerdict, PastView, Unreached, plan

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
ENGINE = EngineUse(name="resnet", digest="d" * 64, backend="openvino", precision="int8", embedding_space="space-1")
CALIBRATION = ScoreCalibration(
    calibration_id="cal", backend="openvino", engine_digests=frozenset({ENGINE.digest, "other"}), views={},
    genuine_scores={}, counterfeit_scores={},
)  # fmt: skip
LOGO = PastView(
    view="logo", sha256="1" * 64, usable=True, encoder="resnet", media_type="image/png", spaces=frozenset({"space-1"})
)
LINING = replace(LOGO, view="lining", sha256="2" * 64, media_type=None)
BROKEN = PastView(
    view="serial", sha256="3" * 64, usable=False, encoder=None, media_type=None, spaces=frozenset(),
)  # fmt: skip


def past(*views: PastView, sent: tuple[str | None, ...] | None = None, **changes: object) -> PastVerdict:
    """A verdict of a job whose photographs were sent as `sent` says, else as the views do."""
    views = views or (LOGO, LINING, BROKEN)
    types = sent or tuple(view.media_type for view in views)
    job = checked_job(
        job_id="job-1", tenant="acme", sku="SKU-1", category="bag", submitted_at=NOON, labels={"subject": "7"},
        views=[
            JobView(view=v.view, sha256=v.sha256, uri="https://gone/", media_type=t)
            for v, t in zip(views, types, strict=True)
        ],
    )  # fmt: skip
    made = PastVerdict(
        tenant="acme", job_id="job-1", result_id=uuid4(), revision=1, sku="SKU-1", category="bag", verdict="authentic",
        p_genuine=0.9, judged_at=NOON, submitted_at=NOON, serial=None, labels={"subject": "7"},
        payload_digest=job.payload_digest, engines=(ENGINE,), one_look=True, views=views,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def means(
    space: str = "space-1", kept: tuple[str, ...] = (), rerun: bool = False, calibrated: bool = True
) -> Means:  # fmt: skip
    return Means(
        space_now=lambda category, view: space,
        calibrations=(CALIBRATION,) if calibrated else (),
        holds=lambda tenant, sha256: sha256 in kept,
        rerun=rerun,
    )


BOTH = (LOGO.sha256, LINING.sha256)


def asked(found: Again | Unreached) -> Again:
    assert isinstance(found, Again), found
    return found


def test_stored_evidence_decides_where_todays_engines_share_its_space() -> None:
    again = asked(plan(past(), means(kept=BOTH)))
    assert again.decided_from == "stored"
    assert [view.uri for view in again.job.views] == [probe_uri("space-1"), probe_uri("space-1"), probe_uri("none")]
    assert (again.job.supersedes, again.job.priority, again.job.deadline) == (1, "bulk", None)
    assert again.job.payload_digest == again.past.payload_digest


@pytest.mark.parametrize(
    ("verdict", "with_what"),
    [
        (past(), means("space-2", BOTH)),
        (past(), means(kept=BOTH, rerun=True)),
        (past(), means(kept=BOTH, calibrated=False)),
        (past(one_look=False), means(kept=BOTH)),
        (past(replace(LOGO, spaces=frozenset({"space-0"})), LINING), means(kept=BOTH)),
        (past(engines=()), means(kept=BOTH)),
        (past(engines=(replace(ENGINE, digest="e" * 64),)), means(kept=BOTH)),
        (past(engines=(replace(ENGINE, backend="tensorrt"),)), means(kept=BOTH)),
    ],
    ids=["space", "asked for", "calibration", "other engines between", "no probe", "engine", "digest", "backend"],
)
def test_else_the_photographs_do(verdict: PastVerdict, with_what: Means) -> None:
    again = asked(plan(verdict, with_what))
    assert again.decided_from == "photographs"
    wanted = [kept_uri(v.sha256) if v.usable else probe_uri("none") for v in verdict.views]
    assert [view.uri for view in again.job.views] == wanted


def test_a_job_is_decided_again_whole_or_not_at_all() -> None:
    found = plan(past(), means("space-2", kept=BOTH[:1]))
    assert isinstance(found, Unreached)
    assert (found.why, found.views) == (OutOfReach.PHOTOGRAPHS_GONE, ("lining",))


@pytest.mark.parametrize("media_type", [None, "image/jpeg", "image/png", "image/webp"])
def test_media_types_that_were_not_written_down_are_found_by_the_digest(media_type: str | None) -> None:
    views = tuple(replace(view, media_type=None) for view in (LOGO, LINING))
    again = asked(plan(past(*views, sent=(media_type, media_type)), means()))
    assert [view.media_type for view in again.job.views] == [media_type] * 2


def test_content_that_cannot_be_restored_is_out_of_reach() -> None:
    views = tuple(replace(view, media_type=None) for view in (LOGO, LINING))
    found = plan(past(*views, sent=("image/jpeg", "image/heic")), means())
    assert isinstance(found, Unreached)
    assert found.why is OutOfReach.CONTENT_UNKNOWN


def test_the_next_revision_is_asked_of_the_latest() -> None:
    assert asked(plan(past(revision=4), means())).job.revision == 5
