"""Where our own code raises on what one job brings: the job is buried, and its neighbours go on.

Whoever calls pure code on a job's data lets errors of the tree (worker/errors.py) and MemoryError pass, which have
meanings of their own, and hands every other exception to `internal_error`. The process would die of it otherwise, and
so would every worker that the job is delivered to after it.
"""

from __future__ import annotations

import structlog

from schemas.codes import ErrorCode
from worker.fetching import rejected
from worker.outcomes import Rejected
from worker.work import Received

_log = structlog.get_logger()


def internal_error(received: Received, stage: str, error: Exception) -> Rejected:
    """The dead letter of the job. What the exception says may quote the job's data: that goes to the log alone."""
    _log.error("internal_error", src=str(received.record.source), stage=stage, error=repr(error), exc_info=error)
    detail = f"the worker's own code failed on this job ({type(error).__name__}); its log has the stack"
    return rejected(received, ErrorCode.INTERNAL_ERROR, stage, detail)
