"""The names of the topics: a group of settings of its own, since all that reads or writes Kafka needs them."""

from __future__ import annotations

from pydantic import Field

from worker.setting_types import Delays, Group


class Topics(Group):
    """All topic names; the defaults share one prefix."""

    prefix: str = Field("assay.", pattern=r"^[A-Za-z0-9._-]*$", description="what every topic's name begins with")
    retry_delays_s: Delays = Field(
        (5.0, 30.0),
        min_length=1,
        max_length=9,
        description="how long a job waits in jobs.retry.1, .2, ...; one topic each",
    )

    @property
    def jobs(self) -> str:
        return f"{self.prefix}jobs"

    @property
    def jobs_high(self) -> str:
        return f"{self.prefix}jobs.high"

    @property
    def jobs_bulk(self) -> str:
        return f"{self.prefix}jobs.bulk"

    @property
    def jobs_slow(self) -> str:
        return f"{self.prefix}jobs.slow"

    @property
    def retry(self) -> tuple[str, ...]:
        return tuple(f"{self.prefix}jobs.retry.{lane}" for lane, _ in enumerate(self.retry_delays_s, start=1))

    @property
    def results(self) -> str:
        return f"{self.prefix}results"

    @property
    def dlq(self) -> str:
        return f"{self.prefix}jobs.dlq"

    @property
    def alerts(self) -> str:
        return f"{self.prefix}alerts"

    @property
    def audit(self) -> str:
        return f"{self.prefix}audit"

    @property
    def control(self) -> str:
        return f"{self.prefix}control"

    @property
    def consumed(self) -> tuple[str, ...]:
        """What a worker subscribes to."""
        return (self.jobs_high, self.jobs, self.jobs_bulk, self.jobs_slow, *self.retry)
