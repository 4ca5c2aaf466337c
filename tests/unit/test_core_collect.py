"""Score calibration's use case: batches over many items, in order, with what cannot be read named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from core_goods import POLICY, VIEWS, Goods

from schemas.codes import ViewCode
from worker.calibrate import BATCHES_IN_FLIGHT, UnlabelledItems, collect, with_budgets
from worker.core.calibration import fit
from worker.core.evidence import ViewProbe
from worker.core.labelled import LabelledEvidence
from worker.core.matching import NumpyMatcher
from worker.items import Item
from worker.ports import EncodeView

GOODS = Goods()
GALLERY = GOODS.snapshot()


class Encoder:
    """Reads what a file says: sku, specimen, forged."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.in_flight = self.most_in_flight = 0

    def start(self, requests: Sequence[EncodeView]) -> Pending:
        self.batches.append(len(requests))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return Pending(self, requests)

    def close(self) -> None: ...


class Pending:
    def __init__(self, encoder: Encoder, requests: Sequence[EncodeView]) -> None:
        self.encoder, self.requests = encoder, requests

    def result(self) -> list[ViewProbe]:
        self.encoder.in_flight -= 1
        return [probe_of(request) for request in self.requests]


def probe_of(request: EncodeView) -> ViewProbe:
    sku, specimen, forged = request.data.decode().split()[:3]
    probe = GOODS.probe(sku, request.view.view, specimen, forged=float(forged))
    return replace(probe, sha256=request.view.sha256)


def written(folder: Path, count: int) -> list[Item]:
    return [item(folder, n, forged) for n in range(count) for forged in (0.0, 1.5)]


def item(folder: Path, number: int, forged: float) -> Item:
    views = {view: folder / f"{number}-{forged}-{view}" for view in VIEWS}
    for view, path in views.items():
        path.write_text(f"a specimen-{number} {forged} {view}")
    label = "counterfeit" if forged else "genuine"
    family = {"family": "block", "forged_views": "logo, lining"} if forged else {"family": ""}
    return Item(sku="a", category="bag", views=views, label=label, name=f"{number}-{label}", meta=family)


def collected(items: Sequence[Item], encoder: Encoder, batch_images: int = 4) -> list[LabelledEvidence]:
    found = collect(items, encoder, NumpyMatcher(), GALLERY, encoder_for=lambda *_: "resnet", batch_images=batch_images)
    return list(found)


def test_items_come_back_in_order_from_batches_that_span_them(tmp_path: Path) -> None:
    items, encoder = written(tmp_path, 5), Encoder()
    found = collected(items, encoder)
    assert [one.evidence.job.job_id for one in found] == [item.name for item in items]
    assert [one.genuine for one in found] == [True, False] * 5
    assert [one.family for one in found[:2]] == [None, "block"]
    assert [one.forged_views for one in found[:2]] == [None, {"logo", "lining"}]
    assert encoder.batches == [4] * 7 + [2]
    assert encoder.most_in_flight == BATCHES_IN_FLIGHT
    assert all({m.probe.view for m in one.evidence.matches} == set(VIEWS) for one in found)
    assert all(m.probe.patches.size == 0 for one in found for m in one.evidence.matches)


def test_what_cannot_be_read_is_an_unusable_view(tmp_path: Path) -> None:
    (gone, _), encoder = written(tmp_path, 1), Encoder()
    views = {**gone.views, "logo": tmp_path / "nowhere", "lining": "s3://store/lining.jpg"}
    blind = replace(gone, views={"logo": tmp_path / "nowhere"}, name="blind")
    first, second = collected([replace(gone, views=views), blind], encoder)
    assert {u.view: u.code for u in first.evidence.unusable} == {
        "logo": ViewCode.NOT_FOUND,
        "lining": ViewCode.URI_NOT_ALLOWED,
    }
    assert [m.probe.view for m in first.evidence.matches] == ["stitching"]
    assert second.evidence.matches == ()


def test_an_item_without_a_label_stops_before_anything_is_encoded(tmp_path: Path) -> None:
    items, encoder = written(tmp_path, 1), Encoder()
    with pytest.raises(UnlabelledItems, match="0-genuine"):
        collected([replace(items[0], label=None)], encoder)
    assert encoder.batches == []


def test_collected_items_can_be_fitted(tmp_path: Path) -> None:
    budgets = with_budgets(POLICY.profiles, alpha_accept=0.1, alpha_reject=None)
    assert (budgets["bag"].alpha_accept, budgets["bag"].alpha_reject) == (0.1, 0.05)
    calibration, report = fit(collected(written(tmp_path, 40), Encoder(), 32), budgets, seed=0)
    assert report.categories[0].genuine.items == 24
    assert calibration.levels == {"bag": "global"}
