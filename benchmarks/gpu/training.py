"""A short training of a published network on rendered goods: quantisation is judged on weights that mean something."""

from __future__ import annotations

import math
import time
from typing import Any, Final

import torch

from benchmarks.gpu.networks import Family, network_of
from benchmarks.gpu.rival import without_classifier
from demo.train.augment import Reach, jittered, normalised
from demo.train.losses import identity_loss
from demo.train.store import Store

KINDS: Final = 4
RATES: Final = {"residual": 1.5e-3, "transformer": 5e-4}
WARM_UP: Final = 0.05


def trained(family: Family, store: Store, *, groups: int, until_s: float, device: Any) -> tuple[Any, dict[str, float]]:
    """The network after supervised contrast until time.monotonic() reaches `until_s`, and what the run was like.
    Embeddings are its features, L2-normalised: what an import makes of its weights."""
    torch.manual_seed(1)
    network = without_classifier(network_of(family, family.size)).to(device, memory_format=torch.channels_last).train()
    rate = RATES[family.recipe]
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05, fused=device.type == "cuda")
    call = torch.compile(network) if device.type == "cuda" else network
    began, steps, loss = time.monotonic(), 0, torch.zeros(())
    while (now := time.monotonic()) < until_s:
        share = (now - began) / max(until_s - began, 1e-6)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(share / WARM_UP, 0.5 * (1 + math.cos(math.pi * share))) + 1e-6
        loss = _step(call, optimiser, store, groups, family.size, device)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        steps += 1
    images = steps * groups * store.pixels.shape[1]
    return network.eval(), {"steps": steps, "images": images, "loss": round(float(loss.detach()), 4)}


def _step(call: Any, optimiser: Any, store: Store, groups: int, size: int, device: Any) -> Any:
    """Gradients of one batch of groups of a few kinds, so that other SKUs of a role are among the negatives."""
    chosen = store.drawn(groups, min(groups, KINDS))
    count = store.pixels.shape[1]
    place = (torch.arange(len(chosen), device=device)[:, None] * 4 + torch.arange(count, device=device) % 4).flatten()
    pixels, masks = store.pixels[chosen].flatten(0, 1), store.masks[chosen].flatten(0, 1)
    images, _ = jittered(pixels, masks, place, 4 * len(chosen), Reach())
    images = shrunk(images, size).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16):
        features = call(images)
    loss = identity_loss(torch.nn.functional.normalize(features.float(), dim=-1), store.designs[chosen].flatten())
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    return loss


def shrunk(images: Any, size: int) -> Any:
    """[n,3,S,S] to [n,3,size,size], antialiased."""
    if images.shape[-1] == size:
        return images
    return torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def squares(pixels: Any, size: int) -> Any:
    """uint8 [n,S,S,3] as uint8 [n,size,size,3], as a camera of that size would have it."""
    small = shrunk(pixels.permute(0, 3, 1, 2).float(), size)
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def embedded(network: Any, pixels: Any, batch: int = 256) -> Any:
    """FP32 embeddings of uint8 [n,size,size,3] on the device."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    parts = []
    with torch.inference_mode():
        for first in range(0, len(pixels), batch):
            features = network(normalised(pixels[first : first + batch]))
            parts.append(torch.nn.functional.normalize(features.float(), dim=-1))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    return torch.cat(parts)
