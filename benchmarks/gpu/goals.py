"""The measures by id: what is asked of each, and how a value becomes a finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.findings import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    measure: str
    goal: float
    stretch: float | None = None
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""


def _at_most(measure: str, goal: float, stretch: float | None = None, unit: str = "") -> Goal:
    return Goal(measure=measure, goal=goal, stretch=stretch, better="lower", unit=unit)


def _at_least(measure: str, goal: float, stretch: float | None = None, unit: str = "x") -> Goal:
    return Goal(measure=measure, goal=goal, stretch=stretch, unit=unit)


GOALS: Final = {
    "G1": _at_least("end to end / slowest stage alone, same run", 0.85, 0.93),
    "G2": _at_least("ResNet-50 INT8 engine / torch.compile fp16, best batch each", 2.5, 3.1),
    "G3": _at_least("ResNet-50 INT8 / FP16 engine, best batch from 64 on", 1.6),
    "G4": _at_least("ViT-B/16 best precision / torch.compile fp16, best batch each", 1.4, 1.6),
    "G5-resnet-recall": _at_most("ResNet-50 INT8: recall@1 lost, points", 0.3),
    "G5-resnet-mean": _at_least("ResNet-50 INT8: cosine to FP32, mean", 0.995, unit=""),
    "G5-resnet-p1": _at_least("ResNet-50 INT8: cosine to FP32, first percentile", 0.98, unit=""),
    "G5-vit-recall": _at_most("ViT-B/16 best precision: recall@1 lost, points", 0.8),
    "G5-vit-mean": _at_least("ViT-B/16 best precision: cosine to FP32, mean", 0.99, unit=""),
    "G6": _at_least("decode in the worker / bare nvJPEG loop, 1024 px, 160 KB", 0.95),
    "G6-pillow": _at_least("decode in the worker / Pillow on all cores, 1024 px, 160 KB", 19.0),
    "G7-p50": _at_most("latency at 70 % of the most, P50", 30.0, 20.0, "ms"),
    "G7-p95": _at_most("latency at 70 % of the most, P95", 60.0, 40.0, "ms"),
    "G7-p99": _at_most("latency at 70 % of the most, P99", 100.0, 60.0, "ms"),
    "G8": _at_most("latency of one job at a time, P95", 25.0, 15.0, "ms"),
    "G9": _at_least("engine at its best batch / batch of one image", 3.8),
    "G10": _at_least("best number of slots / one slot, batch of 8", 1.3),
    "G11": _at_most("latency with device decode / with CPU decode, 1024 px", 0.4, unit="x"),
    "G12-x2": _at_least("2 GPUs / twice one", 0.95),
    "G12-x4": _at_least("4 GPUs / four times one", 0.92),
    "G13": _at_most("GPU time a job, 6 x 1024 px of 160 KB", 0.63, unit="ms"),
    "G14": _at_most("Python time holding the GIL, a job", 300.0, 150.0, "us"),
    "G15": _at_least("worker with transactions / at least once, both with a stand-in encoder", 0.95),
    "G16": _at_least("worker's consume rate / bare poll loop, inline images", 0.9),
    "G17": _at_most("gallery: exact, 1 M x 768, 256 probes", 2.0, 1.0, "ms"),
    "G18": _at_least("maps on / off", 0.93),
    "G19-memory": _at_most("worker's GPU memory", 4.0, 2.3, "GB"),
    "G19-free": _at_least("share of the GPU left free", 0.2, unit=""),
    "G19-size": _at_most("ResNet-50 INT8 graph / FP32 graph, bytes", 0.30, unit="x"),
    "G19-runtime": _at_most("libraries that a worker loads without the builder", 100.0, unit="MB"),
    "G20": _at_most("cold start: process start to first verdict, plan cached", 3.0, unit="s"),
    "G20-swap": _at_most("hot swap: for how long batches wait, P99", 50.0, unit="ms"),
    "G22-a": _at_least("end to end / Pillow + torch.compile + simple consumer, ResNet-50", 15.0),
    "G22-b-resnet": _at_least("end to end / nvJPEG + torch.compile one after another, ResNet-50", 1.8),
    "G22-b-vit": _at_least("end to end / nvJPEG + torch.compile one after another, ViT-B/16", 1.2),
    "G23": _at_least("ResNet-50: three outputs / embedding alone", 0.95),
    "G23-vit": _at_least("ViT-B/16: three outputs / embedding alone", 0.95),
}


def finding(goal_id: str, value: float | None, explained: str = "") -> Finding:
    """A measured value beside its goal. Raises KeyError for an id that is none."""
    goal = GOALS[goal_id]
    return Finding(
        id=goal_id,
        measure=goal.measure,
        value=value,
        goal=goal.goal,
        stretch=goal.stretch,
        better=goal.better,
        unit=goal.unit,
        explained=explained,
    )
