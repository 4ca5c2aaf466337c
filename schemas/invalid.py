"""The one error of the codec: what is wrong with a message, as a code, and how the sender mends it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from schemas.codes import ErrorCode

SHOWN_CHARACTERS = 80
LOOKED_AT = 8192  # a secret must be seen whole to be left out


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


# What a sender may have put into a wrong place: a URL's query and user name, a token with its scheme.
SECRETS = re.compile(
    r"(?<=://)[^/@\s]*@|(?<=[?#])[^\s'\"]+|(?<=\bbearer )[^\s'\"]+|(?<=\bbasic )[^\s'\"]+", re.IGNORECASE
)


def shown(value: object) -> str:
    """A value as an error message may hold it: escaped to ASCII and short, without what may be a secret. Of an array or
    an object only what it is."""
    if isinstance(value, list | tuple | Mapping):
        return "an object" if isinstance(value, Mapping) else "an array"
    text = ascii(value[:LOOKED_AT] if isinstance(value, str | bytes) else value)
    text = SECRETS.sub("[...]", text)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def malformed(detail: str) -> InvalidMessage:
    return InvalidMessage(ErrorCode.MALFORMED_PAYLOAD, detail)


def broken_rule(detail: str) -> InvalidMessage:
    return InvalidMessage(ErrorCode.INVALID_JOB, detail)
