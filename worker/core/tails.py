"""Exact tails of counts; SciPy is their oracle in the tests."""

from __future__ import annotations

import math

import numpy as np


def more_often(hits: int, trials: int, other_hits: int, other_trials: int) -> float:
    """P(at least `hits` of `trials`) were both groups alike, given how many hits they have together.

    Fisher's exact test, one-sided (hypergeometric): it needs no estimate of the rate, and its level holds for any n.
    """
    everything, marked = trials + other_trials, hits + other_hits
    most = min(trials, marked)
    if hits <= max(0, marked - other_trials):
        return 1.0
    logs = np.array([_log_ways(marked, k) + _log_ways(everything - marked, trials - k) for k in range(hits, most + 1)])
    return float(min(1.0, np.exp(logs - _log_ways(everything, trials)).sum()))


def _log_ways(n: int, k: int) -> float:
    """log of the binomial coefficient; minus infinity outside."""
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
