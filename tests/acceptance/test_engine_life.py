"""docs/engine-life.sh as it stands there, beside workers under load: the demo's float twin becomes an engine and
serves, a good candidate is promoted by itself, a worse and a wrong one are taken back by themselves, random weights of
another embedding space are promoted once all is there, and rolled back. Every job is answered once, in one space."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from devstack import Addresses
from schemas.codec import decode_verdict
from schemas.verdict import VerdictEvent
from tests.engine_life.encoders import FAMILY
from tests.engine_life.running import Life, new_life

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# What each view's best cosine would be in the space that its verdict names, from the vectors that are stored, and in
# another space where the references have vectors as well.
SIMILARITIES = """
SELECT r.similarity, max(1 - (e.embedding::halfvec <=> p.embedding)) FILTER (WHERE e.space = p.space),
    max(1 - (e.embedding::halfvec <=> p.embedding)) FILTER (WHERE e.space <> p.space)
FROM assay.verdicts v
JOIN assay.view_results r USING (result_id, judged_at)
JOIN assay.probe_embeddings p ON (p.tenant, p.job_id, p.view) = (r.tenant, r.job_id, r.view)
    AND p.space = v.provenance #>> '{engines,0,embedding_space}'
JOIN assay.reference_images i ON (i.tenant, i.sku, i.view) = (r.tenant, r.sku, r.view)
JOIN assay.reference_embeddings e ON e.reference_id = i.id
WHERE r.similarity IS NOT NULL GROUP BY r.result_id, r.view, r.similarity
"""
RELEASES = """
SELECT e.version, r.state, r.decision ->> 'by', r.decision ->> 'why', e.space
FROM assay.engine_releases r JOIN assay.engines e ON e.id = r.candidate ORDER BY r.started_at
"""


def test_the_script_of_the_docs_takes_engines_through_their_whole_life_under_load(
    stack: Addresses, tmp_path: Path
) -> None:
    life = new_life(stack, tmp_path)
    with life.script() as script:
        life.wait_served(script)
        with life.workers(2) as workers:
            with life.jobs():
                code = script.wait(1100)
            assert code == 0, life.tail()
            events = answered_once(life)
            assert [worker.stop() for worker in workers] == [0, 0]
    assert_judged(life)
    assert_served(life, events)
    assert_never_mixed(life)


def answered_once(life: Life) -> list[VerdictEvent]:
    """Every job that was sent, by the load and by the script, has one verdict and no dead letter."""
    wanted = {one.job_id for one in life.sent} | set(life.golden())
    records = life.answers(len(wanted))
    events = [decode_verdict(record.value or b"", record.headers) for record in records]
    counted = Counter(event.job_id for event in events)
    assert {job_id: n for job_id, n in counted.items() if n != 1} == {}
    assert set(counted) == wanted
    assert life.rows("SELECT code, detail FROM assay.dead_letters") == []
    return events


def assert_judged(life: Life) -> None:
    """The judge, nobody else, promoted the good ones and took the bad ones back, on what the candidates answered."""
    found = life.rows(RELEASES)
    assert [row[:3] for row in found] == [
        (2, "promoted", "assay engine judge"),
        (3, "taken_back", "assay engine judge"),
        (4, "taken_back", "assay engine judge"),
        (5, "promoted", "assay engine judge"),
    ]
    for _, state, _, why, _ in found:
        assert ("all tests have passed" in str(why)) == (state == "promoted"), why
    assert found[2][4] == found[0][4], "the wrong one was given out for the first one's space"
    assert found[3][4] != found[0][4]
    told = life.told.read_text()
    assert "Over its accuracy budget, not to be published" in told
    assert "incomplete: resnet18 version 5 is not ready for traffic: 30 references have no vectors" in told
    assert "incomplete: resnet18 version 5 is not ready for traffic: no active score calibration" in told


def assert_served(life: Life, events: list[VerdictEvent]) -> None:
    """Each engine that was to have traffic had some, and the first rollback goes to the one before."""
    lines = json.loads(life.stand.assay("engine", "list", FAMILY, "--json", env=life.stand.curator))
    assert {line["version"]: line["state"] for line in lines} == {
        5: "retired",
        4: "verified",
        3: "verified",
        2: "current",
        1: "retired",
    }
    used = Counter(engine.digest for event in events for engine in event.provenance.engines)
    assert {line["digest"] for line in lines} == used.keys()
    assert not any(event.provenance.degraded for event in events)
    decided = Counter((event.job_id.split("-")[0], event.verdict.value) for event in events)
    assert decided["genuine", "authentic"] > decided["genuine", "counterfeit"]
    assert decided["forged", "counterfeit"] > decided["forged", "authentic"]


def assert_never_mixed(life: Life) -> None:
    """Every similarity that a verdict tells is one of its own space, and hardly any would be the same in another."""
    found = [tuple(None if value is None else float(str(value)) for value in row) for row in life.rows(SIMILARITIES)]
    assert len(found) > 100
    own = [abs((told or 0) - (best or 0)) for told, best, _ in found]
    assert max(own) < 0.005
    other = [abs(told - best) for told, _, best in found if told is not None and best is not None]
    assert sum(apart > 0.05 for apart in other) > 0.95 * len(found)
