"""What the encoders learn. Embeddings: specimens of one design together, forgeries of the very same SKU and view apart
(supervised contrast). Patches: equal to the genuine twin's outside the forgery's mask and unlike it inside, and found
again, near its place, on another genuine specimen (InfoNCE)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.nn import functional as F

_TEMPERATURE = 0.07
_PATCH_TEMPERATURE = 0.1
_ALIKE_INSIDE = 0.3  # a changed patch may stay this similar to its twin
_WINDOW = 5  # cells: how far two photographs of one place lie apart, camera and jitter together
_ANCHORS = 48  # patches a pair
_NEGATIVES = 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The parts, as tensors on the device."""

    identity: Any
    twins: Any
    places: Any

    @property
    def total(self) -> Any:
        return self.identity + 0.5 * self.twins + 0.25 * self.places


def identity_loss(embedding: Any, design: Any) -> Any:
    """Supervised contrastive loss of `embedding` [B,D] with `design` [B]: equal numbers belong together."""
    similarity = embedding @ embedding.T / _TEMPERATURE
    itself = torch.eye(len(design), dtype=torch.bool, device=design.device)
    similarity = similarity.masked_fill(itself, -1e4)
    log_share = similarity - torch.logsumexp(similarity, dim=1, keepdim=True)
    together = (design[:, None] == design[None]) & ~itself
    count = together.sum(1)
    per_image = -(log_share * together).sum(1) / count.clamp(min=1)
    return per_image[count > 0].mean()


def twin_loss(genuine: Any, forged: Any, shares: Any) -> Any:
    """`genuine` and `forged` [T,P,d] of aligned twins; `shares` [T,h,w], how much of each patch is changed."""
    alike = (genuine * forged).sum(-1)
    # a patch beside a changed one sees some of the change: it is asked for nothing
    untouched = F.max_pool2d(shares.unsqueeze(1), 3, 1, 1).flatten(1) < 0.01
    changed = shares.flatten(1) > 0.25
    outside = ((1 - alike) * untouched).sum() / untouched.sum().clamp(min=1)
    inside = (F.relu(alike - _ALIKE_INSIDE) * changed).sum() / changed.sum().clamp(min=1)
    return outside + inside


def place_loss(left: Any, right: Any) -> Any:
    """`left` and `right` [T,P,d]: two genuine specimens of the same SKU and view, roughly aligned."""
    pairs, cells, dim = left.shape
    chosen = torch.randint(cells, (pairs, _ANCHORS), device=left.device)
    anchors = torch.gather(left, 1, chosen.unsqueeze(-1).expand(-1, -1, dim))
    alike = anchors @ right.transpose(1, 2)
    near = _neighbours(cells, left.device)[chosen]
    best = alike.masked_fill(~near, -1.0).amax(-1)
    pool = right.reshape(-1, dim)
    drawn = torch.randint(len(pool), (_NEGATIVES,), device=left.device)
    others = anchors.reshape(-1, dim) @ pool[drawn].T
    own = torch.arange(pairs, device=left.device).repeat_interleave(_ANCHORS)
    others = others.masked_fill(own[:, None] == (drawn // cells)[None], -1e4)
    logits = torch.cat([best.reshape(-1, 1), others], 1) / _PATCH_TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=left.device))


def _neighbours(cells: int, device: Any) -> Any:
    """bool [P,P]: which cells of a square grid lie within the window of which."""
    side = round(cells**0.5)
    place = torch.arange(cells, device=device)
    row, column = place // side, place % side
    apart = torch.maximum((row[:, None] - row[None]).abs(), (column[:, None] - column[None]).abs())
    return apart <= _WINDOW
