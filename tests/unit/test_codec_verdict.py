"""Verdicts through the codec: round trips, equal bytes, the published schemas, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import codec, published
from schemas.codec import Encoding, InvalidMessage
from schemas.codes import ErrorCode, ReasonCode, Verdict, ViewCode
from schemas.verdict import (
    EngineUse,
    Grid,
    Provenance,
    Reason,
    ReferenceMatch,
    Timings,
    VerdictEvent,
    ViewResult,
    result_id,
)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ENCODINGS: tuple[Encoding, ...] = ("avro", "json")
at_leisure = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
ENGINE = EngineUse(name="resnet18", digest="e" * 64, backend="openvino", precision="int8", embedding_space="s" * 16)


def make_view(**changes: Any) -> ViewResult:
    fields: dict[str, Any] = {
        "view": "logo",
        "sha256": "0" * 64,
        "usable": True,
        "encoder": "resnet18",
        "similarity": 0.93,
        "deviation": 1.25,
        "p_genuine": 0.97,
        "aligned": True,
        "quality": {"sharpness": 0.5, "brightness": 0.25},
        "references": (ReferenceMatch(reference_id="ref-1", similarity=0.93),),
        "attention": Grid(height=2, width=3, cells=bytes(range(6))),
    }
    return ViewResult(**(fields | changes))


def make_event(**changes: Any) -> VerdictEvent:
    unusable = ViewResult(view="serial", sha256="1" * 64, usable=False, unusable_code=ViewCode.TRUNCATED)
    fields: dict[str, Any] = {
        "result_id": result_id("maison", "job-1", 0),
        "revision": 0,
        "job_id": "job-1",
        "tenant": "maison",
        "sku": "BAG-001",
        "category": "bag",
        "verdict": Verdict.AUTHENTIC,
        "confidence": 0.98,
        "p_genuine": 0.98,
        "reasons": (
            Reason(code=ReasonCode.CONSISTENT_WITH_REFERENCES),
            Reason(code=ReasonCode.VIEW_UNUSABLE, view="serial", detail="The file ends early: é"),
        ),
        "views": (make_view(), unusable),
        "missing_views": ("serial",),
        "nearest_skus": ("BAG-001", "BAG-007"),
        "provenance": Provenance(
            engines=(ENGINE,), degraded=False, gallery_revision=4, calibration_id="cal-1", build="0.1.0"
        ),
        "timings": Timings(fetch_ms=1.5, embed_ms=20.0, judge_ms=0.25, queue_ms=3.0, total_ms=40.5),
        "judged_at": NOON,
        "payload_digest": "d" * 64,
    }
    return VerdictEvent(**(fields | changes))


numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
grids = st.none() | st.builds(
    lambda height, width, fill: Grid(height=height, width=width, cells=bytes([fill]) * (height * width)),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(0, 255),
)
views = st.builds(
    ViewResult,
    view=texts,
    sha256=st.from_regex(r"\A[0-9a-f]{64}\Z"),
    usable=st.booleans(),
    unusable_code=st.none() | st.sampled_from(ViewCode),
    encoder=st.none() | texts,
    similarity=numbers,
    counterfeit_similarity=numbers,
    other_sku=st.none() | texts,
    other_sku_similarity=numbers,
    deviation=numbers,
    p_genuine=numbers,
    aligned=st.none() | st.booleans(),
    quality=st.dictionaries(texts, st.floats(0, 1), max_size=4),
    references=st.lists(st.builds(ReferenceMatch, reference_id=texts, similarity=st.floats(-1, 1)), max_size=3).map(
        tuple
    ),
    attention=grids,
    deviation_map=grids,
)
events = st.builds(
    make_event,
    revision=st.integers(0, 2**31 - 1),
    result_id=st.uuids(),
    verdict=st.sampled_from(Verdict),
    confidence=st.none() | st.floats(0, 1),
    p_genuine=st.none() | st.floats(0, 1),
    reasons=st.lists(
        st.builds(Reason, code=st.sampled_from(ReasonCode), view=st.none() | texts, detail=texts), max_size=3
    ).map(tuple),
    views=st.lists(views, max_size=3).map(tuple),
    judged_at=st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)


@at_leisure
@given(events, st.sampled_from(ENCODINGS))
def test_a_verdict_comes_back_as_it_went(event: VerdictEvent, encoding: Encoding) -> None:
    message = codec.encode_verdict(event, encoding=encoding, source="group")
    assert codec.decode_verdict(message.value, message.headers) == event


@at_leisure
@given(events)
def test_encoded_verdicts_fit_the_published_json_schema(event: VerdictEvent) -> None:
    message = codec.encode_verdict(event, encoding="json", source="group")
    jsonschema.validate(json.loads(message.value), published.json_schema("verdict.v1.schema.json"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_equal_verdicts_make_equal_bytes(encoding: Encoding) -> None:
    turned = make_event(views=(make_view(quality={"brightness": 0.25, "sharpness": 0.5}), make_event().views[1]))
    assert codec.encode_verdict(turned, encoding=encoding, source="g") == codec.encode_verdict(
        make_event(), encoding=encoding, source="g"
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_numpy_scalars_are_written_as_plain_numbers(encoding: Encoding) -> None:
    event = make_event(p_genuine=np.float32(0.5), views=(make_view(similarity=np.float64(0.5), aligned=np.True_),))
    message = codec.encode_verdict(event, encoding=encoding, source="g")
    assert codec.decode_verdict(message.value, message.headers).p_genuine == 0.5


def test_headers_hold_the_event_and_nothing_of_the_delivery() -> None:
    message = codec.encode_verdict(make_event(), encoding="json", source="authenticators")
    assert message.key == b"maison/job-1"
    assert dict(message.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": str(result_id("maison", "job-1", 0)).encode(),
        "ce_source": b"authenticators",
        "ce_type": b"assay.verdict.v1",
        "ce_time": b"2026-01-31T12:00:00.000000Z",
        "content-type": b"application/json",
    }


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "change",
    [
        {"views": (make_view(attention=Grid(height=2, width=2, cells=b"123")),)},
        {"views": (make_view(attention=Grid(height=65, width=64, cells=bytes(65 * 64))),)},
        {"judged_at": datetime(2026, 1, 1)},
    ],
)
def test_an_event_that_breaks_the_contract_is_not_written(change: dict[str, Any], encoding: Encoding) -> None:
    with pytest.raises(ValueError):
        codec.encode_verdict(make_event(**change), encoding=encoding, source="g")


def test_nan_is_not_written_as_json() -> None:
    with pytest.raises(ValueError):
        codec.encode_verdict(make_event(p_genuine=float("nan")), encoding="json", source="g")


@pytest.mark.parametrize(
    "name, value",
    [
        ("revision", True),
        ("p_genuine", True),
        ("verdict", "genuine"),
        ("result_id", "7"),
        ("judged_at", 3),
        ("views", None),
    ],
)
def test_a_verdict_with_a_wrong_field_is_refused(name: str, value: object) -> None:
    message = codec.encode_verdict(make_event(), encoding="json", source="g")
    plain = json.loads(message.value) | {name: value}
    with pytest.raises(InvalidMessage) as caught:
        codec.decode_verdict(json.dumps(plain).encode(), message.headers)
    assert caught.value.code is ErrorCode.MALFORMED_PAYLOAD
    assert name in caught.value.detail


def test_revisions_have_ids_of_their_own() -> None:
    first, second = (result_id("maison", "job-1", revision) for revision in (0, 1))
    assert isinstance(first, UUID) and first != second
    assert replace(make_event(), result_id=second) != make_event()
