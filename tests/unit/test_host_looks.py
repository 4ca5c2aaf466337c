"""What a comparison on a device leaves to the host is what the host alone would have found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from core_goods import GRID, SPACE, Goods, job_of

from worker.adapters.host_looks import ComparedView, HostLooks
from worker.core.deviation import Deviation
from worker.core.matching import Numbers, deviation_of

GOODS = Goods()
GALLERY = GOODS.snapshot()


@pytest.fixture(scope="module")
def looks() -> Iterator[HostLooks]:
    made = HostLooks()
    yield made
    made.close()


def compared_view(name: str) -> ComparedView:
    probe = GOODS.probe("a", "logo", name)
    return ComparedView(
        job=job_of([probe]),
        probe=probe,
        gallery=GALLERY,
        roles=("logo",),
        found=GALLERY.sets["a", "logo", SPACE],
        index=None,
    )


def test_what_the_device_compared_is_left_as_it_is(looks: HostLooks) -> None:
    cells = np.ones(GRID, np.float32)
    compared = Deviation(cells=cells, scalar=9.0, aligned=False, mean_distance=0.2, placed=0.3, off_frame=2.0)
    given = [Numbers(compared=compared), Numbers()]
    there, left = looks.completed([compared_view("v0"), compared_view("v1")], given)
    assert there is given[0]
    assert left.compared is not None and left.compared.scalar != 9.0


def test_what_found_no_room_is_compared_whole(looks: HostLooks) -> None:
    view = compared_view("fresh")
    strange = replace(view, probe=replace(view.probe, patches=np.full_like(view.probe.patches, np.nan)))
    unknown = replace(view, found=None)
    whole, broken, nothing = looks.completed([view, strange, unknown], [Numbers()] * 3)
    alone = view.found and deviation_of(view.probe, view.found, ())
    assert whole.compared is not None and alone
    assert whole.compared.scalar == alone.scalar and whole.compared.placed == alone.placed
    assert broken.compared is None and nothing.compared is None
