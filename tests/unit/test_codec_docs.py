"""docs/contract.md: every code has a row, and the example producer sends a job that parses."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from schemas import codec
from schemas.codes import AlertKind, ErrorCode, ReasonCode, ViewCode
from schemas.message import InputRecord, Source

CONTRACT = (Path(__file__).parents[2] / "docs" / "contract.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", [*ErrorCode, *ViewCode, *ReasonCode, *AlertKind], ids=str)
def test_every_code_has_a_row(code: str) -> None:
    row = re.search(rf"^\| `{code}` \| [^|]+ \| [^|]+ \|$", CONTRACT, re.MULTILINE)
    assert row is not None


class RecordingProducer:
    sent: InputRecord

    def __init__(self, config: dict[str, Any]) -> None:
        assert "bootstrap.servers" in config

    def produce(self, topic: str, *, key: str, value: str, headers: dict[str, str]) -> None:
        RecordingProducer.sent = InputRecord(
            source=Source(topic=topic, partition=0, offset=0),
            epoch=0,
            key=key.encode(),
            value=value.encode(),
            headers=tuple((name, text.encode()) for name, text in headers.items()),
            timestamp_ms=0,
        )

    def flush(self) -> None:
        pass


def test_the_example_producer_sends_a_valid_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.findall(r"```python\n(.*?)```", CONTRACT, re.DOTALL)[0]
    stub = ModuleType("confluent_kafka")
    stub.Producer = RecordingProducer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "confluent_kafka", stub)
    monkeypatch.chdir(tmp_path)
    Path("logo.jpg").write_bytes(b"\xff\xd8photograph")
    exec(compile(example, "docs/contract.md", "exec"), {})  # noqa: S102 - our own documentation
    job = codec.parse_job(RecordingProducer.sent, max_bytes=8 * 1024 * 1024)
    assert (job.tenant, job.views[0].data) == ("maison", b"\xff\xd8photograph")
    assert RecordingProducer.sent.source.topic == "assay.jobs"
