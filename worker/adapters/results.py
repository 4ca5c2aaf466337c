"""PostgresResults: Postgres is the truth (DESIGN R1). One call, one transaction, a fixed number of statements.

A call goes: claim the jobs; append what the winners bring; read what stands for the losers; write the letters of those
that claim a taken id with other content; answer everyone with one record each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, Engine

from schemas.codec import encode_verdict
from schemas.envelope import Encoding
from schemas.message import InputRecord, OutputRecord
from worker.adapters.claims import Claim, JobKey, Standing, read_answers, read_standing, take
from worker.adapters.comparison_rows import write_comparisons
from worker.adapters.database import retrying
from worker.adapters.later_verdicts import RevisionKey, read_later, read_own_letters, revision_of, take_later, why_not
from worker.adapters.letters import mark_replayed, read_letters, write_letters
from worker.adapters.outputs import (
    Answer,
    DeadLetter,
    OutputTopics,
    answer_record,
    conflict_letter,
    dead_letter_record,
    erased_letter,
    nothing_letter,
    rejected_letter,
    retry_record,
)
from worker.adapters.reuse import find_reused
from worker.adapters.reuse_index import CopyRule
from worker.adapters.verdict_rows import declare_spaces, spaces, write_verdicts
from worker.core.evidence import JobEvidence, ReuseHit
from worker.outcomes import Judged, Outcome, Rejected, Retry


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the losers of a call are answered with."""

    jobs: Mapping[JobKey, Standing]
    later: Mapping[RevisionKey, Standing]
    answers: Mapping[UUID, Answer]
    letters: Mapping[UUID, DeadLetter]
    buried: Mapping[int, DeadLetter]  # by position: the letters of records that claim a later revision

    def standing(self, claim: Claim) -> Standing | None:
        """What the claim lost against."""
        return self.later.get(revision_of(claim)) if claim.later else self.jobs.get(claim.key)

    def refused(self, claim: Claim) -> bool:
        """Its job was erased, or has other content."""
        standing = self.jobs.get(claim.key)
        return standing is not None and (standing.erased or standing.payload_digest != claim.job.payload_digest)

    def end(self, standing: Standing) -> Answer | DeadLetter | None:
        if standing.result_id is not None:
            return self.answers.get(standing.result_id)
        return self.letters.get(standing.dead_letter_id) if standing.dead_letter_id else None


@dataclass(slots=True)
class PostgresResults:
    """Implements worker.ports.ResultStore; for one thread.

    `group` is the ce_source of what it publishes, `topics` where that goes, `encoding` how verdicts are written.
    `copies` says when two photographs of different bytes count as one.
    """

    database: Engine
    group: str
    topics: OutputTopics
    encoding: Encoding = "avro"
    copies: CopyRule = field(default_factory=CopyRule)
    attempts: int = 4
    _declared: set[str] = field(default_factory=set)

    def reused(self, jobs: Sequence[JobEvidence]) -> list[tuple[ReuseHit, ...]]:
        """Photographs of `jobs` that are references, or were seen under another SKU or subject; see worker.ports."""
        if not any(job.matches for job in jobs):
            return [() for _ in jobs]
        return retrying(lambda: self._reused(jobs), attempts=self.attempts)

    def settle(self, outcomes: Sequence[Outcome]) -> list[OutputRecord]:
        """See worker.ports. Raises ServiceUnavailable."""
        claims = [claim for at, outcome in enumerate(outcomes) if (claim := self._claim(at, outcome))]
        if all(isinstance(outcome, Retry) for outcome in outcomes):
            settled: dict[int, OutputRecord] = {}
        else:
            settled = retrying(lambda: self._settle(outcomes, claims), attempts=self.attempts)
        return [
            retry_record(outcome, self.topics) if isinstance(outcome, Retry) else settled[at]
            for at, outcome in enumerate(outcomes)
        ]

    def close(self) -> None:
        self.database.dispose()

    def _reused(self, jobs: Sequence[JobEvidence]) -> list[tuple[ReuseHit, ...]]:
        with self.database.begin() as connection:
            return find_reused(connection, jobs, rule=self.copies)

    def _claim(self, position: int, outcome: Outcome) -> Claim | None:
        match outcome:
            case Judged():
                encoded = encode_verdict(outcome.event, encoding=self.encoding, source=self.group)
                answer = Answer(key=encoded.key, value=encoded.value, headers=encoded.headers)
                return Claim(position=position, outcome=outcome, job=outcome.job, answer=answer)
            case Rejected(job=job) if job is not None:
                return Claim(position=position, outcome=outcome, job=job, letter=rejected_letter(outcome))
            case _:
                return None

    def _settle(self, outcomes: Sequence[Outcome], claims: Sequence[Claim]) -> dict[int, OutputRecord]:
        """The whole transaction; the output records by the outcomes' positions."""
        with self.database.begin() as connection:
            won = take(connection, [claim for claim in claims if not claim.later])
            won |= take_later(connection, [claim for claim in claims if claim.later])
            winners = [claim for claim in claims if claim.position in won]
            losers = [claim for claim in claims if claim.position not in won]
            self._append(connection, winners)
            letters = _write(connection, _unreadable(outcomes) | _dead(winners))
            stored = _read_stored(connection, losers)
            letters |= _write(connection, _erased(losers, stored) | _conflicts(losers, stored) | _none(losers, stored))
            mark_replayed(connection, {claim.replay_of for claim in winners if claim.replay_of})
        # Only what was committed: the space of a verdict that lost is not declared by it.
        self._declared |= spaces(c.outcome for c in winners if isinstance(c.outcome, Judged)).keys()
        answered = {claim.position: self._answered(claim, stored) for claim in claims if claim.position not in letters}
        return answered | {at: self._buried(letter, outcomes[at].record) for at, letter in letters.items()}

    def _append(self, connection: Connection, winners: Sequence[Claim]) -> None:
        judged = [
            (claim.outcome, claim.answer) for claim in winners if isinstance(claim.outcome, Judged) and claim.answer
        ]
        dims = spaces(outcome for outcome, _ in judged)
        if not dims.keys() <= self._declared:
            declare_spaces(connection, dims)
        write_verdicts(connection, judged)
        write_comparisons(connection, [outcome for outcome, _ in judged])

    def _answered(self, claim: Claim, stored: Stored) -> OutputRecord:
        """The stored answer of the claim's job, or the claim's own where it won or the stored one was erased."""
        record = claim.outcome.record
        standing = stored.standing(claim)
        duplicate = standing is not None and standing.src != claim.src
        end = (stored.end(standing) if standing else None) or claim.answer or claim.letter
        if isinstance(end, DeadLetter):
            return self._buried(end, record, duplicate=duplicate)
        assert end is not None  # noqa: S101 # a claim has an answer or a letter
        return answer_record(end, record, topic=self.topics.results, duplicate=duplicate)

    def _buried(self, letter: DeadLetter, record: InputRecord, *, duplicate: bool = False) -> OutputRecord:
        return dead_letter_record(letter, record, topic=self.topics.dlq, group=self.group, duplicate=duplicate)


def _read_stored(connection: Connection, losers: Sequence[Claim]) -> Stored:
    jobs = read_standing(connection, (claim.key for claim in losers))
    again = [claim for claim in losers if claim.later]
    later = read_later(connection, again)
    letter_ids = {row.dead_letter_id for row in jobs.values() if row.dead_letter_id is not None}
    return Stored(
        jobs=jobs,
        later=later,
        answers=read_answers(connection, [*jobs.values(), *later.values()]),
        letters=read_letters(connection, letter_ids),
        buried=read_own_letters(connection, again),
    )


def _write(connection: Connection, letters: Mapping[int, DeadLetter]) -> dict[int, DeadLetter]:
    """Write the letters, by position; return them as they stand."""
    standing = write_letters(connection, list(letters.values()))
    return {position: standing[letter.letter_id] for position, letter in letters.items()}


def _unreadable(outcomes: Sequence[Outcome]) -> dict[int, DeadLetter]:
    return {
        position: rejected_letter(outcome)
        for position, outcome in enumerate(outcomes)
        if isinstance(outcome, Rejected) and outcome.job is None
    }


def _dead(winners: Sequence[Claim]) -> dict[int, DeadLetter]:
    return {claim.position: claim.letter for claim in winners if claim.letter}


def _conflicts(losers: Sequence[Claim], stored: Stored) -> dict[int, DeadLetter]:
    """Letters for those whose job id was taken by other content. They do not claim the job."""
    return {
        claim.position: conflict_letter(claim.outcome, stored_digest=standing.payload_digest)
        for claim in losers
        if (standing := stored.jobs.get(claim.key))
        and not standing.erased
        and standing.payload_digest != claim.job.payload_digest
    }


def _none(losers: Sequence[Claim], stored: Stored) -> dict[int, DeadLetter]:
    """Letters for those that supersede and found no verdict to replace, or did not come to one themselves."""
    without = [c for c in losers if c.later and not stored.refused(c) and stored.standing(c) is None]
    return {
        claim.position: claim.letter
        or stored.buried.get(claim.position)
        or nothing_letter(claim.outcome, why=why_not(claim, stored.jobs))
        for claim in without
    }


def _erased(losers: Sequence[Claim], stored: Stored) -> dict[int, DeadLetter]:
    """Letters for those whose job was erased: whatever they say, it is not taken in again."""
    return {
        claim.position: erased_letter(claim.outcome)
        for claim in losers
        if (standing := stored.jobs.get(claim.key)) and standing.erased
    }
