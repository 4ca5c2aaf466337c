"""Names of Kafka headers and content types, in one place."""

from __future__ import annotations

# CloudEvents Kafka binding, binary mode
CE_SPECVERSION = "ce_specversion"
CE_ID = "ce_id"
CE_SOURCE = "ce_source"
CE_TYPE = "ce_type"
CE_TIME = "ce_time"
CE_SUBJECT = "ce_subject"
CONTENT_TYPE = "content-type"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

# Assay's own
SRC = "src"  # topic/partition/offset of the input record
ATTEMPT = "assay.attempt"  # decimal, from 1
DUE_MS = "assay.due-ms"  # epoch milliseconds before which a retry must not start
FIRST_SEEN_MS = "assay.first-seen-ms"  # epoch milliseconds
ORIGIN = "assay.origin"  # src of the very first delivery, kept through retries
DUPLICATE = "assay.duplicate"  # "1" on the stored answer to a repeated job
REPLAY_OF = "assay.replay-of"  # dead letter id that a replay carries

# Dead letters, after Kafka Connect's names
ERROR_TOPIC = "assay.errors.topic"
ERROR_PARTITION = "assay.errors.partition"
ERROR_OFFSET = "assay.errors.offset"
ERROR_STAGE = "assay.errors.stage"
ERROR_CLASS = "assay.errors.class"
ERROR_MESSAGE = "assay.errors.message"  # at most 1 KiB
ERROR_CODE = "assay.errors.code"
DEAD_LETTER_ID = "assay.errors.id"

AVRO = "application/avro"
JSON = "application/json"

JOB_TYPE = "assay.job.v1"
VERDICT_TYPE = "assay.verdict.v1"
DEAD_LETTER_TYPE = "assay.deadletter.v1"
ALERT_TYPE = "assay.alert.v1"
