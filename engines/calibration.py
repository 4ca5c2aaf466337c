"""Quantization calibration: the range of every tensor that will be quantised, measured by running the float graph
with ONNX Runtime on given images. (Score calibration is another thing and lives in worker.core.)"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from engines.quantize import QuantPlan

Method = Literal["min-max", "percentile", "entropy"]

_BINS = 4096
_LEVELS = 128  # of a half-range: what one sign of INT8 can tell apart
_PERCENTILE = 99.99
_SAMPLED = 400_000  # values a tensor and image
_SMALLEST = 1e-6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of |x| in equal bins from 0 to `largest`."""

    counts: NDArray[np.int64]
    largest: float


def observe(model: ModelProto, plan: QuantPlan, images: Collection[NDArray[np.float32]]) -> dict[str, Histogram]:
    """Histograms of the planned activations over `images`, each [C,S,S], normalised; two passes, one at a time."""
    tensors = [t for t in plan.activations if t not in plan.same_range]
    session = _observing_session(model, tensors)
    largest = dict.fromkeys(tensors, _SMALLEST)
    for values in _activations(session, tensors, images):
        largest = {t: max(largest[t], float(np.abs(v).max())) for t, v in values.items()}
    counts = {t: np.zeros(_BINS, np.int64) for t in tensors}
    for values in _activations(session, tensors, images):
        for tensor, value in values.items():
            counts[tensor] += np.histogram(np.abs(_sampled(value)), _BINS, (0.0, largest[tensor]))[0]
    return {t: Histogram(counts=counts[t], largest=largest[t]) for t in tensors}


def _sampled(value: NDArray[np.float32]) -> NDArray[np.float32]:
    """Enough values of a large tensor for a histogram; the odd step meets every channel and place."""
    return value.ravel()[:: (value.size // _SAMPLED) | 1]


def thresholds(histograms: Mapping[str, Histogram], method: Method) -> dict[str, float]:
    """The absolute value that maps to the largest level, for every tensor."""
    choose = {"min-max": _largest, "percentile": _percentile, "entropy": _entropy}[method]
    return {tensor: max(choose(h), _SMALLEST) for tensor, h in histograms.items()}


def _largest(histogram: Histogram) -> float:
    return histogram.largest


def _percentile(histogram: Histogram) -> float:
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    edge = int(np.searchsorted(share, _PERCENTILE / 100.0)) + 1
    return histogram.largest * edge / _BINS


def _entropy(histogram: Histogram) -> float:
    """The cut whose quantised distribution is nearest to the clipped one in Kullback-Leibler divergence."""
    # zeros carry no information on where to cut, and after a ReLU they would drown the rest
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1] if len(counts) > 1 else 0.0
    cuts = range(_LEVELS, _BINS + 1, 16)
    best = min(cuts, key=lambda cut: _divergence(counts, cut))
    return histogram.largest * best / _BINS


def _divergence(counts: NDArray[np.float64], cut: int) -> float:
    clipped = counts[:cut].copy()
    clipped[-1] += counts[cut:].sum()
    level = np.arange(cut) * _LEVELS // cut
    filled = counts[:cut] > 0
    mass = np.bincount(level, weights=counts[:cut], minlength=_LEVELS)
    cells = np.bincount(level, weights=filled.astype(np.float64), minlength=_LEVELS)
    spread = np.where(filled, mass[level] / np.maximum(cells[level], 1.0), 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1.0)
    both = (p > 0) & (q > 0)
    lost = float(p[(p > 0) & (q <= 0)].sum())
    return float((p[both] * np.log(p[both] / q[both])).sum()) + lost * 10.0


def _observing_session(model: ModelProto, tensors: list[str]) -> Any:
    import onnxruntime

    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    inputs = {i.name for i in copy.graph.input}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(t) for t in tensors if t not in inputs)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # between runs histograms are counted
    return onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _activations(
    session: Any, tensors: list[str], images: Iterable[NDArray[np.float32]]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    names = [o.name for o in session.get_outputs()]
    for image in images:
        values = dict(zip(names, session.run(names, {"images": image[None]}), strict=True))
        yield {t: image[None] if t == "images" else values[t] for t in tensors}
