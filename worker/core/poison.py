"""The poison rule: what the deaths of other processes in a job's dangerous step say about how it may start now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DEATHS_TOGETHER = 2  # from so many on a job runs alone: any of its neighbours may have been the cause
DEATHS_ALONE = 2  # one may be chance


class Course(Enum):
    TOGETHER = "together"
    ALONE = "alone"
    POISON = "poison"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deaths:
    """Other processes that died in the dangerous step of a job: beside other jobs, and with it alone."""

    together: int = 0
    alone: int = 0

    @property
    def course(self) -> Course:
        if self.alone >= DEATHS_ALONE:
            return Course.POISON
        return Course.ALONE if self.together + self.alone >= DEATHS_TOGETHER else Course.TOGETHER
