"""The training set on the device. It grows while its photographs are still rendered: a thread copies what is new."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo.goods import CATEGORIES
from demo.train.layout import RESERVED_SKUS, VIEWS_A_SKU, Dataset, load

LOG = logging.getLogger(__name__)

_POLL_S = 2.0
_DESIGNS = 4  # numbers a group: the genuine design and its forgeries


class Store:
    """Pixels uint8 [G,K,S,S,3], masks uint8 [G,K,S/4,S/4] and designs int64 [G,K] on the device (what an image shows:
    one number a genuine design, one a forgery that can be seen).

    Threads: `follow` starts the one writer, which fills places that no reader knows yet and then names them; `drawn` is
    for the one reader. `stop` ends the writer.
    """

    def __init__(self, root: Path, device: Any) -> None:
        data = load(root, "train")
        self.plan, self._root, self._device = data.plan, root, device
        self.pixels = torch.empty(data.pixels.shape, dtype=torch.uint8, device=device)
        self.masks = torch.empty(data.masks.shape, dtype=torch.uint8, device=device)
        self.designs = torch.zeros(data.pixels.shape[:2], dtype=torch.int64, device=device)
        self._known: list[int] = []  # SKU numbers in the order of their places
        # all keys from the start: a dictionary that grows cannot be read by another thread
        self._by_kind: dict[int, list[int]] = {kind: [] for kind in range(len(CATEGORIES) * VIEWS_A_SKU)}
        self._ended = threading.Event()
        self._pinned = device.type == "cuda"
        self._part = torch.empty((VIEWS_A_SKU, *data.pixels.shape[1:]), dtype=torch.uint8, pin_memory=self._pinned)

    @property
    def groups(self) -> int:
        return len(self._known) * VIEWS_A_SKU

    def ready(self, each: int, kinds: int) -> bool:
        """Whether `kinds` (category, view) pairs have `each` groups."""
        return sum(len(found) >= each for found in self._by_kind.values()) >= kinds

    def follow(self) -> threading.Thread:
        """Copy what is rendered, now and later, until the set is complete."""
        thread = threading.Thread(target=self._follow, name="store", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._ended.set()

    def drawn(self, groups: int, kinds: int) -> Any:
        """Places of `groups` groups, as many of each of `kinds` random (category, view) pairs, on the device."""
        each = max(1, groups // kinds)
        able = [kind for kind, found in self._by_kind.items() if len(found) >= each]
        picked = []
        for place in torch.randperm(len(able))[:kinds].tolist():
            found = self._by_kind[able[place]]
            picked += [found[i] for i in torch.randperm(len(found))[:each].tolist()]
        return torch.tensor(picked, device=self._device)

    def _follow(self) -> None:
        stream = torch.cuda.Stream(self._device) if self._pinned else None
        while not self._ended.is_set():
            data = load(self._root, "train")
            for number in sorted({n for n in data.finished if n >= RESERVED_SKUS} - set(self._known)):
                if self._ended.is_set():
                    return
                if stream is None:
                    self._copy(data, number)
                else:
                    with torch.cuda.stream(stream):
                        self._copy(data, number)
            if data.complete:
                LOG.info("%d groups on the device, all there are", self.groups)
                return
            time.sleep(_POLL_S)

    def _copy(self, data: Dataset, number: int) -> None:
        """One SKU, read in one piece: plain reads are faster than a memory map's faults."""
        place = self.groups
        with data.pixels_file.open("rb") as file:
            file.seek(number * self._part.numel())
            file.readinto(memoryview(self._part.numpy()).cast("B"))
        rows = slice(place, place + VIEWS_A_SKU)
        self.pixels[rows].copy_(self._part)
        first = number * VIEWS_A_SKU
        masks = torch.from_numpy(np.array(data.masks[first : first + VIEWS_A_SKU]))
        self.masks[rows].copy_(masks)
        self.designs[rows].copy_(self._designs(masks, place))
        if self._pinned:
            torch.cuda.current_stream().synchronize()
        for view in range(VIEWS_A_SKU):
            kind = number % len(CATEGORIES) * VIEWS_A_SKU + view
            self._by_kind[kind].append(place + view)
        self._known.append(number)

    def _designs(self, masks: Any, place: int) -> Any:
        """A forgery whose mask is empty shows the genuine design, and is labelled so."""
        kinds = torch.tensor([0 if s.forgery is None else 1 + s.forgery for s in self.plan.slots])
        seen = masks.flatten(2).amax(-1) > 127
        local = torch.where(seen | (kinds == 0), kinds, torch.zeros_like(kinds))
        return (place + torch.arange(len(masks)))[:, None] * _DESIGNS + local
