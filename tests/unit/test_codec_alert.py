"""Alerts through the codec: round trips, the published schemas, keys, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime

import jsonschema
import pytest

from schemas import codec, published
from schemas.alert import AlertEvent, DriftMeasure, alert_id
from schemas.codec import Encoding, InvalidMessage
from schemas.codes import AlertKind, AlertLink, ErrorCode

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ENCODINGS: tuple[Encoding, ...] = ("avro", "json")
REPEATED = AlertEvent(
    alert_id=alert_id(AlertKind.REPEATED_COUNTERFEIT, "maison", "job-1"),
    kind=AlertKind.REPEATED_COUNTERFEIT,
    detail="3 counterfeits belong together",
    raised_at=NOON,
    tenant="maison",
    category="bag",
    skus=("BAG-001",),
    jobs=("job-1", "job-2", "job-3"),
    links=(AlertLink.SERIAL, AlertLink.EMBEDDING),
)
STALE = AlertEvent(
    alert_id=alert_id(AlertKind.CALIBRATION_STALE, "bag", "cal-1"),
    kind=AlertKind.CALIBRATION_STALE,
    detail="sharpness departed",
    raised_at=NOON,
    category="bag",
    calibration_id="cal-1",
    day=date(2026, 1, 30),
    measures=(
        DriftMeasure(measure="sharpness", view="logo", engine="resnet18", jobs=120, distance=0.75, threshold=0.5),
        DriftMeasure(measure="abstention", view=None, engine=None, jobs=130, distance=0.25, threshold=0.125),
    ),
)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("event", [REPEATED, STALE], ids=lambda event: event.kind.value)
def test_an_alert_comes_back_as_it_went(event: AlertEvent, encoding: Encoding) -> None:
    message = codec.encode_alert(event, encoding=encoding, source="assay")
    assert codec.decode_alert(message.value, message.headers) == event
    assert codec.encode_alert(event, encoding=encoding, source="assay") == message
    assert dict(message.headers)["ce_type"] == b"assay.alert.v1"
    assert dict(message.headers)["ce_id"] == str(event.alert_id).encode()


@pytest.mark.parametrize("event", [REPEATED, STALE], ids=lambda event: event.kind.value)
def test_json_keeps_to_the_published_schema(event: AlertEvent) -> None:
    schema = published.json_schema("alert.v1.schema.json")
    plain = json.loads(codec.encode_alert(event, encoding="json", source="assay").value)
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    checker.validate(plain)
    assert set(plain) == set(schema["properties"]) == set(schema["required"])
    assert set(schema["properties"]["kind"]["enum"]) == set(AlertKind)
    assert set(schema["properties"]["links"]["items"]["enum"]) == set(AlertLink)


def test_the_key_is_the_tenant_or_a_star() -> None:
    assert codec.encode_alert(REPEATED, encoding="json", source="assay").key == b"maison"
    assert codec.encode_alert(STALE, encoding="json", source="assay").key == b"*"


def test_one_occurrence_has_one_id() -> None:
    kind = AlertKind.REPEATED_COUNTERFEIT
    assert alert_id(kind, "a", "b") == alert_id(kind, "a", "b")
    assert len({alert_id(kind, "a", "b"), alert_id(kind, "ab"), alert_id(AlertKind.CALIBRATION_STALE, "a", "b")}) == 3


def test_too_many_jobs_are_not_written() -> None:
    with pytest.raises(ValueError, match="at most 100"):
        codec.encode_alert(replace(REPEATED, jobs=("job",) * 101), encoding="avro", source="assay")


@pytest.mark.parametrize(
    ("field", "value"), [("kind", "boredom"), ("links", ["rumour"]), ("day", "yesterday"), ("alert_id", "7")]
)
def test_a_strange_value_is_refused_by_name(field: str, value: object) -> None:
    message = codec.encode_alert(STALE, encoding="json", source="assay")
    plain = json.loads(message.value) | {field: value}
    with pytest.raises(InvalidMessage, match=field) as refused:
        codec.decode_alert(json.dumps(plain).encode(), message.headers)
    assert refused.value.code is ErrorCode.MALFORMED_PAYLOAD
