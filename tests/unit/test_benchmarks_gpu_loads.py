"""What the GPU benchmarks make of a load: rates with and without a sampler, how many workers are worth it, and where
a start's and a script's time goes. No time is asserted."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest

from benchmarks.gpu import loading
from benchmarks.gpu.cold_start import events_since
from benchmarks.gpu.end_to_end import EndToEnd
from benchmarks.gpu.latency import rate_by_uri
from benchmarks.gpu.loading import Heard, Run, means, with_samples
from benchmarks.gpu.machine import source_digest
from benchmarks.gpu.record import Section, record_path
from benchmarks.gpu.script_commands import Commands
from benchmarks.gpu.timed_worker import PARTS, REWRITES
from benchmarks.held import RATE, Samples
from schemas.message import InputRecord, Source
from worker.observe import Meter

ANSWER = InputRecord(
    source=Source(topic="results", partition=0, offset=0), epoch=0, key=b"", value=b"12345", headers=(), timestamp_ms=0
)
PLAIN = Run(
    jobs=100,
    jobs_per_s=500.0,
    worker_cpu_ms=1.0,
    machine_cpu_ms=1.0,
    resident_mb=1.0,
    verdicts={},
    reasons={},
    result_bytes=5.0,
    held={"CPU by thread, us": {"settle": 4.0}},
    gpu={},
    metrics="",
)


class Answers:
    """A follower that has an answer for each job that was filled in, one in `apart_s`."""

    def __init__(self, apart_s: float) -> None:
        self.waiting = 0
        self._apart_s = apart_s

    def fill(self, count: int) -> None:
        self.waiting += count

    def poll(self, _timeout_s: float) -> InputRecord | None:
        assert self.waiting, "more is waited for than was asked for"
        time.sleep(self._apart_s)
        self.waiting -= 1
        return ANSWER


class HalfHeld:
    """A sampler that saw the lock held for half of the time, in one function."""

    def __init__(self, _pid: int, _out: Path, seconds: float) -> None:
        self._seconds = seconds

    def result(self) -> Samples:
        stack = ("settle", (("copy", "worker/adapters/bulk.py"),), round(RATE * self._seconds / 2))
        return Samples(seconds=self._seconds, stacks=(stack,))


def sampled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: Answers, seconds: float) -> Run:
    monkeypatch.setattr(loading, "Sampler", HalfHeld)
    monkeypatch.setattr(loading, "GIL_S", seconds)
    worker: Any = SimpleNamespace(process=SimpleNamespace(pid=1), log=tmp_path / "log")
    heard = Heard([worker], answers)  # type: ignore[arg-type]
    found = with_samples(PLAIN, worker, heard, answers.fill)
    assert answers.waiting == 0
    return found


def test_the_lock_is_told_by_the_rate_while_it_was_sampled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = sampled(monkeypatch, tmp_path, Answers(apart_s=0.002), 0.08)
    assert found.jobs_per_s == PLAIN.jobs_per_s
    assert found.sampled_jobs_per_s is not None
    assert 0 < found.sampled_jobs_per_s <= PLAIN.jobs_per_s
    us = 0.5 / found.sampled_jobs_per_s * 1e6
    assert found.gil_us == pytest.approx(us)
    assert found.held["CPU by thread, us"] == {"settle": 4.0}
    assert found.held["lock by thread, us"] == {"settle": pytest.approx(us, abs=0.1)}
    assert list(found.held["lock by function, us"]) == ["copy (worker/adapters/bulk.py)"]


def test_a_sampler_that_saw_a_worker_without_jobs_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert sampled(monkeypatch, tmp_path, Answers(apart_s=0.0), 5.0) == PLAIN


def test_the_most_of_one_worker_is_what_this_source_did_by_uri(tmp_path: Path) -> None:
    path = record_path(tmp_path, "e2e")
    assert rate_by_uri(path) is None
    kept = Section("e2e", tmp_path, budget_s=1.0)
    kept.fact("environment", {"digest": source_digest()})
    assert rate_by_uri(path) is None
    kept.fact("resnet50 by URI", replace(PLAIN, gil_us=3.0, sampled_jobs_per_s=116.0).told())
    assert rate_by_uri(path) == PLAIN.jobs_per_s
    kept.fact("environment", {"digest": "of another source"})
    assert rate_by_uri(path) is None


def searched(
    monkeypatch: pytest.MonkeyPatch, folder: Path, rates: dict[int, float], *, budget_s: float
) -> tuple[EndToEnd, list[int]]:
    """The search for the most, where so many workers reach those rates."""
    tried: list[int] = []

    def several(self: EndToEnd, count: int) -> int:
        tried.append(count)
        if rates[count] > self.rate:
            self.rate, self.workers = rates[count], count
        return self.workers

    monkeypatch.setattr(EndToEnd, "several", several)
    monkeypatch.setattr(EndToEnd, "pilot", lambda self: {"jobs": 1})
    monkeypatch.setattr(EndToEnd, "main_run", lambda self, full: None)
    monkeypatch.setattr(EndToEnd, "rival", lambda self, way: 1.0)
    given: Any = {"stand": None, "place": None}
    made = EndToEnd(section=Section("e2e", folder, budget_s=budget_s), engine="vit_b16", served="", **given)
    made.run(full=False)
    return made, tried


def test_workers_are_added_until_more_are_not_worth_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rates = {2: 200.0, 4: 300.0, 6: 250.0}
    made, tried = searched(monkeypatch, tmp_path, rates, budget_s=1000.0)
    assert tried == [2, 4, 6]
    assert (made.workers, made.rate) == (4, 300.0)


def test_the_search_for_the_most_leaves_time_for_the_rival(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, tried = searched(monkeypatch, tmp_path, {2: 200.0}, budget_s=85.0)
    assert tried == [2]
    steps = json.loads(record_path(tmp_path, "e2e").read_text())["steps"]
    assert steps["vit_b16: 4 workers"]["state"] == "skipped"
    assert "for steps after it" in steps["vit_b16: 4 workers"]["value"]
    assert steps["vit_b16: rival nvjpeg"]["state"] == "done"


def test_a_workers_log_is_read_with_the_seconds_since_its_start() -> None:
    lines = [
        b"Failed to load a library",
        b'{"part": "device", "took_s": 0.4, "event": "part", "level": "info", "timestamp": "1970-01-01T00:00:11.5Z"}',
        b'{"event": "worker_started", "instance": "w", "level": "info", "timestamp": "1970-01-01T00:00:12.250Z"}',
        b'{"event": "cut off',
    ]
    assert events_since(b"\n".join(lines), 10.0) == [
        {"s": 1.5, "event": "part", "part": "device", "took_s": 0.4},
        {"s": 2.25, "event": "worker_started", "instance": "w"},
    ]


@pytest.mark.parametrize(("part", "module", "name"), (*PARTS, REWRITES))
def test_a_part_of_a_start_is_where_it_is_looked_for(part: str, module: str, name: str) -> None:
    assert callable(getattr(import_module(module), name)), part


def test_a_scripts_commands_are_told_apart_by_what_they_run(tmp_path: Path) -> None:
    log, moments = tmp_path / "log", iter([0.0, 1.0, 4.0, 6.5, 7.0])
    commands = Commands(log, clock=partial(next, moments))
    said: Sequence[str] = (
        "== assay engine build /a/recipe.toml --out /b",
        "raced: == assay is no command here",
        "== assay calibrate x --publish",
        "== assay engine build /c",
    )
    commands.look()
    for line in said:
        with log.open("a") as out:
            out.write(line + "\n")
        commands.look()
    assert commands.seconds() == {"engine build": [5.5, 0.0], "calibrate": [0.5]}


def test_a_run_tells_how_long_stages_took_and_how_many_images_a_batch_had() -> None:
    meter = Meter(max_batch_images=32)
    for seconds in (0.02, 0.04):
        meter.stage("settle", seconds)
    meter.batch(images=6, flush="idle")
    assert means(generate_latest(meter.registry).decode()) == {"images": 6.0, "settle": 30.0}
