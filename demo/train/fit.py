"""The training loop: the whole set on the device, batches of groups drawn there, until the clock says stop. A
checkpoint every minute lets a second call go on where the first was cut."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo.goods import CATEGORIES
from demo.train.augment import Reach, jittered
from demo.train.layout import RESERVED_SKUS, VIEWS_A_SKU, Dataset
from demo.train.losses import Losses, identity_loss, place_loss, twin_loss

LOG = logging.getLogger(__name__)

_WARM_UP = 0.04  # share of the run
_RESUMED_AT = 0.25  # where on the schedule a continued run begins
_CHECKPOINT_S = 60.0
_TOLD_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What differs between the families and a dry run. `groups` a batch come from `kinds` (category, view) pairs, so
    that other SKUs of the same role are among the negatives."""

    learning_rate: float
    weight_decay: float = 0.05
    groups: int = 28
    kinds: int = 4
    reach: Reach = dataclasses.field(default_factory=Reach)


RECIPES = {"resnet18": Recipe(learning_rate=1.5e-3), "vit_tiny16": Recipe(learning_rate=1e-3)}


def recipe_of(family: str, groups: int | None = None, rate: float = 1.0) -> Recipe:
    """A family's recipe, with another batch size for dry runs and a factor on its learning rate."""
    recipe = dataclasses.replace(RECIPES[family], learning_rate=RECIPES[family].learning_rate * rate)
    return recipe if groups is None else dataclasses.replace(recipe, groups=groups, kinds=min(groups, recipe.kinds))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """The training set on the device: pixels uint8 [G,K,S,S,3], masks uint8 [G,K,S/4,S/4], designs int64 [G,K] (what
    an image shows: one number a genuine design, one a forgery that can be seen)."""

    pixels: Any
    masks: Any
    designs: Any
    by_kind: tuple[Any, ...]


def resident(data: Dataset, device: Any) -> Resident:
    """Copy the finished SKUs, without the reserved ones, to the device."""
    skus = [n for n in data.finished if n >= RESERVED_SKUS]
    groups = np.concatenate([np.arange(VIEWS_A_SKU) + n * VIEWS_A_SKU for n in skus])
    masks = torch.from_numpy(np.asarray(data.masks[groups])).to(device)
    kinds = groups // VIEWS_A_SKU % len(CATEGORIES) * VIEWS_A_SKU + groups % VIEWS_A_SKU
    by_kind = tuple(torch.from_numpy(np.flatnonzero(kinds == k)).to(device) for k in np.unique(kinds))
    return Resident(pixels=_copied(data, skus, device), masks=masks, designs=_designs(data, masks), by_kind=by_kind)


def _copied(data: Dataset, skus: list[int], device: Any) -> Any:
    """Pixels [G,K,S,S,3] on the device, read a SKU at a time: plain reads are faster than a memory map's faults."""
    shape = data.pixels.shape[1:]
    whole = torch.empty((len(skus) * VIEWS_A_SKU, *shape), dtype=torch.uint8, device=device)
    part = torch.empty((VIEWS_A_SKU, *shape), dtype=torch.uint8, pin_memory=device.type == "cuda")
    view = memoryview(part.numpy()).cast("B")
    with data.pixels_file.open("rb") as file:
        for place, number in enumerate(skus):
            file.seek(number * part.numel())
            file.readinto(view)
            whole[place * VIEWS_A_SKU : (place + 1) * VIEWS_A_SKU].copy_(part)
    return whole


def _designs(data: Dataset, masks: Any) -> Any:
    """A forgery whose mask is empty shows the genuine design, and is labelled so."""
    kinds = torch.tensor([0 if s.forgery is None else 1 + s.forgery for s in data.plan.slots], device=masks.device)
    seen = masks.flatten(2).amax(-1) > 127
    local = torch.where(seen | (kinds == 0), kinds, torch.zeros_like(kinds))
    return torch.arange(len(masks), device=masks.device)[:, None] * 4 + local


def fit(module: Any, data: Dataset, recipe: Recipe, until: float, checkpoint: Path, device: Any) -> dict[str, float]:
    """Train `module` in place until the wall clock (time.time) reaches `until`; gives what the run was like."""
    store = resident(data, device)
    LOG.info("%d groups on the device", len(store.pixels))
    module.to(device=device, memory_format=torch.channels_last).train()
    fused = device.type == "cuda"
    rates = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "betas": (0.9, 0.98), "fused": fused}
    optimiser = torch.optim.AdamW(_decayed(module, recipe.weight_decay), **rates)
    began_at = _resume(module, optimiser, checkpoint)
    start, steps = time.time(), 0
    told, kept = start, start
    for progress in _progress(start, until, began_at):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(progress)
        losses = _step(module, optimiser, store, data, recipe, device)
        steps += 1
        now = time.time()
        if now - told > _TOLD_S or steps == 1:
            told = now
            images = steps * recipe.groups * store.pixels.shape[1]
            _tell(steps, images / (now - start), progress, losses)
        if now - kept > _CHECKPOINT_S:
            kept = now
            _keep(module, optimiser, checkpoint)
    _keep(module, optimiser, checkpoint)
    images = steps * recipe.groups * store.pixels.shape[1]
    seconds = time.time() - start
    return {"steps": float(steps), "images": float(images), "seconds": seconds, "groups": float(len(store.pixels))}


def _progress(start: float, until: float, began_at: float) -> Iterator[float]:
    while (now := time.time()) < until:
        yield began_at + (1 - began_at) * (now - start) / max(until - start, 1e-6)


def _schedule(progress: float) -> float:
    """Linear warm-up, then a cosine to almost nothing."""
    if progress < _WARM_UP:
        return 0.02 + 0.98 * progress / _WARM_UP
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def _decayed(module: Any, decay: float) -> list[dict[str, Any]]:
    """Norms, biases and tables are not decayed."""
    flat = [p for n, p in module.named_parameters() if p.ndim < 2 or n.endswith("_embed")]
    rest = [p for n, p in module.named_parameters() if not (p.ndim < 2 or n.endswith("_embed"))]
    return [{"params": rest, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]


def _drawn(store: Resident, recipe: Recipe) -> Any:
    """Group numbers of one batch."""
    kinds = torch.randperm(len(store.by_kind))[: recipe.kinds].tolist()
    each = max(1, recipe.groups // len(kinds))
    picks = [store.by_kind[k][torch.randperm(len(store.by_kind[k]), device=store.pixels.device)[:each]] for k in kinds]
    return torch.cat(picks)


def _step(module: Any, optimiser: Any, store: Resident, data: Dataset, recipe: Recipe, device: Any) -> Losses:
    groups = _drawn(store, recipe)
    count, each = len(groups), store.pixels.shape[1]
    specimens = torch.tensor([s.specimen for s in data.plan.slots], device=device)
    place = (torch.arange(count, device=device)[:, None] * 4 + specimens).flatten()
    pixels, masks = store.pixels[groups].flatten(0, 1), store.masks[groups].flatten(0, 1)
    images, shares = jittered(pixels, masks, place, recipe.reach)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16):
        embedding, patches = module(images)
    losses = _losses(
        embedding, patches.unflatten(0, (count, each)), shares.unflatten(0, (count, each)), store.designs[groups], data
    )
    optimiser.zero_grad(set_to_none=True)
    losses.total.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()
    return losses


def _losses(embedding: Any, patches: Any, shares: Any, designs: Any, data: Dataset) -> Losses:
    """`patches` [G,K,P,d], `shares` [G,K,h,w], `designs` [G,K], `embedding` [G*K,D]."""
    genuine = [g for g, _ in data.plan.twins]
    forged = [f for _, f in data.plan.twins]
    return Losses(
        identity=identity_loss(embedding, designs.flatten()),
        twins=twin_loss(
            patches[:, genuine].flatten(0, 1), patches[:, forged].flatten(0, 1), shares[:, forged].flatten(0, 1)
        ),
        places=place_loss(patches[:, [0, 2]].flatten(0, 1), patches[:, [1, 3]].flatten(0, 1)),
    )


def _tell(steps: int, rate: float, progress: float, losses: Losses) -> None:
    parts = [float(v.detach()) for v in (losses.identity, losses.twins, losses.places)]
    told = "step %d, %.0f images/s, %.0f %%: identity %.3f, twins %.3f, places %.3f"
    LOG.info(told, steps, rate, 100 * progress, *parts)


def _keep(module: Any, optimiser: Any, path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save({"module": module.state_dict(), "optimiser": optimiser.state_dict()}, part)
    part.replace(path)


def _resume(module: Any, optimiser: Any, path: Path) -> float:
    """Load a checkpoint where there is one; gives where on the schedule to begin."""
    if not path.exists():
        return 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    optimiser.load_state_dict(state["optimiser"])
    LOG.info("going on from %s", path)
    return _RESUMED_AT
