"""What the encoders learn. Embeddings: specimens of one design together, forgeries of the very same SKU and view apart
(supervised contrast over the batch, and once more within each group, where the hard ones are). Patches: equal to the
genuine twin's outside the forgery's mask and unlike it inside; found again, near their place, on another genuine
specimen (InfoNCE), and found there less well where they are forged than where they are not."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.nn import functional as F

_TEMPERATURE = 0.07
_MARGIN = 0.1  # of cosine: by how much a forgery should lie farther than any genuine specimen
_PATCH_TEMPERATURE = 0.1
_PATCH_MARGIN = 0.3
_ALIKE_INSIDE = 0.3  # a changed patch may stay this similar to its twin
_CHANGED = (0.03, 0.18)  # share of a patch: from where it counts as changed, and from where in full: a thread is thin
_WINDOW = 5  # cells: how far two photographs of one place lie apart, camera and jitter together
_ANCHORS = 48  # patches a pair
_NEGATIVES = 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The parts, as tensors on the device."""

    identity: Any
    apart: Any
    twins: Any
    places: Any
    marks: Any

    @property
    def total(self) -> Any:
        return self.identity + self.apart + 0.5 * self.twins + 0.25 * self.places + 0.5 * self.marks

    def told(self) -> dict[str, float]:
        return {field.name: float(getattr(self, field.name).detach()) for field in dataclasses.fields(self)}


def identity_loss(embedding: Any, design: Any) -> Any:
    """Supervised contrastive loss of `embedding` [B,D] with `design` [B]: equal numbers belong together."""
    similarity = embedding @ embedding.T / _TEMPERATURE
    itself = torch.eye(len(design), dtype=torch.bool, device=design.device)
    similarity = similarity.masked_fill(itself, -1e4)
    log_share = similarity - torch.logsumexp(similarity, dim=1, keepdim=True)
    together = (design[:, None] == design[None]) & ~itself
    count = together.sum(1)
    per_image = -(log_share * together).sum(1) / count.clamp(min=1)
    return per_image.sum() / (count > 0).sum().clamp(min=1)


def apart_loss(embedding: Any, design: Any) -> Any:
    """`embedding` [G,K,D], `design` [G,K]: in every group, another specimen of a design lies nearer than any image of
    another design, by a margin; the mean over all such pairs of pairs."""
    alike = embedding @ embedding.transpose(1, 2)
    same = design[:, :, None] == design[:, None]
    itself = torch.eye(design.shape[1], dtype=torch.bool, device=design.device)
    wanted = (same & ~itself)[:, :, :, None] & ~same[:, :, None, :]
    short = (alike[:, :, None, :] - alike[:, :, :, None] + _MARGIN) / _TEMPERATURE
    return (F.softplus(short) * wanted).sum() / wanted.sum().clamp(min=1)


def changed_of(shares: Any) -> Any:
    """How much each patch counts as changed, 0 to 1, by the share of it that is."""
    low, high = _CHANGED
    return ((shares - low) / (high - low)).clamp(0, 1)


def twin_loss(genuine: Any, forged: Any, shares: Any) -> Any:
    """`genuine` and `forged` [T,P,d] of aligned twins; `shares` [T,h,w], how much of each patch is changed."""
    alike = (genuine * forged).sum(-1)
    # a patch beside a changed one sees some of the change: it is asked for nothing
    untouched = F.max_pool2d(shares.unsqueeze(1), 3, 1, 1).flatten(1) < 0.01
    changed = changed_of(shares.flatten(1))
    outside = ((1 - alike) * untouched).sum() / untouched.sum().clamp(min=1)
    inside = (F.relu(alike - _ALIKE_INSIDE) * changed).sum() / changed.sum().clamp(min=1)
    return outside + inside


def place_loss(left: Any, right: Any) -> Any:
    """`left` and `right` [T,P,d]: two genuine specimens of the same SKU and view, roughly aligned."""
    pairs, cells, dim = left.shape
    chosen = torch.randint(cells, (pairs, _ANCHORS), device=left.device)
    anchors = _gathered(left, chosen)
    best = _found(anchors, right, chosen)
    pool = right.reshape(-1, dim)
    drawn = torch.randint(len(pool), (_NEGATIVES,), device=left.device)
    others = anchors.reshape(-1, dim) @ pool[drawn].T
    own = torch.arange(pairs, device=left.device).repeat_interleave(_ANCHORS)
    others = others.masked_fill(own[:, None] == (drawn // cells)[None], -1e4)
    logits = torch.cat([best.reshape(-1, 1), others], 1) / _PATCH_TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=left.device))


def mark_loss(genuine: Any, forged: Any, other: Any, shares: Any) -> Any:
    """What a deviation map does: `forged` is looked for on another genuine specimen, near its place [T,P,d]. At changed
    patches, drawn by how much they are, it must be found less well than its `genuine` twin is."""
    changed = changed_of(shares.flatten(1))
    # noise breaks ties between patches that are changed in full, and orders those that are not changed at all
    chosen = (changed + 0.5 * torch.rand_like(changed)).topk(min(_ANCHORS, changed.shape[1]), dim=1).indices
    weight = torch.gather(changed, 1, chosen)
    of_genuine, of_forged = (_found(_gathered(one, chosen), other, chosen) for one in (genuine, forged))
    short = (of_forged - of_genuine + _PATCH_MARGIN) / _PATCH_TEMPERATURE
    return (F.softplus(short) * weight).sum() / weight.sum().clamp(min=1)


def _gathered(patches: Any, chosen: Any) -> Any:
    return torch.gather(patches, 1, chosen.unsqueeze(-1).expand(-1, -1, patches.shape[2]))


def _found(anchors: Any, patches: Any, chosen: Any) -> Any:
    """Cosine [T,A] of each anchor with the best patch near its place `chosen`."""
    near = _neighbours(patches.shape[1], patches.device)[chosen]
    return (anchors @ patches.transpose(1, 2)).masked_fill(~near, -1.0).amax(-1)


def _neighbours(cells: int, device: Any) -> Any:
    """bool [P,P]: which cells of a square grid lie within the window of which."""
    side = round(cells**0.5)
    place = torch.arange(cells, device=device)
    row, column = place // side, place % side
    apart = torch.maximum((row[:, None] - row[None]).abs(), (column[:, None] - column[None]).abs())
    return apart <= _WINDOW
