"""What a librdkafka error means here: one mapping for consumer and producer, and the exit codes they end with.

A transactional error is retriable (the same call again), abortable (abort, the outcome is known: nothing committed)
or fatal. A timeout or a broken connection leaves the outcome unknown. What is none of these counts as fatal.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NoReturn, TypeVar

from confluent_kafka import KafkaError, KafkaException

from worker.errors import AbortTransaction, ConfigurationError, Fatal

EXIT_KAFKA = 71  # an error that librdkafka calls fatal, or that is none of the known kinds
EXIT_FENCED = 72  # another process runs under the same transactional id, or the broker gave this one up
EXIT_OFFSET_LOST = 73  # the committed offset is no longer in the topic: records were deleted unread


class Fault(Enum):
    AGAIN = "again"
    ABORT = "abort"
    UNKNOWN = "unknown"
    FATAL = "fatal"


# Names, as KafkaError.name() gives them; a leading underscore is an error of the client itself.
_NO_ANSWER = frozenset(
    {
        "_TIMED_OUT",
        "_TRANSPORT",
        "_ALL_BROKERS_DOWN",
        "REQUEST_TIMED_OUT",
        "NETWORK_EXCEPTION",
    }
)
_PRODUCER_FENCED = frozenset({"_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"})
_MEMBER_FENCED = frozenset(
    {
        "ILLEGAL_GENERATION",
        "UNKNOWN_MEMBER_ID",
        "FENCED_INSTANCE_ID",
        "FENCED_MEMBER_EPOCH",
        "STALE_MEMBER_EPOCH",
    }
)
_NOT_ALLOWED = frozenset(
    {
        "_AUTHENTICATION",
        "SASL_AUTHENTICATION_FAILED",
        "TOPIC_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
    }
)
# So a consumer's poll tells of a fatal error, and does not mark it as one. A static member that another process of its
# name has replaced hears it once, and would then wait for records for ever.
_BEYOND_USE = "_FATAL"
_OFFSET_LOST = frozenset({"_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"})


Client = TypeVar("Client")


def opened(make: Callable[[], Client]) -> Client:
    """A client of librdkafka, which connects later. Raises ConfigurationError for settings that it cannot work with,
    such as a file of certificates that holds none."""
    try:
        return make()
    except KafkaException as failure:
        fix = "check kafka.bootstrap, kafka.ssl_ca_location and kafka.sasl_*"
        raise ConfigurationError(f"{failure.args[0].str()}; {fix}") from failure


def fault_of(error: KafkaError) -> Fault:
    """The kind of an error of a transactional call."""
    if error.fatal():
        return Fault.FATAL
    if error.txn_requires_abort():
        return Fault.ABORT
    if error.name() in _NO_ANSWER:
        return Fault.UNKNOWN
    return Fault.AGAIN if error.retriable() else Fault.FATAL


def no_answer(error: KafkaError) -> bool:
    """Whether the brokers did not answer, as opposed to answering with an error."""
    return error.name() in _NO_ANSWER


def producer_fenced(error: KafkaError) -> bool:
    """Whether another producer of the same transactional id has taken over, or the broker gave this one up."""
    return error.name() in _PRODUCER_FENCED


def aborted(error: KafkaError) -> AbortTransaction:
    return AbortTransaction(f"transaction aborted: {error}", fenced=error.name() in _MEMBER_FENCED)


def raise_fatal(error: KafkaError, doing: str) -> NoReturn:
    """Raises ConfigurationError where Kafka refuses this client, else Fatal."""
    if error.name() in _NOT_ALLOWED:
        raise ConfigurationError(f"{doing}: Kafka refuses this client ({error}); check kafka.sasl_* and the ACLs")
    exit_code = EXIT_FENCED if error.name() in _PRODUCER_FENCED else EXIT_KAFKA
    raise Fatal(f"{doing}: {error}", exit_code=exit_code)


def check_consumer_error(error: KafkaError, place: str) -> None:
    """Raises what a consumer cannot go on after; librdkafka itself mends the rest."""
    if error.name() in _OFFSET_LOST:
        raise Fatal(
            f"{place}: the committed offset is not in the topic any more ({error}). Records were deleted before they "
            "were judged: look at the topic's retention, then move the group's offset by hand",
            exit_code=EXIT_OFFSET_LOST,
        )
    if error.fatal() or error.name() in _NOT_ALLOWED or error.name() == _BEYOND_USE:
        raise_fatal(error, place)
