"""Which of a name's engines a command is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.lifecycle import State
from worker.adapters.engine_index import Published
from worker.errors import AssayError


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Those of `name` in one of `states` (any unless given), of `version` where given, whose id begins with
    `engine_id`; with `newest` those of the highest version among them."""

    name: str
    version: int | None = None
    engine_id: str = ""
    states: tuple[State, ...] = tuple(State)
    newest: bool = False


def choose(known: Sequence[Published], wanted: Chosen) -> list[Published]:
    """Raises AssayError where there are none; it tells what there is."""
    named = [one for one in known if wanted.version in (None, one.variant.version)]
    named = [one for one in named if one.id.startswith(wanted.engine_id)]
    found = [one for one in named if one.state in wanted.states]
    if not found:
        raise AssayError(_nothing(known, named, wanted))
    highest = max(one.variant.version for one in found)
    return [one for one in found if not wanted.newest or one.variant.version == highest]


def _nothing(known: Sequence[Published], named: Sequence[Published], wanted: Chosen) -> str:
    version = f" version {wanted.version}" if wanted.version is not None else ""
    told = f"{wanted.name}{version}" + (f" {wanted.engine_id}" if wanted.engine_id else "")
    if not named:
        there = ", ".join(sorted({f"version {one.variant.version}" for one in known})) or "none of that name"
        return f"no engine {told} is published; there is {there} (assay engine list)"
    states = ", ".join(sorted({f"version {one.variant.version} is {one.state}" for one in named}))
    return f"no engine {told} is {' or '.join(wanted.states)}: {states}"
