"""What can be told of genuine and forged without looking at the goods. If that is much, the goods give themselves away.

A classifier sees the file size, the mean colour and the sharpness of each photograph, never a reference. It is fitted
and asked on different SKUs in turn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from demo.evaluate.measure import Figures, told
from demo.evaluate.outcomes import Outcome
from demo.evaluate.plan import HEADLINE
from demo.evaluate.statistics import Doubles, auc_estimate

FOLDS = 5
TREES = 300
SMALL_PX = 64


def controls(taken: Sequence[Outcome]) -> Figures:
    """Areas of both classifiers on the headline's jobs, and of one that was fitted on shuffled labels."""
    found = [one for one in taken if one.genuine or one.strength == HEADLINE]
    features = np.array([_features(one) for one in found])
    labels = np.array([one.genuine for one in found], np.bool_)
    skus = np.array([one.sku for one in found], np.intp)
    dealt = np.random.default_rng(0).permutation(labels)
    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
    forest = RandomForestClassifier(TREES, min_samples_leaf=5, random_state=0)
    return {
        "logistic": _area(line, features, labels, skus),
        "forest": _area(forest, features, labels, skus),
        "forest_on_shuffled_labels": _area(forest, features, dealt, skus),
        "features": "file size, mean red, green and blue, sharpness of each of six views",
    }


def _area(model: object, features: Doubles, labels: NDArray[np.bool_], skus: NDArray[np.intp]) -> Figures:
    folds = GroupKFold(FOLDS)
    asked = cross_val_predict(model, features, labels, groups=skus, cv=folds, method="predict_proba")[:, 1]
    return told(auc_estimate(np.asarray(asked, np.float64), labels, skus))


def _features(one: Outcome) -> list[float]:
    item = one.judged.case.item
    sharpness = {view.view: view.quality.get("sharpness", 0.0) for view in one.judged.event.views}
    return [value for view, path in sorted(item.views.items()) for value in (*_of_file(Path(path)), sharpness[view])]


def _of_file(path: Path) -> tuple[float, ...]:
    """Bytes and mean colour of a photograph, decoded at a fraction of its size."""
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        opened.draft("RGB", (SMALL_PX, SMALL_PX))
        colour = np.asarray(opened.convert("RGB"), np.float64).mean(axis=(0, 1))
    return (float(len(data)), *colour.tolist())
