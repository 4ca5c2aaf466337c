"""The devstack against the real programs: it serves, survives a crash, and shares one folder without harm."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from sqlalchemy import make_url

from devstack import Addresses, Devstack, PartMissing, StateBroken, kafka_tool_command
from devstack.state import ProcessRecord, State, StateFile

pytestmark = pytest.mark.services


def plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def own(tmp_path: Path) -> Devstack:
    """A devstack apart from the one of the session; the test that starts it stops it."""
    return Devstack(tmp_path / "own")


def pids(stack: Devstack) -> dict[str, int | None]:
    return {one.name: one.pid for one in stack.status() if one.state != "missing"}


def test_kafka_commits_a_transaction_that_javas_own_consumer_reads(stack: Addresses, topic_prefix: str) -> None:
    topic = f"{topic_prefix}jobs"
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap, "transactional.id": f"{topic_prefix}t"})
    producer.init_transactions(30)
    for value, keep in ((b"aborted", False), (b"kept", True)):
        producer.begin_transaction()
        producer.produce(topic, value=value)
        producer.commit_transaction(30) if keep else producer.abort_transaction(30)
    tool = kafka_tool_command(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        "--bootstrap-server", stack.kafka_bootstrap, "--topic", topic, "--from-beginning",
        "--isolation-level", "read_committed", "--max-messages", "1", "--timeout-ms", "30000",
    )  # fmt: skip
    told = subprocess.run(tool, capture_output=True, text=True, check=True, timeout=90)
    assert told.stdout.split() == ["kept"]


def test_kafka_accepts_the_new_group_protocol_with_a_short_session(stack: Addresses, topic_prefix: str) -> None:
    topic = f"{topic_prefix}jobs"
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
    options = {"bootstrap.servers": stack.kafka_bootstrap, "group.id": f"{topic_prefix}g", "group.protocol": "consumer"}
    consumer = Consumer(options)
    try:
        consumer.subscribe([topic])
        for _ in range(300):
            consumer.poll(0.1)
            if len(consumer.assignment()) == 2:
                break
        assert len(consumer.assignment()) == 2
    finally:
        consumer.close()


def test_each_test_has_its_own_database_with_vectors(stack: Addresses, empty_database_url: str) -> None:
    with psycopg.connect(plain(empty_database_url)) as connection:
        connection.execute("CREATE EXTENSION vector")
        assert connection.execute("SELECT '[3,4]'::vector <-> '[0,0]'::vector").fetchone() == (5.0,)
        assert connection.execute("SELECT current_database()").fetchone() != ("assay",)


def test_postgres_wants_a_password_from_the_same_machine(stack: Addresses) -> None:
    wrong = make_url(stack.superuser_url).set(drivername="postgresql", password="guessed")  # noqa: S106 (a wrong one)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong.render_as_string(hide_password=False))


def test_each_test_has_its_own_redis_database(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("a", "b")
        assert client.connection_pool.connection_kwargs["db"] > 0


def test_a_devstack_survives_a_crash_and_stops_what_it_started(own: Devstack) -> None:
    try:
        first = own.up()
        assert own.up() == first
        before = pids(own)
        assert all(before.values())
        victim = before["kafka"]
        assert victim is not None
        dying = psutil.Process(victim)
        os.kill(victim, signal.SIGKILL)
        dying.wait(30)  # its port is free again only when it is gone
        again = own.up()
        after = pids(own)
        assert again == first
        assert after["kafka"] != before["kafka"]
        assert after["postgres"] == before["postgres"]
        own.down()
        assert not any(psutil.pid_exists(pid) for pid in after.values() if pid)
        assert {one.state for one in own.status()} <= {"stopped", "missing"}
    finally:
        own.reset()
    assert own.addresses() is None


def test_data_outlives_a_restart_on_other_ports_when_the_old_ones_are_taken(own: Devstack) -> None:
    try:
        first = own.up()
        with psycopg.connect(plain(first.postgres_url)) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        own.down()
        taken = int(first.kafka_bootstrap.split(":")[1]), make_url(first.postgres_url).port
        with socket.create_server(("127.0.0.1", taken[0])), socket.create_server(("127.0.0.1", taken[1])):
            second = own.up()
        assert second.kafka_bootstrap != first.kafka_bootstrap
        with psycopg.connect(plain(second.postgres_url)) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (7,)
    finally:
        own.reset()


def test_without_redis_the_rest_comes_up(own: Devstack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstack.redis.find_program", lambda: None)
    try:
        assert own.up().redis_url is None
        assert own.addresses() is not None
        assert {one.name: one.state for one in own.status()} == {
            "kafka": "ready", "postgres": "ready", "redis": "missing"
        }  # fmt: skip
    finally:
        own.reset()


@pytest.mark.parametrize(
    ("variable", "fix"), [("JAVA", "openjdk"), ("KAFKA_JARS", "KAFKA_JARS"), ("REDIS_SERVER", "REDIS_SERVER")]
)
def test_a_part_that_is_missing_is_named_with_its_fix(
    own: Devstack, monkeypatch: pytest.MonkeyPatch, variable: str, fix: str
) -> None:
    monkeypatch.setenv(variable, "/nowhere")
    with pytest.raises(PartMissing, match=fix):
        own.up()
    monkeypatch.undo()
    assert own.addresses() is None
    assert not any(pids(own).values())


def test_a_number_given_to_another_process_is_not_touched(own: Devstack) -> None:
    """A record from before a reboot may carry a number that now belongs to somebody else."""
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        record = ProcessRecord(pid=stranger.pid, created_at_s=psutil.Process(stranger.pid).create_time() - 3600)
        own.state_dir.mkdir(parents=True)
        StateFile(own.state_dir).write(State(password="p", cluster_id="c", processes={"redis": record}))  # noqa: S106
        own.down()
        assert stranger.poll() is None
        assert own.status()[2].pid is None
    finally:
        stranger.communicate(b"\n")


def test_the_last_session_stops_what_the_first_started_but_not_what_a_person_holds(own: Devstack) -> None:
    try:
        with own.session() as first:
            with Devstack(own.state_dir).session() as second:
                assert second == first
            assert own.addresses() == first
        assert own.addresses() is None
        own.up()
        with own.session():
            pass
        assert own.addresses() is not None
    finally:
        own.reset()


def test_the_password_is_readable_by_its_owner_alone(own: Devstack) -> None:
    own.state_dir.mkdir(parents=True)
    StateFile(own.state_dir).write(State(password="p", cluster_id="c"))  # noqa: S106 (not a secret)
    assert stat.S_IMODE((own.state_dir / "state.json").stat().st_mode) == 0o600


def test_reset_refuses_a_folder_that_holds_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StateBroken, match=r"thesis\.txt"):
        Devstack(tmp_path).reset()
    assert (tmp_path / "thesis.txt").exists()


def test_a_broken_state_file_is_named_with_its_fix(own: Devstack) -> None:
    own.state_dir.mkdir(parents=True)
    (own.state_dir / "state.json").write_text("{")
    with pytest.raises(StateBroken, match="reset"):
        own.status()
    own.reset()
    assert own.status()[0].state == "stopped"


def test_the_command_tells_its_status_as_json(stack: Addresses, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "worker.cli.devstack",
        "status",
        "--json",
        "--state-dir",
        str(tmp_path / str(uuid.uuid4())),
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {one["state"] for one in json.loads(told.stdout)["services"]} <= {"stopped", "missing"}
