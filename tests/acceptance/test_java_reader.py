"""Kafka's own Java console consumer reads what the worker publishes: a second client, written by others."""

from __future__ import annotations

import json
import subprocess

from devstack import kafka_tool_command
from tests.acceptance.conftest import Deployment, jobs


def test_the_java_console_consumer_reads_committed_results(deployment: Deployment) -> None:
    sent = jobs(5)
    deployment.worker("w1", ASSAY_KAFKA__ENCODING="json")
    deployment.send(sent)
    deployment.read("results", 5)
    seen = console_consumer(deployment, "results", 5)
    assert {line.key for line in seen} == {job.key.decode() for job in sent}
    for line in seen:
        verdict = json.loads(line.value)
        assert verdict["verdict"] == "inconclusive"
        assert "ce_type:assay.verdict.v1" in line.headers
        assert "src:" in line.headers


class Line:
    def __init__(self, text: str) -> None:
        self.headers, self.key, self.value = text.split("\t", 2)


def console_consumer(deployment: Deployment, topic: str, count: int) -> list[Line]:
    command = kafka_tool_command(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", deployment.stand.environment["ASSAY_KAFKA__BOOTSTRAP"]),
        *("--topic", deployment.topic(topic), "--from-beginning", "--isolation-level", "read_committed"),
        *("--max-messages", str(count), "--timeout-ms", "60000"),
        *("--property", "print.headers=true", "--property", "print.key=true"),
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [Line(text) for text in done.stdout.splitlines() if text]
