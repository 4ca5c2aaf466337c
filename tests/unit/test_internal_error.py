"""Code of ours that raises on what one job brings: that job is buried, the others of its group get their verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import structlog
from delivery_parts import NOW, TOPICS, job

from schemas import headers as names
from schemas.codec import header
from schemas.codes import ErrorCode
from schemas.job import AuthenticationJob
from tests.outcome_builders import a_job, a_record, an_evidence
from tests.unit.test_pipeline import FakeEncoder, FakePending, World, probe
from worker import judging
from worker.adapters.memory_caches import MemoryEvidence
from worker.core.decision import Judgement, judge
from worker.core.evidence import JobEvidence, UnusableView, ViewMatch, ViewProbe
from worker.core.gallery import GallerySnapshot
from worker.core.matching import NumpyMatcher
from worker.core.policy import Policy
from worker.errors import RejectJob, ServiceUnavailable
from worker.judging import JudgeStage
from worker.observe import Meter
from worker.outcomes import Judged, Rejected
from worker.ports import EncodeView
from worker.work import Embedded, Received


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A stack with every local variable takes a busy machine longer than all the rest."""
    with structlog.testing.capture_logs():
        yield


SENT = 20
BAD = "j7"


def raising(error: Exception) -> Callable[[Sequence[JobEvidence], Policy], list[Judgement]]:
    """The judge, but for the job BAD."""

    def planted(evidence: Sequence[JobEvidence], policy: Policy) -> list[Judgement]:
        if any(item.job.job_id == BAD for item in evidence):
            raise error
        return judge(evidence, policy)

    return planted


def embedded(number: int) -> Embedded:
    sent = a_job(f"j{number}")
    received = Received(
        record=a_record(number), job=sent, attempt=1, first_seen=NOW, received_s=0.0, held_bytes=1
    )  # fmt: skip
    view = (sent.views[0], b"photo %d" % number)
    return Embedded(received=received, evidence=an_evidence(sent), policy=Policy(profiles={}), images=(view,))


@dataclass
class Bench:
    """A judge stage with what it keeps, counts and traces."""

    def __post_init__(self) -> None:
        self.kept, self.meter, self.traced = MemoryEvidence(), Meter(), list[str]()
        self.stage = JudgeStage(evidence=self.kept, keep="all", build="test", meter=self.meter, trace=self.trace)

    def trace(self, jobs: Sequence[Embedded]) -> None:
        self.traced += [item.received.job.job_id for item in jobs]


def same_policy(count: int) -> list[Embedded]:
    first = embedded(0)
    return [dataclasses.replace(embedded(n), policy=first.policy) for n in range(count)]


def test_of_twenty_jobs_in_one_group_the_one_that_cannot_be_judged_is_buried(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, group = Bench(), same_policy(SENT)
    monkeypatch.setattr(judging, "judge", raising(IndexError("index 3 is out of bounds: secret 4711")))
    with structlog.testing.capture_logs() as log:
        outcomes = bench.stage(group)
    assert [outcome.record for outcome in outcomes] == [item.received.record for item in group]
    (letter,) = [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
    assert (letter.record.source.offset, letter.code, letter.stage) == (7, ErrorCode.INTERNAL_ERROR, "judge")
    assert "IndexError" in letter.detail and "4711" not in letter.detail
    assert sum(isinstance(outcome, Judged) for outcome in outcomes) == SENT - 1
    judged_once = sorted(f"j{n}" for n in range(SENT) if n != 7)
    assert sorted(bench.traced) == judged_once
    assert bench.meter.registry.get_sample_value("assay_job_seconds_count") == SENT - 1
    assert bench.kept.get("acme", group[7].images[0][0].sha256) is None
    told = [entry for entry in log if entry["event"] == "internal_error"]
    assert [(entry["src"], entry["stage"]) for entry in told] == [("assay.jobs/0/7", "judge")]
    assert isinstance(told[0]["exc_info"], IndexError), "the log has no stack"
    assert [entry["jobs"] for entry in log if entry["event"] == "judged_alone"] == [SENT]


@pytest.mark.parametrize(
    "error", [MemoryError(), ServiceUnavailable("postgres", "away"), RejectJob(ErrorCode.NO_VIEWS, "none")]
)
def test_errors_with_a_meaning_of_their_own_are_not_laid_to_a_job(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(judging, "judge", raising(error))
    with pytest.raises(type(error)):
        Bench().stage(same_policy(SENT))


def test_an_event_that_cannot_be_built_is_its_own_jobs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    group = same_policy(3)
    broken = dataclasses.replace(group[1].evidence, matches=(None, *group[1].evidence.matches))  # type: ignore[arg-type]
    group[1] = dataclasses.replace(group[1], evidence=broken)
    outcomes = Bench().stage(group)
    assert [type(outcome) for outcome in outcomes] == [Judged, Rejected, Judged]


@dataclass
class OnceNanEncoder(FakeEncoder):
    """Fails on the photograph that says so, the first time that it sees it."""

    failed: bool = False

    def start(self, requests: Sequence[EncodeView]) -> FakePending:
        return OnceNanPending(requests, self)


@dataclass
class OnceNanPending(FakePending):
    encoder: OnceNanEncoder

    def result(self) -> list[ViewProbe | UnusableView]:
        return [self.probe(request) for request in self.requests]

    def probe(self, request: EncodeView) -> ViewProbe | UnusableView:
        found = probe(request)
        if self.encoder.failed or not request.data.startswith(b"nan") or isinstance(found, UnusableView):
            return found
        self.encoder.failed = True
        return dataclasses.replace(found, embedding=np.full_like(found.embedding, np.nan))


def match_all_but_bad(
    self: NumpyMatcher, job: AuthenticationJob, probes: Sequence[ViewProbe], gallery: GallerySnapshot
) -> list[ViewMatch]:
    if job.job_id == BAD:
        raise ValueError("zero-size array to reduction operation maximum which has no identity")
    return [ViewMatch(probe=probe) for probe in probes]


def run_twenty(world: World, photo: Callable[[int], bytes] = lambda n: b"photo %d" % n) -> None:
    """19 verdicts and one letter, and the worker lives to answer another job."""
    world.pipeline.start()
    for n in range(SENT):
        world.send(job(f"j{n}", photo(n)))
    answers = world.answers(SENT)
    world.send(job("after", photo(7)))
    answers = world.answers(SENT + 1)
    world.stop()
    assert world.pipeline.error is None
    assert [key for key, topic in answers.items() if topic != TOPICS.results] == [f"t/{BAD}".encode()]
    (letter,) = [output for output in world.broker.published if output.topic == TOPICS.dlq]
    assert header(letter.headers, names.ERROR_CODE) == "internal_error"
    assert world.meter.registry.get_sample_value("assay_rejections_total", {"code": "internal_error"}) == 1
    assert world.pipeline.budget.held_bytes == 0
    assert world.attempts.starts == {}, "its start is still on record"


def test_a_judge_that_raises_on_one_job_does_not_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "judge", raising(ZeroDivisionError()))
    run_twenty(World())


def test_matching_that_raises_on_one_job_does_not_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NumpyMatcher, "match", match_all_but_bad)
    run_twenty(World())


def test_an_embedding_that_is_not_finite_buries_its_own_job() -> None:
    """PostgreSQL would refuse it at every delivery. It is not cached: the next job with this photograph is judged."""
    world = World(encoder=OnceNanEncoder())
    run_twenty(world, lambda n: b"nan" if n == 7 else b"photo %d" % n)


def test_want_of_memory_in_a_stage_still_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "judge", raising(MemoryError()))
    world = World()
    world.pipeline.start()
    world.send(job(BAD))
    assert world.pipeline.wait(60)
    assert isinstance(world.pipeline.error, MemoryError)
    assert world.broker.published == []
