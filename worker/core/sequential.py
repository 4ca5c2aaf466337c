"""A sequential test of a rate, after Wald: looked at as often as one likes, it keeps its error rates.

Under H0 the likelihood ratio of H1 to H0 is a martingale that starts at 1, so that by Ville's inequality it ever
reaches 1 / alpha with a probability of at most alpha; under H1 the same holds of its inverse. Wald's own bounds,
(1 - beta) / alpha, are a little nearer and hold only approximately.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["passed", "failed", "open"]
Counts = TypeVar("Counts", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a test tells apart: a rate of `h0` or less from one of `h1` or more, 0 < h0 < h1 < 1."""

    h0: float
    h1: float

    def __post_init__(self) -> None:
        if not 0 < self.h0 < self.h1 < 1:
            raise ValueError(f"rates {self.h0} and {self.h1}: the first must lie above 0 and below the second, below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """`events` among `n`, and what follows: a `log_ratio` of `fails_at` or more fails, of `passes_at` or less passes.
    A true rate of h0 fails with a probability of at most `alpha`, one of h1 passes with at most `beta`."""

    name: str
    n: int
    events: int
    rates: Rates
    alpha: float
    beta: float
    log_ratio: float
    fails_at: float
    passes_at: float
    outcome: Outcome


def sequential_test(name: str, n: int, events: int, rates: Rates, *, alpha: float, beta: float) -> Tested:
    """Where the test stands after `events` of `n`. Raises ValueError for counts that cannot be."""
    if not 0 <= events <= n:
        raise ValueError(f"{name}: {events} events of {n}")
    ratio = log_ratio(float(n), float(events), rates)
    fails_at, passes_at = -math.log(alpha), math.log(beta)
    outcome: Outcome = "failed" if ratio >= fails_at else "passed" if ratio <= passes_at else "open"
    return Tested(
        name=name,
        n=n,
        events=events,
        rates=rates,
        alpha=alpha,
        beta=beta,
        log_ratio=ratio,
        fails_at=fails_at,
        passes_at=passes_at,
        outcome=outcome,
    )


def log_ratio(n: Counts, events: Counts, rates: Rates) -> Counts:
    """Log of the likelihood of `events` among `n` under h1 to that under h0; of numbers, or of arrays alike."""
    each = math.log(rates.h1 / rates.h0)
    other = math.log((1 - rates.h1) / (1 - rates.h0))
    return events * each + (n - events) * other
