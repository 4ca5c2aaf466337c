"""The worker's ports: what the pipeline needs of the world, in Protocols of at most four methods.

Each has a real adapter and an in-memory twin in worker.adapters, and both pass one suite in tests/contract.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord, OutputRecord, Source
from worker.core.courses import JobEngines
from worker.core.evidence import JobEvidence, ReuseHit, StoredView, UnusableView, ViewMatch, ViewProbe
from worker.core.gallery import GallerySnapshot
from worker.core.matching import MatchRequest
from worker.core.poison import Deaths
from worker.outcomes import Outcome
from worker.work import Received

Partition = tuple[str, int]  # topic, number


class RebalanceListener(Protocol):
    """Told by a JobSource, inside `poll` and `close`, which partitions it reads."""

    def assigned(self, partitions: Sequence[Partition]) -> int:
        """Return the epoch that records of these partitions are to be stamped with."""

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Waits, within its own deadline, until what is in flight is committed; afterwards they belong to others."""

    def lost(self, partitions: Sequence[Partition]) -> None:
        """They already belong to others: nothing of them may be committed."""


class JobSource(Protocol):
    """The consumer side. Called by the intake thread only."""

    def poll(self, timeout_s: float) -> InputRecord | None:
        """Return the next record of the present assignment, or None. Rebalance callbacks run inside."""

    def pause(self, partitions: Iterable[tuple[str, int]]) -> None: ...

    def resume(self, partitions: Iterable[tuple[str, int]]) -> None: ...

    def close(self) -> None: ...


class Publisher(Protocol):
    """The producer side. Called by the publish thread only."""

    def commit(self, outputs: Sequence[OutputRecord], offsets: Mapping[tuple[str, int], int]) -> None:
        """Produce `outputs` and commit `offsets` (next offset to read) in one transaction.

        Raises AbortTransaction when nothing was committed (the caller keeps or drops what it holds by ownership) and
        Fatal when the process must end. After a transaction of unknown outcome it replaces the producer and returns
        normally if the group's committed offsets show that the transaction did commit.
        """

    def committed(self, partitions: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """The group's committed offsets as the broker has them now."""

    def close(self) -> None: ...


class ImageSource(Protocol):
    """Gets the bytes of one view. Called by many fetch threads."""

    def fetch(self, job: AuthenticationJob, view: JobView) -> bytes | StoredView | UnusableView:
        """Return verified bytes, or why the view is unusable; for a job that supersedes a verdict, what that verdict
        stored of the view where the view's URI asks for it. Raises RetryJob for a transient fault of this image,
        RejectJob where a verdict would be replaced by one that saw less, and ServiceUnavailable where the
        deployment's own store is away."""


class LateView(Protocol):
    """A view whose photograph a helper process still decodes, while the rest of its batch is done."""

    @property
    def done(self) -> bool: ...

    def when_done(self, call: Callable[[], None]) -> None:
        """`call` runs once, in any thread, maybe at once."""

    def result(self) -> ViewProbe | UnusableView:
        """Wait for it."""

    def drop(self) -> None:
        """Its job goes on elsewhere."""


class PendingViews(Protocol):
    def result(self) -> list[ViewProbe | UnusableView]:
        """Wait for the device and for helper processes; one entry a request, in order."""

    def prompt(self) -> Sequence[ViewProbe | UnusableView | LateView]:
        """The same, but nothing waits for a helper process."""


class ViewEncoder(Protocol):
    """Decodes and encodes batches of views of many jobs. Owned by the embed thread."""

    def start(self, requests: Sequence[EncodeView]) -> PendingViews: ...

    def close(self) -> None: ...


class EngineChoice(Protocol):
    """Which engines answer a job. Called by the embed thread alone."""

    def choose(self, job: AuthenticationJob, encoders: Collection[str], *, suspected: bool) -> JobEngines:
        """The engines of a job that begins, whose views go to `encoders`; they stay open until `ended`. One that is
        `suspected` of ending processes runs on the serving engines alone."""

    def ended(self, engines: JobEngines) -> None:
        """Every view of the job has come, or will not be waited for."""

    def between_batches(self, *, idle: bool) -> None:
        """Take what was made ready meanwhile; `idle`: nothing waits. Raises Fatal for an engine that may not go on."""


class EncodeView(Protocol):
    """One view to encode. `encoder` is the name that the settings map (category, view) to, or the key that an
    EngineChoice gave for it."""

    @property
    def tenant(self) -> str: ...
    @property
    def view(self) -> JobView: ...
    @property
    def data(self) -> bytes: ...
    @property
    def encoder(self) -> str: ...


class Matcher(Protocol):
    """Compares probes with a gallery: the NumPy twin, or a device.

    Raises Fatal where a device failed: any exception outside the tree of worker.errors is laid to the job.
    """

    def match(self, job: AuthenticationJob, probes: Sequence[ViewProbe], gallery: GallerySnapshot) -> list[ViewMatch]:
        """One match a probe, in order."""

    def match_many(self, requests: Sequence[MatchRequest]) -> list[list[ViewMatch]]:
        """The same for many jobs at once. Where it raises, each may be tried alone."""

    def nearest_skus(
        self, matches: Sequence[ViewMatch], gallery: GallerySnapshot, *, category: str | None = None
    ) -> tuple[str, ...]:
        """At most five SKUs that the job's photographs resemble, best first (worker.core.matching.nearest_skus)."""


class Gallery(Protocol):
    """An exact in-memory mirror a tenant."""

    def snapshot(self, tenant: str) -> GallerySnapshot:
        """The mirror as of the last refresh; loads a tenant that is not mirrored yet."""

    def refresh(self) -> None:
        """Reload tenants whose revision moved. Called by the gallery's own thread."""

    def close(self) -> None: ...


class ResultStore(Protocol):
    """Postgres is the truth. Called by the settle thread only."""

    def reused(self, jobs: Sequence[JobEvidence]) -> list[tuple[ReuseHit, ...]]:
        """Photographs seen before in other jobs of the tenant under another SKU or subject, job by job."""

    def settle(self, outcomes: Sequence[Outcome]) -> list[OutputRecord]:
        """Write the outcomes in one transaction, idempotently, and return the one output record of each, in order.

        The first outcome of a (tenant, job_id) wins; later ones are answered with the stored bytes. Raises
        ServiceUnavailable after its bounded retries.
        """

    def close(self) -> None: ...


class Attempts(Protocol):
    """Starts of the dangerous step (decode, encode, match), written down before it: a process that dies in it leaves
    its row. Called by the embed thread, the last two by any. All raise ServiceUnavailable after bounded retries.
    """

    def begin(self, jobs: Sequence[Received], *, ended: Sequence[Source] = (), alone: bool = False) -> list[Deaths]:
        """The deaths of other processes in each job's step, in order; the starts of those that may run together
        (`Deaths.course`) are written down, with `alone` those of all, as solo starts. Forgets `ended` as `end` does.
        """

    def end(self, sources: Sequence[Source]) -> None:
        """Forget every start of these records, of any process: their step ended."""

    def release(self, partitions: Sequence[Partition]) -> None:
        """Forget this process's starts in partitions that are others' now: its death no longer counts there."""

    def close(self) -> None:
        """Forget all starts of this process: it ends by its own decision."""


class EvidenceStore(Protocol):
    """Keeps verified view bytes by (tenant, sha256) as the setting says: off, inconclusive or all."""

    def put(self, tenant: str, sha256: str, data: bytes) -> None: ...

    def get(self, tenant: str, sha256: str) -> bytes | None: ...


class JobStatus(Protocol):
    """Tells the upload API how far a job is. Optional: a failure is counted, never raised."""

    def running(self, jobs: Sequence[AuthenticationJob]) -> None: ...

    def done(self, outputs: Sequence[tuple[AuthenticationJob, str]]) -> None: ...


class ProbeCache(Protocol):
    """Caches encoder outputs by (tenant, image digest, engine digest, backend, decoder) with a MAC.

    A bad or missing value is a miss; a failure of the service is a miss.
    """

    def get_many(self, requests: Sequence[EncodeView]) -> list[ViewProbe | None]: ...

    def put_many(self, entries: Sequence[tuple[EncodeView, ViewProbe]]) -> None: ...


__all__ = [
    "Attempts",
    "EncodeView",
    "EngineChoice",
    "EvidenceStore",
    "Gallery",
    "ImageSource",
    "JobSource",
    "JobStatus",
    "LateView",
    "Matcher",
    "Partition",
    "PendingViews",
    "ProbeCache",
    "Publisher",
    "RebalanceListener",
    "ResultStore",
    "ViewEncoder",
]
