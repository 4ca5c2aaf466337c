"""The producer side on librdkafka: outputs and offsets in one transaction, and what to do when its outcome is unknown.

librdkafka has no KIP-890: a late EndTxn could end a later transaction of the same producer. So after a call without an
answer the producer is thrown away; a new one's `init_transactions` raises the epoch and settles the old transaction,
and only then do the group's committed offsets tell whether it took place. The same goes for a transaction during which
the client, unasked, sent requests again: it succeeds, and the first copy may still be on its way.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.message import OutputRecord
from worker.adapters.kafka_errors import Fault, aborted, fault_of, producer_fenced, raise_fatal
from worker.adapters.kafka_log import ClientLog
from worker.errors import AbortTransaction, ServiceUnavailable
from worker.ports import Partition

T = TypeVar("T")

TRANSACTION_TIMEOUT_MS = 10_000
CALL_TIMEOUT_S = 8.0  # of a whole transaction too: less than after which the broker gives it up
ABORT_TIMEOUT_S = 5.0
AGAIN_WAIT_S = 0.02
# How long a request may stray. One that starts a producer, arriving late, fences the producer that came after it.
STRAY_S = 60.0
WRITE_SETTINGS: Mapping[str, Any] = {
    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
    "message.timeout.ms": TRANSACTION_TIMEOUT_MS - 1_000,
    "socket.timeout.ms": 4_000,  # a lost request is sent again before the broker gives the transaction up
    # The default, rebootstrap, takes brokers away under a request: send_offsets_to_transaction then waits for ever.
    # Not so for consumers: without it, one in four did not find its group again after a stall of the broker.
    "metadata.recovery.strategy": "none",
    "log_level": 6,  # with the next one: ClientLog must hear of lost connections
    "log.connection.close": True,
    # The previous commit's markers may still be on their way when the offsets are sent: the default backs off 100 ms.
    "retry.backoff.ms": 3,
    "retry.backoff.max.ms": 50,
    "linger.ms": 5,
    "compression.type": "lz4",
    "message.max.bytes": 12 * 1024 * 1024,
}
_log = structlog.get_logger()


class KafkaPublisher:
    """A Publisher. Owned by the publish thread; it connects at the first call.

    `group_metadata` is asked anew for each transaction, `still_owned` right after it (see Watermark.still_owned).
    """

    def __init__(
        self,
        *,
        client_config: Mapping[str, Any],
        group: str,
        instance: str,
        group_metadata: Callable[[], object],
        still_owned: Callable[[], bool] = lambda: True,
        overrides: Mapping[str, Any] | None = None,
        make_producer: Callable[..., Producer] | None = None,
    ) -> None:
        self._client_config = dict(client_config)
        self._make_producer = make_producer or Producer
        self._group = group
        self._config = {
            **client_config,
            **WRITE_SETTINGS,
            **(overrides or {}),
            "transactional.id": f"assay.{group}.{instance}",
            "error_cb": _log_client_error,
        }
        self._group_metadata = group_metadata
        self._still_owned = still_owned
        self._producer: Producer | None = None
        self._client_log = ClientLog()
        self._strays_until_s = 0.0
        self._begun_s = 0.0
        self._reader: Consumer | None = None

    def commit(self, outputs: Sequence[OutputRecord], offsets: Mapping[Partition, int]) -> None:
        """See ports.Publisher. After ServiceUnavailable the outcome is unknown until `committed` was asked."""
        producer = self._connected()
        try:
            producer.poll(0)  # the client's log is handed out here, and a producer beyond use makes itself known
            self._client_log.resent = False
            self._begun_s = time.monotonic()
            self._transact(producer, outputs, offsets)
        except AbortTransaction:
            self._abort(producer)
            raise
        except KafkaException as failure:
            self._resolve(producer, _error_of(failure), offsets)
        else:
            self._replace_if_resent(producer)

    def committed(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        """See ports.Publisher; partitions without a committed offset are left out. Raises ServiceUnavailable, Fatal."""
        self._connected()  # settles a transaction of unknown outcome first
        if self._reader is None:
            config = {
                "group.id": self._group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                # Less than each question may take: a connection whose broker has gone without a word is given up, and
                # the next question finds another. The default is a minute, and settle would wait as long.
                "socket.timeout.ms": WRITE_SETTINGS["socket.timeout.ms"],
            }
            self._reader = Consumer({**self._client_config, **config}, logger=logging.getLogger("librdkafka"))
        places = [TopicPartition(*partition) for partition in partitions]
        try:
            found = self._reader.committed(places, timeout=CALL_TIMEOUT_S) if places else []
        except KafkaException as failure:
            raise ServiceUnavailable("kafka", f"reading committed offsets: {failure.args[0]}") from failure
        return {(place.topic, place.partition): place.offset for place in found if place.offset >= 0}

    def close(self) -> None:
        self._discard()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _transact(self, producer: Producer, outputs: Sequence[OutputRecord], offsets: Mapping[Partition, int]) -> None:
        deadline_s = time.monotonic() + CALL_TIMEOUT_S
        producer.begin_transaction()
        for output in outputs:
            self._produce(producer, output, deadline_s)
        metadata = self._group_metadata()
        if not self._still_owned():
            raise AbortTransaction("a partition was revoked before its offset was sent", fenced=True)
        places = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
        _again(producer, lambda left_s: producer.send_offsets_to_transaction(places, metadata, left_s), deadline_s)
        # A delivery that failed shows here: it makes the transaction abortable. Without a limit it would wait as long
        # as the broker is silent.
        _again(producer, lambda left_s: producer.commit_transaction(left_s), deadline_s)

    def _produce(self, producer: Producer, output: OutputRecord, deadline_s: float) -> None:
        headers = list(output.headers)
        while True:
            try:
                producer.produce(output.topic, value=output.value, key=output.key, headers=headers)
                return
            except BufferError as full:  # the local queue drains as the broker answers
                if time.monotonic() > deadline_s:
                    raise AbortTransaction(f"the producer's queue stayed full for {CALL_TIMEOUT_S} s") from full
                producer.poll(AGAIN_WAIT_S)

    def _resolve(self, producer: Producer, error: KafkaError, offsets: Mapping[Partition, int]) -> None:
        """Returns only if the transaction took place."""
        match fault_of(error):
            case Fault.FATAL if not self._fenced_itself(error):
                raise_fatal(error, "publishing")
            case Fault.ABORT:
                self._abort(producer)
                if not aborted(error).fenced:  # a delivery that failed leaves a hole in the producer's sequence numbers
                    self._discard()
                raise aborted(error)
            case _:
                _log.warning("transaction_outcome_unknown", error=str(error))
                self._give_up(error)
                if not covers(self.committed(offsets), offsets):
                    raise AbortTransaction(f"the transaction did not take place: {error}")

    def _abort(self, producer: Producer) -> None:
        """Nothing is committed after this: where the abort itself gets no answer, the next producer's epoch does it."""
        try:
            _again(producer, producer.abort_transaction, time.monotonic() + ABORT_TIMEOUT_S)
        except KafkaException as failure:
            error = _error_of(failure)
            if fault_of(error) is Fault.FATAL and not self._fenced_itself(error):
                raise_fatal(error, "aborting a transaction")
            self._give_up(error)
        else:
            self._replace_if_resent(producer)

    def _replace_if_resent(self, producer: Producer) -> None:
        """A late copy of an EndTxn would end the next transaction half-way, one of offsets would set them back."""
        with contextlib.suppress(KafkaException):  # the next transaction hears of it
            producer.poll(0)
        if self._client_log.resent and self._producer is producer:
            _log.info("producer_replaced")
            self._discard()

    def _fenced_itself(self, error: KafkaError) -> bool:
        """After an outage: the broker gave up a transaction that was open for too long, or it starts a producer that
        was given up after its successor. Then nobody else runs under this name."""
        now_s = time.monotonic()
        expired = now_s - self._begun_s >= TRANSACTION_TIMEOUT_MS / 1e3
        return producer_fenced(error) and (expired or now_s < self._strays_until_s)

    def _give_up(self, error: KafkaError) -> None:
        if not producer_fenced(error):  # or two processes of one name would go on fencing each other
            self._strays_until_s = time.monotonic() + STRAY_S
        self._discard()

    def _connected(self) -> Producer:
        if self._producer is None:
            producer = self._make_producer(self._config, logger=self._client_log)
            self._client_log.resent = False
            try:
                _again(producer, producer.init_transactions, time.monotonic() + CALL_TIMEOUT_S)
                producer.poll(0)
            except KafkaException as failure:
                error = _error_of(failure)
                if fault_of(error) is Fault.FATAL and not self._fenced_itself(error):
                    raise_fatal(error, "starting the transactional producer")
                self._give_up(error)
                raise ServiceUnavailable("kafka", f"starting the producer: {error}") from failure
            self._producer = producer
            if self._client_log.resent:
                self._strays_until_s = time.monotonic() + STRAY_S
        return self._producer

    def _discard(self) -> None:
        """Not Producer.close(): it aborts, and a transaction in doubt must not be aborted by its own producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(blocking=False)


def covers(committed: Mapping[Partition, int], offsets: Mapping[Partition, int]) -> bool:
    """Whether a transaction with `offsets` took place: it is atomic, so one partition below tells that it did not."""
    return all(committed.get(partition, -1) >= offset for partition, offset in offsets.items())


def _again(producer: Producer, call: Callable[[float], T], deadline_s: float) -> T:
    """Repeat a call with identical arguments while its error is plainly retriable; raises the last error.

    The call is given the seconds that are left.
    """
    while True:
        try:
            return call(max(0.0, deadline_s - time.monotonic()))
        except KafkaException as failure:
            if fault_of(failure.args[0]) is not Fault.AGAIN or time.monotonic() > deadline_s:
                raise
            producer.poll(AGAIN_WAIT_S)


def _error_of(failure: KafkaException) -> KafkaError:
    """The error of an exception, which forgets where it was raised.

    The client (confluent-kafka 2.16) never lets go of some exceptions, and through their frames each would keep a
    replaced producer with its threads and connections.
    """
    failure.__traceback__ = None
    error: KafkaError = failure.args[0]
    return error


def _log_client_error(error: KafkaError) -> None:
    _log.warning("kafka_client_error", client="producer", error=str(error))
