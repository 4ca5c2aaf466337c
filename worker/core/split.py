"""Which jobs a canary engine answers: a share of all, the same ones on every worker and at every attempt. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

_ALL: Final = 1 << 64


def in_share(tenant: str, job_id: str, engine: str, share: float) -> bool:
    """Whether the candidate `engine` (its id) answers this job, where `share` (0 to 1) of the jobs are its own.

    A job that was in stays in when the share grows, so that raising it changes nobody's engine back; another candidate
    draws other jobs. Neither tenant nor job can choose: both are hashed with the candidate's id.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"a share of {share}: write it from 0 to 1")
    # Lengths first: ("a", "b/c") and ("a/b", "c") are not one job.
    text = f"{len(engine)}:{engine}{len(tenant)}:{tenant}{len(job_id)}:{job_id}"
    drawn = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return drawn < int(share * _ALL)
