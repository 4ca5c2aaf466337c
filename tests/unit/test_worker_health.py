"""What the health pages of a worker say of the threads beside its stages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from worker import health

BROKEN = RuntimeError("planted")


def pipeline(*ended: str, joined: bool = True) -> Any:
    dead = dict.fromkeys(ended, "ended")
    return cast(Any, SimpleNamespace(dead_threads=lambda: dead, intake=SimpleNamespace(joined=joined)))


def thread(failed: BaseException | None = None, dead: bool = False) -> Any:
    return cast(Any, SimpleNamespace(failed=failed, dead=dead))


@pytest.mark.parametrize(
    ("engines", "live", "ready"),
    [
        (None, [], []),
        (thread(), [], []),
        (thread(BROKEN), [], ["engines"]),
        (thread(BROKEN, dead=True), ["engines"], ["engines"]),
    ],
)
def test_a_registry_that_is_not_followed_is_told_and_a_dead_thread_ends_the_process(
    engines: Any, live: list[str], ready: list[str]
) -> None:
    assert list(health.dead(pipeline(), engines)) == live
    assert list(health.not_ready(pipeline(), thread(), engines)) == ready


def test_whatever_is_wrong_is_named() -> None:
    wrong = health.not_ready(pipeline("embed", joined=False), thread(BROKEN), thread(BROKEN, dead=True))
    assert wrong.keys() == {"embed", "gallery", "kafka", "engines"}
    assert "ended" in wrong["engines"]
