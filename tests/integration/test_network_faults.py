"""A pipeline behind a bad network (F7), a broker that dies, stalls or restarts (F5), a COMMIT without a reply (F12)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from threading import Event
from time import monotonic
from typing import Any

import psycopg
import pytest
from delivery_parts import Member, eventually
from fault_parts import PATIENCE_S, FaultWorld, OwnBroker, running
from outcome_builders import Topics, judged
from psycopg import sql
from sqlalchemy import make_url

from devstack import Addresses
from schemas.message import OutputRecord
from tests.chaos.proxy import KafkaProxy, PostgresProxy
from worker.adapters.database import connect
from worker.adapters.kafka import KafkaPublisher
from worker.adapters.results import PostgresResults
from worker.errors import ServiceUnavailable
from worker.outcomes import Outcome

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]  # starts a broker, on a machine that may be busy
MEGABIT_S = 125_000
Fault = Callable[[KafkaProxy], None]


@pytest.fixture
def world(stack: Addresses, topic_prefix: str) -> FaultWorld:
    return FaultWorld(stack.kafka_bootstrap, topic_prefix)


@pytest.fixture
def proxy(stack: Addresses) -> Iterator[KafkaProxy]:
    with KafkaProxy(stack.kafka_bootstrap) as proxy:
        yield proxy


def under_way(world: FaultWorld, member: Member) -> None:
    world.send(0, 20)
    eventually(lambda: sum(world.committed().values()) >= 20, "the first jobs")
    assert member.intake.joined


@pytest.mark.parametrize(
    ("fault", "lasts_s"),
    [
        (KafkaProxy.reset, 0.0),
        (KafkaProxy.blackhole, 5.0),  # longer than the producer waits for an answer
        (KafkaProxy.half_open, 0.0),
        (lambda proxy: proxy.latency(150), 2.0),
    ],
    ids=["reset", "blackhole", "half_open", "latency"],
)
def test_a_pipeline_outlives_a_fault_of_the_network(
    world: FaultWorld, proxy: KafkaProxy, fault: Fault, lasts_s: float
) -> None:
    member = world.member(proxy.address, "m1")
    with running(member):
        under_way(world, member)
        fault(proxy)
        world.send(20, 60)
        Event().wait(lasts_s)
        proxy.clear()
        world.send(60, 80)
        eventually(lambda: sum(world.committed().values()) >= 80, "all offsets")
    world.assert_each_once(80)


def test_the_committed_offsets_are_read_past_a_connection_that_went_without_a_word(
    world: FaultWorld, proxy: KafkaProxy
) -> None:
    """Settle reads them after each transaction of unknown outcome, and waits for them."""
    publisher = KafkaPublisher(
        client_config={"bootstrap.servers": proxy.address}, group=world.group, instance="m1", group_metadata=bytes
    )
    places = [(world.topics.jobs, 0)]
    with closing(publisher):
        assert attempts(lambda: publisher.committed(places)) <= 3  # a group that is new may have to be looked up
        proxy.half_open()
        assert attempts(lambda: publisher.committed(places)) <= 3


def attempts(call: Callable[[], object]) -> int:
    for number in range(1, 10):
        try:
            call()
        except ServiceUnavailable:
            continue
        return number
    return 10


def test_a_thin_line_is_slow_and_nothing_worse(world: FaultWorld, proxy: KafkaProxy) -> None:
    """3 Mbit/s, and a backlog that takes several seconds to fetch."""
    world.send(0, 30, photo=b"x" * 60_000)
    proxy.bandwidth(3 * MEGABIT_S)
    with running(world.member(proxy.address, "m1")):
        eventually(lambda: sum(world.committed().values()) >= 30, "all offsets")
    world.assert_each_once(30)


def test_a_stop_while_the_broker_is_silent_ends(world: FaultWorld, proxy: KafkaProxy) -> None:
    member = world.member(proxy.address, "m1", stop_grace_s=1.0)
    with running(member):
        under_way(world, member)
        proxy.blackhole()
        world.send(20, 30)
    with running(world.member(world.broker, "m2")):
        eventually(lambda: sum(world.committed().values()) >= 30, "what the first member left")
    world.assert_each_once(30)


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    broker = OwnBroker(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.stop()


@pytest.fixture
def broker(own_broker: OwnBroker) -> OwnBroker:
    """It runs, whatever the test before did to it."""
    if not own_broker.runs:
        own_broker.start()
    return own_broker


def killed(broker: OwnBroker) -> float:
    broker.kill()
    return broker.start()


def stalled(broker: OwnBroker) -> float:
    broker.suspend()
    Event().wait(8.0)
    return broker.resume()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [killed, stalled, OwnBroker.restart], ids=["kill", "stop_8_s", "restart"])
def test_a_broker_that_goes_and_comes_back_loses_and_repeats_nothing(
    broker: OwnBroker,
    topic_prefix: str,
    fault: Any,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    world = FaultWorld(broker.address, topic_prefix)
    member = world.member(broker.address, "m1")
    with running(member):
        under_way(world, member)
        world.send(20, 120)
        back_s = fault(broker)
        before = committed_transactions(member)
        world.send(120, 140)
        eventually(lambda: committed_transactions(member) > before, "the first commit")
        record_testsuite_property(f"first_commit_after_{fault.__name__}_s", round(monotonic() - back_s, 2))
        eventually(lambda: sum(world.committed().values()) >= 140, "all offsets")
    world.assert_each_once(140)


def committed_transactions(member: Member) -> float:
    return float(member.meter.transactions.labels("committed")._value.get())  # noqa: SLF001


@pytest.fixture
def postgres(database_url: str) -> Iterator[PostgresProxy]:
    url = make_url(database_url)
    with PostgresProxy(f"{url.host}:{url.port}") as proxy:
        yield proxy


@pytest.fixture
def results(database_url: str, postgres: PostgresProxy) -> Iterator[PostgresResults]:
    host, _, port = postgres.address.rpartition(":")
    database = connect(
        make_url(database_url).set(host=host, port=int(port)).render_as_string(hide_password=False)
    )  # fmt: skip
    yield PostgresResults(database, group="group", topics=Topics())
    database.dispose()


def counted(database_url: str, table: str) -> int:
    plain = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        query = sql.SQL("SELECT count(*) FROM assay.{}").format(sql.Identifier(table))
        found = connection.execute(query).fetchone()
    assert found is not None
    return int(found[0])


def settled(results: PostgresResults, outcomes: Sequence[Outcome]) -> list[OutputRecord]:
    """As settle does: again, while the database counts as away. Where a few attempts take 5 s, it soon does."""
    deadline_s = monotonic() + PATIENCE_S
    while True:
        try:
            return results.settle(outcomes)
        except ServiceUnavailable:
            assert monotonic() < deadline_s


@pytest.mark.parametrize("lost", [PostgresProxy.cut_commit_reply, PostgresProxy.cut_commit], ids=["reply", "commit"])
def test_a_commit_that_is_lost_on_its_way_there_or_back_leaves_one_row_and_one_result(
    database_url: str, postgres: PostgresProxy, results: PostgresResults, lost: Callable[[PostgresProxy, int], None]
) -> None:
    outcomes = [judged(number) for number in (7, 8)]
    lost(postgres, 1)
    answers = settled(results, outcomes)
    assert [deed.what for deed in postgres.log] == ["COMMIT"]
    assert (counted(database_url, "jobs"), counted(database_url, "verdicts")) == (1, 1)
    assert settled(results, outcomes) == answers
    assert (counted(database_url, "jobs"), counted(database_url, "verdicts")) == (1, 1)


def test_a_database_that_loses_every_reply_is_away_and_what_it_kept_is_answered_later(
    database_url: str, postgres: PostgresProxy, results: PostgresResults
) -> None:
    postgres.cut_commit_reply(1_000)
    outcome = judged(7)
    try:
        first = results.settle([outcome])  # a later attempt finds the row, writes nothing and so loses nothing
    except ServiceUnavailable:
        first = None
    postgres.clear()
    assert first in (None, settled(results, [outcome]))
    assert counted(database_url, "verdicts") == 1
