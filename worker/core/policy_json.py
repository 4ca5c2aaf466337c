"""Score calibrations as JSON values, for the database and for files; a round trip is exact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.core.policy import (
    ByClass,
    CategoryBaseline,
    CellKey,
    MeasureKey,
    Posterior,
    ScoreCalibration,
    ViewCalibration,
)

JsonObject = dict[str, Any]  # what json.loads gives; parsed here, at the edge, into frozen values

VERSION = 2  # 1 had one more feature of a view, and deviations over each place's own spread


def to_json(calibration: ScoreCalibration) -> JsonObject:
    """A JSON object with only plain values; floats survive the round trip bit for bit.

    `baselines` stands in it only where there are any: a calibration of an older build keeps its content, and so its id.
    """
    baselines = {category: _baseline_to_json(known) for category, known in sorted(calibration.baselines.items())}
    return {
        "version": VERSION,
        "calibration_id": calibration.calibration_id,
        "backend": calibration.backend,
        "engine_digests": sorted(calibration.engine_digests),
        "min_references": calibration.min_references,
        "jitter": calibration.jitter,
        "views": [_cell_to_json(key, view) for key, view in sorted(calibration.views.items())],
        "genuine_scores": _scores_to_json(calibration.genuine_scores),
        "counterfeit_scores": _scores_to_json(calibration.counterfeit_scores),
        "levels": dict(sorted(calibration.levels.items())),
        "posteriors": {
            category: {"slope": line.slope, "intercept": line.intercept, "limit": line.limit}
            for category, line in sorted(calibration.posteriors.items())
        },
        **({"baselines": baselines} if baselines else {}),
    }


def from_json(value: Mapping[str, Any]) -> ScoreCalibration:
    """The inverse of `to_json`. Raises ValueError naming what is missing or of another version."""
    if value.get("version") != VERSION:
        raise ValueError(f"score calibration of version {value.get('version')!r}, this worker reads {VERSION}")
    try:
        return _calibration(value)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"score calibration cannot be read: {error!r}") from error


def content_id(calibration: ScoreCalibration) -> str:
    """An id of the calibration's content: equal content has an equal id."""
    content = {name: part for name, part in to_json(calibration).items() if name != "calibration_id"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "cal-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _cell_to_json(key: CellKey, view: ViewCalibration) -> JsonObject:
    return {
        "cell": list(key),
        "weights": view.weights.tolist(),
        "bias": view.bias,
        "mean": view.mean.tolist(),
        "scale": view.scale.tolist(),
        "n": view.n,
        "level": view.level,
    }


def _scores_to_json(scores: Mapping[str, NDArray[np.float64]]) -> JsonObject:
    return {category: values.tolist() for category, values in sorted(scores.items())}


def _baseline_to_json(known: CategoryBaseline) -> JsonObject:
    return {
        "abstained": [list(counts) for counts in known.abstained],
        "measures": [
            {"of": list(key), "genuine": genuine.tolist(), "counterfeit": fakes.tolist()}
            for key, (genuine, fakes) in sorted(known.measures.items())
        ],
    }


def _baseline(value: Mapping[str, Any]) -> CategoryBaseline:
    (genuine_abstained, genuine), (fakes_abstained, fakes) = value["abstained"]
    return CategoryBaseline(
        abstained=((int(genuine_abstained), int(genuine)), (int(fakes_abstained), int(fakes))),
        measures=dict(_measure(entry) for entry in value["measures"]),
    )


def _measure(value: Mapping[str, Any]) -> tuple[MeasureKey, ByClass]:
    engine, view, measure = value["of"]
    by_class = np.asarray(value["genuine"], np.float64), np.asarray(value["counterfeit"], np.float64)
    return (engine, view, measure), by_class


def _calibration(value: Mapping[str, Any]) -> ScoreCalibration:
    return ScoreCalibration(
        calibration_id=value["calibration_id"],
        backend=value["backend"],
        engine_digests=frozenset(value["engine_digests"]),
        views=dict(_cell(cell) for cell in value["views"]),
        genuine_scores=_scores(value["genuine_scores"]),
        counterfeit_scores=_scores(value["counterfeit_scores"]),
        levels=dict(value["levels"]),
        min_references=int(value["min_references"]),
        jitter=float(value["jitter"]),
        posteriors={category: Posterior(**line) for category, line in value["posteriors"].items()},
        baselines={category: _baseline(known) for category, known in value.get("baselines", {}).items()},
    )


def _cell(value: Mapping[str, Any]) -> tuple[CellKey, ViewCalibration]:
    category, view, digest, backend = value["cell"]
    calibration = ViewCalibration(
        weights=np.asarray(value["weights"], np.float64),
        bias=float(value["bias"]),
        mean=np.asarray(value["mean"], np.float64),
        scale=np.asarray(value["scale"], np.float64),
        n=int(value["n"]),
        level=value["level"],
    )
    return (category, view, digest, backend), calibration


def _scores(value: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    return {category: np.sort(np.asarray(scores, np.float64)) for category, scores in value.items()}
