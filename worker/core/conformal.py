"""Class-conditional split conformal prediction with two classes (Vovk, Gammerman, Shafer: "Algorithmic Learning in a
Random World", 2005, section 4.5, Mondrian by label): each class is kept or rejected at its own error budget."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.codes import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The calibration items' fused scores of each class, ascending, and the two error budgets."""

    genuine: NDArray[np.float64]
    counterfeit: NDArray[np.float64]
    alpha_accept: float  # bounds fakes called genuine
    alpha_reject: float  # bounds genuine called fake

    def p_genuine(self, score: float) -> float:
        """(1 + number of genuine calibration scores at or below `score`) / (n + 1)."""
        return (1 + bisect_right(self.genuine, score)) / (len(self.genuine) + 1)

    def p_counterfeit(self, score: float) -> float:
        """(1 + number of counterfeit calibration scores at or above `score`) / (n + 1)."""
        below = bisect_left(self.counterfeit, score)
        return (1 + len(self.counterfeit) - below) / (len(self.counterfeit) + 1)

    def kept(self, score: float) -> frozenset[Verdict]:
        """The classes that `score` is not unlike; both or neither means that nothing can be said."""
        genuine = {Verdict.AUTHENTIC} if self.p_genuine(score) > self.alpha_reject else set()
        counterfeit = {Verdict.COUNTERFEIT} if self.p_counterfeit(score) > self.alpha_accept else set()
        return frozenset(genuine | counterfeit)

    @property
    def supported(self) -> bool:
        """False where a class has too few items for its budget, so that it is never rejected."""
        enough_genuine = len(self.genuine) >= items_needed(self.alpha_reject)
        return enough_genuine and len(self.counterfeit) >= items_needed(self.alpha_accept)


def items_needed(alpha: float) -> int:
    """The calibration items that an error budget needs: 1 / alpha - 1, since the smallest p is 1 / (n + 1)."""
    return math.ceil(1 / alpha - 1 - 1e-9) if alpha > 0 else 1 << 62
