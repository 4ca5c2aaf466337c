"""The curator's store and the workers' mirror, through PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psycopg
import pytest
from outcome_builders import ENGINE, a_probe
from sqlalchemy import Engine, text

from worker.adapters.database import BoundedConnection, connect
from worker.adapters.gallery import PostgresGallery
from worker.adapters.references import NewItem, NewReference, ReferenceStore
from worker.core import deviation
from worker.core.gallery import int8_patches
from worker.core.policy import CategoryProfile, QualityLimits, ScoreCalibration, ViewRequirement
from worker.errors import AssayError, ServiceUnavailable

BAG = CategoryProfile(
    category="bag",
    views=(
        ViewRequirement(view="logo", required=True, critical=True),
        ViewRequirement(
            view="serial", required=False, masked=((0.1, 0.2, 0.3, 0.4),), quality=QualityLimits(max_glare=0.05)
        ),
    ),
    alpha_accept=0.05,
    min_references=3,
    quality=QualityLimits(min_sharpness=0.2),
)
WHO = {"by": "ada", "why": "bought in the shop"}


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    database = connect(database_url)
    yield database
    database.dispose()


@pytest.fixture
def references(database: Engine) -> ReferenceStore:
    store = ReferenceStore(database)
    store.put_categories([BAG], **WHO)
    store.ensure_items("acme", [NewItem(sku="SKU-1", category="bag", name="Tote")])
    return store


@pytest.fixture
def gallery(database: Engine) -> PostgresGallery:
    return PostgresGallery(database)


def a_reference(photograph: str = "one", *, sku: str = "SKU-1", genuine: bool = True) -> NewReference:
    return NewReference(
        sku=sku, genuine=genuine, probe=a_probe(photograph=photograph), provenance={"source": "boutique"}
    )


def enrol(store: ReferenceStore, *photographs: str, genuine: bool = True) -> list[str]:
    ids = store.add("acme", [a_reference(photograph, genuine=genuine) for photograph in photographs], **WHO)
    store.activate("acme", ids, **WHO)
    return ids


def test_active_references_are_mirrored_as_they_were_enrolled(
    references: ReferenceStore, gallery: PostgresGallery
) -> None:
    one, two = enrol(references, "one", "two")
    (fake,) = enrol(references, "fake", genuine=False)
    snapshot = gallery.snapshot("acme")
    mirrored = snapshot.sets["SKU-1", "logo", ENGINE.embedding_space]
    probe = a_probe(photograph="one")
    row = mirrored.ids.index(one)
    assert sorted(mirrored.ids) == sorted([one, two])
    assert (mirrored.counterfeit_ids, mirrored.genuine_count, mirrored.patch_grid) == ((fake,), 2, (2, 2))
    np.testing.assert_array_equal(mirrored.embeddings[row], probe.embedding)
    np.testing.assert_array_equal(mirrored.patches[row], int8_patches(probe.patches))
    assert snapshot.sku_category == {"SKU-1": "bag"}
    assert snapshot.reference_digests[probe.sha256] == one
    assert probe.phash in snapshot.reference_phashes.tolist()


def test_the_profile_comes_back_as_it_was_put(references: ReferenceStore, gallery: PostgresGallery) -> None:
    assert gallery.snapshot("acme").policy.profiles == {"bag": BAG}
    fewer = replace(BAG, views=BAG.views[:1])
    references.put_categories([fewer], **WHO)
    gallery.refresh()
    assert gallery.snapshot("acme").policy.profiles == {"bag": fewer}


def test_limits_that_a_newer_build_entered_are_passed_over(
    references: ReferenceStore, gallery: PostgresGallery, database: Engine
) -> None:
    with database.begin() as connection:
        connection.execute(text("""UPDATE assay.view_requirements SET quality = quality || '{"min_newer": 0.5}'"""))
    assert gallery.snapshot("acme").policy.profiles == {"bag": BAG}


def test_a_reference_counts_only_while_active(references: ReferenceStore, gallery: PostgresGallery) -> None:
    (one,) = references.add("acme", [a_reference()], **WHO)
    seen = [gallery.snapshot("acme").reference_ids]
    for step in (references.activate, references.quarantine, references.activate, references.retire):
        revision = step("acme", [one], **WHO)
        gallery.refresh()
        assert gallery.snapshot("acme").revision == revision
        seen.append(gallery.snapshot("acme").reference_ids)
    assert seen == [(), (one,), (), (one,), ()]
    with pytest.raises(AssayError, match=f"{one}.*retired"):
        references.activate("acme", [one], **WHO)


def test_the_lifecycle_is_written_down(references: ReferenceStore, database: Engine) -> None:
    (one,) = enrol(references, "one")
    references.quarantine("acme", [one], by="bea", why="wrong lining")
    references.quarantine("acme", [one], by="bea", why="again")  # changes nothing
    with database.connect() as connection:
        events = connection.execute(text("SELECT state, by, why FROM assay.reference_events ORDER BY id")).all()
    assert [tuple(event) for event in events] == [
        ("draft", "ada", "bought in the shop"),
        ("active", "ada", "bought in the shop"),
        ("quarantined", "bea", "wrong lining"),
    ]
    (line,) = references.enrolled("acme")
    assert (line.state, line.approved_by, line.provenance) == ("quarantined", "ada", {"source": "boutique"})


def test_enrolling_the_same_photograph_again_changes_nothing(references: ReferenceStore) -> None:
    (one,) = enrol(references, "one")
    assert references.add("acme", [a_reference("one"), a_reference("one")], **WHO) == [one, one]
    assert [line.state for line in references.enrolled("acme")] == ["active"]


def test_another_tenant_can_neither_see_nor_change_them(references: ReferenceStore, gallery: PostgresGallery) -> None:
    (one,) = enrol(references, "one")
    assert gallery.snapshot("zeta").reference_ids == ()
    with pytest.raises(AssayError, match="unknown"):
        references.retire("zeta", [one], **WHO)


def test_sharing_shows_the_owners_references_until_it_ends(
    references: ReferenceStore, gallery: PostgresGallery
) -> None:
    (one,) = enrol(references, "one")
    assert gallery.snapshot("zeta").reference_ids == ()
    references.grant("acme", "zeta", by="ada")
    gallery.refresh()
    assert gallery.snapshot("zeta").reference_ids == (one,)
    (two,) = enrol(references, "two")  # the owner's later changes arrive too
    gallery.refresh()
    assert set(gallery.snapshot("zeta").reference_ids) == {one, two}
    references.revoke("acme", "zeta", by="ada")
    gallery.refresh()
    assert gallery.snapshot("zeta").reference_ids == ()


def test_an_active_calibration_replaces_the_one_of_the_same_engines(
    references: ReferenceStore, gallery: PostgresGallery
) -> None:
    def put(name: str, backend: str) -> None:
        calibration = ScoreCalibration(
            calibration_id=name,
            backend=backend,
            engine_digests=frozenset({"e1", "e2"}),
            views={},
            genuine_scores={},
            counterfeit_scores={},
        )
        references.put_calibration(calibration, n=60, **WHO)

    for name, backend in (("old", "openvino"), ("other", "tensorrt"), ("new", "openvino")):
        put(name, backend)
    active = gallery.snapshot("acme").policy.calibrations
    assert [calibration.calibration_id for calibration in active] == ["new", "other"]
    assert active[0].engine_digests == {"e1", "e2"}


def test_a_calibration_of_a_newer_build_is_passed_over(
    references: ReferenceStore, gallery: PostgresGallery, database: Engine
) -> None:
    with database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO assay.calibrations (id, backend, engine_digests, document, n, active)"
                " VALUES ('later', 'openvino', '{}', '{\"version\": 99}', 1, true)"
            )
        )
    assert gallery.snapshot("acme").policy.calibrations == ()


def test_an_unmoved_revision_keeps_the_mirror(references: ReferenceStore, gallery: PostgresGallery) -> None:
    enrol(references, "one")
    before = gallery.snapshot("acme")
    gallery.refresh()
    assert gallery.snapshot("acme") is before
    references.publish("*", "look again", "ada")
    gallery.refresh()
    assert gallery.snapshot("acme") is not before


def test_vectors_of_another_length_cannot_enter_a_space(references: ReferenceStore) -> None:
    enrol(references, "one")
    odd = replace(a_probe(photograph="odd"), embedding=np.ones(3, np.float32))
    with pytest.raises(Exception, match="fk_reference_embeddings_space_dims"):
        references.add("acme", [replace(a_reference(), probe=odd)], **WHO)


def test_the_watching_thread_sees_an_announced_change(database: Engine, references: ReferenceStore) -> None:
    rang, waits = threading.Event(), threading.Semaphore(0)

    def wait(seconds: float) -> None:
        waits.release()
        rang.wait(seconds)
        rang.clear()

    gallery = PostgresGallery(database, poll_s=60, wait=wait)
    assert gallery.snapshot("acme").reference_ids == ()
    gallery.start()
    waits.acquire()
    ReferenceStore(database, announce=lambda tenant, revision: rang.set()).publish("acme", "x", "ada")
    waits.acquire()  # it looked, and waits again
    assert gallery.snapshot("acme").revision > 1
    threading.Timer(0, rang.set).start()
    gallery.close()
    assert gallery.failed is None


def test_the_watching_thread_measures_what_no_job_asked_for_yet(
    database: Engine, references: ReferenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = threading.Event()

    def spread_of(patches: deviation.Int8s, grid: tuple[int, int]) -> deviation.Spread:
        measured.set()
        return real(patches, grid)

    real = deviation.spread_of
    monkeypatch.setattr(deviation, "spread_of", spread_of)
    enrol(references, "one")
    gallery = PostgresGallery(database, poll_s=0.01)
    assert len(gallery.snapshot("acme").sets) == 1
    assert not measured.is_set()
    gallery.start()
    assert measured.wait(10)
    gallery.close()
    assert gallery.failed is None


def test_mirrors_outlive_the_database(
    references: ReferenceStore, database: Engine, gallery: PostgresGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(references, "one")
    mirror = gallery.snapshot("acme")

    def refuse(*_: object, **__: object) -> None:
        raise psycopg.OperationalError("connection refused")

    monkeypatch.setattr(BoundedConnection, "connect", refuse)
    database.dispose()
    with pytest.raises(ServiceUnavailable, match="postgres"):
        gallery.refresh()
    assert gallery.snapshot("acme") is mirror
