"""The moves of published engines, a pure table: every pair of states, promotion, rollback, versions that only grow."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from engines.errors import EngineRefused, RefusalCode
from engines.lifecycle import ALONE, MOVES, Move, State, Variant, Verb, moves_for
from migrations.engines import ENGINE_STATES
from migrations.engines import MOVES as IN_THE_DATABASE

VERBS: tuple[Verb, ...] = ("verify", "canary", "promote", "take back", "rollback", "retire")


def variant(version: int, state: State, slot: str = "any", name: str = "a") -> Variant:
    return Variant(id=f"{name}{version}{slot}", name=name, version=version, slot=slot, state=state)


def refusal(*given: Any) -> RefusalCode:
    with pytest.raises(EngineRefused) as refused:
        moves_for(*given)
    assert refused.value.fix
    return refused.value.code


def after(moves: tuple[Move, ...], known: list[Variant]) -> dict[int, State]:
    """The states once the moves were made one by one; at no moment do two of a slot hold a place of their own."""
    now = {one.id: one.state for one in known}
    for move in moves:
        assert now[move.id] is move.came_from
        now[move.id] = move.to
        for slot, state in itertools.product({one.slot for one in known}, ALONE):
            assert sum(now[one.id] is state for one in known if one.slot == slot) <= 1
    return {one.version: now[one.id] for one in known}


def test_the_database_knows_the_same_states_and_moves() -> None:
    assert set(ENGINE_STATES) == {str(state) for state in State}
    ours = {(str(before), str(to)) for before, to in MOVES if before is not None}
    assert set(IN_THE_DATABASE) == ours
    assert [to for before, to in MOVES if before is None] == [State.DRAFT]


@pytest.mark.parametrize(("state", "verb"), list(itertools.product(State, VERBS)))
def test_from_every_state_exactly_the_verbs_of_the_table(state: State, verb: Verb) -> None:
    """A move that `promote` or `rollback` makes to the others of a slot is not one that can be asked for."""
    asked = {"verify": State.VERIFIED, "canary": State.CANARY, "promote": State.CURRENT, "take back": State.VERIFIED}
    asked |= {"rollback": State.CURRENT, "retire": State.RETIRED}
    one = variant(1, state)
    if verb in MOVES.get((state, asked[verb]), frozenset()):
        (move,) = moves_for(verb, [one], [one], 0)
        assert (move.came_from, move.to) == (state, asked[verb])
    else:
        assert refusal(verb, [one], [one], 0) is RefusalCode.MOVE_ILLEGAL


def test_retired_is_for_good_and_nothing_is_published_twice() -> None:
    assert not [pair for pair in MOVES if pair[0] is State.RETIRED]
    one = variant(1, State.DRAFT)
    assert refusal("publish", [one], [one], 0) is RefusalCode.MOVE_ILLEGAL


def test_a_promotion_moves_the_others_along() -> None:
    known = [variant(1, State.PREVIOUS), variant(2, State.CURRENT), variant(3, State.VERIFIED)]
    moves = moves_for("promote", known[2:], known, 2)
    assert after(moves, known) == {1: State.RETIRED, 2: State.PREVIOUS, 3: State.CURRENT}


def test_the_first_promotion_retires_nobody() -> None:
    known = [variant(1, State.PREVIOUS), variant(2, State.CANARY)]
    assert after(moves_for("promote", known[1:], known, 1), known) == {1: State.PREVIOUS, 2: State.CURRENT}


def test_a_rollback_is_the_one_way_back() -> None:
    known = [variant(1, State.PREVIOUS), variant(2, State.CURRENT), variant(3, State.VERIFIED)]
    assert after(moves_for("rollback", known[:1], known, 2), known) == {
        1: State.CURRENT,
        2: State.RETIRED,
        3: State.VERIFIED,
    }
    rolled = [variant(1, State.CURRENT), variant(2, State.RETIRED), variant(3, State.VERIFIED)]
    assert after(moves_for("promote", rolled[2:], rolled, 2), rolled)[3] is State.CURRENT


@pytest.mark.parametrize("verb", ["canary", "promote"])
def test_a_version_below_one_that_was_current_goes_no_further(verb: Verb) -> None:
    one = variant(4, State.VERIFIED)
    assert refusal(verb, [one], [one], 5) is RefusalCode.ROLLED_BACK
    assert moves_for(verb, [one], [one], 4)


def test_slots_move_apart_and_together() -> None:
    known = [
        variant(1, State.CURRENT, "any"),
        variant(1, State.CURRENT, "tensorrt 9.0"),
        variant(2, State.VERIFIED, "any"),
        variant(2, State.VERIFIED, "tensorrt 9.0"),
    ]
    both = moves_for("promote", known[2:], known, 1)
    assert [(move.id, move.to) for move in both] == [
        ("a1any", State.PREVIOUS),
        ("a2any", State.CURRENT),
        ("a1tensorrt 9.0", State.PREVIOUS),
        ("a2tensorrt 9.0", State.CURRENT),
    ]
    one = moves_for("promote", known[2:3], known, 1)
    assert {move.id for move in one} == {"a1any", "a2any"}


def test_two_of_one_slot_are_not_promoted_together() -> None:
    known = [variant(1, State.VERIFIED), variant(2, State.VERIFIED)]
    assert refusal("promote", known, known, 0) is RefusalCode.MOVE_ILLEGAL
    assert len(moves_for("retire", known, known, 0)) == 2


def test_one_canary_a_slot() -> None:
    known = [variant(1, State.CANARY), variant(2, State.VERIFIED), variant(3, State.VERIFIED, "openvino")]
    assert refusal("canary", known[1:2], known, 0) is RefusalCode.MOVE_ILLEGAL
    assert moves_for("canary", known[2:], known, 0)
