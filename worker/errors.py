"""Errors that are not values.

AssayError
├── RejectJob          the job can never be answered: dead letter with a code
├── RetryJob           a transient fault of this job's own inputs: the retry lane
├── AbortTransaction   the Kafka transaction must be given up; outcomes are kept or dropped by ownership
├── ServiceUnavailable a shared service (Postgres, Kafka, the deployment's store) is away: intake pauses
├── ConfigurationError a setting is missing or wrong: refuse to start, exit 78
└── Fatal              the process must end at once, with `exit_code`
"""

from __future__ import annotations

from schemas.codes import ErrorCode

EXIT_CONFIGURATION = 78  # sysexits.h: EX_CONFIG
EXIT_STAGE_FAILED = 70  # EX_SOFTWARE


class AssayError(Exception):
    """Root of the tree."""


class RejectJob(AssayError):
    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class RetryJob(AssayError):
    def __init__(self, stage: str, detail: str) -> None:
        super().__init__(detail)
        self.stage = stage
        self.detail = detail


class AbortTransaction(AssayError):
    """Give up the open transaction. `fenced` is True where another member owns the partitions now."""

    def __init__(self, detail: str, *, fenced: bool = False) -> None:
        super().__init__(detail)
        self.fenced = fenced


class ServiceUnavailable(AssayError):
    def __init__(self, service: str, detail: str) -> None:
        super().__init__(f"{service} is unavailable: {detail}")
        self.service = service


class ConfigurationError(AssayError):
    """Names the setting, its value and the fix."""


class Fatal(AssayError):
    """Exit codes are listed in docs/operations."""

    def __init__(self, detail: str, *, exit_code: int) -> None:
        super().__init__(detail)
        self.exit_code = exit_code
