"""Schema Registry framing, and senders whose schema is older or newer than ours.

No Schema Registry server runs here: the real client is tested against an exchange written after the registry's
documented API (GET /schemas/ids/N and its error 40403), served over HTTP on loopback.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import fastavro
import pytest

from schemas import codec, framing, published
from schemas.codec import InvalidMessage
from schemas.codes import ErrorCode
from schemas.job_codec import job_record
from tests.unit.test_codec_job import LIMIT, make_job, record_of
from tests.unit.test_codec_verdict import make_event
from worker.adapters.registry import RegistryLookup, registry_lookup
from worker.errors import ServiceUnavailable

JOB_SCHEMA = published.text("job.v1.avsc")


class Schemas(dict[int, str]):
    def schema(self, schema_id: int) -> str | None:
        return self.get(schema_id)


def parse_written_with(schema: dict[str, Any], record: dict[str, Any]) -> codec.AuthenticationJob:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), record)
    message = codec.encode_job(make_job(), encoding="avro", source="x")
    framed = record_of(message, value=framing.frame(buffer.getvalue(), 7))
    return codec.parse_job(framed, max_bytes=LIMIT, lookup=Schemas({7: json.dumps(schema)}))


@pytest.mark.parametrize("missing, value", [("labels", {}), ("serial", None), ("deadline", None), ("priority", "bulk")])
def test_a_sender_without_an_optional_field_is_read(missing: str, value: object) -> None:
    older = json.loads(JOB_SCHEMA)
    older["fields"] = [field for field in older["fields"] if field["name"] != missing]
    record = {name: part for name, part in job_record(make_job()).items() if name != missing}
    expected = make_job(**({missing: value} if missing != "priority" else {}))
    assert parse_written_with(older, record) == expected


def test_a_sender_with_a_later_field_is_read() -> None:
    newer = json.loads(JOB_SCHEMA)
    newer["fields"].insert(2, {"name": "colour", "type": ["null", "string"], "default": None})
    assert parse_written_with(newer, job_record(make_job()) | {"colour": "red"}) == make_job()


def test_every_field_that_may_be_added_has_a_default() -> None:
    optional = {"deadline", "priority", "serial", "labels", "supersedes"}
    assert {field["name"] for field in json.loads(JOB_SCHEMA)["fields"] if "default" in field} == optional


def test_a_framed_verdict_is_read() -> None:
    message = codec.encode_verdict(make_event(), encoding="avro", source="g")
    lookup = Schemas({3: published.text("verdict.v1.avsc")})
    assert codec.decode_verdict(framing.frame(message.value, 3), message.headers, lookup=lookup) == make_event()


def test_framed_json_and_unframed_avro_are_read_beside_a_registry() -> None:
    for encoding, value_of in (("json", lambda value: framing.frame(value, 1)), ("avro", bytes)):
        message = codec.encode_job(make_job(), encoding=encoding, source="x")  # type: ignore[arg-type]
        record = record_of(message, value=value_of(message.value))
        assert codec.parse_job(record, max_bytes=LIMIT, lookup=Schemas()) == make_job()


@pytest.mark.parametrize("schema", [None, "{", '"string"', '{"type": "record", "name": "X", "fields": []}'])
def test_an_unknown_or_wrong_schema_is_a_malformed_payload(schema: str | None) -> None:
    message = codec.encode_job(make_job(), encoding="avro", source="x")
    record = record_of(message, value=framing.frame(message.value, 7))
    with pytest.raises(InvalidMessage) as caught:
        codec.parse_job(record, max_bytes=LIMIT, lookup=Schemas({} if schema is None else {7: schema}))
    assert caught.value.code is ErrorCode.MALFORMED_PAYLOAD


class RecordedRegistry(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        answers: dict[str, tuple[int, object]] = {
            "/schemas/ids/7": (200, {"schema": JOB_SCHEMA}),
            "/schemas/ids/8": (200, {"schema": "{}", "schemaType": "JSON"}),
            "/schemas/ids/500": (500, {"error_code": 50001, "message": "Error in the backend data store"}),
        }
        status, body = answers.get(path, (404, {"error_code": 40403, "message": "Schema not found"}))
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[RegistryLookup]:
    server = HTTPServer(("127.0.0.1", 0), RecordedRegistry)
    thread = threading.Thread(target=server.serve_forever, name="recorded-registry")
    thread.start()
    RecordedRegistry.asked.clear()
    try:
        yield registry_lookup(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_client_finds_a_schema_once(registry: RegistryLookup) -> None:
    assert json.loads(registry.schema(7) or "") == json.loads(JOB_SCHEMA)
    assert registry.schema(7) is not None
    assert len(RecordedRegistry.asked) == 1


def test_an_unknown_id_is_asked_once_until_forgotten(registry: RegistryLookup) -> None:
    assert registry.schema(99) is None
    assert registry.schema(99) is None
    assert len(RecordedRegistry.asked) == 1
    registry.forget_unknown()
    assert registry.schema(99) is None
    assert len(RecordedRegistry.asked) == 2


def test_a_schema_of_another_kind_counts_as_unknown(registry: RegistryLookup) -> None:
    assert registry.schema(8) is None


def test_a_registry_that_fails_or_is_away_is_a_service_fault(registry: RegistryLookup) -> None:
    with pytest.raises(ServiceUnavailable):
        registry.schema(500)
    with pytest.raises(ServiceUnavailable):
        registry_lookup("http://127.0.0.1:9", timeout_s=0.2).schema(7)
