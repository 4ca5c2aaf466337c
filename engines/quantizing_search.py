"""Which layers may be INT8: each is tried alone, then the most harmful go back to float until the accuracy budget
holds, and those that turn out not to have mattered return."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """Cosine between INT8 and FP32 embeddings of the same held-out photographs: mean and first percentile; `patches` is
    the mean over local features."""

    mean: float
    p1: float
    patches: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClosenessBudget:
    """The least cosine of embeddings, mean and first percentile, and how many layers may go back to float."""

    mean: float
    p1: float

    def holds(self, found: Closeness) -> bool:
        return found.mean >= self.mean and found.p1 >= self.p1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One mix that was tried: the layer that changed, and whether it was left float."""

    layer: str
    to: str
    floats: int
    closeness: Closeness


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What the search ended with. `held` is False where no mix holds the budget."""

    floats: frozenset[str]
    closeness: Closeness
    steps: tuple[Step, ...]
    held: bool


def closeness(
    exact: tuple[NDArray[np.float32], NDArray[np.float32]], coarse: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> Closeness:
    """Of embeddings [n,D] and patches [n,P,d] in two precisions."""
    embeddings, patches = ((left * right).sum(-1) for left, right in zip(exact, coarse, strict=True))
    return Closeness(
        mean=float(embeddings.mean()), p1=float(np.percentile(embeddings, 1)), patches=float(patches.mean())
    )


def search(
    layers: Sequence[str],
    harm: Mapping[str, float],
    budget: ClosenessBudget,
    measure: Callable[[frozenset[str]], Closeness],
) -> Mix:
    """Greedy, both ways. `measure` says how close the mix with these layers in float comes."""
    floats: frozenset[str] = frozenset()
    found = measure(floats)
    steps: list[Step] = []
    waiting = sorted(layers, key=lambda layer: -harm[layer])
    while not budget.holds(found) and waiting:
        layer = waiting.pop(0)
        floats |= {layer}
        found = measure(floats)
        steps.append(Step(layer=layer, to="fp32", floats=len(floats), closeness=found))
    if not budget.holds(found):
        return Mix(floats=floats, closeness=found, steps=tuple(steps), held=False)
    # the last one made it hold; of the others some may have gone in vain
    for layer in [step.layer for step in steps[:-1]][::-1]:
        tried = measure(floats - {layer})
        if budget.holds(tried):
            floats, found = floats - {layer}, tried
            steps.append(Step(layer=layer, to="int8", floats=len(floats), closeness=found))
    return Mix(floats=floats, closeness=found, steps=tuple(steps), held=True)
