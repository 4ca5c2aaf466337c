"""F15: engines that hang, break their numbers, run out of memory or lose their device, under real workers.

A photograph that is nearly white sets the planted fault off. What only a GPU can show is marked so; the rest is the
same code on the CPU.
"""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from devstack import Addresses
from schemas import headers as names
from schemas.codec import header
from schemas.job import AuthenticationJob
from tests.acceptance.conftest import Deployment, assert_each_once, ends_in_order, jobs
from tests.acceptance.small import small_deployment
from worker.adapters.encoder import EXIT_ENGINE

# `assay worker` whose runners have the fault FAULT where a batch holds a nearly white photograph.
ENTRY = """
import io, os, sys, threading
import numpy as np
from PIL import Image
from engines import catalogue
from engines.errors import OutOfMemory

FAULT, MOST = os.environ["FAULT"], 4
open_real = catalogue.open_runner

class Planted:
    def __init__(self, runner):
        self.runner, self.info, self.close = runner, runner.info, runner.close

    def start(self, pixels):
        deadly = pixels.mean(axis=(1, 2, 3)) > 220
        if FAULT == "hang" and deadly.any():
            threading.Event().wait()
        return Answer(self.runner.start(pixels), len(pixels), deadly)

class Answer:
    def __init__(self, pending, count, deadly):
        self.pending, self.count, self.deadly = pending, count, deadly

    def result(self, timeout_s=None):
        if FAULT == "memory" and self.count > MOST:
            raise OutOfMemory("planted")
        outputs = self.pending.result(timeout_s)
        if FAULT == "nan" and self.deadly.any():
            outputs.embedding[:] = np.nan
        return outputs

if FAULT in ("hang_on_device", "illegal_address"):
    from engines.gpu.encoder import DeviceEncoder

    start_real = DeviceEncoder.photographs

    def lose_device(device):
        bad = np.uint64(64)
        kernel = device.kernel("normalise")
        last = [np.int32(64), np.int32(64), np.int32(3)]
        kernel(bad, bad, bad, bad, *last, block=(256, 1, 1), grid=(64, 1, 1))

    def start(self, batch):
        whites = [Image.open(io.BytesIO(p.picture)).convert("L").resize((1, 1)).getpixel((0, 0)) for p in batch]
        if max(whites) > 220:
            call = threading.Event().wait if FAULT == "hang_on_device" else lambda: lose_device(self._device)
            self._device.submit(call)
        return start_real(self, batch)

    DeviceEncoder.photographs = start
else:
    catalogue.open_runner = lambda *given, **more: Planted(open_real(*given, **more))
sys.argv = ["assay", "worker"]
from worker.cli.main import main
main()
"""
STARTS = "SELECT count(*) FROM assay.attempts"
ONE_BATCH = {
    "ASSAY_BATCH__MAX_IMAGES": "12",
    "ASSAY_BATCH__WINDOW_MS": "10000",
    "ASSAY_BATCH__EAGER": "false",
    "ASSAY_ENGINES__DEADLINE_S": "8",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def deployment(stack: Addresses, tmp_path: Path) -> Iterator[Deployment]:
    membership = {"ASSAY_KAFKA__STATIC_MEMBERSHIP": "true", "ASSAY_KAFKA__INSTANCE": "w1"}
    with small_deployment(stack, tmp_path, ASSAY_KAFKA__PARTITIONS="1", **membership) as made:
        yield made


def start_worker(deployment: Deployment, fault: str = "", **settings: str) -> subprocess.Popen[bytes]:
    return deployment.planted(ENTRY, FAULT=fault, **ONE_BATCH, **settings)


def twelve_jobs() -> tuple[list[AuthenticationJob], AuthenticationJob]:
    """Jobs of one photograph; the sixth one's is nearly white. It is returned beside them."""
    sent = jobs(12)
    out = io.BytesIO()
    Image.effect_noise((480, 480), 6.0).point(lambda level: min(255, level + 115)).convert("RGB").save(out, "JPEG")
    view = replace(sent[5].views[0], data=out.getvalue(), sha256=sha256(out.getvalue()).hexdigest())
    sent[5] = replace(sent[5], views=(view,))
    return sent, sent[5]


def test_broken_numbers_cost_their_own_photograph_alone(deployment: Deployment) -> None:
    sent, bad = twelve_jobs()
    deployment.send(sent)
    worker = start_worker(deployment, "nan")
    (letter,) = deployment.read("jobs.dlq", 1, more_s=0.0)
    assert (letter.key, header(letter.headers, names.ERROR_CODE)) == (bad.key, "no_usable_view")
    assert "encoder_failed" in (header(letter.headers, names.ERROR_MESSAGE) or "")
    assert_each_once(deployment.read("results", 11), [job for job in sent if job is not bad])
    assert ends_in_order(worker)


def test_a_batch_that_does_not_fit_into_memory_is_judged_all_the_same(deployment: Deployment) -> None:
    sent, _ = twelve_jobs()
    deployment.send(sent)
    worker = start_worker(deployment, "memory")
    assert_each_once(deployment.read("results", 12), sent)
    assert ends_in_order(worker)


def test_a_hanging_engine_ends_its_worker_which_its_jobs_outlive(deployment: Deployment) -> None:
    sent, _ = twelve_jobs()
    deployment.send(sent)
    assert start_worker(deployment, "hang").wait(120) == EXIT_ENGINE
    assert deployment.number(f"{STARTS} WHERE NOT solo") == 12, "a hang is a death of what was in flight"
    survivor = start_worker(deployment)
    assert_each_once(deployment.read("results", 12), sent)
    assert ends_in_order(survivor)
    assert deployment.number(STARTS) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("fault", ["illegal_address", "hang_on_device"])
def test_a_lost_device_ends_its_worker_and_the_poison_alone_is_buried(deployment: Deployment, fault: str) -> None:
    sent, bad = twelve_jobs()
    deployment.send(sent)
    plans = os.environ.get("PLANS", str(deployment.stand.folder / "plans"))
    device = {"ASSAY_ENGINES__BACKEND": "tensorrt", "ASSAY_ENGINES__PLANS_DIR": plans}
    for _ in range(4):
        assert start_worker(deployment, fault, **device).wait(300) == EXIT_ENGINE
    survivor = start_worker(deployment, fault, **device)
    (letter,) = deployment.read("jobs.dlq", 1, more_s=0.0)
    assert (letter.key, header(letter.headers, names.ERROR_CODE)) == (bad.key, "poison")
    assert_each_once(deployment.read("results", 11), [job for job in sent if job is not bad])
    assert ends_in_order(survivor)
