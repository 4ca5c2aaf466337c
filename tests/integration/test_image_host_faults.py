"""F14: whatever a tenant's image host does, its view gets one typed code. What may pass is tried again and is then
unreachable; what will not pass makes the view unusable at once; the job's other view is judged all the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from image_host import BODY, LIMIT, Server, run, serving

from schemas.codes import ViewCode
from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord, Source
from worker.adapters.images import RoutedImages
from worker.errors import ServiceUnavailable
from worker.fetching import FetchLimits, FetchStage
from worker.handoff import Handoff
from worker.outcomes import Outcome, Retry
from worker.work import Fetched, Received

ATTEMPTS = 3
TRANSIENT = {
    "500": "/status/500",
    "slow": "/drip",
    "slow head": "/dripheaders",
    "truncated": "/cutchunk",
    "wrong length": "/short",
    "no HTTP": "/garbage",
}
PERMANENT = {
    "403": ("/status/403", ViewCode.FORBIDDEN),
    "404": ("/status/404", ViewCode.NOT_FOUND),
    "redirect to the metadata service": ("/redirect", ViewCode.URI_NOT_ALLOWED),
    "larger than allowed": ("/announced", ViewCode.TOO_LARGE),
    "changed after the job was sent": ("/other", ViewCode.DIGEST_MISMATCH),
}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Server]:
    yield from run(*serving(tmp_path))


def received(urls: dict[str, str], attempt: int) -> Received:
    digest = hashlib.sha256(BODY).hexdigest()
    job = AuthenticationJob(
        job_id="j1",
        tenant="t",
        sku="s",
        category="bag",
        submitted_at=datetime(2026, 1, 1, tzinfo=UTC),
        views=tuple(JobView(view=view, sha256=digest, uri=url) for view, url in urls.items()),
        payload_digest="d",
    )
    source = Source(topic="assay.jobs", partition=0, offset=7)
    record = InputRecord(source=source, epoch=1, key=job.key, value=b"", headers=(), timestamp_ms=0)
    seen = datetime(2026, 1, 1, tzinfo=UTC)
    return Received(record=record, job=job, attempt=attempt, first_seen=seen, received_s=0.0, held_bytes=0)


def fetched(shop: Server, path: str, *, attempt: int, quick: bool = False) -> Fetched | Outcome:
    """A job of one good view and one at `path`."""

    def paused(outage: ServiceUnavailable) -> None:
        raise AssertionError(f"one tenant's host must not pause intake: {outage}")

    images = RoutedImages(max_bytes=LIMIT, https=shop.quick() if quick else shop.options, resolve=shop.resolve)
    stage = FetchStage(
        images=images,
        jobs=Handoff("a", 1),
        fetched=Handoff("b", 1),
        settle=Handoff("c", 1),
        limits=FetchLimits(attempts=ATTEMPTS, retry_delays_s=(5,), slow_after_s=60.0, slow_topic="assay.jobs.slow"),
        outage=paused,
        release=lambda count: None,
    )
    try:
        return stage.fetch(received({"logo": shop.url("/ok"), "serial": shop.url(path)}, attempt))
    finally:
        images.close()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("path", TRANSIENT.values(), ids=TRANSIENT)
def test_what_may_pass_is_tried_again_and_then_unreachable(shop: Server, path: str) -> None:
    first, last = (fetched(shop, path, attempt=attempt, quick=True) for attempt in (1, ATTEMPTS))
    assert isinstance(first, Retry) and first.due > datetime.now(UTC)
    assert isinstance(last, Fetched)
    assert [view.view for view, _ in last.images] == ["logo"]
    assert [(view.view, view.code) for view in last.unusable] == [("serial", ViewCode.UNREACHABLE)]


@pytest.mark.parametrize("path, code", PERMANENT.values(), ids=PERMANENT)
def test_what_will_not_pass_makes_the_view_unusable_at_once(shop: Server, path: str, code: ViewCode) -> None:
    got = fetched(shop, path, attempt=1)
    assert isinstance(got, Fetched)
    assert [view.view for view, _ in got.images] == ["logo"]
    assert [(view.view, view.code) for view in got.unusable] == [("serial", code)]


def test_a_name_rebound_to_a_private_address_is_refused_and_never_connected_to(shop: Server) -> None:
    shop.answers = [["127.0.0.1"], ["10.0.0.1"]]
    got = fetched(shop, "/ok", attempt=1)
    assert isinstance(got, Fetched)
    assert [(view.view, view.code) for view in got.unusable] == [("serial", ViewCode.URI_NOT_ALLOWED)]


def test_a_host_that_is_away_is_unreachable_in_the_end(shop: Server) -> None:
    shop.answers = [["127.0.0.1"], ["127.0.0.3"]]  # nobody listens there
    assert isinstance(fetched(shop, "/ok", attempt=1), Retry)
    shop.answers = [["127.0.0.1"], ["127.0.0.3"]]
    got = fetched(shop, "/ok", attempt=ATTEMPTS)
    assert isinstance(got, Fetched)
    assert [view.code for view in got.unusable] == [ViewCode.UNREACHABLE]
