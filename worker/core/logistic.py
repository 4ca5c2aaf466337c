"""Ridge logistic regression by Newton's method, with sample weights; scikit-learn is its oracle in the tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

MAX_STEPS = 50
TOLERANCE = 1e-10
_LARGEST_EXPONENT = 500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """log-odds = features @ `weights` [f] + `bias`."""

    weights: Doubles
    bias: float


def fit_logistic(features: Doubles, labels: NDArray[np.bool_], *, ridge: float = 1.0, balanced: bool = True) -> Line:
    """Minimise the weighted log-loss of `labels` [n] on `features` [n, f] plus ridge / 2 * |weights|^2.

    The bias is not penalised. `balanced` gives both classes the same total weight, so that the log-odds are those at
    even priors. Both classes must be present; raises ValueError otherwise.
    """
    positives = int(labels.sum())
    if not 0 < positives < len(labels):
        raise ValueError(f"both classes are needed, got {positives} positive of {len(labels)}")
    share = np.where(labels, 2 * positives, 2 * (len(labels) - positives)) if balanced else np.float64(len(labels))
    weights = len(labels) / share * np.ones(len(labels))
    design = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    penalty = ridge * np.eye(design.shape[1])
    penalty[-1, -1] = 0.0
    solution = _newton(design, labels.astype(np.float64), weights, penalty)
    return Line(weights=solution[:-1], bias=float(solution[-1]))


def _newton(design: Doubles, targets: Doubles, weights: Doubles, penalty: Doubles) -> Doubles:
    """Damped Newton: a step that does not lower the loss is halved."""
    solution = np.zeros(design.shape[1])
    loss = _loss(solution, design, targets, weights, penalty)
    for _ in range(MAX_STEPS):
        probability = _sigmoid(design @ solution)
        gradient = design.T @ (weights * (probability - targets)) + penalty @ solution
        curvature = weights * probability * (1 - probability)
        step = np.linalg.lstsq((design.T * curvature) @ design + penalty, gradient, rcond=None)[0]
        while (lower := _loss(solution - step, design, targets, weights, penalty)) > loss and np.abs(
            step
        ).max() > TOLERANCE:
            step = step / 2
        solution, loss = solution - step, lower
        if np.abs(step).max() <= TOLERANCE:
            break
    return solution


def _loss(solution: Doubles, design: Doubles, targets: Doubles, weights: Doubles, penalty: Doubles) -> float:
    odds = design @ solution
    return float(weights @ (np.logaddexp(0, odds) - targets * odds) + solution @ penalty @ solution / 2)


def _sigmoid(odds: Doubles) -> Doubles:
    return np.asarray(1 / (1 + np.exp(-odds.clip(-_LARGEST_EXPONENT, _LARGEST_EXPONENT))))
