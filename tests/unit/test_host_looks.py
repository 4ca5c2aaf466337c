"""What a comparison on a device leaves to the host is what the host alone would have found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from core_goods import GRID, SPACE, Goods, job_of

from worker.adapters.host_looks import DEPARTS, ComparedView, HostLooks
from worker.core.deviation import Deviation
from worker.core.matching import Numbers, deviation_of

GOODS = Goods()
GALLERY = GOODS.snapshot()


@pytest.fixture(scope="module")
def looks() -> Iterator[HostLooks]:
    made = HostLooks()
    yield made
    made.close()


def compared_view(name: str, view: str = "logo", forged: float = 0.0) -> ComparedView:
    probe = GOODS.probe("a", view, name, forged=forged)
    return ComparedView(
        job=job_of([probe]),
        probe=probe,
        gallery=GALLERY,
        roles=(view,),
        found=GALLERY.sets["a", view, SPACE],
        index=None,
    )


def on_device(scalar: float, *, aligned: bool = True) -> Numbers:
    cells = np.ones(GRID, np.float32)
    return Numbers(compared=Deviation(cells=cells, scalar=scalar, aligned=aligned, mean_distance=0.2))


def test_views_that_depart_are_looked_at_and_no_others(looks: HostLooks) -> None:
    views = [compared_view(f"v{n}", ("logo", "lining")[n % 2], forged=n % 3) for n in range(21)]
    numbers = [on_device(DEPARTS + 1 if n % 4 == 0 else 1.0, aligned=n % 5 != 0) for n in range(21)]
    for view, given, found in zip(views, numbers, looks.completed(views, numbers), strict=True):
        assert view.found is not None and given.compared is not None
        if given.compared.aligned and given.compared.scalar < DEPARTS:
            assert found is given
            continue
        alone = deviation_of(view.probe, view.found, ())
        assert alone is not None
        assert found.compared == replace(given.compared, placed=alone.placed, off_frame=alone.off_frame)


def test_views_that_are_nearer_to_something_else_are_looked_at(looks: HostLooks) -> None:
    """Or a GPU would say of one that lies well over its references that it is of another item, and a CPU would not."""
    near = replace(on_device(1.0), cosines=np.array([0.75, 0.5], np.float32), roles={"logo": 0.75, "lining": 0.5})
    numbers = [
        replace(near, other=("b", 0.95)),
        replace(near, other=("b", 0.65)),
        replace(near, roles={"logo": 0.75, "lining": 0.875}),
        near,
    ]
    found = looks.completed([compared_view(f"v{n}") for n in range(4)], numbers)
    placed = [one.compared is not None and one.compared.placed is not None for one in found]
    assert placed == [True, False, True, False]


def test_what_found_no_room_is_compared_whole(looks: HostLooks) -> None:
    view = compared_view("fresh")
    strange = replace(view, probe=replace(view.probe, patches=np.full_like(view.probe.patches, np.nan)))
    unknown = replace(view, found=None)
    whole, broken, nothing = looks.completed([view, strange, unknown], [Numbers()] * 3)
    alone = view.found and deviation_of(view.probe, view.found, ())
    assert whole.compared is not None and alone
    assert whole.compared.scalar == alone.scalar and whole.compared.placed == alone.placed
    assert broken.compared is None and nothing.compared is None
