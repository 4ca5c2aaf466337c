from __future__ import annotations

import pytest

from worker.budget import ByteBudget


def test_the_budget_is_spent_at_its_limit_and_has_room_again_only_at_the_lower_mark() -> None:
    budget = ByteBudget(100, resume_bytes=40)
    seen = []
    for change in (99, 30, -88, -1, 50):  # one record may exceed the limit
        (budget.take if change > 0 else budget.give)(abs(change))
        seen.append((budget.held_bytes, budget.spent))
    assert seen == [(99, False), (129, True), (41, True), (40, False), (90, False)]


def test_giving_back_twice_is_an_error() -> None:
    budget = ByteBudget(100)
    budget.take(10)
    budget.give(10)
    with pytest.raises(ValueError, match="gives twice"):
        budget.give(10)
