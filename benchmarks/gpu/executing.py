"""Engines of the race behind one interface: TensorRT's on the GPU, and ONNX Runtime's for dry runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from benchmarks.gpu.entries import Typing
from engines.gpu.device_graph import DeviceGraph

REPEATS: Final = 5
TIMED_S: Final = 0.15  # of one repeat, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is built: batches are least, preferred and most. `weak` lets the builder choose types: TensorRT 10 alone."""

    graph: DeviceGraph
    batches: tuple[int, int, int]
    typing: Typing = "strong"
    effort: int = 1


class Engine(Protocol):
    """A built engine. Rates are images a second, the median of some repeats."""

    build_s: float
    plan_bytes: int

    def images_per_s(self, batch: int, *, contexts: int = 1, graph: bool = True) -> float: ...
    def embeddings(self, images: NDArray[Any]) -> NDArray[np.float32]: ...
    def close(self) -> None: ...


Build = Callable[[Spec], Engine]


def device_images(graph: DeviceGraph, images: NDArray[np.float32]) -> NDArray[Any]:
    """Normalised float32 [n,3,S,S] as the graph takes them: [n,C,S,S], of INT8 [n,S,S,4] (which is CHW4)."""
    padded = images
    if graph.channels == 4:
        padded = np.concatenate([images, np.zeros_like(images[:, :1])], axis=1)
    if graph.input_scale is not None:
        levels = np.clip(np.rint(padded / graph.input_scale), -128, 127).astype(np.int8)
        return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
    return padded if input_kind(graph) == TensorProto.FLOAT else padded.astype(np.float16)


def input_kind(graph: DeviceGraph) -> int:
    """The ONNX type of `images`."""
    return int(ModelProto.FromString(graph.model).graph.input[0].type.tensor_type.elem_type)


class OrtEngine:
    """For dry runs: the same graph on the CPU."""

    def __init__(self, spec: Spec) -> None:
        import onnxruntime

        began = time.monotonic()
        content = spec.graph.model
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # as it is written: fused, FP16 scales round to other levels, and FP8 is not known
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._graph = spec.graph
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.build_s, self.plan_bytes = time.monotonic() - began, len(content)

    def images_per_s(self, batch: int, *, contexts: int = 1, graph: bool = True) -> float:
        images = self._taken(np.zeros((batch, 3, *self._side()), np.float32))
        began = time.monotonic()
        self._session.run(None, {"images": images})
        return batch / (time.monotonic() - began)

    def embeddings(self, images: NDArray[Any]) -> NDArray[np.float32]:
        made: NDArray[np.float32] = self._session.run(["embedding"], {"images": self._taken(images)})[0]
        return made

    def close(self) -> None:
        del self._session

    def _taken(self, images: NDArray[np.float32]) -> NDArray[Any]:
        made = device_images(self._graph, images)
        return made if self._graph.input_scale is None else made.transpose(0, 3, 1, 2)

    def _side(self) -> Sequence[int]:
        return [int(side) for side in self._session.get_inputs()[0].shape[2:]]


class TrtBuilder:
    """Builds with one timing cache, kept in `cache` from one process to the next: what was timed once is not again."""

    def __init__(self, cache: Path) -> None:
        import tensorrt as trt

        self._trt = trt
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._cache = cache
        self._runtime = trt.Runtime(self._logger)

    def __call__(self, spec: Spec) -> TrtEngine:
        began = time.monotonic()
        plan = self._plan(spec)
        return TrtEngine(self._trt, self._runtime, plan, spec, time.monotonic() - began)

    def _plan(self, spec: Spec) -> bytes:
        """Raises RuntimeError with the parser's words."""
        trt = self._trt
        builder = trt.Builder(self._logger)
        network = builder.create_network(self._flags(spec))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(spec.graph.model):
            raise RuntimeError("; ".join(str(parser.get_error(n)) for n in range(parser.num_errors)))
        config = builder.create_builder_config()
        config.builder_optimization_level = spec.effort
        self._type_input(network, spec)
        if spec.typing == "weak":
            for flag in ("FP16", "INT8"):
                config.set_flag(getattr(trt.BuilderFlag, flag))
        profile = builder.create_optimization_profile()
        _, channels, *side = network.get_input(0).shape
        profile.set_shape("images", *((batch, channels, *side) for batch in spec.batches))
        config.add_optimization_profile(profile)
        cache = config.create_timing_cache(self._cache.read_bytes() if self._cache.exists() else b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise RuntimeError("TensorRT found no implementation: its log says why")
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        self._cache.write_bytes(bytes(config.get_timing_cache().serialize()))
        return bytes(plan)

    def _flags(self, spec: Spec) -> int:
        strong = getattr(
            self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None
        )  # what TensorRT 11 always does
        return 1 << int(strong) if spec.typing == "strong" and strong is not None else 0

    def _type_input(self, network: Any, spec: Spec) -> None:
        given = network.get_input(0)
        if spec.graph.input_scale is not None:
            given.allowed_formats = 1 << int(self._trt.TensorFormat.CHW4)
        elif spec.typing == "weak":
            given.dtype = self._trt.float16


class TrtEngine:
    """A plan with executions of its own streams and buffers, in PyTorch's memory."""

    def __init__(self, trt: Any, runtime: Any, plan: bytes, spec: Spec, build_s: float) -> None:
        self._trt = trt
        self._spec = spec
        self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise RuntimeError("the plan does not load")
        self._executions: list[_Execution] = []
        self.build_s, self.plan_bytes = build_s, len(plan)

    @property
    def context_mb(self) -> float:
        """Device memory of one execution, buffers apart."""
        size = getattr(self._engine, "device_memory_size_v2", None) or self._engine.device_memory_size
        return round(int(size) / 1e6, 1)

    def images_per_s(self, batch: int, *, contexts: int = 1, graph: bool = True) -> float:
        import torch

        while len(self._executions) < contexts:
            self._executions.append(_Execution(self._trt, self._engine, self._spec))
        used = self._executions[:contexts]
        launches = [e.prepared(batch, graph) for e in used]
        torch.cuda.synchronize()
        turns = max(2, int(TIMED_S / max(_seconds(launches, 2) / 2, 1e-6)))
        rates = [turns * batch * contexts / _seconds(launches, turns) for _ in range(REPEATS)]
        return median(rates)

    def embeddings(self, images: NDArray[Any]) -> NDArray[np.float32]:
        if not self._executions:
            self._executions.append(_Execution(self._trt, self._engine, self._spec))
        return self._executions[0].embeddings(device_images(self._spec.graph, images))

    def close(self) -> None:
        import torch

        self._executions.clear()
        del self._engine
        torch.cuda.empty_cache()


def _seconds(launches: Sequence[Callable[[], None]], turns: int) -> float:
    """By the clock, the device idle before and after: several streams have no event in common."""
    import torch

    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(turns):
        for launch in launches:
            launch()
    torch.cuda.synchronize()
    return time.perf_counter() - began


class _Execution:
    """One context with its stream; buffers are made for the batch that is asked for."""

    def __init__(self, trt: Any, engine: Any, spec: Spec) -> None:
        import torch

        self._torch = torch
        self._engine = engine
        self._spec = spec
        self._context = engine.create_execution_context()
        self._stream = torch.cuda.Stream()
        kinds = {trt.float32: torch.float32, trt.float16: torch.float16, trt.int8: torch.int8}
        self._kinds = {n: kinds[engine.get_tensor_dtype(n)] for n in self._names()}
        self._tensors: dict[str, Any] = {}

    def prepared(self, batch: int, graph: bool) -> Callable[[], None]:
        """Buffers bound, one plain run made; then what enqueues a batch."""
        torch = self._torch
        self._bind(batch)
        for _ in range(3):
            self._enqueue()
        self._stream.synchronize()
        if not graph:
            return self._enqueue
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, stream=self._stream):
            self._enqueue()

        def launch() -> None:
            with torch.cuda.stream(self._stream):
                captured.replay()

        return launch

    def embeddings(self, images: NDArray[Any]) -> NDArray[np.float32]:
        self._bind(len(images))
        self._tensors["images"].view(-1).copy_(self._torch.from_numpy(images.reshape(-1)))
        self._torch.cuda.synchronize()
        self._enqueue()
        self._stream.synchronize()
        found: NDArray[np.float32] = self._tensors["embedding"].float().cpu().numpy()
        return found

    def _bind(self, batch: int) -> None:
        torch = self._torch
        _, *dims = self._engine.get_tensor_shape("images")
        if not self._context.set_input_shape("images", (batch, *dims)):
            raise RuntimeError(f"the plan takes no batch of {batch}")
        for name in self._names():
            shape = tuple(self._context.get_tensor_shape(name))
            made = torch.empty(shape, dtype=self._kinds[name], device="cuda")
            if name == "images":
                made.copy_(torch.randint(-100, 100, shape, device="cuda") if made.dtype == torch.int8
                           else torch.randn(shape, device="cuda"))  # fmt: skip
            self._tensors[name] = made
            self._context.set_tensor_address(name, made.data_ptr())
        torch.cuda.synchronize()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError("a batch could not be enqueued")

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(n) for n in range(self._engine.num_io_tensors)]
