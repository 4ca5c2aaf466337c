"""What a trained encoder can do on SKUs it never saw: find the SKU again, tell forgeries apart, point at them; and what
INT8 costs. NumPy alone; embeddings come from whoever ran the encoder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demo.train.layout import VIEWS_A_SKU, Dataset
from demo.unseen import SEEN_FAMILIES, UNSEEN_FAMILIES
from engines.ranking import auc

Embeddings = NDArray[np.float32]

_REFERENCES = (0, 1)  # places in the group; 2 and 3 are probes, and the forgeries' twins
_PROBES = (2, 3)
_FORGED = (4, 5)


def recall_at_1(embeddings: Embeddings, groups: NDArray[np.int64], known: NDArray[np.bool_]) -> tuple[float, int]:
    """Share of genuine probes whose nearest gallery entry of the same view is their SKU's, and how many were asked.

    `embeddings` [G,K,D]: place 0 is the gallery, 1 to 3 ask. `known` [G,K] says which were computed.
    """
    hits = asked = 0
    for view in range(VIEWS_A_SKU):
        rows = np.flatnonzero((groups % VIEWS_A_SKU == view) & known[:, 0])
        gallery = embeddings[rows, 0]
        for place in (1, 2, 3):
            able = np.flatnonzero(known[rows, place])
            nearest = (embeddings[rows[able], place] @ gallery.T).argmax(1)
            hits += int((nearest == able).sum())
            asked += len(able)
    return (hits / asked if asked else float("nan")), asked


def forgery_auc(embeddings: Embeddings, data: Dataset, known: NDArray[np.bool_]) -> dict[str, float]:
    """Area under the ROC curve of the similarity to two references, genuine probes against forgeries: per family, of
    the families that training has `seen`, of the `unseen` ones, and of `all`. Forgeries that change no pixel are left
    out."""
    groups = data.groups
    best = np.einsum("gpd,grd->gpr", embeddings, embeddings[:, _REFERENCES]).max(-1)
    usable = known[:, _REFERENCES].all(1)
    genuine = np.concatenate([best[usable & known[:, p], p] for p in _PROBES])
    scores: dict[str, list[float]] = {}
    for number, place in enumerate(_FORGED):
        seen = data.masks[groups, place].reshape(len(groups), -1).max(1) > 127
        for row in np.flatnonzero(usable & known[:, place] & seen):
            scores.setdefault(data.families[groups[row]][number], []).append(float(best[row, place]))
    groupings = {"all": tuple(scores), "seen": SEEN_FAMILIES, "unseen": UNSEEN_FAMILIES}
    together = {name: [s for f in families for s in scores.get(f, [])] for name, families in groupings.items()}
    return {name: auc(genuine, found) for name, found in (*together.items(), *sorted(scores.items()))}


def deviation_auc(patches: NDArray[np.float32], masks: NDArray[np.uint8], window: int = 4) -> float:
    """How well plain deviation points at a forgery: mean over forgeries of the ROC area of changed against untouched
    cells. `patches` [n,3,P,d]: two references and the forged probe; `masks` [n,112,112]."""
    side = round(patches.shape[2] ** 0.5)
    place = np.arange(side * side)
    row, column = place // side, place % side
    near = np.maximum(np.abs(row[:, None] - row), np.abs(column[:, None] - column)) <= window
    areas = []
    for features, mask in zip(patches, masks, strict=True):
        cells = mask.reshape(side, 4, side, 4).mean((1, 3)).ravel() / 255
        alike = np.maximum(features[2] @ features[0].T, features[2] @ features[1].T)
        deviation = 1 - np.where(near, alike, -1).max(1)
        areas.append(auc(deviation[cells > 0.25].tolist(), deviation[cells < 0.01].tolist()))
    return float(np.nanmean(areas)) if areas else float("nan")


def closeness(left: Embeddings, right: Embeddings) -> dict[str, float]:
    """Cosine of the same images' embeddings [n,D] in two precisions: mean and first percentile."""
    cosine = (left * right).sum(-1)
    return {"cosine_mean": float(cosine.mean()), "cosine_p1": float(np.percentile(cosine, 1))}
