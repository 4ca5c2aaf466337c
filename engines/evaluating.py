"""An engine beside its FP32 original on a labelled set: what its embeddings find and verify, how verdicts moved, how
fast and how large it is, and whether all that is within the accuracy budget. Verdicts come from whoever judges."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.manifest import is_residual
from engines.ranking import auc, roc
from engines.runner import Runner

VERDICTS: Final = ("authentic", "counterfeit", "inconclusive")
_BINS: Final = 10
_ROC_POINTS: Final = 200
_Z_95: Final = 1.959963984540054
Curve = tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """One engine's embeddings, rows in the order of the labels: `references` [R,D] and `probes` [P,D]."""

    references: NDArray[np.float32]
    probes: NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Of each reference and each probe: its role (category/view) and SKU; of each probe whether it shows a genuine."""

    references: tuple[tuple[str, str], ...]
    probes: tuple[tuple[str, str], ...]
    genuine: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One engine's verdicts over the judged items, in order, and the posterior of genuine (None: nothing to score)."""

    verdicts: tuple[str, ...]
    p_genuine: tuple[float | None, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share and of how many."""

    value: float
    of: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One engine by itself; None: not measurable on this set. `reliability` holds (mean p, share of genuine) of each
    filled tenth; `roc` (false, true positive rate)."""

    name: str
    precision: str
    backend: str
    onnx_sha256: str
    bytes: int
    images_per_s: float
    recall_at_1: Rate | None
    auc: Rate | None
    calibration_error: Rate | None
    roc: Curve
    reliability: Curve


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """How verdicts moved: `matrix` counts (FP32's, the candidate's) over VERDICTS."""

    matrix: tuple[tuple[int, ...], ...]
    items: tuple[tuple[str, str, str], ...]

    @property
    def judged(self) -> int:
        return sum(map(sum, self.matrix))

    @property
    def decided(self) -> int:
        """Items that FP32 calls authentic or counterfeit."""
        return sum(map(sum, self.matrix[:2]))

    @property
    def hard_flips(self) -> int:
        return self.matrix[0][1] + self.matrix[1][0]

    @property
    def abstention_changes(self) -> int:
        return sum(row[2] for row in self.matrix[:2]) + sum(self.matrix[2][:2])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Both engines, and what lies between them. `no_verdicts` says why `moved` is None."""

    exact: Figures
    candidate: Figures
    cosines: NDArray[np.float32]
    moved: Moved | None
    no_verdicts: str | None

    @property
    def cosine_mean(self) -> float:
        return float(self.cosines.mean())

    @property
    def cosine_p1(self) -> float:
        return float(np.percentile(self.cosines, 1))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a candidate may cost (GOALS G5): `recall_loss` in shares of 1, flips and changes of the judged items, `size`
    of the FP32 file. None: not bounded."""

    recall_loss: float
    cosine_mean: float
    cosine_p1: float | None
    hard_flips: float = 1 / 2000
    abstention_changes: float = 0.02
    size: float = 0.30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One bound: what was found (None: not measured), and whether it holds. What is not measured does not hold."""

    name: str
    found: float | None
    limit: float
    at_most: bool
    told: str = ""

    @property
    def holds(self) -> bool:
        if self.found is None:
            return False
        return self.found <= self.limit if self.at_most else self.found >= self.limit


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One bound of a budget, before anything is measured."""

    name: str
    value: float
    at_most: bool = True


def default_budget(family: str, precision: str = "int8") -> Budget:
    """Of a family's engines; an FP32 engine need not be smaller than itself."""
    size = 1.0 if precision == "fp32" else 0.30
    if is_residual(family):
        return Budget(recall_loss=0.003, cosine_mean=0.995, cosine_p1=0.98, size=size)
    return Budget(recall_loss=0.008, cosine_mean=0.99, cosine_p1=None, size=size)


def limits(budget: Budget) -> tuple[Limit, ...]:
    """The gate's bounds in the order they are told."""
    least = [Limit(name=MEAN, value=budget.cosine_mean, at_most=False)]
    if budget.cosine_p1 is not None:
        least.append(Limit(name=P1, value=budget.cosine_p1, at_most=False))
    flips = Limit(name=FLIPS, value=budget.hard_flips)
    changes = Limit(name=CHANGES, value=budget.abstention_changes)
    return (Limit(name=RECALL, value=budget.recall_loss), *least, flips, changes, Limit(name=SIZE, value=budget.size))


RECALL, MEAN, P1 = "recall@1 lost", "embedding cosine, mean", "embedding cosine, P1"
FLIPS, CHANGES, SIZE = "verdict flips", "changes to or from inconclusive", "file over FP32's"


def checks(found: Evaluation, budget: Budget) -> tuple[Check, ...]:
    """What was measured against every bound."""
    exact, candidate, moved = found.exact, found.candidate, found.moved
    recalls = (exact.recall_at_1, candidate.recall_at_1)
    lost = recalls[0].value - recalls[1].value if recalls[0] and recalls[1] else None
    measured = {
        RECALL: (lost, _asked(exact.recall_at_1)),
        MEAN: (found.cosine_mean, ""),
        P1: (found.cosine_p1, ""),
        FLIPS: _share(found, moved.hard_flips if moved else 0, both=True),
        CHANGES: _share(found, moved.abstention_changes if moved else 0),
        SIZE: (candidate.bytes / exact.bytes, ""),
    }
    return tuple(
        Check(name=limit.name, found=measured[limit.name][0], limit=limit.value, at_most=limit.at_most,
              told=measured[limit.name][1])
        for limit in limits(budget)
    )  # fmt: skip


def _share(found: Evaluation, count: int, *, both: bool = False) -> tuple[float | None, str]:
    """Of the judged items, and of how many. Where FP32 decides nothing, or with `both` never one of the two verdicts,
    nothing could change: that proves nothing."""
    moved = found.moved
    if moved is None:
        return None, found.no_verdicts or ""
    told = f"{moved.judged} items, {moved.decided} of them decided by FP32"
    if not moved.decided:
        return None, told
    if both and not all(sum(row) for row in moved.matrix[:2]):
        return None, f"{told}, all alike: both verdicts are needed"
    return count / moved.judged, f"{told}; a rate below {_upper(count, moved.judged):.1%} at 95 %"


def _upper(hits: int, trials: int) -> float:
    """The upper end of the 95 % score interval of a rate (Wilson 1927)."""
    rate, square = hits / trials, _Z_95**2
    half = _Z_95 * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials**2))
    return (rate + square / (2 * trials) + half) / (1 + square / trials)


def _asked(rate: Rate | None) -> str:
    return f"{rate.of} queries" if rate else "it needs two SKUs with references of one view"


def recall_at_1(found: Embedded, labels: Labels) -> Rate | None:
    """Share of genuine probes whose nearest reference of the same role, over all SKUs, is their SKU's."""
    hits = asked = 0
    for role in sorted({role for role, _ in labels.probes}):
        rows = [i for i, (r, _) in enumerate(labels.references) if r == role]
        skus = np.array([labels.references[i][1] for i in rows])
        mine = [i for i, (r, s) in enumerate(labels.probes) if r == role and labels.genuine[i] and s in set(skus)]
        if len(set(skus)) < 2 or not mine:
            continue
        nearest = (found.probes[mine] @ found.references[rows].T).argmax(1)
        hits += int((skus[nearest] == np.array([labels.probes[i][1] for i in mine])).sum())
        asked += len(mine)
    return Rate(value=hits / asked, of=asked) if asked else None


def verification(found: Embedded, labels: Labels) -> tuple[Rate | None, Curve]:
    """ROC area and curve of the best cosine to the claimed SKU's references: genuine probes against forged ones."""
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, key in enumerate(labels.references):
        rows[key].append(index)
    able = [i for i, key in enumerate(labels.probes) if key in rows]
    scores = np.array([(found.references[rows[labels.probes[i]]] @ found.probes[i]).max() for i in able], np.float64)
    genuine = labels.genuine[able]
    if not genuine.any() or genuine.all():
        return None, ()
    return Rate(value=auc(scores[genuine], scores[~genuine]), of=len(able)), _curve(scores, genuine)


def _curve(scores: NDArray[np.float64], genuine: NDArray[np.bool_]) -> Curve:
    """The ROC curve with its first point and at most `_ROC_POINTS` others."""
    false, true = roc(scores, genuine)
    kept = np.arange(1, len(false))
    if len(kept) > _ROC_POINTS:
        kept = kept[np.linspace(0, len(kept) - 1, _ROC_POINTS).astype(int)]
    return ((0.0, 0.0), *((float(false[at]), float(true[at])) for at in kept))


def calibration_error(judged: Judged, genuine: Sequence[bool]) -> tuple[Rate | None, Curve]:
    """Expected calibration error of the posterior at even priors in tenths (Naeini et al. 2015), the classes weighted
    equally, as the prior is; and what each tenth holds."""
    known = [(p, g) for p, g in zip(judged.p_genuine, genuine, strict=True) if p is not None]
    p, truth = np.array([k[0] for k in known]), np.array([k[1] for k in known], bool)
    if not known or not 0 < truth.sum() < len(truth):
        return None, ()
    weight = np.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum())
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    error, curve = 0.0, []
    for number in np.unique(bins):
        inside = bins == number
        share = weight[inside].sum()
        said, was = float((weight * p)[inside].sum() / share), float((weight * truth)[inside].sum() / share)
        error += share * abs(said - was)
        curve.append((said, was))
    return Rate(value=float(error), of=len(known)), tuple(curve)


def moved(exact: Judged, candidate: Judged, names: Sequence[str]) -> Moved:
    """From FP32's verdicts to the candidate's, with the items that changed."""
    matrix = np.zeros((3, 3), int)
    changed = []
    for name, before, after in zip(names, exact.verdicts, candidate.verdicts, strict=True):
        matrix[VERDICTS.index(before), VERDICTS.index(after)] += 1
        if before != after:
            changed.append((name, before, after))
    return Moved(matrix=tuple(tuple(int(v) for v in row) for row in matrix), items=tuple(changed))


def images_per_s(runners: Mapping[str, Runner], pixels: NDArray[np.uint8], rounds: int = 5) -> dict[str, float]:
    """Median rate of each runner on the same squares, the runners taking turns, so that a busy machine slows both."""
    took: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds + 1):
        for name, runner in runners.items():
            began = time.perf_counter()
            runner.start(pixels).result()
            if number:  # the first round warms
                took[name].append(time.perf_counter() - began)
    return {name: len(pixels) / median(times) for name, times in took.items()}
