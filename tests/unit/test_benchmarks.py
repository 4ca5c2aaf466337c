"""What the benchmarks conclude from what they measured; no time is measured here."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.findings import Finding, table, write
from benchmarks.hostile import Measured, conclusions, page
from benchmarks.open_loop import Leg, schedule
from benchmarks.plain_loop import prepare
from benchmarks.stages import StageRate, bound_jobs_per_second
from benchmarks.transactions import AT_LEAST_ONCE, TRANSACTIONS, Turn, finding
from benchmarks.watching import memory_use
from engines.decode import Decoded, DecodeLimits, decode_photograph
from engines.preprocess import Preprocessing, normalised


def test_a_finding_is_met_in_the_direction_that_is_better() -> None:
    assert Finding(id="a", measure="speed", value=2.6, goal=2.5).met is True
    assert Finding(id="a", measure="speed", value=2.4, goal=2.5).met is False
    assert Finding(id="a", measure="memory", value=1300, goal=1200, better="lower").met is False
    assert Finding(id="a", measure="speed", value=None, goal=2.5).met is None


def test_findings_are_written_by_id_beside_the_facts(tmp_path: Path) -> None:
    short = Finding(id="G21", measure="speed", value=2.0, goal=2.5, explained="decoding binds")
    write(tmp_path / "out" / "cpu.json", [short], {"environment": {"cores": 2}})
    written = json.loads((tmp_path / "out" / "cpu.json").read_text())
    assert written["G21"]["met"] is False
    assert written["G21"]["explained"] == "decoding binds"
    assert written["environment"] == {"cores": 2}
    assert table([short]).row_count == 1


def test_memory_is_told_by_quarters_of_the_jobs() -> None:
    samples = [(done, 100.0 if done < 25 else 200.0 + done) for done in range(101)]
    use = memory_use(samples)
    assert use.first_quarter == 100.0
    assert use.second_quarter == pytest.approx(237.0)
    assert use.mb_per_1000_jobs == pytest.approx(1000.0)
    assert use.late_mb_per_1000_jobs == pytest.approx(1000.0)
    assert use.peak == 300.0


def test_a_stage_within_another_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    whole = StageRate(stage="encode", jobs_per_second=10, cpu_ms=80, machine_ms=80)
    part = StageRate(stage="decode", jobs_per_second=20, cpu_ms=40, machine_ms=40, within="encode")
    other = StageRate(stage="match", jobs_per_second=50, cpu_ms=20, machine_ms=20)
    assert bound_jobs_per_second([whole, part, other]) == pytest.approx(20.0)


def test_an_open_loop_sends_good_jobs_at_the_same_moments_with_and_without_hostile_ones() -> None:
    alone, among = (schedule(5.0, hostile, 100.0, seed=3) for hostile in (0.0, 0.5))
    assert [due for due in among if due.good] == alone
    assert 400 < len(alone) < 600 and 20 < sum(not due.good for due in among) < 90
    assert [due.at_s for due in among] == sorted(due.at_s for due in among)


def test_the_rise_of_the_good_jobs_p99_is_told_against_both_legs_alone() -> None:
    def leg(hostile: int, worst_ms: float) -> Leg:
        delays = [100.0] * 90 + [worst_ms] * 10
        ended = {"verdict": hostile} if hostile else {}
        return Leg(name="x", delays_ms=delays, hostile=hostile, hostile_ended=ended, moved=0, sent_late_ms=0.0)

    measured = Measured(most_per_s=10.0, legs=[leg(0, 190.0), leg(9, 300.0), leg(0, 200.0)])
    rise, drift = conclusions(measured)
    assert (rise.value, rise.met) == (pytest.approx(0.5), False)
    assert (drift.value, drift.met) == (pytest.approx(10 / 195), True)
    written = page(measured, [rise, drift], {"cores": 2}, "--seconds 9")
    assert "python -m benchmarks.hostile --seconds 9" in written and "| x | 100 | 9 | 100 | 300 | 300 | 0 |" in written


def test_the_cost_of_transactions_is_a_ratio_of_means() -> None:
    turns = [
        Turn(entry=entry, jobs=10, jobs_per_second=rate)
        for entry, rate in ((TRANSACTIONS, 90.0), (AT_LEAST_ONCE, 100.0), (AT_LEAST_ONCE, 104.0), (TRANSACTIONS, 94.0))
    ]
    found = finding(turns)
    assert (found.id, found.value, found.met) == ("G15", pytest.approx(184 / 204), False)
    assert "90, 100, 104, 94" in found.explained


def test_the_plain_loop_sees_what_the_worker_sees() -> None:
    """The rival must do the same work: its square is the worker's, but for the full decode."""
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    out = io.BytesIO()
    coarse.resize((640, 480), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    decoded = decode_photograph(out.getvalue(), size=448, limits=DecodeLimits(), reduced=False)
    assert isinstance(decoded, Decoded)
    expected = normalised(decoded.pixels[None], Preprocessing())[0]
    assert np.abs(prepare(out.getvalue()) - expected).max() < 0.05
