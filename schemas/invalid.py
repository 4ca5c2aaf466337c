"""The one error of the codec: what is wrong with a message, as a code, and how the sender mends it."""

from __future__ import annotations

from schemas.codes import ErrorCode

SHOWN_CHARACTERS = 80


class InvalidMessage(Exception):
    """A message that is no valid job or verdict.

    `detail` names the value and the fix. `tenant` and `job_id` are set where the message was well-formed, its ids are
    valid and its key agrees with them: such a job can claim its id; any other message is known by its offset only.
    """

    def __init__(self, code: ErrorCode, detail: str, *, tenant: str | None = None, job_id: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.tenant = tenant
        self.job_id = job_id


def shown(value: object) -> str:
    """A value as an error message may hold it: escaped to ASCII and short."""
    text = ascii(value[: SHOWN_CHARACTERS + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def malformed(detail: str) -> InvalidMessage:
    return InvalidMessage(ErrorCode.MALFORMED_PAYLOAD, detail)


def broken_rule(detail: str) -> InvalidMessage:
    return InvalidMessage(ErrorCode.INVALID_JOB, detail)
