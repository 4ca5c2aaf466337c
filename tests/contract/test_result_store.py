"""One suite for every ResultStore: PostgreSQL's and the memory twin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from outcome_builders import (
    NOON,
    TRACE,
    Topics,
    a_job,
    a_probe,
    an_evidence,
    hex_digest,
    judged,
    rejected,
    retry,
)

from schemas import headers as names
from schemas.codec import decode_verdict
from schemas.codes import ErrorCode
from schemas.envelope import header
from schemas.job import AuthenticationJob
from schemas.message import Headers, OutputRecord
from worker.core.evidence import JobEvidence
from worker.outcomes import Outcome
from worker.ports import ResultStore


@pytest.fixture(params=["postgres", "memory"])
def store(request: pytest.FixtureRequest) -> Iterator[ResultStore]:
    if request.param == "memory":
        memory = pytest.importorskip("worker.adapters.memory")
        yield memory.MemoryResults(group="group", topics=Topics())
        return
    from worker.adapters.database import connect
    from worker.adapters.results import PostgresResults

    results = PostgresResults(connect(request.getfixturevalue("database_url")), group="group", topics=Topics())
    yield results
    results.close()


def src(record: OutputRecord) -> str | None:
    return header(record.headers, names.SRC)


def is_duplicate(record: OutputRecord) -> bool:
    return header(record.headers, names.DUPLICATE) == "1"


def replay_of(letter: OutputRecord) -> Headers:
    return ((names.REPLAY_OF, (header(letter.headers, names.DEAD_LETTER_ID) or "").encode()),)


def code(record: OutputRecord) -> str | None:
    return header(record.headers, names.ERROR_CODE)


def test_a_verdict_is_published_with_its_source_and_trace(store: ResultStore) -> None:
    outcome = judged(7)
    (record,) = store.settle([outcome])
    assert (record.topic, record.key) == (Topics.results, b"acme/job-1")
    assert src(record) == "assay.jobs/0/7"
    assert header(record.headers, names.TRACEPARENT) == TRACE.decode()
    assert not is_duplicate(record)
    assert decode_verdict(record.value, record.headers) == outcome.event


def test_the_same_record_redelivered_is_answered_as_the_first_time(store: ResultStore) -> None:
    first = store.settle([judged(7)])
    assert store.settle([judged(7, detail="judged otherwise the second time")]) == first


def test_the_same_job_again_gets_the_first_bytes_and_is_marked(store: ResultStore) -> None:
    (first,) = store.settle([judged(7)])
    (second,) = store.settle([judged(8, detail="judged otherwise the second time")])
    assert second.value == first.value
    assert (src(second), is_duplicate(second)) == ("assay.jobs/0/8", True)


def test_two_records_of_one_job_in_one_call(store: ResultStore) -> None:
    first, second = store.settle([judged(7, detail="first"), judged(8, detail="second")])
    assert second.value == first.value
    assert [is_duplicate(first), is_duplicate(second)] == [False, True]


def test_tenants_do_not_share_job_ids(store: ResultStore) -> None:
    mine, theirs = store.settle([judged(1, a_job(tenant="acme")), judged(2, a_job(tenant="zeta"))])
    assert mine.value != theirs.value
    assert not is_duplicate(theirs)


@pytest.mark.parametrize("together", [True, False])
def test_a_taken_id_with_other_content_is_a_dead_letter(store: ResultStore, together: bool) -> None:
    first, other = judged(7), judged(8, a_job(content="other"))
    answers = store.settle([first, other]) if together else store.settle([first]) + store.settle([other])
    assert [record.topic for record in answers] == [Topics.results, Topics.dlq]
    assert code(answers[1]) == ErrorCode.JOB_ID_CONFLICT
    assert answers[1].value == other.record.value
    assert store.settle([other]) == [answers[1]]  # redelivered: the same letter
    assert is_duplicate(store.settle([replace(first, record=judged(9).record)])[0])  # the job was not claimed by it


def test_a_dead_job_keeps_its_original_message(store: ResultStore) -> None:
    (letter,) = store.settle([rejected(3, a_job(), value=b"\x00\xff original")])
    assert (letter.topic, letter.key, letter.value) == (Topics.dlq, b"acme/job", b"\x00\xff original")
    assert code(letter) == ErrorCode.NO_USABLE_VIEW
    wanted = {
        names.ERROR_TOPIC: "assay.jobs",
        names.ERROR_PARTITION: "0",
        names.ERROR_OFFSET: "3",
        names.ERROR_STAGE: "embed",
        names.ATTEMPT: "2",
        names.SRC: "assay.jobs/0/3",
        names.TRACEPARENT: TRACE.decode(),
        names.CE_TYPE: names.DEAD_LETTER_TYPE,
    }
    assert {name: header(letter.headers, name) for name in wanted} == wanted


def test_a_dead_job_sent_again_is_dead_again_under_the_same_letter(store: ResultStore) -> None:
    (first,) = store.settle([rejected(3, a_job())])
    assert store.settle([rejected(3, a_job())]) == [first]
    (again,) = store.settle([judged(4)])
    assert (again.topic, again.value) == (Topics.dlq, first.value)
    assert header(again.headers, names.DEAD_LETTER_ID) == header(first.headers, names.DEAD_LETTER_ID)
    assert (src(again), is_duplicate(again)) == ("assay.jobs/0/4", True)


def test_a_dead_job_and_its_repetition_in_one_call(store: ResultStore) -> None:
    first, again = store.settle([rejected(3, a_job()), judged(4)])
    assert [first.topic, again.topic] == [Topics.dlq, Topics.dlq]
    assert header(again.headers, names.DEAD_LETTER_ID) == header(first.headers, names.DEAD_LETTER_ID)


def test_a_replay_turns_a_dead_job_into_a_judged_one_once(store: ResultStore) -> None:
    (letter,) = store.settle([rejected(3, a_job())])
    (verdict,) = store.settle([judged(4, headers=replay_of(letter))])
    assert (verdict.topic, is_duplicate(verdict)) == (Topics.results, False)
    (second,) = store.settle([judged(5, headers=replay_of(letter), detail="later")])
    assert (second.value, is_duplicate(second)) == (verdict.value, True)
    assert store.settle([judged(4, headers=replay_of(letter), detail="redelivered")]) == [verdict]


def test_a_replay_of_another_letter_changes_nothing(store: ResultStore) -> None:
    store.settle([rejected(3, a_job())])
    for forged in (str(UUID(int=1)).encode(), b"no id", b"\xff"):
        (answer,) = store.settle([judged(4, headers=((names.REPLAY_OF, forged),))])
        assert answer.topic == Topics.dlq


def test_a_replay_that_dies_again_can_be_replayed_again(store: ResultStore) -> None:
    (first,) = store.settle([rejected(3, a_job())])
    (second,) = store.settle([rejected(4, a_job(), headers=replay_of(first))])
    assert header(second.headers, names.DEAD_LETTER_ID) != header(first.headers, names.DEAD_LETTER_ID)
    (verdict,) = store.settle([judged(5, headers=replay_of(second))])
    assert verdict.topic == Topics.results


def test_a_message_without_a_readable_job_is_counted_by_its_source(store: ResultStore) -> None:
    broken = rejected(3, code=ErrorCode.MALFORMED_PAYLOAD, detail="byte \x00 and \ud800 at 3")
    first, other = store.settle([broken, rejected(4, code=ErrorCode.MALFORMED_PAYLOAD)])
    assert header(first.headers, names.DEAD_LETTER_ID) != header(other.headers, names.DEAD_LETTER_ID)
    assert store.settle([broken]) == [first]


def test_a_retry_goes_to_the_lane_of_its_attempt(store: ResultStore) -> None:
    first, second, third = store.settle([retry(1), retry(2, attempt=2), retry(3, attempt=3)])
    assert [first.topic, second.topic, third.topic] == [*Topics.retry, Topics.retry[-1]]
    wanted = {names.ATTEMPT: "2", names.SRC: "assay.jobs/0/1", names.ORIGIN: "assay.jobs/0/1"}
    assert {name: header(first.headers, name) for name in wanted} == wanted
    assert (first.key, first.value) == (retry(1).record.key, retry(1).record.value)
    assert store.settle([judged(4)])[0].topic == Topics.results  # the retry claimed nothing


def again(supersedes: int = 1, **changes: str) -> AuthenticationJob:
    """Job 1, asked for once more."""
    return replace(a_job(**changes), supersedes=supersedes)


def revision(record: OutputRecord) -> int:
    return decode_verdict(record.value, record.headers).revision


def test_a_later_verdict_supersedes_and_the_job_keeps_its_first(store: ResultStore) -> None:
    (first,) = store.settle([judged(1)])
    later = judged(2, again(), detail="another engine")
    (second,) = store.settle([later])
    assert decode_verdict(second.value, second.headers) == later.event
    assert (revision(second), src(second), is_duplicate(second)) == (2, "assay.jobs/0/2", False)
    assert store.settle([judged(2, again(), detail="redelivered")]) == [second]
    (other,) = store.settle([judged(3, again(), detail="asked twice")])
    assert (other.value, is_duplicate(other)) == (second.value, True)
    (third,) = store.settle([judged(4, again(2))])
    assert revision(third) == 3
    (resent,) = store.settle([judged(5)])
    assert (resent.value, is_duplicate(resent)) == (first.value, True)


def test_a_job_and_what_supersedes_it_in_one_call(store: ResultStore) -> None:
    first, second = store.settle([judged(1), judged(2, again())])
    assert (revision(first), revision(second)) == (1, 2)


def test_there_must_be_a_verdict_to_supersede(store: ResultStore) -> None:
    (nobody,) = store.settle([judged(1, again())])
    assert (nobody.topic, code(nobody)) == (Topics.dlq, ErrorCode.NOTHING_TO_SUPERSEDE)
    store.settle([judged(2), rejected(3, a_job("dead"))])
    answers = store.settle([judged(4, again(2)), judged(5, again(job_id="dead")), judged(6, again(tenant="zeta"))])
    assert [code(answer) for answer in answers] == [ErrorCode.NOTHING_TO_SUPERSEDE] * 3
    assert store.settle([judged(1, again())]) == [nobody]  # redelivered: the same letter, though there is one now
    assert revision(store.settle([judged(7, again())])[0]) == 2


def test_other_content_supersedes_nothing(store: ResultStore) -> None:
    store.settle([judged(1)])
    (other,) = store.settle([judged(2, again(content="better photographs"))])
    assert code(other) == ErrorCode.JOB_ID_CONFLICT
    assert revision(store.settle([judged(3, again())])[0]) == 2


def test_a_second_look_that_fails_takes_no_verdict_away(store: ResultStore) -> None:
    (first,) = store.settle([judged(1)])
    sent = judged(2, again())
    (failed,) = store.settle([rejected(2, sent.job, code=ErrorCode.EVIDENCE_GONE, value=sent.record.value)])
    assert (failed.topic, code(failed)) == (Topics.dlq, ErrorCode.EVIDENCE_GONE)
    assert store.settle([sent]) == [failed]  # its first outcome stands
    assert store.settle([judged(3)])[0].value == first.value
    assert revision(store.settle([judged(4, again(), headers=replay_of(failed))])[0]) == 2
    assert revision(store.settle([rejected(5, again())])[0]) == 2  # that revision is there


def test_a_retry_of_a_second_look_claims_nothing(store: ResultStore) -> None:
    store.settle([judged(1)])
    assert store.settle([retry(2, again())])[0].topic == Topics.retry[0]
    assert revision(store.settle([judged(3, again())])[0]) == 2


def test_a_second_look_is_compared_with_what_was_seen_before_the_first(store: ResultStore) -> None:
    keep(store, "old", "SKU-1", None, "one")
    evidence = seen("new", "SKU-2", None, "one")
    store.settle([judged(9, evidence.job, evidence=evidence, judged_at=NOON + timedelta(hours=1))])
    old, new = (replace(e, job=replace(e.job, supersedes=1)) for e in (seen("old", "SKU-1", None, "one"), evidence))
    assert [[hit.other for hit in hits] for hits in store.reused([old, new])] == [[], ["old"]]


def test_outputs_stand_in_the_order_of_the_outcomes(store: ResultStore) -> None:
    outcomes: list[Outcome] = [
        judged(0, a_job("z")),
        retry(1, a_job("y")),
        rejected(2),
        judged(3, a_job("a")),
        rejected(4, a_job("b")),
        judged(5, a_job("z")),
    ]
    assert [src(record) for record in store.settle(outcomes)] == [f"assay.jobs/0/{at}" for at in range(6)]
    assert store.settle([]) == []


def seen(job_id: str, sku: str, serial: str | None, look: int | str) -> JobEvidence:
    """A job with one photograph: `look` names its bytes, or is the perceptual hash of a copy of the one scene."""
    if isinstance(look, str):
        probe = a_probe(photograph=look)
    else:
        probe = replace(a_probe(photograph="scene", phash=look), sha256=hex_digest(f"{job_id} {look}"))
    return an_evidence(a_job(job_id, sku=sku, serial=serial), probe)


def reuse(store: ResultStore, *jobs: tuple[str, str, str | None, int | str]) -> list[list[tuple[str, bool]]]:
    """The hits (other, exact) of jobs given as (job_id, sku, serial, look)."""
    return [[(hit.other, hit.exact) for hit in hits] for hits in store.reused([seen(*job) for job in jobs])]


def keep(store: ResultStore, job_id: str, sku: str, serial: str | None, look: int | str) -> None:
    evidence = seen(job_id, sku, serial, look)
    store.settle([judged(0, evidence.job, evidence=evidence)])


def test_a_photograph_of_another_sku_or_subject_is_reused(store: ResultStore) -> None:
    keep(store, "old", "SKU-1", "serial-1", "one")
    assert reuse(store, ("new", "SKU-2", None, "one")) == [[("old", True)]]
    assert reuse(store, ("new", "SKU-1", "serial-2", "one")) == [[("old", True)]]


def test_a_second_look_at_the_same_item_is_no_reuse(store: ResultStore) -> None:
    keep(store, "old", "SKU-1", "serial-1", "one")
    assert reuse(store, ("new", "SKU-1", "serial-1", "one"), ("newer", "SKU-1", None, "one")) == [[], []]
    assert reuse(store, ("old", "SKU-2", None, "one")) == [[]]  # the job itself, redelivered


def test_a_photograph_that_often_came_under_its_own_sku_is_still_found_under_another(store: ResultStore) -> None:
    for number in range(12):
        keep(store, f"own-{number}", "SKU-2", f"serial-{number % 3}" if number % 2 else None, "one")
        keep(store, f"near-{number}", "SKU-2", None, 0xF0F0_1234)
    assert reuse(store, ("new", "SKU-2", None, "one"), ("newer", "SKU-2", None, 0xF0F0_1235)) == [[], []]
    for sku in ("SKU-1", "SKU-3"):
        keep(store, f"of {sku}", sku, None, "one")
        keep(store, f"near of {sku}", sku, None, 0xF0F0_1236)
        (exact,), (near,) = reuse(store, ("new", "SKU-2", None, "one"), ("newer", "SKU-2", None, 0xF0F0_1235))
        assert (exact[1], near[1]) == (True, False)
        assert exact[0].startswith("of ") and near[0].startswith("near of ")


def test_a_near_hash_of_another_sku_is_a_copy_where_the_embeddings_agree(store: ResultStore) -> None:
    look = 0xF0F0_1234_5678_9ABC
    spread = 1 | 1 << 14 | 1 << 28 | 1 << 63  # one bit in four of the five bands
    keep(store, "old", "SKU-1", "serial-1", look)
    assert reuse(store, ("new", "SKU-2", None, look ^ spread)) == [[("old", False)]]
    assert reuse(store, ("new", "SKU-2", None, look ^ spread ^ 1 << 40)) == [[]]
    elsewhere = seen("new", "SKU-2", None, look)
    other_scene = replace(elsewhere.matches[0].probe, embedding=a_probe(photograph="other scene").embedding)
    assert store.reused([an_evidence(elsewhere.job, other_scene)]) == [()]


def test_a_near_hash_of_another_specimen_of_the_sku_says_nothing(store: ResultStore) -> None:
    keep(store, "old", "SKU-1", "serial-1", 5)
    assert reuse(store, ("new", "SKU-1", "serial-2", 5)) == [[]]


def test_jobs_of_one_call_see_those_before_them(store: ResultStore) -> None:
    assert reuse(store, ("a", "SKU-1", None, "one"), ("b", "SKU-2", None, "one")) == [[], [("a", True)]]
    assert reuse(store, ("a", "SKU-1", None, 6), ("b", "SKU-2", None, 7)) == [[], [("a", False)]]


def test_other_tenants_photographs_are_never_looked_at(store: ResultStore) -> None:
    keep(store, "old", "SKU-1", None, "one")
    theirs = an_evidence(a_job("new", tenant="zeta", sku="SKU-2"), a_probe(photograph="one"))
    assert store.reused([theirs]) == [()]


def test_first_seen_of_a_conflict_survives(store: ResultStore) -> None:
    kept = ((names.FIRST_SEEN_MS, str(int(NOON.timestamp() * 1000)).encode()),)
    store.settle([judged(7)])
    (letter,) = store.settle([judged(8, a_job(content="other"), headers=kept)])
    assert header(letter.headers, names.FIRST_SEEN_MS) == kept[0][1].decode()
