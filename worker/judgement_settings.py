"""When a release of an engine is promoted, taken back or held: a group of settings of its own."""

from __future__ import annotations

from pydantic import Field, model_validator

from worker.setting_types import Group

PAIRS = ("hard", "abstention", "latency", "error", "golden")


class JudgementSettings(Group):
    hard_h0: float = Field(
        0.002, gt=0, lt=1, description="share of jobs turned from authentic to counterfeit or back that does no harm"
    )
    hard_h1: float = Field(0.01, gt=0, lt=1, description="share of them that does")
    abstention_h0: float = Field(
        0.02, gt=0, lt=1, description="share of jobs that become or cease to be inconclusive that does no harm"
    )
    abstention_h1: float = Field(0.05, gt=0, lt=1, description="share of them that does")
    latency_h0: float = Field(
        0.5, gt=0, lt=1, description="share of jobs that take longer than `slower` allows that does no harm"
    )
    latency_h1: float = Field(0.6, gt=0, lt=1, description="share of them that does")
    slower: float = Field(
        1.2, ge=1, description="times the current engine's time that the candidate may take for a job"
    )
    error_h0: float = Field(0.001, gt=0, lt=1, description="share of jobs that fail on the candidate that does no harm")
    error_h1: float = Field(0.01, gt=0, lt=1, description="share of them that does")
    golden_h0: float = Field(
        0.01, gt=0, lt=1, description="share of golden jobs that the candidate alone gets wrong that does no harm"
    )
    golden_h1: float = Field(0.05, gt=0, lt=1, description="share of them that does")
    golden_needed: bool = Field(True, description="promote nothing that golden jobs have not passed")
    false_take_back: float = Field(
        0.01, gt=0, lt=0.5, description="chance that a harmless candidate is taken back, over all tests"
    )
    false_promote: float = Field(0.01, gt=0, lt=0.5, description="chance that a harmful candidate is promoted")
    most_jobs: int = Field(5000, ge=1, description="jobs after which a release that is still open is held")

    @model_validator(mode="after")
    def _tell_apart(self) -> JudgementSettings:
        for name in PAIRS:
            low, high = getattr(self, f"{name}_h0"), getattr(self, f"{name}_h1")
            if low >= high:
                raise ValueError(f"judgement.{name}_h0 is {low}, so set judgement.{name}_h1 above it: it is {high}")
        return self
