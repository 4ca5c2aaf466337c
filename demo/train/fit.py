"""The training loop: batches of groups are drawn on the device, until the clock says stop. A checkpoint every minute
lets a second call go on where the first was cut."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from demo.train.augment import Reach, jittered
from demo.train.compiled import compiled
from demo.train.layout import Plan
from demo.train.losses import Losses, apart_loss, identity_loss, mark_loss, place_loss, twin_loss
from demo.train.store import Store

LOG = logging.getLogger(__name__)

_WARM_UP = 0.04  # share of the run
_RESUMED_AT = 0.25  # where on the schedule a continued run begins
_CHECKPOINT_S = 60.0
_TOLD_S = 10.0
_POLL_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What differs between the families and a dry run. `groups` a batch come from `kinds` (category, view) pairs, so
    that other SKUs of the same role are among the negatives. `compile_s`: most seconds for compiling, 0 for none."""

    learning_rate: float
    weight_decay: float = 0.05
    groups: int = 28
    kinds: int = 4
    first_kinds: int = 18  # pairs that must have enough groups before training begins
    compile_s: float = 0.0
    reach: Reach = dataclasses.field(default_factory=Reach)


RECIPES = {"resnet18": Recipe(learning_rate=1.5e-3), "vit_tiny16": Recipe(learning_rate=1e-3)}


def recipe_of(family: str, groups: int | None = None, rate: float = 1.0, compile_s: float = 0.0) -> Recipe:
    """A family's recipe, with another batch size for dry runs and a factor on its learning rate."""
    recipe = RECIPES[family]
    recipe = dataclasses.replace(recipe, learning_rate=recipe.learning_rate * rate, compile_s=compile_s)
    if groups is None:
        return recipe
    kinds = min(groups, recipe.kinds)
    return dataclasses.replace(recipe, groups=groups // kinds * kinds, kinds=kinds, first_kinds=kinds)


def fit(module: Any, root: Path, recipe: Recipe, until: float, checkpoint: Path, device: Any) -> dict[str, float]:
    """Train `module` in place on the set below `root`, which may still grow, until the wall clock (time.time) reaches
    `until`; gives what the run was like."""
    store = Store(root, device)
    module.to(device=device, memory_format=torch.channels_last).train()
    fused = device.type == "cuda"
    rates = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "betas": (0.9, 0.98), "fused": fused}
    optimiser = torch.optim.AdamW(_decayed(module, recipe.weight_decay), **rates)
    began_at = _resume(module, optimiser, checkpoint)
    store.follow()
    try:
        parts = _parts(module, store, recipe, device)
        _wait(store, recipe, until)
        steps, seconds = _train(module, parts, optimiser, store, recipe, (began_at, until), checkpoint)
    finally:
        store.stop()
    images = steps * recipe.groups * store.pixels.shape[1]
    return {"steps": float(steps), "images": float(images), "seconds": seconds, "groups": float(store.groups)}


def _parts(module: Any, store: Store, recipe: Recipe, device: Any) -> dict[str, Any]:
    """The encoder and the augmentation, compiled if they can be; the trial leaves no trace in the module."""
    kept = {name: value.clone() for name, value in module.state_dict().items()}

    def trial(parts: dict[str, Any]) -> float:
        groups = torch.zeros(recipe.groups, dtype=torch.int64, device=device)
        total = _losses_of(parts, store, groups, recipe).total
        total.backward()
        module.zero_grad(set_to_none=True)
        return float(total.detach())

    parts = compiled({"encoder": module, "jittered": jittered}, trial, recipe.compile_s)
    module.load_state_dict(kept)
    module.zero_grad(set_to_none=True)
    return parts


def _wait(store: Store, recipe: Recipe, until: float) -> None:
    """Until every kind of photograph has enough groups, or the time is up."""
    began = time.time()
    while not store.ready(max(1, recipe.groups // recipe.kinds), recipe.first_kinds):
        if time.time() > until:
            raise RuntimeError(f"only {store.groups} groups were rendered until the training's end")
        time.sleep(_POLL_S)
    LOG.info("%d groups on the device to begin with, waited %.0f s", store.groups, time.time() - began)


def _train(
    module: Any,
    parts: dict[str, Any],
    optimiser: Any,
    store: Store,
    recipe: Recipe,
    schedule: tuple[float, float],
    checkpoint: Path,
) -> tuple[int, float]:
    """`schedule`: where on it to begin (0 to 1), and when it ends. Gives steps and seconds."""
    began_at, until = schedule
    start, steps = time.time(), 0
    told, kept = start, start
    while (now := time.time()) < until:
        progress = began_at + (1 - began_at) * (now - start) / max(until - start, 1e-6)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(progress)
        losses = _step(module, parts, optimiser, store, recipe)
        steps += 1
        if now - told > _TOLD_S or steps == 1:
            told = now
            rate = steps * recipe.groups * store.pixels.shape[1] / max(time.time() - start, 1e-6)
            words = ", ".join(f"{name} {value:.3f}" for name, value in losses.told().items())
            LOG.info("step %d, %.0f images/s, %d groups, %.0f %%: %s", steps, rate, store.groups, 100 * progress, words)
        if now - kept > _CHECKPOINT_S:
            kept = now
            _keep(module, optimiser, checkpoint)
    _keep(module, optimiser, checkpoint)
    return steps, time.time() - start


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


def _step(module: Any, parts: dict[str, Any], optimiser: Any, store: Store, recipe: Recipe) -> Losses:
    losses = _losses_of(parts, store, store.drawn(recipe.groups, recipe.kinds), recipe)
    optimiser.zero_grad(set_to_none=True)
    losses.total.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()
    return losses


def _losses_of(parts: dict[str, Callable[..., Any]], store: Store, groups: Any, recipe: Recipe) -> Losses:
    """The losses of a batch: `groups` [n] are places in the store."""
    count, each = len(groups), store.pixels.shape[1]
    specimens = torch.tensor([s.specimen for s in store.plan.slots], device=groups.device)
    stands = torch.arange(count, device=groups.device)[:, None] * 4 + specimens
    pixels, masks = store.pixels[groups].flatten(0, 1), store.masks[groups].flatten(0, 1)
    images, shares = parts["jittered"](pixels, masks, stands.flatten(), 4 * count, recipe.reach)
    with torch.autocast(groups.device.type, torch.bfloat16):
        embedding, patches = parts["encoder"](images)
    shape = (count, each)
    return _losses(
        embedding.unflatten(0, shape),
        patches.unflatten(0, shape),
        shares.unflatten(0, shape),
        store.designs[groups],
        store.plan,
    )


def _losses(embedding: Any, patches: Any, shares: Any, designs: Any, plan: Plan) -> Losses:
    """`embedding` [G,K,D], `patches` [G,K,P,d], `shares` [G,K,h,w], `designs` [G,K]."""
    genuine = [g for g, _ in plan.twins]
    forged = [f for _, f in plan.twins]
    others = genuine[1:] + genuine[:1]  # another specimen of the same design
    ours, theirs, elsewhere = (patches[:, places].flatten(0, 1) for places in (genuine, forged, others))
    changed = shares[:, forged].flatten(0, 1)
    return Losses(
        identity=identity_loss(embedding.flatten(0, 1), designs.flatten()),
        apart=apart_loss(embedding, designs),
        twins=twin_loss(ours, theirs, changed),
        places=place_loss(patches[:, [0, 2]].flatten(0, 1), patches[:, [1, 3]].flatten(0, 1)),
        marks=mark_loss(ours, theirs, elsewhere, changed),
    )


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
