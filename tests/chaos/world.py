"""The world of a chaos run: real services, one database, and three deployments of the worker, one a group protocol.

The deployments share brokers and database and differ in group, topics and protocol. A small gallery and a score
calibration of the stand-in encoder are enrolled first, so that verdicts are of every kind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from demo.stand import Stand, new_stand
from devstack import Addresses
from schemas.job import JobView
from tests.chaos.flaky_host import FlakyHost
from tests.chaos.photographs import CATEGORY, SKUS, VIEWS, photograph
from tests.chaos.standin import NAME, open_standin
from worker.adapters.kafka import apply_topics, plan_topics
from worker.adapters.references import NewItem, NewReference, ReferenceStore
from worker.app import open_database, open_gallery, open_references
from worker.calibrate import ItemView, collect
from worker.core.calibration import fit
from worker.core.evidence import ViewProbe
from worker.core.matching import NumpyMatcher
from worker.core.policy import CategoryProfile, ViewRequirement
from worker.items import Item
from worker.ports import ViewEncoder
from worker.settings import Settings, load_settings
from worker.topics import Topics

TENANTS = ("maison", "atelier")
REFERENCES = 4
LABELLED = 60  # a class
PARTITIONS = 4
PROFILE = CategoryProfile(
    category=CATEGORY,
    views=(ViewRequirement(view="logo", required=True), ViewRequirement(view="lining", required=False)),
    alpha_accept=0.05,
    alpha_reject=0.05,
)
# Small and quick: a failed job is tried again within seconds, a drain is over before a supervisor would lose patience.
SETTINGS = {
    "ASSAY_ENGINES__DEFAULT_ENCODER": NAME,
    "ASSAY_ENGINES__ENCODERS": "{}",
    "ASSAY_ENGINES__DECODE_THREADS": "1",
    "ASSAY_ENGINES__INFERENCE_THREADS": "1",
    "ASSAY_EVIDENCE__KEEP": "off",
    "ASSAY_IMAGES__FETCH_THREADS": "2",
    "ASSAY_KAFKA__PARTITIONS": str(PARTITIONS),
    "ASSAY_INTAKE__WINDOW_RECORDS": "128",
    "ASSAY_DRAIN_DEADLINE_S": "20",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONFAULTHANDLER": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One deployment: a consumer group with topics of its own."""

    name: str  # static, cooperative, consumer: the protocol, as tests.chaos.observation.Rebalance tells it
    group_id: str
    topics: Topics
    environment: Mapping[str, str]


PROTOCOLS: Mapping[str, Mapping[str, str]] = {
    "static": {"ASSAY_KAFKA__ASSIGNOR": "range", "ASSAY_KAFKA__STATIC_MEMBERSHIP": "true"},
    "cooperative": {"ASSAY_KAFKA__ASSIGNOR": "cooperative-sticky"},
    "consumer": {"ASSAY_KAFKA__PROTOCOL": "consumer"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    addresses: Addresses
    stand: Stand
    groups: tuple[Group, ...]
    image_port: int

    @property
    def kafka(self) -> dict[str, str]:
        """How the harness itself reaches the broker: never through a proxy."""
        return {"bootstrap.servers": self.addresses.kafka_bootstrap}


def new_world(addresses: Addresses, folder: Path, host: FlakyHost) -> World:
    """Migrate a database, make the topics of each group, enrol and calibrate. `host` is told to the workers."""
    stand = new_stand(addresses, folder / "stand", {**SETTINGS, **host.environment})
    groups = tuple(_group(stand, name, settings) for name, settings in PROTOCOLS.items())
    for group in groups:
        with environment(group.environment):
            kafka = load_settings().kafka
        apply_topics(kafka.client_config(), plan_topics(kafka.client_config(), kafka.topics, partitions=PARTITIONS))
    with environment({**stand.environment, "ASSAY_DATABASE__URL": stand.curator_url}):
        _furnish(load_settings(), folder)
    return World(addresses=addresses, stand=stand, groups=groups, image_port=host.port)


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """The settings of a deployment, for code that reads them from the environment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _group(stand: Stand, name: str, settings: Mapping[str, str]) -> Group:
    group_id = f"{stand.topic_prefix}{name}"
    topics = Topics(prefix=f"{group_id}.", retry_delays_s=(1.0, 3.0))
    mine = {
        "ASSAY_KAFKA__GROUP": group_id,
        "ASSAY_KAFKA__TOPICS__PREFIX": topics.prefix,
        "ASSAY_KAFKA__TOPICS__RETRY_DELAYS_S": "[1.0, 3.0]",
    }
    return Group(name=name, group_id=group_id, topics=topics, environment={**stand.environment, **settings, **mine})


def _furnish(settings: Settings, folder: Path) -> None:
    encoder, database = open_standin(settings), open_database(settings)
    try:
        store = open_references(settings, database)
        store.put_categories([PROFILE], by="chaos", why="delivery run")
        for tenant in TENANTS:
            _enrol(store, encoder, tenant)
        _calibrate(settings, store, encoder, folder)
    finally:
        encoder.close()
        database.dispose()


def _enrol(store: ReferenceStore, encoder: ViewEncoder, tenant: str) -> None:
    store.ensure_items(tenant, [NewItem(sku=sku, category=CATEGORY) for sku in SKUS])
    wanted = [(sku, view, n) for sku in SKUS for view in VIEWS for n in range(REFERENCES)]
    requests = [_request(tenant, view, photograph(sku, view, n)) for sku, view, n in wanted]
    probes = [probe for probe in encoder.start(requests).result() if isinstance(probe, ViewProbe)]
    new = [
        NewReference(sku=sku, genuine=True, probe=probe)
        for (sku, _, _), probe in zip(wanted, probes, strict=True)
    ]  # fmt: skip
    ids = store.add(tenant, new, by="chaos", why="delivery run")
    store.activate(tenant, ids, by="chaos", why="delivery run")


def _request(tenant: str, view: str, data: bytes) -> ItemView:
    job_view = JobView(view=view, sha256=sha256(data).hexdigest(), data=data)
    return ItemView(place=0, tenant=tenant, view=job_view, data=data, encoder=NAME)


def _calibrate(settings: Settings, store: ReferenceStore, encoder: ViewEncoder, folder: Path) -> None:
    gallery = open_gallery(settings)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as photographs:
            items = _labelled(Path(photographs))
            evidence = collect(
                items, encoder, NumpyMatcher(), gallery.snapshot(TENANTS[0]),
                encoder_for=settings.engines.encoder_for, batch_images=32,
            )  # fmt: skip
            calibration, _ = fit(list(evidence), {CATEGORY: PROFILE}, seed=0)
    finally:
        gallery.close()
    store.put_calibration(calibration, n=len(items), by="chaos", why="delivery run")


def _labelled(folder: Path) -> Sequence[Item]:
    return [_item(folder, n, forged) for n in range(LABELLED) for forged in (False, True)]


def _item(folder: Path, number: int, forged: bool) -> Item:
    sku, views = SKUS[number % len(SKUS)], {}
    for view in VIEWS:
        path = folder / f"{number}-{forged}-{view}.jpg"
        path.write_bytes(photograph(sku, view, 1_000 + number, forged=forged))
        views[view] = path
    return Item(
        sku=sku, category=CATEGORY, views=views, label="counterfeit" if forged else "genuine", name=path.stem
    )  # fmt: skip
