"""Several workers under one supervisor: what each is given, who starts again and when, and how all end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import pytest

from engines.errors import EngineRefused
from engines.gpu.listing import chosen_gpus, visible_gpus
from worker.errors import ConfigurationError
from worker.settings import Settings
from worker.supervise import KILL_AFTER_S, RestartRule, Share, Supervisor, cpu_shares, shares

SETTINGS = Settings(kafka={"instance": "host-1"}, observe={"port": 9100})  # type: ignore[arg-type]
RULE = RestartRule(first_s=1.0, longest_s=4.0, limit=4, calm_s=100.0)


@dataclass
class FakeProcess:
    pid: int
    code: int | None = None
    heard: list[int] = field(default_factory=list)

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, sig: int, /) -> None:
        self.heard.append(sig)


class World:
    """A supervisor of two, whose clock and processes the test moves."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.started: list[tuple[str, FakeProcess]] = []
        names = ("w-gpu0", "w-gpu1")
        among = [Share(name=name, environment={}) for name in names]
        self.supervisor = Supervisor(shares=among, spawn=self.spawn, drain_s=25.0, rule=RULE, clock=lambda: self.now_s)

    def spawn(self, share: Share) -> FakeProcess:
        process = FakeProcess(len(self.started))
        self.started.append((share.name, process))
        return process

    def last(self, name: str) -> FakeProcess:
        return next(process for of, process in reversed(self.started) if of == name)

    def count(self, name: str) -> int:
        return sum(of == name for of, _ in self.started)

    def after(self, seconds: float) -> bool:
        self.now_s += seconds
        return self.supervisor.step()


@pytest.fixture
def world() -> World:
    world = World()
    assert world.after(0.0)
    assert [name for name, _ in world.started] == ["w-gpu0", "w-gpu1"]
    return world


def test_each_gpu_has_an_instance_a_port_and_its_share_of_the_cores() -> None:
    given = shares(SETTINGS, ["0", "GPU-abc"], 16)
    assert [share.name for share in given] == ["host-1-gpu0", "host-1-gpu1"]
    assert given[1].environment == {
        "ASSAY_KAFKA__INSTANCE": "host-1-gpu1",
        "ASSAY_OBSERVE__PORT": "9101",
        "ASSAY_ENGINES__BACKEND": "tensorrt",
        "ASSAY_ENGINES__GPU_WORKERS": "1",
        "ASSAY_ENGINES__DECODE_THREADS": "8",
        "ASSAY_ENGINES__INFERENCE_THREADS": "8",
        "CUDA_VISIBLE_DEVICES": "GPU-abc",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def test_several_on_a_gpu_share_its_memory_and_the_cores() -> None:
    given = shares(SETTINGS, ["0", "1"], 16, each=2)
    assert [share.name for share in given] == [f"host-1-gpu{gpu}-p{n}" for gpu in (0, 1) for n in (0, 1)]
    assert [share.environment["CUDA_VISIBLE_DEVICES"] for share in given] == ["0", "0", "1", "1"]
    assert [share.environment["ASSAY_OBSERVE__PORT"] for share in given] == ["9100", "9101", "9102", "9103"]
    assert {share.environment["ASSAY_ENGINES__GPU_WORKERS"] for share in given} == {"2"}
    assert {share.environment["ASSAY_ENGINES__DECODE_THREADS"] for share in given} == {"4"}


def test_what_somebody_chose_is_not_divided_and_a_free_port_stays_free() -> None:
    settings = Settings(engines={"decode_threads": 3})  # type: ignore[arg-type]
    given = cpu_shares(settings, 4, 2)
    assert [share.environment["ASSAY_OBSERVE__PORT"] for share in given] == ["0"] * 4
    assert "ASSAY_ENGINES__DECODE_THREADS" not in given[0].environment
    assert given[0].environment["ASSAY_ENGINES__INFERENCE_THREADS"] == "1"
    assert len({share.name for share in given}) == 4


def test_a_backend_that_uses_no_gpu_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ASSAY_ENGINES__BACKEND is openvino"):
        shares(Settings(engines={"backend": "openvino"}), ["0"], 2)  # type: ignore[arg-type]


def test_who_ends_starts_again_after_a_wait_that_doubles(world: World) -> None:
    for wait_s in (1.0, 2.0, 4.0):
        world.last("w-gpu0").code = 70
        assert world.after(0.0)
        starts = world.count("w-gpu0")
        assert world.after(wait_s - 0.01)
        assert world.count("w-gpu0") == starts
        assert world.after(0.02)
        assert world.count("w-gpu0") == starts + 1
    assert world.count("w-gpu1") == 1


def test_a_process_that_always_ends_is_given_up_and_the_other_goes_on(world: World) -> None:
    for _ in range(RULE.limit):
        world.last("w-gpu0").code = -signal.SIGKILL
        world.after(0.0)
        world.after(RULE.longest_s)
    assert world.count("w-gpu0") == RULE.limit
    assert world.after(1000.0)
    assert world.count("w-gpu0") == RULE.limit
    world.supervisor.drain()
    world.last("w-gpu1").code = 0
    assert not world.after(0.0)
    assert world.supervisor.exit_code == 128 + signal.SIGKILL


def test_a_calm_time_forgives(world: World) -> None:
    for _ in range(3 * RULE.limit):
        world.now_s += RULE.calm_s
        world.last("w-gpu0").code = 74
        assert world.after(0.0)
        assert world.after(RULE.first_s)
    assert world.count("w-gpu0") == 3 * RULE.limit + 1


def test_a_wrong_setting_ends_all(world: World) -> None:
    world.last("w-gpu1").code = 78
    assert world.after(0.0)
    assert world.last("w-gpu0").heard == [signal.SIGTERM]
    world.last("w-gpu0").code = -signal.SIGKILL
    assert not world.after(0.0)
    assert world.supervisor.exit_code == 78, "what a person has to mend comes first"
    assert len(world.started) == 2


def test_all_drain_together_and_who_does_not_is_killed(world: World) -> None:
    world.supervisor.drain()
    world.supervisor.drain()
    assert [process.heard for _, process in world.started] == [[signal.SIGTERM]] * 2
    world.last("w-gpu0").code = 0
    assert world.after(25.0 + KILL_AFTER_S - 0.1)
    assert world.last("w-gpu1").heard == [signal.SIGTERM]
    assert world.after(0.2)
    assert world.last("w-gpu1").heard == [signal.SIGTERM, signal.SIGKILL]
    assert world.after(KILL_AFTER_S - 0.1)
    assert world.last("w-gpu1").heard == [signal.SIGTERM, signal.SIGKILL], "it is waited for, not asked all the time"
    world.last("w-gpu1").code = -signal.SIGKILL
    assert not world.after(0.0)
    assert world.supervisor.exit_code == 137


def test_a_worker_that_did_not_listen_yet_ended_as_it_was_told(world: World) -> None:
    world.supervisor.drain()
    for _, process in world.started:
        process.code = -signal.SIGTERM
    assert not world.after(0.0)
    assert world.supervisor.exit_code == 0


def test_nobody_starts_again_once_it_drains(world: World) -> None:
    world.last("w-gpu0").code = 70
    assert world.after(0.0)
    world.supervisor.drain()
    world.last("w-gpu1").code = 0
    assert not world.after(10.0)
    assert len(world.started) == 2


def test_gpus_are_chosen_among_those_that_can_be_seen() -> None:
    four = ["0", "1", "2", "3"]
    assert visible_gpus({}, lambda: "0\n1\n2\n3\n") == four
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-a, 3"}) == ["GPU-a", "3"]
    assert chosen_gpus("all", four) == four
    assert chosen_gpus("2", four) == ["0", "1"]
    assert chosen_gpus("3,", four) == ["3"]
    assert chosen_gpus("0,2", ["GPU-a", "GPU-b", "GPU-c"]) == ["GPU-a", "GPU-c"]


@pytest.mark.parametrize("wanted", ["5", "0,4"])
def test_a_gpu_that_is_not_there_is_refused_with_what_is(wanted: str) -> None:
    with pytest.raises(EngineRefused, match=r"GPU 4, and 4 can be seen.*from 0 to 3"):
        chosen_gpus(wanted, ["0", "1", "2", "3"])


@pytest.mark.parametrize("wanted", ["", "0", "-1", "two", "1,1", ",", "0,-1"])
def test_what_names_no_gpu_is_no_choice(wanted: str) -> None:
    with pytest.raises(ValueError):
        chosen_gpus(wanted, ["0", "1"])


@pytest.mark.parametrize("listed", ["", "-1", "NoDevFiles"])
def test_no_gpu_is_said_with_the_fix(listed: str) -> None:
    with pytest.raises(EngineRefused, match=r"CUDA_VISIBLE_DEVICES is .*--processes N"):
        visible_gpus({"CUDA_VISIBLE_DEVICES": listed})


def test_the_command_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("ASSAY_", "CUDA_"))}
    environment = clean | {"PATH": str(tmp_path)}  # no nvidia-smi, on any machine
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli.main", "worker", "--gpus", "all"],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 78
    assert "there is no nvidia-smi" in done.stderr
    assert "--processes N" in done.stderr


# The same with real processes: each child says that it lives in a file, and drains when it is told to.

CHILD = """
import os, pathlib, signal, sys, time
folder, name = pathlib.Path(sys.argv[1]), os.environ["NAME"]
def drained(*_):
    (folder / f"{name}.drained").touch()
    os._exit(0)
signal.signal(signal.SIGTERM, drained)
with (folder / f"{name}.pids").open("a") as out:
    out.write(f"{os.getpid()}\\n")
if name == "wrong":
    os._exit(78)
time.sleep(60)
os._exit(3)
"""
SUPERVISOR = """
import functools, sys
from worker.supervise import RestartRule, Share, Supervisor, start_process
names, folder, child = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
among = [Share(name=name, environment={"NAME": name}) for name in names]
spawn = functools.partial(start_process, (sys.executable, "-c", child, folder))
sys.exit(Supervisor(shares=among, spawn=spawn, drain_s=20.0, rule=RestartRule(first_s=0.05)).run())
"""


def supervised(names: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SUPERVISOR, names, str(folder), CHILD])


def pids(folder: Path, name: str, count: int) -> list[int]:
    """The first `count` processes that ran under a name."""
    until = monotonic() + 30.0
    while monotonic() < until:
        told = folder / f"{name}.pids"
        found = [int(line) for line in told.read_text().splitlines()] if told.exists() else []
        if len(found) >= count:
            return found[:count]
        sleep(0.02)
    raise AssertionError(f"{name} did not run {count} times")


def is_drained(folder: Path, name: str) -> bool:
    until = monotonic() + 30.0
    while monotonic() < until and not (folder / f"{name}.drained").exists():
        sleep(0.02)
    return (folder / f"{name}.drained").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_killed_process_is_replaced_and_a_signal_drains_all(tmp_path: Path, number: signal.Signals) -> None:
    supervisor = supervised("a,b", tmp_path)
    (first,) = pids(tmp_path, "a", 1)
    pids(tmp_path, "b", 1)
    os.kill(first, signal.SIGKILL)
    pids(tmp_path, "a", 2)
    supervisor.send_signal(number)
    assert supervisor.wait(30) == 0
    assert is_drained(tmp_path, "a") and is_drained(tmp_path, "b")
    assert len((tmp_path / "b.pids").read_text().splitlines()) == 1


def test_one_wrong_setting_drains_the_rest_and_is_the_exit_code(tmp_path: Path) -> None:
    supervisor = supervised("a", tmp_path)
    pids(tmp_path, "a", 1)
    supervisor.kill()
    supervisor.wait()
    assert is_drained(tmp_path, "a"), "a worker outlived its supervisor"
    both = supervised("b,wrong", tmp_path)
    assert both.wait(30) == 78
    assert len((tmp_path / "wrong.pids").read_text().splitlines()) == 1


def test_the_supervisor_of_real_workers_ends_with_their_code(tmp_path: Path) -> None:
    """No service is needed to find that a setting is wrong, and each of the two finds it for itself."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ASSAY_")}
    environment = clean | {"ASSAY_ENGINES__MODELS_DIR": str(tmp_path), "ASSAY_KAFKA__INSTANCE": "w"}
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli.main", "worker", "--processes", "2"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 78
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {line["instance"] for line in lines if line["event"] == "process_started"} == {"w-p0", "w-p1"}
