from __future__ import annotations

import threading

import pytest

from worker.handoff import Closed, Handoff


def test_full_handoff_refuses_an_offer_and_keeps_order() -> None:
    handoff: Handoff[int] = Handoff("h", 2)
    assert [handoff.offer(n) for n in (1, 2, 3)] == [True, True, False]
    assert handoff.take_many(5, 0) == [1, 2]


def test_closing_wakes_a_waiting_taker_and_leaves_the_rest_to_take() -> None:
    handoff: Handoff[int] = Handoff("h", 2)
    handoff.put(1)
    handoff.close()
    with pytest.raises(Closed):
        handoff.put(2)
    assert not handoff.finished
    assert handoff.take() == 1
    assert handoff.take() is None
    assert handoff.finished


def test_a_waiting_put_goes_on_when_there_is_room() -> None:
    handoff: Handoff[int] = Handoff("h", 1)
    handoff.put(1)
    done: list[bool] = []
    putter = threading.Thread(target=lambda: done.append(handoff.put(2, timeout_s=10)))
    putter.start()
    assert handoff.take(10) == 1
    putter.join(10)
    assert done == [True]
    assert handoff.take(0) == 2
