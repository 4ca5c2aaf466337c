"""The audit ledger's arithmetic: what a tenant's chain is made of, and the bytes that are hashed and signed.

Canonical JSON (schemas.canonical: names sorted, no spaces, UTF-8, shortest numbers that read back the same, bytes in
base64, UTC with microseconds and Z) and SHA-256 throughout. An entry is a list, a block's root the digest over its
entries' digests in order, a head names the head before it by digest, and the head is what is signed.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from schemas.canonical import canonical_json, parse_instant
from schemas.invalid import InvalidMessage

GENESIS = bytes(32)
VERSION = 1
SIGNED_AS = b"assay.audit.head.v1\n"  # a signature of this key over anything else is none over a head
VERDICT, ERASURE, RETENTION = "verdict", "erasure", "retention"

# Explicit: a column that a later revision brings is no part of what was sealed before it.
ROW_COLUMNS = (
    "result_id",
    "judged_at",
    "revision",
    "supersedes",
    "tenant",
    "job_id",
    "sku",
    "category",
    "verdict",
    "confidence",
    "p_genuine",
    "reasons",
    "missing_views",
    "nearest_skus",
    "provenance",
    "timings",
    "event_headers",
    "submitted_at",
)
JOB_COLUMNS = ("state", "payload_digest", "src")
VIEW_COLUMNS = (
    "view",
    "tenant",
    "job_id",
    "sku",
    "category",
    "sha256",
    "usable",
    "unusable_code",
    "encoder",
    "similarity",
    "counterfeit_similarity",
    "other_sku",
    "other_sku_similarity",
    "deviation",
    "p_genuine",
    "aligned",
    "quality",
    "matches",
)

Row = Mapping[Any, object]  # by column name


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that a block seals. A record of an erasure or of a dropped month has `id` and `digest` alone.

    `digest` is SHA-256 of the verdict's event as settle stored it; `row_digest` and `views_digest` are None for a
    verdict whose rows were gone before it was sealed.
    """

    kind: str
    id: UUID
    digest: bytes
    judged_at: datetime | None = None
    src: str | None = None
    row_digest: bytes | None = None
    views_digest: bytes | None = None

    @property
    def encoded(self) -> bytes:
        parts = (self.digest, self.row_digest, self.views_digest)
        digests = [part.hex() if part is not None else None for part in parts]
        return canonical_json([self.kind, str(self.id), self.judged_at, self.src, *digests])


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A block without its entries."""

    tenant: str
    height: int
    previous: bytes  # digest of the head before; zeros for the first
    root: bytes
    entries: int
    sealed_at: datetime  # aware, UTC

    @property
    def content(self) -> bytes:
        return canonical_json(
            {
                "v": VERSION,
                "tenant": self.tenant,
                "height": self.height,
                "previous": self.previous.hex(),
                "root": self.root.hex(),
                "entries": self.entries,
                "sealed_at": self.sealed_at,
            }
        )

    @property
    def digest(self) -> bytes:
        return sha256(self.content).digest()

    @property
    def to_sign(self) -> bytes:
        return SIGNED_AS + self.content


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead:
    """What is published. `signature` is Ed25519 by the key `key_id` over `head.to_sign`."""

    head: Head
    key_id: str
    signature: bytes


def root_of(entries: Iterable[Entry]) -> bytes:
    """SHA-256 over the entries' digests in order."""
    whole = sha256()
    for entry in entries:
        whole.update(sha256(entry.encoded).digest())
    return whole.digest()


def row_digest(row: Row, job: Row | None) -> bytes:
    """Over the columns of a verdict's row and of its job's; `job` is None where there is none."""
    facts: dict[str, object] = {name: _cell(row[name]) for name in ROW_COLUMNS}
    facts["job"] = None if job is None else [_cell(job[name]) for name in JOB_COLUMNS]
    return sha256(canonical_json(facts)).digest()


def views_digest(views: Iterable[Row]) -> bytes:
    """Over the columns of a verdict's views, in any order of them."""
    facts = [[_cell(view[name]) for name in VIEW_COLUMNS] for view in sorted(views, key=lambda view: str(view["view"]))]
    return sha256(canonical_json(facts)).digest()


def record_digest(record: Row) -> bytes:
    """Over a record of an erasure or of a dropped month: id, tenant, kind, by, why, at and facts."""
    names = ("id", "tenant", "kind", "by", "why", "at", "facts")
    return sha256(canonical_json({name: _cell(record[name]) for name in names})).digest()


def head_message(signed: SignedHead) -> bytes:
    """The record's value in assay.audit: the head's own fields, its digest, the key's id and the signature."""
    told = json.loads(signed.head.content)
    signature = base64.b64encode(signed.signature).decode()
    return canonical_json({**told, "digest": signed.head.digest.hex(), "key_id": signed.key_id, "signature": signature})


def read_head(message: bytes) -> SignedHead:
    """What `head_message` wrote; the signature is for the caller to check. Raises ValueError."""
    try:
        told = json.loads(message)
        head = Head(
            tenant=_text(told["tenant"]),
            height=_count(told["height"]),
            previous=bytes.fromhex(told["previous"]),
            root=bytes.fromhex(told["root"]),
            entries=_count(told["entries"]),
            sealed_at=parse_instant(told["sealed_at"], name="sealed_at"),
        )
        if told["v"] != VERSION or told["digest"] != head.digest.hex():
            raise ValueError("its digest is not that of its content")
        signature = base64.b64decode(told["signature"], validate=True)
        return SignedHead(head=head, key_id=_text(told["key_id"]), signature=signature)
    except (KeyError, TypeError, AttributeError, InvalidMessage) as error:
        raise ValueError(f"no head of the ledger: {error!r}") from error


def _cell(value: object) -> object:
    """A column's value where JSON has no word for it; what is inside jsonb is JSON already."""
    if isinstance(value, UUID) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value


__all__ = [
    "ERASURE",
    "GENESIS",
    "JOB_COLUMNS",
    "RETENTION",
    "ROW_COLUMNS",
    "VERDICT",
    "VIEW_COLUMNS",
    "Entry",
    "Head",
    "Row",
    "SignedHead",
    "head_message",
    "read_head",
    "record_digest",
    "root_of",
    "row_digest",
    "views_digest",
]
