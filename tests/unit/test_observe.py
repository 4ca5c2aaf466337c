"""What is seen from outside: the pages, the names and labels of metrics, and the form of log lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas import headers
from schemas.message import Headers, OutputRecord
from tests.outcome_builders import ENGINE, a_job, an_event
from worker.errors import ConfigurationError
from worker.observe import HealthServer, Lines, Meter, Seldom, outcome_of


@dataclass(slots=True)
class Pages:
    """A running health server; what is wrong is set by the test."""

    server: HealthServer
    dead: dict[str, str] = field(default_factory=dict)
    unready: dict[str, str] = field(default_factory=dict)

    def get(self, page: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.server.address}{page}", timeout=5) as answer:  # noqa: S310 (loopback)
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()


@pytest.fixture
def meter() -> Meter:
    return Meter(max_batch_images=32)


@pytest.fixture
def pages(meter: Meter) -> Iterator[Pages]:
    dead: dict[str, str] = {}
    unready: dict[str, str] = {}
    server = HealthServer(
        host="127.0.0.1", port=0, registry=meter.registry, live=lambda: dead, ready=lambda: {**dead, **unready}
    )
    server.start()
    yield Pages(server, dead, unready)
    server.close()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestHealthServer:
    def test_a_healthy_worker_is_alive_and_ready(self, pages: Pages) -> None:
        for page in ("/livez", "/readyz", "/readyz?verbose=1"):
            status, body = pages.get(page)
            assert (status, json.loads(body)) == (200, {"ok": True, "wrong": {}})

    def test_what_is_wrong_is_named(self, pages: Pages) -> None:
        pages.unready["kafka"] = "the consumer has no partitions yet"
        assert pages.get("/livez")[0] == 200
        status, body = pages.get("/readyz")
        assert status == 503
        assert json.loads(body) == {"ok": False, "wrong": {"kafka": "the consumer has no partitions yet"}}

    def test_a_dead_stage_is_neither_alive_nor_ready(self, pages: Pages) -> None:
        pages.dead["embed"] = "ended"
        assert pages.get("/livez")[0] == pages.get("/readyz")[0] == 503

    def test_metrics_are_served(self, pages: Pages, meter: Meter) -> None:
        meter.stage("embed", 0.2)
        status, body = pages.get("/metrics")
        assert status == 200
        assert samples(body)["assay_stage_seconds_count", frozenset({("stage", "embed")})] == 1

    def test_any_other_page_is_not_found(self, pages: Pages) -> None:
        status, body = pages.get("/")
        assert status == 404
        assert "/metrics" in body

    def test_an_address_in_use_is_a_wrong_setting(self, pages: Pages, meter: Meter) -> None:
        port = int(pages.server.address.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match=r"observe\.port .*in use.*port 0"):
            HealthServer(host="127.0.0.1", port=port, registry=meter.registry, live=dict, ready=dict)

    def test_one_that_never_ran_can_be_closed(self, meter: Meter) -> None:
        HealthServer(host="127.0.0.1", port=0, registry=meter.registry, live=dict, ready=dict).close()


@pytest.mark.parametrize(
    ("named", "outcome"),
    [
        ((), "judged"),
        (((headers.DUPLICATE, b"1"),), "duplicate"),
        (((headers.DUE_MS, b"1"), (headers.ATTEMPT, b"2")), "retry"),
        (((headers.ERROR_CODE, b"no_views"), (headers.DUPLICATE, b"1")), "dead"),
    ],
)
def test_the_outcome_is_read_from_the_record(named: Headers, outcome: str) -> None:
    assert outcome_of(output(named)) == outcome


def output(named: Headers) -> OutputRecord:
    return OutputRecord(topic="assay.results", key=b"acme/job-1", value=b"", headers=named)


class TestMeter:
    def page(self, pages: Pages) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return samples(pages.get("/metrics")[1])

    def test_every_name_is_ours(self, meter: Meter) -> None:
        names = [family.name for family in meter.registry.collect()]
        assert len(names) > 10
        assert all(name.startswith("assay_") for name in names)

    def test_answers_are_counted_by_outcome_and_code(self, meter: Meter, pages: Pages) -> None:
        meter.published([output(()), output(()), output(((headers.ERROR_CODE, b"no_views"),))])
        page = self.page(pages)
        assert page["assay_jobs_total", frozenset({("outcome", "judged")})] == 2
        assert page["assay_jobs_total", frozenset({("outcome", "dead")})] == 1
        assert page["assay_rejections_total", frozenset({("code", "no_views")})] == 1

    def test_a_judged_job_counts_its_verdict_and_its_unusable_views(self, meter: Meter, pages: Pages) -> None:
        meter.judged(an_event(a_job()), 0.4)
        page = self.page(pages)
        assert page["assay_verdicts_total", frozenset({("category", "bag"), ("verdict", "authentic")})] == 1
        assert page["assay_views_unusable_total", frozenset({("code", "truncated")})] == 1
        assert page["assay_job_seconds_sum", frozenset()] == 0.4
        assert page["assay_stage_seconds_sum", frozenset({("stage", "queue")})] == 0.003
        assert page["assay_stage_seconds_sum", frozenset({("stage", "fetch")})] == 0.001

    def test_a_batch_counts_its_images_its_fill_and_why_it_was_cut(self, meter: Meter, pages: Pages) -> None:
        meter.batch(images=8, flush="window")
        page = self.page(pages)
        assert page["assay_batch_images_sum", frozenset()] == 8
        assert page["assay_batch_fill_ratio_sum", frozenset()] == 0.25
        assert page["assay_batch_flushes_total", frozenset({("reason", "window")})] == 1

    def test_engines_are_named_with_short_digests(self, meter: Meter, pages: Pages) -> None:
        meter.engines([ENGINE])
        labels = {"name": "demo", "digest": "e" * 12, "backend": "openvino", "precision": "int8"}
        labels["embedding_space"] = "s" * 12
        assert self.page(pages)["assay_engine_info", frozenset(labels.items())] == 1

    def test_watched_gauges_are_read_with_the_page(self, meter: Meter, pages: Pages) -> None:
        behind: Mapping[str, float] = {"assay.jobs/0": 7.0}
        meter.watch("assay_lag_records", "Records behind", lambda: behind, "partition")
        meter.watch("assay_held_bytes", "Bytes", lambda: {"": 3.0})
        page = self.page(pages)
        assert page["assay_lag_records", frozenset({("partition", "assay.jobs/0")})] == 7
        assert page["assay_held_bytes", frozenset()] == 3


def test_the_same_words_are_let_through_once_in_a_while() -> None:
    now_s = 0.0
    seldom = Seldom(rest_s=10.0, clock=lambda: now_s)
    assert seldom.allows("broker 1 is down (after 3ms)")
    assert not seldom.allows("broker 1 is down (after 17ms)")
    assert seldom.allows("a transaction was aborted")
    now_s = 9.0
    assert not seldom.allows("broker 1 is down (after 3ms)")
    now_s = 10.0
    assert seldom.allows("broker 1 is down (after 3ms)")
    assert not seldom.allows("broker 1 is down (after 3ms)")


def test_lines_that_cannot_be_written_are_lost_and_counted(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b") as log:
        descriptor = os.open("/dev/full", os.O_WRONLY)
        lines = Lines(descriptor)
        lines.write("one\n")
        lines.write("two\n")
        os.dup2(log.fileno(), descriptor)
        lines.write("three\n")
        lines.write("four\n")
        os.close(descriptor)
        log.seek(0)
        torn, told, *rest = log.read().decode().splitlines()
    assert torn == ""  # what may have been written in part ends here
    assert (json.loads(told)["event"], json.loads(told)["lines"]) == ("log_lines_lost", 2)
    assert rest == ["three", "four"]


class TestLogs:
    """In a process of their own: logging is configured for the whole of one."""

    SCRIPT = """
import logging, structlog
from worker.observe import configure_logs
configure_logs(level={level!r}, form={form!r})
log = structlog.get_logger()
log.info("worker_started", instance="cpu-0")
log.warning("settle_failed", what="postgres")
for port in (9092, 9093):
    logging.getLogger("librdkafka").warning("%s is down, port %d", "broker", port)
logging.getLogger("librdkafka").info("chatter")
"""

    def lines(self, level: str, form: str) -> list[str]:
        script = self.SCRIPT.format(level=level, form=form)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == ""
        return done.stderr.splitlines()

    def test_a_line_is_one_object_with_a_constant_event(self) -> None:
        started, failed, said = (json.loads(line) for line in self.lines("info", "json"))
        assert (started["event"], started["level"], started["instance"]) == ("worker_started", "info", "cpu-0")
        assert started["timestamp"].endswith("Z")
        assert (failed["event"], failed["what"]) == ("settle_failed", "postgres")
        assert (said["event"], said["library"], said["detail"]) == (
            "library_said",
            "librdkafka",
            "broker is down, port 9092",
        )

    def test_a_client_that_cries_many_times_a_second_is_heard_once(self) -> None:
        script = self.SCRIPT + 'for n in range(9):\n    log.warning("kafka_client_error", error=f"down for {n} ms")\n'
        script = script.replace("{n}", "{{n}}")
        done = subprocess.run(
            [sys.executable, "-c", script.format(level="info", form="json")], capture_output=True, text=True, check=True
        )
        assert done.stderr.count("kafka_client_error") == 1

    def test_lines_below_the_level_are_left_out(self) -> None:
        events = [json.loads(line)["event"] for line in self.lines("warning", "json")]
        assert events == ["settle_failed", "library_said"]

    def test_a_process_whose_log_is_full_goes_on_to_its_end(self) -> None:
        script = self.SCRIPT.format(level="info", form="json")
        with Path("/dev/full").open("wb") as full:
            assert subprocess.run([sys.executable, "-c", script], stderr=full, check=False).returncode == 0

    def test_people_get_text(self) -> None:
        first = self.lines("info", "console")[0]
        assert "worker_started" in first
        assert not first.startswith("{")
