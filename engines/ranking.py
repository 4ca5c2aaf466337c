"""How well scores put one class above the other: the ROC curve and its area. Tests compare them with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def auc(positive: Sequence[float] | NDArray[np.floating], negative: Sequence[float] | NDArray[np.floating]) -> float:
    """Chance that a positive scores above a negative; ties count half. NaN where a class is missing."""
    high, low = np.asarray(positive, np.float64), np.sort(np.asarray(negative, np.float64))
    if not len(high) or not len(low):
        return float("nan")
    below, upto = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + upto).mean() / 2 / len(low))


def roc(scores: Scores, positive: NDArray[np.bool_]) -> tuple[Scores, Scores]:
    """False and true positive rates at every distinct score, from (0, 0) to (1, 1); a positive is expected above.

    Between equal scores there is no threshold.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], positive[order]
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    true, false = np.cumsum(hits)[ends], np.cumsum(~hits)[ends]
    return np.append(0, false) / max(1, int((~positive).sum())), np.append(0, true) / max(1, int(positive.sum()))
