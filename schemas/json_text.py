"""JSON's decoding, with bounds: UTF-8 only, no repeated names, no NaN, no more values than a message can need."""

from __future__ import annotations

import json
from typing import NoReturn

from schemas.invalid import malformed, shown

# Every element but the first follows a comma, every container starts with a bracket, and neither occurs in base64:
# counting them bounds what the parser can allocate before it runs.
MAX_VALUES = 100_000


def decode(value: bytes) -> object:
    """Plain JSON values. Raises InvalidMessage (malformed_payload) whatever the bytes are."""
    if value.count(b",") + value.count(b"[") + value.count(b"{") > MAX_VALUES:
        raise malformed(f"more than {MAX_VALUES} JSON values: a job holds at most a few hundred")
    try:
        return json.loads(value.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise malformed("JSON nested too deeply: a job is four levels deep") from error
    except ValueError as error:
        raise malformed(f"not JSON in UTF-8 ({str(error)[:200]})") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise malformed(f"the name {shown(twice)} stands twice in one object: send it once")
    return record


def _no_constant(name: str) -> NoReturn:
    raise malformed(f"{name} is no JSON number: send null or leave it out")
