from __future__ import annotations

import pytest

from worker.budget import ByteBudget


def test_the_budget_is_spent_at_its_limit_and_has_room_again_only_at_the_lower_mark() -> None:
    budget = ByteBudget(100, resume_bytes=40)
    budget.take(99)
    assert not budget.spent
    budget.take(30)  # one record may exceed it
    assert budget.spent
    budget.give(88)
    assert budget.spent and budget.held_bytes == 41
    budget.give(1)
    assert not budget.spent
    budget.take(50)
    assert not budget.spent


def test_giving_back_twice_is_an_error() -> None:
    budget = ByteBudget(100)
    budget.take(10)
    budget.give(10)
    with pytest.raises(ValueError, match="gives twice"):
        budget.give(10)
