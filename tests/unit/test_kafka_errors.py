"""What a consumer cannot go on after, by the client's own errors."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from worker.adapters.kafka_errors import EXIT_KAFKA, check_consumer_error
from worker.errors import Fatal


def test_a_fatal_error_that_poll_does_not_mark_as_one_ends_the_worker() -> None:
    """As a static member hears of its replacement; with real processes: tests/acceptance/test_limits.py."""
    error = KafkaError(KafkaError._FATAL, "fenced by other consumer with same group.instance.id")  # noqa: SLF001
    assert not error.fatal()
    with pytest.raises(Fatal, match="fenced by other consumer") as ended:
        check_consumer_error(error, "None/0")
    assert ended.value.exit_code == EXIT_KAFKA


def test_what_the_client_mends_by_itself_does_not() -> None:
    check_consumer_error(KafkaError(KafkaError._TRANSPORT, "broker down"), "None/0")  # noqa: SLF001
