"""What a chaos run left behind, as plain frozen values: the checker reads nothing else.

`tests.chaos.world` fills what the run did (submissions, kills, faults, samples), `tests.chaos.reading` what the
services hold. Digests are hexadecimal SHA-256; moments are milliseconds since 1970 by this machine's clock; offsets
are Kafka's.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

Headers = tuple[tuple[str, bytes | None], ...]
Kind = Literal["result", "retry", "slow", "dead"]
Moment = Literal["baseline", "end"]
UNKNOWN = -1  # the partition or offset of a submission that was never acknowledged


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The producers' log: one record that a load producer sent, acknowledged or not.

    `payload_digest` is that of `schemas.job.AuthenticationJob`, empty where the message cannot be read. A message is
    `well_formed` when it claims its job id. `expects_dead_code` is the code that it must end with (None: a verdict),
    `tolerates` further codes that it may end with. A repeated or replayed job is a submission of its own; a conflict
    is one with another `payload_digest` and needs no `expects_dead_code`.
    """

    tenant: str | None
    job_id: str | None
    topic: str
    partition: int = UNKNOWN
    offset: int = UNKNOWN
    value_digest: str
    payload_digest: str = ""
    well_formed: bool = True
    expects_dead_code: str | None = None
    tolerates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A data record of a consumed topic, retry lanes too. `committed`: a read_committed reader sees it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value_digest: str
    headers: Headers
    timestamp_ms: int
    committed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A record that a worker produced, as a read_uncommitted reader sees it.

    `committed`: the final read_committed reader saw it too. `src` is its header, None where absent or unreadable.
    A record of a retry or slow lane is an Output and an Input.
    """

    topic: str
    partition: int
    offset: int
    kind: Kind
    key: bytes | None
    value_digest: str
    headers: Headers
    src: str | None
    timestamp_ms: int
    committed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    tenant: str
    job_id: str
    payload_digest: str
    state: str
    result_id: str | None
    dead_letter_id: str | None
    src: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRow:
    """`event_digest` is computed from the stored bytes and None where they were erased; `digest` is the column.

    `content` says what was judged (SKU, category, photographs), `engine` by what (engines, gallery, calibration):
    equal ones must reach equal verdicts. `numbers_finite` is False where any score is NaN or infinite.
    """

    result_id: str
    tenant: str
    job_id: str
    revision: int
    supersedes: str | None
    verdict: str
    reasons: tuple[str, ...]
    event_digest: str | None
    digest: str
    event_headers: tuple[tuple[str, str], ...]
    content: str
    engine: str
    numbers_finite: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterRow:
    """`headers` and `key` are the original message's; `value_digest` is None where the value was erased."""

    letter_id: str
    tenant: str | None
    job_id: str | None
    topic: str
    partition: int
    offset: int
    code: str
    stage: str
    key: bytes | None
    value_digest: str | None
    headers: Headers
    attempt: int
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """A start of a dangerous step that has not ended, or ended with its process."""

    topic: str
    partition: int
    offset: int
    instance: str
    process: str
    solo: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayRow:
    """What reading itself found amiss, such as a row that hangs on another tenant's: the invariant, and values."""

    invariant: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A photograph that was embedded more than once in one space, and the least cosine between two of them."""

    photograph: str
    space: str
    embeddings: int
    least_cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionEnd:
    """A consumed partition after the run. `low`: its first kept offset; `committed`: the group's, None for none."""

    topic: str
    partition: int
    low: int
    high: int
    committed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetSample:
    """A committed offset as it was read during the run; `seen_at_ms` is when the answer came."""

    seen_at_ms: int
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A record that a read_committed reader got while the run went on. `digest`: see `record_digest`."""

    topic: str
    partition: int
    offset: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The offsets [first, position) of a partition that a reader has passed."""

    topic: str
    partition: int
    first: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """What one concurrent reader saw, in its order. `broke_off` is why it ended early, if it did."""

    name: str
    sightings: tuple[Sighting, ...]
    coverage: tuple[Coverage, ...]
    broke_off: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTransaction:
    transactional_id: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """One process that lived from `baseline` (warm, before the load) to `end` (quiescent)."""

    process: str
    moment: Moment
    rss_bytes: int
    handles: int
    threads: int
    connections: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KillRecord:
    """`service`: worker, kafka, postgres or redis; `how`: SIGKILL, SIGSTOP, SIGTERM, restart ..."""

    at_ms: int
    service: str
    how: str
    instance: str = ""
    failpoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRecord:
    """A fault that is no kill: `kind` as in drop_request:EndTxn, blackhole, terminate_backend, clock_jump."""

    at_ms: int
    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalance:
    at_ms: int
    protocol: str  # classic, cooperative, consumer, static
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """From the death of a worker, or the return of a service at `at_ms`, to the next commit of a worker."""

    service: str
    seconds: float
    at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`attempts`: ASSAY_IMAGES__ATTEMPTS. The rest is how far a process may stand above its baseline.

    Handles and threads: pools of connections and of name resolvers (4 threads) fill when they are first needed, and a
    client that was replaced is closed a while later. They do not grow with the length of a run.
    """

    attempts: int = 3
    rss_ratio: float = 1.25
    rss_slack_bytes: int = 64 * 1024 * 1024
    handles_slack: int = 16
    threads_slack: int = 8
    connections_slack: int = 4
    least_cosine: float = 0.9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All of it. `audit_findings` is None where no audit verifier was asked: I10 is then told as unproven.

    `clock_jumped` says that a worker's clock was moved: what rests on timestamps of records is then left out.
    """

    submissions: tuple[Submission, ...] = ()
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    jobs: tuple[JobRow, ...] = ()
    verdicts: tuple[VerdictRow, ...] = ()
    letters: tuple[LetterRow, ...] = ()
    attempts: tuple[AttemptRow, ...] = ()
    strays: tuple[StrayRow, ...] = ()
    spreads: tuple[Spread, ...] = ()
    ends: tuple[PartitionEnd, ...] = ()
    offsets: tuple[OffsetSample, ...] = ()
    readers: tuple[Reader, ...] = ()
    open_transactions: tuple[OpenTransaction, ...] = ()
    samples: tuple[ProcessSample, ...] = ()
    audit_findings: tuple[str, ...] | None = None
    limits: Limits = Limits()
    clock_jumped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chronicle:
    """What was done to the system: counted in the verdict, and no part of the proof."""

    seed: int
    commit: str
    started_at_ms: int
    ended_at_ms: int
    host: tuple[tuple[str, str], ...] = ()
    kills: tuple[KillRecord, ...] = ()
    faults: tuple[FaultRecord, ...] = ()
    rebalances: tuple[Rebalance, ...] = ()
    recoveries: tuple[Recovery, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """`invariant` is I1 to I12; `detail` names the values."""

    invariant: str
    detail: str


def record_digest(key: bytes | None, value_digest: str, headers: Headers) -> str:
    """Over all that a reader gets of a record but its place and time."""
    parts = [repr(key), value_digest, *(f"{name}={value!r}" for name, value in headers)]
    return sha256("\n".join(parts).encode(errors="surrogatepass")).hexdigest()


def place_of(topic: str, partition: int, offset: int) -> str:
    """As the header `src` writes it."""
    return f"{topic}/{partition}/{offset}"
