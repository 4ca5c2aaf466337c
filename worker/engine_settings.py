"""Which engines are served, from where, by what: a group of settings of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from worker.setting_types import Group, Table

REGISTRY = re.compile(r"/.*|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#]*)?")


class EngineSettings(Group):
    models_dir: Path | None = Field(None, description="folder of signed engines; unset: the shipped demo encoders")
    registry: str | None = Field(
        None,
        description="where published engines lie, a folder or s3://BUCKET/PREFIX, instead of `models_dir`: a worker "
        "serves what is current for its machine, and follows",
    )
    poll_s: float = Field(5.0, gt=0, description="how often the registry is read; `assay.control` only makes it sooner")
    golden_every_batches: int = Field(
        1000, ge=0, description="the registry's engines run their golden images again after so many batches; 0: never"
    )
    error_budget: float = Field(
        0.05, gt=0, le=1, description="share of 200 photographs without finite numbers above which an engine is left"
    )
    latency_budget_ms: float = Field(
        0.0, ge=0, description="median time a photograph above which an engine is left for the one before; 0: no limit"
    )
    retry_better_s: float = Field(
        60.0, gt=0, description="how long an engine that failed rests at first; twice as long each time, 1 h at most"
    )
    keys_dir: Path | None = Field(
        None, description="folder of the keys that engines must be signed with; unset: models_dir itself"
    )
    allow_demo: bool = Field(False, description="let production serve the demo encoders, which know no real goods")
    backend: Literal["auto", "openvino", "onnxruntime", "tensorrt"] = Field(
        "auto", description="what runs the engines; auto: openvino, else onnxruntime; tensorrt needs the gpu extra"
    )
    plans_dir: Path | None = Field(
        None,
        description="folder of the plans that TensorRT builds and of what OpenVINO compiles, for this user alone; "
        "unset: ~/.cache/assay/plans",
    )
    default_encoder: str = Field("resnet18", description="encoder of the views that `encoders` does not name")
    encoders: Table = Field(
        {"bag/overview": "vit_tiny16", "watch/overview": "vit_tiny16", "sneaker/overview": "vit_tiny16"},
        description="encoder of a category/view where it is not the default one",
    )
    decode_threads: int = Field(0, ge=0, description="0: one a core")
    decode_helpers: int = Field(
        2, ge=1, le=64, description="processes that decode what is not a baseline JPEG; started when first needed"
    )
    decode_slow_after_s: float = Field(
        0.25,
        gt=0,
        description="a job whose photograph keeps such a process busy for longer goes to jobs.slow",
    )
    inference_threads: int = Field(0, ge=0, description="0: one a core")
    gpu_slots: int = Field(2, ge=1, le=8, description="batches of an engine that are under way on a GPU at once")
    gpu_decode_mib: int = Field(
        512, ge=16, le=8192, description="pixels that a GPU holds decoded at a time, twice over: less takes less memory"
    )
    gpu_build_effort: int = Field(
        1, ge=0, le=5, description="TensorRT's builder optimization level: more takes minutes, once a machine"
    )
    gpu_workers: int = Field(
        1,
        ge=1,
        description="workers on one GPU, which share what may be kept there of galleries; `assay worker --gpus N "
        "--processes N` sets it",
    )
    full_decode: bool = Field(False, description="decode JPEGs in full instead of at a reduced scale")
    deadline_s: float = Field(
        0.0,
        ge=0.0,
        description="an engine that takes longer for a batch hangs, and the worker ends; 0: 60 on a CPU, 10 on a GPU",
    )

    @model_validator(mode="after")
    def _come_from_one_place(self) -> EngineSettings:
        if self.registry is None:
            return self
        if not REGISTRY.fullmatch(self.registry):
            raise ValueError(f"engines.registry is {self.registry!r}: write it as /A/FOLDER or s3://BUCKET/PREFIX")
        if self.models_dir is not None:
            raise ValueError(
                "engines.registry and engines.models_dir are both set: engines come from one; unset the other"
            )
        if self.keys_dir is None:
            raise ValueError(
                "engines.registry needs engines.keys_dir, the folder of the keys that engines are signed with"
            )
        return self

    @property
    def registry_folder(self) -> Path | None:
        return Path(self.registry) if self.registry and self.registry.startswith("/") else None

    def encoder_for(self, category: str, view: str) -> str:
        return self.encoders.get(f"{category}/{view}", self.default_encoder)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.default_encoder, *self.encoders.values())))
