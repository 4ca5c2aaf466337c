"""The states of a published engine and every move between them, in one table. Pure.

    draft -> verified -> canary -> current -> previous -> retired

A variant is verified by reading its bytes back and running them. Per slot (a name on one target) at most one variant is
canary, one current and one previous: promoting one moves the others along. Versions that serve only grow; the one way
back is a rollback to the previous variant, and what it replaces is retired for good.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from engines.errors import EngineRefused, RefusalCode

Verb = Literal["publish", "verify", "canary", "promote", "take back", "rollback", "retire"]


class State(enum.StrEnum):
    """Of a variant."""

    DRAFT = "draft"
    VERIFIED = "verified"
    CANARY = "canary"
    CURRENT = "current"
    PREVIOUS = "previous"
    RETIRED = "retired"


MOVES: Final[Mapping[tuple[State | None, State], frozenset[Verb]]] = {
    (None, State.DRAFT): frozenset({"publish"}),
    (State.DRAFT, State.VERIFIED): frozenset({"verify"}),
    (State.VERIFIED, State.CANARY): frozenset({"canary"}),
    (State.VERIFIED, State.CURRENT): frozenset({"promote"}),
    (State.CANARY, State.CURRENT): frozenset({"promote"}),
    (State.CANARY, State.VERIFIED): frozenset({"take back"}),
    (State.CURRENT, State.PREVIOUS): frozenset({"promote"}),
    (State.PREVIOUS, State.CURRENT): frozenset({"rollback"}),
    (State.CURRENT, State.RETIRED): frozenset({"rollback"}),
    (State.PREVIOUS, State.RETIRED): frozenset({"promote", "retire"}),
    (State.DRAFT, State.RETIRED): frozenset({"retire"}),
    (State.VERIFIED, State.RETIRED): frozenset({"retire"}),
    (State.CANARY, State.RETIRED): frozenset({"retire"}),
}
ALONE: Final = (State.CANARY, State.CURRENT, State.PREVIOUS)  # at most one a slot


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What the rules need of a published engine; variants of one slot serve the same machines."""

    id: str
    name: str
    version: int
    slot: str
    state: State


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change of state; `came_from` None is the publication."""

    id: str
    came_from: State | None
    to: State


def moves_for(
    verb: Verb, chosen: Sequence[Variant], known: Iterable[Variant], highest_current: int
) -> tuple[Move, ...]:
    """The changes, in order, that `verb` makes to the chosen variants; `known` are all of that name, `highest_current`
    the highest version of it that ever was current (0: none). No two ever hold a place of ALONE at once. Raises
    EngineRefused: all of it is legal, or none of it is done."""
    if len({variant.slot for variant in chosen}) < len(chosen) and verb not in ("retire", "verify"):
        told = ", ".join(f"version {v.version} ({v.slot})" for v in chosen)
        raise _illegal(f"{verb} of several variants for one target: {told}", "name one with --version or --id")
    by_slot = {slot: [v for v in known if v.slot == slot] for slot in {v.slot for v in chosen}}
    return tuple(move for variant in chosen for move in _moves(verb, variant, by_slot[variant.slot], highest_current))


def _moves(verb: Verb, variant: Variant, slot: Sequence[Variant], highest_current: int) -> list[Move]:
    match verb:
        case "verify":
            return [_move(verb, variant, State.VERIFIED)]
        case "canary":
            return [*_refused_if_taken(slot, variant), _forward(verb, variant, State.CANARY, highest_current)]
        case "promote":
            retired = [_move(verb, v, State.RETIRED) for v in _in(slot, State.PREVIOUS)]
            replaced = [_move(verb, v, State.PREVIOUS) for v in _in(slot, State.CURRENT) if v != variant]
            last = _forward(verb, variant, State.CURRENT, highest_current)
            return [*(retired if replaced else []), *replaced, last]
        case "take back":
            return [_move(verb, variant, State.VERIFIED)]
        case "rollback":
            back = _move(verb, variant, State.CURRENT)
            return [*(_move(verb, v, State.RETIRED) for v in _in(slot, State.CURRENT)), back]
        case "retire":
            return [_move(verb, variant, State.RETIRED)]
        case "publish":
            raise _illegal(f"{variant.name} version {variant.version} is published already", "publish a new version")


def _forward(verb: Verb, variant: Variant, to: State, highest_current: int) -> Move:
    """Raises EngineRefused (rolled_back) for a version below one that was current."""
    move = _move(verb, variant, to)
    if variant.version < highest_current:
        message = f"{verb} {variant.name} version {variant.version}: version {highest_current} was current already"
        fix = "publish the engine as a new version; to take the current one back: assay engine rollback"
        raise EngineRefused(RefusalCode.ROLLED_BACK, message, fix)
    return move


def _move(verb: Verb, variant: Variant, to: State) -> Move:
    if verb not in MOVES.get((variant.state, to), frozenset()):
        may = sorted({v for (state, _), verbs in MOVES.items() if state is variant.state for v in verbs})
        fix = f"from {variant.state} it may: {', '.join(may)}" if may else "it is retired: publish a new version"
        message = f"{verb} {variant.name} version {variant.version} ({variant.slot}), which is {variant.state}"
        raise _illegal(message, fix)
    return Move(id=variant.id, came_from=variant.state, to=to)


def _refused_if_taken(slot: Sequence[Variant], variant: Variant) -> list[Move]:
    for other in _in(slot, State.CANARY):
        if other != variant:
            fix = "promote it, take it back or retire it first"
            raise _illegal(f"version {other.version} of {other.name} ({other.slot}) is canary", fix)
    return []


def _in(slot: Sequence[Variant], state: State) -> list[Variant]:
    return [variant for variant in slot if variant.state is state]


def _illegal(message: str, fix: str) -> EngineRefused:
    return EngineRefused(RefusalCode.MOVE_ILLEGAL, message, fix)
