"""What `assay doctor` found: one line a thing that was looked at, with the fix where it is not well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, SecretStr
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

State = Literal["ok", "warn", "fail"]
HIDDEN = "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`fail` means that no worker can run here with these settings; `warn` that one can, less well."""

    area: str
    what: str
    state: State
    found: str
    fix: str = ""


def ok(area: str, what: str, found: str) -> Finding:
    return Finding(area=area, what=what, state="ok", found=found)


def warn(area: str, what: str, found: str, fix: str) -> Finding:
    return Finding(area=area, what=what, state="warn", found=found, fix=fix)


def fail(area: str, what: str, found: str, fix: str) -> Finding:
    return Finding(area=area, what=what, state="fail", found=found, fix=fix)


def without_secrets(findings: Iterable[Finding], settings: BaseModel) -> Iterator[Finding]:
    """The findings, whatever a library's error says: no secret of the settings stands in them."""
    hidden = sorted({secret for secret in _secrets(settings) if secret}, key=len, reverse=True)
    for finding in findings:
        yield replace(finding, found=_without(finding.found, hidden), fix=_without(finding.fix, hidden))


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _secrets(group: BaseModel) -> Iterator[str]:
    """The secrets and, of a secret URL, its password by itself too."""
    for name in type(group).model_fields:
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            yield from _secrets(value)
        elif isinstance(value, SecretStr):
            yield value.get_secret_value()
            yield _password(value.get_secret_value())


def _password(url: str) -> str:
    try:
        parts = make_url(url)
    except ArgumentError:
        return ""
    in_query = parts.query.get("password", "")
    return str(parts.password or (in_query if isinstance(in_query, str) else in_query[-1]))
