"""Enrolment without services: what is read, passed over, refused and encoded; and profiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from schemas.codes import ViewCode
from schemas.verdict import EngineUse
from worker.core.evidence import UnusableView, ViewProbe
from worker.enrol import BadPhotograph, Encoded, encode, find_photographs
from worker.items import Item
from worker.ports import EncodeView
from worker.profiles import InvalidProfiles, read_profiles

ENGINE = EngineUse(name="e", digest="d", backend="b", precision="int8", embedding_space="space")
UNIT = np.ones(1, np.float32)


class FakeEncoder:
    """Finds photographs whose bytes begin with "bad" undecodable; remembers its batches, and what was read when."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def start(self, requests: Sequence[EncodeView]) -> FakePending:
        self.log.append(f"start {len(requests)}")
        return FakePending(requests, self.log)

    def close(self) -> None: ...


class FakePending:
    def __init__(self, requests: Sequence[EncodeView], log: list[str]) -> None:
        self.requests, self.log = requests, log

    def result(self) -> list[ViewProbe | UnusableView]:
        self.log.append(f"read {len(self.requests)}")
        return [answer(request) for request in self.requests]


def answer(request: EncodeView) -> ViewProbe | UnusableView:
    view, sha256 = request.view.view, request.view.sha256
    if request.data.startswith(b"bad"):
        return UnusableView(view=view, sha256=sha256, code=ViewCode.UNDECODABLE, detail=request.encoder)
    return ViewProbe(
        view=view,
        sha256=sha256,
        engine=ENGINE,
        embedding=UNIT,
        patches=UNIT.reshape(1, 1),
        patch_grid=(1, 1),
        attention=UNIT.reshape(1, 1),
        quality={},
        phash=1,
        source_size=(1, 1),
    )


def items_of(folder: Path, *contents: bytes) -> list[Item]:
    items = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.jpg"
        path.write_bytes(content)
        items.append(Item(sku="S", category="bag", views={"logo": path}, name=f"S/{number}"))
    return items


def test_nothing_is_enrolled_twice(tmp_path: Path) -> None:
    items = items_of(tmp_path, b"a", b"b", b"a")
    first = find_photographs(items, tenant="t", known={})
    assert [one.item.name for one in first.photographs] == ["S/0", "S/1"]
    again = find_photographs(items, tenant="t", known={one.key: one.genuine for one in first.photographs})
    assert again.photographs == ()
    assert len(again.known) == 3
    assert again.bad == ()


def test_labels_say_which_kind_and_a_contradiction_is_refused(tmp_path: Path) -> None:
    (plain,) = items_of(tmp_path, b"a")
    genuine = Item(sku="S", category="bag", views=plain.views, label="genuine", name="labelled")
    (unlabelled,) = find_photographs([plain], tenant="t", known={}, counterfeit=True).photographs
    assert not unlabelled.genuine
    (labelled,) = find_photographs([genuine], tenant="t", known={}, counterfeit=True).photographs
    assert labelled.genuine
    clash = find_photographs([genuine], tenant="t", known={labelled.key: False})
    assert [one.why for one in clash.bad] == [
        "the same photograph is enrolled as a known counterfeit: correct the label"
    ]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    views: dict[str, Path | str] = {"logo": tmp_path / "gone.jpg", "serial": "s3://store/serial.jpg"}
    found = find_photographs([Item(sku="S", category="bag", views=views, name="S/1")], tenant="t", known={})
    assert found.photographs == ()
    assert [(one.view, one.place) for one in found.bad] == [
        ("logo", str(tmp_path / "gone.jpg")),
        ("serial", "s3://store/serial.jpg"),
    ]


def test_one_batch_is_always_ahead_and_bad_images_are_told(tmp_path: Path) -> None:
    found = find_photographs(items_of(tmp_path, b"a", b"bad", b"c", b"d", b"e"), tenant="t", known={})
    encoder = FakeEncoder()
    results = list(encode(found.photographs, encoder, encoder_for=lambda c, v: f"{c}-{v}", batch_images=2))
    assert encoder.log == ["start 2", "start 2", "read 2", "start 1", "read 2", "read 1"]
    assert [type(one) for one in results] == [Encoded, BadPhotograph, Encoded, Encoded, Encoded]
    assert isinstance(results[1], BadPhotograph)
    assert results[1].why == "undecodable: bag-logo"
    assert isinstance(results[4], Encoded)
    assert (results[4].loaded.data, results[4].probe.sha256) == (b"e", found.photographs[4].sha256)


def test_a_photograph_that_changed_meanwhile_is_not_enrolled(tmp_path: Path) -> None:
    found = find_photographs(items_of(tmp_path, b"a"), tenant="t", known={})
    (tmp_path / "0.jpg").write_bytes(b"other")
    (result,) = encode(found.photographs, FakeEncoder(), encoder_for=lambda c, v: "e", batch_images=2)
    assert isinstance(result, BadPhotograph)
    assert "changed" in result.why


def test_profiles_are_read_from_toml_and_json(tmp_path: Path) -> None:
    toml = tmp_path / "profiles.toml"
    toml.write_text(
        "[bag]\nmin_references = 3\nquality = {min_sharpness = 0.1, max_glare = 0.3}\n"
        "[[bag.views]]\nview = 'serial'\ncritical = true\nmasked = [[0.1, 0.2, 0.3, 0.4]]\nquality = {max_glare = 0}\n"
        "[[bag.views]]\nview = 'lining'\n"
    )
    (bag,) = read_profiles(toml)
    assert (bag.category, bag.min_references, bag.quality.min_sharpness) == ("bag", 3, 0.1)
    serial, lining = bag.limits_of("serial"), bag.limits_of("lining")
    assert (serial.min_sharpness, serial.max_glare) == (0.1, 0.0)  # what a view does not say is its category's
    assert lining == bag.limits_of("a role of no profile") == bag.quality
    assert bag.views[0].masked == ((0.1, 0.2, 0.3, 0.4),)
    assert (bag.views[0].required, bag.views[0].critical) == (True, True)
    plain = tmp_path / "profiles.json"
    plain.write_text('{"watch": {"views": [{"view": "dial", "required": false}]}}')
    assert not read_profiles(plain)[0].views[0].required


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", "is no json"),
        ('{"bag": {"views": []}}', "bag.views"),
        ('{"bag": {"views": [{"view": "a"}, {"view": "a"}]}}', "listed twice"),
        ('{"bag": {"views": [{"view": "a"}], "alpha_accept": 0}}', "alpha_accept"),
        ('{"bag": {"views": [{"view": "a"}], "alpha": 0.1}}', "bag.alpha"),
        ('{"bag": {"views": [{"view": "a", "masked": [[0.5, 0, 0.1, 1]]}]}}', "left < right"),
        ("[]", "profiles.json"),
    ],
)
def test_a_bad_profile_says_where_and_what(tmp_path: Path, text: str, names: str) -> None:
    path = tmp_path / "profiles.json"
    path.write_text(text)
    with pytest.raises(InvalidProfiles, match=names):
        read_profiles(path)
