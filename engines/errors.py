"""Why an engine was not taken into service. One tree:

EngineRefused   the file, its manifest, its signature or its state is not acceptable; `code` is one of RefusalCode
RunnerFailed    the backend failed while running an accepted engine
└── OutOfMemory for want of memory; fewer photographs at once may fit
"""

from __future__ import annotations

import enum


class RefusalCode(enum.StrEnum):
    """The closed set of reasons to refuse an engine."""

    MANIFEST_MISSING = "manifest_missing"
    MANIFEST_INVALID = "manifest_invalid"
    MODEL_MISSING = "model_missing"
    KEYS_INVALID = "keys_invalid"
    KEY_UNKNOWN = "key_unknown"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"
    KEY_RETIRING = "key_retiring"
    SIGNATURE_INVALID = "signature_invalid"
    EXPIRED = "expired"
    ROLLED_BACK = "rolled_back"
    NOT_THE_PUBLISHED = "not_the_published"
    NOT_PUBLISHED = "not_published"
    ALREADY_PUBLISHED = "already_published"
    MOVE_ILLEGAL = "move_illegal"
    DIGEST_MISMATCH = "digest_mismatch"
    GOLDEN_MISMATCH = "golden_mismatch"
    OUTPUTS_UNEXPECTED = "outputs_unexpected"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    WRONG_BACKEND = "wrong_backend"
    WRONG_GPU = "wrong_gpu"
    WRONG_VERSION = "wrong_version"
    MEMORY_SHORT = "memory_short"
    INCOMPLETE = "incomplete"
    UNPROVEN = "unproven"
    OVER_BUDGET = "over_budget"
    REPORT_INVALID = "report_invalid"
    ENCODER_UNKNOWN = "encoder_unknown"


class EngineRefused(Exception):
    """An engine that must not be used. The message names what was found; `fix` says what to do."""

    def __init__(self, code: RefusalCode, message: str, fix: str) -> None:
        super().__init__(f"{code.value}: {message}. Fix: {fix}")
        self.code = code
        self.fix = fix


class RunnerFailed(Exception):
    """The backend raised while running a batch, or did not end in time; the cause is chained."""


class OutOfMemory(RunnerFailed):
    """The device has no memory for a batch of this size."""
