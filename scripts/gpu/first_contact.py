"""python3 scripts/gpu/first_contact.py [STEP ...]: each layer of the device path by itself, bottom up, with its times.

A step that fails is told with its traceback, and the next one goes on. `--list` names the steps. `PLANS` is where plans
are kept, `SIDE` the photographs' size, `EFFORTS` the builder efforts that `build` tries. JSON goes to $OUT, if set.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
SIDE = int(os.environ.get("SIDE", "1024"))
PLANS = Path(os.environ.get("PLANS") or tempfile.mkdtemp(prefix="plans-"))
EFFORTS = [int(e) for e in os.environ.get("EFFORTS", "1").split(",")]
TOLD: dict[str, Any] = {}
STEPS: dict[str, Callable[[], None]] = {}
OPENED: list[Any] = []


def step(run: Callable[[], None]) -> Callable[[], None]:
    STEPS[run.__name__] = run
    return run


def tell(name: str, value: Any) -> None:
    TOLD[name] = value
    shown = f"{value:.4g}" if isinstance(value, float) else value
    print(f"  {name:44s} {shown}", flush=True)


def timed(name: str, run: Callable[[], Any], times: int = 1) -> Any:
    began = time.perf_counter()
    for _ in range(times):
        got = run()
    tell(f"{name} ms", (time.perf_counter() - began) * 1e3 / times)
    return got


def rate(name: str, run: Callable[[], Any], images: int, seconds: float = 1.5) -> None:
    run()
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        run()
        done += images
    tell(f"{name} img/s", done / spent)


@cache
def photographs(count: int = 32, side: int = SIDE) -> list[bytes]:
    from PIL import Image

    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 255, (side // 16, side // 16, 3), dtype=np.uint8))
        pixels = np.asarray(small.resize((side + 8 * number, side), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(pixels + rng.integers(-3, 4, pixels.shape), 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(noisy).save(out, "JPEG", quality=90)
        made.append(out.getvalue())
    return made


@cache
def gpu() -> Any:
    from engines.gpu.device import Device
    from engines.gpu.opened import Gpu
    from engines.plan_files import PlanFolder

    return Gpu(device=Device(), plans=PlanFolder(PLANS))


@cache
def engine(name: str) -> Any:
    from engines.catalogue import MODELS_DIR, read_engine, shipped_keys

    return read_engine(MODELS_DIR, name, shipped_keys())


@cache
def runner(name: str) -> Any:
    found = engine(name)
    opened = gpu().runner(found.model, found.manifest, found.golden)
    OPENED.append(opened)
    return opened


@step
def imports() -> None:
    others = ("cuda.bindings.runtime", "cryptography", "onnxruntime")
    for name in ("pycuda.driver", "tensorrt", "nvidia.nvimgcodec", *others):
        try:
            began = time.perf_counter()
            module = __import__(name, fromlist=["x"])
            version = getattr(module, "__version__", getattr(module, "VERSION_TEXT", "?"))
            tell(f"import {name}", f"{version} {(time.perf_counter() - began) * 1e3:.0f} ms")
        except Exception as error:
            tell(f"import {name}", f"FAILED {error!r}")
    import PIL

    tell("pillow, numpy", (PIL.__version__, np.__version__))


@step
def device() -> None:
    found = timed("open", lambda: gpu().device)
    tell("name, capability", (found.name, found.capability))
    tell("free, total MiB", [b >> 20 for b in found.run(found.memory_bytes)])
    tell("a call in the device's thread us", _mean_us(lambda: found.run(lambda: None)))


def _mean_us(run: Callable[[], Any], times: int = 300) -> float:
    began = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - began) * 1e6 / times


@step
def kernels() -> None:
    """Resampling, measures and every input form, beside Pillow; then how fast."""
    gpu().device.run(_kernels)


def _kernels() -> None:
    import pycuda.driver as cuda
    from PIL import Image

    from engines.gpu.resample import Source, described
    from engines.preprocess import resized

    device, side = gpu().device, 448
    rng = np.random.default_rng(1)
    sizes = [(448, 448), (1023, 777), (640, 480), (1500, 1501), (3000, 2000), (449, 460)]
    pixels = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in sizes]
    on_device = [cuda.to_device(p) for p in pixels]
    sources = [
        Source(address=int(d), pitch=p.strides[0], width=p.shape[1], height=p.shape[0], orientation=1, row=row)
        for row, (d, p) in enumerate(zip(on_device, pixels, strict=True))
    ]
    table, integers = described(sources, side)
    tables, squares = cuda.mem_alloc(integers * 4), np.zeros((len(sizes), side, side, 3), np.uint8)
    stream, given = cuda.Stream(), cuda.to_device(table)
    out = cuda.to_device(squares)

    def run(count: int = len(sizes)) -> None:
        device.kernel("weigh")(given, tables, np.int32(side), grid=(count, 2), block=(128, 1, 1), stream=stream)
        device.kernel("resample")(
            given, tables, out, np.int32(side), grid=(14, 56, count), block=(32, 8, 1), stream=stream
        )
        stream.synchronize()

    timed("first resample (loads code)", run)
    cuda.memcpy_dtoh(squares, out)
    for size, square, source in zip(sizes, squares, pixels, strict=True):
        expected = np.asarray(resized(Image.fromarray(source), side)).astype(int)
        tell(f"resample {size}: largest difference to Pillow", int(np.abs(square - expected).max()))
    photo = rng.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    one = cuda.to_device(photo)
    many = [Source(address=int(one), pitch=3072, width=1024, height=1024, orientation=1, row=row) for row in range(128)]
    table, integers = described(many, side)
    tables, given, out = cuda.mem_alloc(integers * 4), cuda.to_device(table), cuda.mem_alloc(128 * side * side * 3)
    timed("resample 128 of 1024 px", lambda: run(128), 20)
    numbers = [cuda.mem_alloc(128 * n) for n in (1024, 16, 56 * 56)]
    small = cuda.mem_alloc(128 * 1024)

    def measure() -> None:
        device.kernel("measure")(
            out, *numbers, np.int32(side), grid=(56, 128), block=(256, 1, 1), stream=stream, shared=10 * side
        )
        device.kernel("shrink")(out, small, np.int32(side), grid=(128, 1), block=(512, 1, 1), stream=stream)
        stream.synchronize()

    timed("measure and shrink 128", measure, 20)
    images = cuda.mem_alloc(128 * 4 * side * side * 2)
    mean, scale = cuda.to_device(np.ones(3, np.float32)), cuda.to_device(np.ones(3, np.float32))

    def half() -> None:
        device.kernel("normalise_half")(
            out, images, mean, scale, np.int32(side), np.int32(128), np.int32(4),
            grid=(2048, 1), block=(256, 1, 1), stream=stream,
        )  # fmt: skip
        stream.synchronize()

    def quantise() -> None:
        device.kernel("quantise")(
            out, images, mean, scale, np.float32(0.02), np.int32(side), np.int32(128),
            grid=(2048, 1), block=(256, 1, 1), stream=stream,
        )  # fmt: skip
        stream.synchronize()

    timed("normalise 128 to half", half, 20)
    timed("normalise 128 to int8", quantise, 20)


@step
def decode() -> None:
    """nvImageCodec by itself: what comes back, against Pillow, and how fast; does it hold the GIL?"""
    device = gpu().device
    jpegs = timed("open the decoder", lambda: device.run(gpu().jpegs))
    blobs = photographs()
    device.run(lambda: _decoded_like_pillow(jpegs, blobs))
    batch = blobs * 2
    for count in (1, 8, 32, 64):
        some = batch[:count]
        rate(f"decode {count} of {SIDE} px", lambda some=some: device.run(lambda: _synchronised(jpegs, some)), count)
    tell("JPEG KB, mean", sum(map(len, blobs)) / len(blobs) / 1e3)
    counted, stop = [0], threading.Event()

    def count_up() -> None:
        while not stop.is_set():
            counted[0] += 1

    thread = threading.Thread(target=count_up)
    thread.start()
    time.sleep(0.3)
    alone, began = counted[0] / 0.3, time.perf_counter()
    before = counted[0]
    for _ in range(5):
        device.run(lambda: _synchronised(jpegs, batch))
    tell("share of Python speed left beside decoding", (counted[0] - before) / (time.perf_counter() - began) / alone)
    stop.set()
    thread.join()


@step
def decoders() -> None:
    """Which of nvImageCodec's backends are fastest, by themselves and together; 64 photographs, buffers used again."""
    gpu().device.run(_decoders)


def _decoders() -> None:
    import pycuda.driver as cuda
    from nvidia import nvimgcodec as codec

    kinds, streams = codec.BackendKind, [codec.CodeStream(blob) for blob in photographs() * 2]
    hardware, hybrid = kinds.HW_GPU_ONLY, kinds.HYBRID_CPU_GPU
    policy = codec.LoadHintPolicy
    tried = {
        "default": None,
        "hardware": [codec.Backend(hardware)],
        "hybrid": [codec.Backend(hybrid)],
        "hardware, hybrid": [codec.Backend(kind) for kind in (hardware, hybrid)],
        "adaptive": [
            codec.Backend(hardware, load_hint=0.8, load_hint_policy=policy.ADAPTIVE_MINIMIZE_IDLE_TIME),
            codec.Backend(hybrid),
        ],
    }
    for name, backends in tried.items():
        for options in ("", "nvjpeg_hw_decoder:force_legacy_batch=1"):
            try:
                more = {} if backends is None else {"backends": backends}
                decoder = codec.Decoder(device_id=0, options=options, **more)
                stream = cuda.Stream()
                images = decoder.decode(streams, cuda_stream=stream.handle)

                def run(decoder: Any = decoder, stream: Any = stream, images: list[Any] = images) -> None:
                    decoder.decode(streams, images=images, cuda_stream=stream.handle)
                    stream.synchronize()

                if None in images:
                    tell(f"{name} {options}: refused", images.count(None))
                    continue
                rate(f"{name} {options}", run, len(streams), 0.6)
            except Exception as error:
                tell(f"{name} {options} FAILED", repr(error))


def _synchronised(jpegs: Any, blobs: list[bytes]) -> list[Any]:
    import pycuda.driver as cuda

    began = time.perf_counter()
    stage, images = jpegs.decode(blobs)
    TOLD["decode call alone ms"] = (time.perf_counter() - began) * 1e3
    stage.decoded.synchronize()
    TOLD["decode until done ms"] = (time.perf_counter() - began) * 1e3
    stage.free.record(cuda.Stream())
    return images


def _decoded_like_pillow(jpegs: Any, blobs: list[bytes]) -> None:
    import pycuda.driver as cuda
    from PIL import Image

    images = _synchronised(jpegs, [*blobs[:4], blobs[4][:2000] + b"\xff\xd9", b"\xff\xd8\xff rubbish"])
    tell("decoded", [None if i is None else tuple(i.shape) for i in images])
    found = images[0].__cuda_array_interface__
    tell("array interface", {k: v for k, v in found.items() if k != "data"})
    tell("capacity", images[0].capacity)
    height, width, _ = found["shape"]
    pitch = found["strides"][0] if found.get("strides") else width * 3
    raw = np.empty(height * pitch, np.uint8)
    cuda.memcpy_dtoh(raw, found["data"][0])
    pixels = raw.reshape(height, pitch)[:, : width * 3].reshape(height, width, 3).astype(int)
    difference = np.abs(pixels - np.asarray(Image.open(io.BytesIO(blobs[0])).convert("RGB")))
    tell("difference to Pillow: largest, mean", (int(difference.max()), float(difference.mean())))


@step
def rewrite() -> None:
    from engines.gpu.rewrite import device_graphs

    for name in ("resnet18", "vit_tiny16"):
        graphs = timed(f"{name} rewritten", lambda name=name: list(device_graphs(engine(name).model)))
        tell(name, [(g.recipe, g.channels, g.input_scale, len(g.model), g.digest[:12]) for g in graphs])


@step
def parse() -> None:
    """Does TensorRT take each rewrite?"""
    gpu().device.run(_parse)


def _parse() -> None:
    import tensorrt as trt

    from engines.gpu.rewrite import device_graphs

    for name in ("resnet18", "vit_tiny16"):
        for graph in device_graphs(engine(name).model):
            log = trt.Logger(trt.Logger.WARNING)
            builder = trt.Builder(log)
            network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            parser = trt.OnnxParser(network, log)
            took = parser.parse(graph.model)
            faults = [str(parser.get_error(n)) for n in range(parser.num_errors)]
            tell(f"{name} {graph.recipe} parsed", (took, network.num_layers if took else faults))


@step
def build() -> None:
    """Every rewrite: built, self-tested, and the engine alone by batch."""
    for name in ("resnet18", "vit_tiny16"):
        for effort in EFFORTS:
            for recipe in ("half-int8", "half", "signed"):
                _build(name, recipe, effort)


def _build(name: str, recipe: str, effort: int) -> None:
    from engines.golden import self_test
    from engines.gpu.encoder import GpuOptions
    from engines.gpu.opened import Gpu
    from engines.gpu.rewrite import device_graphs
    from engines.gpu.tensorrt_runner import TensorRtRunner
    from engines.plan_files import PlanFolder

    found = engine(name)
    graph = next((g for g in device_graphs(found.model) if g.recipe == recipe), None)
    if graph is None:
        return
    what = f"{name} {recipe} effort {effort}"
    own = Gpu(device=gpu().device, plans=PlanFolder(PLANS), options=GpuOptions(effort=effort))
    try:
        made = timed(f"{what} built and opened", lambda: own.encoder(graph, found.manifest))
        opened = TensorRtRunner(made)
        try:
            self_test(opened, found.golden)
            tell(f"{what} self-test", "passed")
        except Exception as error:
            tell(f"{what} self-test", f"FAILED {error}")
        for count in (8, 32, 128):
            gpu().device.run(lambda count=count: _engine_alone(what, made, count))
        opened.close()
    except Exception:
        tell(what, "FAILED")
        traceback.print_exc()


def _engine_alone(what: str, encoder: Any, count: int) -> None:
    """The slot's own queue: normalise, execute, copy back; first plain, then as a graph."""
    slot = encoder._all[0]  # noqa: SLF001 (looks inside on purpose)
    slot.infer(count)
    slot.drain()
    tell(f"{what} b{count} recorded", sorted(slot._graphs._recorded))  # noqa: SLF001
    for way in ("graph", "plain"):
        began = time.perf_counter()
        for _ in range(20):
            slot.infer(count) if way == "graph" else slot._enqueue(count)  # noqa: SLF001
        queued = time.perf_counter() - began
        slot.drain()
        spent = time.perf_counter() - began
        tell(f"{what} b{count} {way} img/s, host us", (round(20 * count / spent), round(queued * 5e4)))


@step
def run() -> None:
    """The runner over squares: one batch size and another give the same."""
    from engines.golden import golden_pixels

    for name in ("resnet18", "vit_tiny16"):
        made = timed(f"{name} opened", lambda name=name: runner(name))
        tell(f"{name} form", str(made._encoder._plan.form))  # noqa: SLF001
        one = made.start(golden_pixels(448)).result(60)
        for count in (1, 3, 8, 33, 128, 130):
            squares = np.concatenate([golden_pixels(448)] * (count // 2 + 1))[:count]
            many = made.start(squares).result(60)
            again = made.start(squares).result(60)
            least = min(float((many.embedding[r] * one.embedding[r % 2]).sum()) for r in range(count))
            same = bool(np.array_equal(many.embedding, again.embedding))
            tell(f"{name} b{count}: least cosine, same again", (round(least, 7), same))
        squares = np.concatenate([golden_pixels(448)] * 64)
        rate(f"{name} squares b128", lambda made=made, squares=squares: made.start(squares).result(60), 128)


@step
def session() -> None:
    """Photographs in, features out, beside the CPU; then how fast, with two and three batches in flight."""
    from engines.catalogue import SessionOptions, open_session
    from engines.decode import ImageFault
    from engines.session import EncodeRequest

    engines = [engine("resnet18"), engine("vit_tiny16")]
    options = SessionOptions(plans_dir=PLANS, deadline_s=60.0)
    opened = timed("open_session with kept plans", lambda: open_session(engines, "tensorrt", options))
    tell("session", type(opened).__name__)
    blobs = [*photographs()[:6], *odd()]
    try:
        with_draft = open_session(engines, "onnxruntime", SessionOptions())
        full = open_session(engines, "onnxruntime", SessionOptions(reduced_decode=False))
        for name in ("resnet18", "vit_tiny16"):
            batch = [EncodeRequest(blob=blob, encoder=name) for blob in blobs]
            found = timed(f"{name} first batch", lambda batch=batch: opened.start(batch).result())
            for kind, cpu in (("draft", with_draft), ("full", full)):
                told = []
                for one, other in zip(found, cpu.start(batch).result(), strict=True):
                    if isinstance(one, ImageFault) or isinstance(other, ImageFault):
                        told.append((getattr(one, "code", "ok"), getattr(other, "code", "ok")))
                        continue
                    cosine = float((one.embedding * other.embedding).sum())
                    bits = (one.phash ^ other.phash).bit_count()
                    sharper = one.quality.sharpness / max(other.quality.sharpness, 1e-9)
                    told.append((round(cosine, 5), bits, round(sharper, 3)))
                tell(f"{name} to CPU {kind}: cosine, hash bits, sharpness", told)
        with_draft.close()
        full.close()
    except Exception:
        traceback.print_exc()
    for name in ("resnet18", "vit_tiny16"):
        batch = [EncodeRequest(blob=blob, encoder=name) for blob in photographs() * 4]
        for count in (1, 8, 64, 128):
            for flying in (1, 2, 3):
                _fly(opened, f"{name} session b{count}, {flying} in flight", batch[:count], flying)
    tell("free at the end MiB", gpu().device.run(gpu().device.memory_bytes)[0] >> 20)
    began = time.perf_counter()
    opened.close()
    tell("close ms", (time.perf_counter() - began) * 1e3)


def _fly(opened: Any, name: str, batch: list[Any], flying: int, seconds: float = 1.0) -> None:
    pending = [opened.start(batch) for _ in range(flying)]
    pending.pop(0).result()
    began, done, waits = time.perf_counter(), 0, []
    while (spent := time.perf_counter() - began) < seconds:
        pending.append(opened.start(batch))
        waited = time.perf_counter()
        pending.pop(0).result()
        waits.append(time.perf_counter() - waited)
        done += len(batch)
    for left in pending:
        left.result()
    cpu_us = _cpu_us_a_photograph(opened, batch)
    ms = round(spent / len(waits) * 1e3, 2)
    tell(f"{name}: img/s, ms a batch, CPU us an image", (round(done / spent), ms, cpu_us))


def _cpu_us_a_photograph(opened: Any, batch: list[Any]) -> int:
    began = time.process_time()
    for _ in range(3):
        opened.start(batch).result()
    return round((time.process_time() - began) * 1e6 / 3 / len(batch))


def odd() -> list[bytes]:
    """Grey, CMYK, RGBA, 16 bits, progressive, truncated, 4:4:4, turned."""
    from PIL import Image

    base = Image.open(io.BytesIO(photographs()[0])).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [(base.convert("L"), "JPEG", {}), (base.convert("CMYK"), "JPEG", {}), (base.convert("RGBA"), "PNG", {})]
    deep = Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257)
    made += [(deep, "PNG", {}), (base, "JPEG", {"progressive": True}), (base, "JPEG", {"subsampling": 0})]
    made += [(base, "JPEG", {"exif": exif})]
    blobs = []
    for image, kind, how in made:
        out = io.BytesIO()
        image.save(out, kind, **how)
        blobs.append(out.getvalue())
    whole = photographs()[0]
    return [*blobs, whole[: len(whole) // 2], whole[: len(whole) // 2] + b"\xff\xd9", b"no image"]


@step
def faults() -> None:
    """Another process each: a kernel that reads nowhere, a device that hangs. Last, for they end the process."""
    import subprocess

    for fault in ("illegal", "hang"):
        began = time.perf_counter()
        command, env = [sys.executable, __file__, f"_{fault}"], {**os.environ, "PLANS": str(PLANS)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=env)
        tell(f"{fault}: exit, s", (done.returncode, round(time.perf_counter() - began, 1)))
        print("\n".join((done.stdout + done.stderr).splitlines()[-12:]), flush=True)


# An endless loop in PTX, which the driver compiles.
ENDLESS = b""".version 7.0
.target sm_75
.address_size 64
.visible .entry endless() { loop: bra loop; }
"""


def _planted(fault: Callable[[], None]) -> None:
    from engines.catalogue import SessionOptions, open_session
    from engines.session import EncodeRequest

    opened: Any = open_session([engine("resnet18")], "tensorrt", SessionOptions(plans_dir=PLANS, deadline_s=5.0))
    device = opened._runners["resnet18"]._runner._encoder._device  # noqa: SLF001
    device.run(fault)
    for attempt in range(2):
        try:
            opened.start([EncodeRequest(blob=b, encoder="resnet18") for b in photographs()[:4]]).result()
            print("AN ANSWER CAME", flush=True)
        except Exception as error:
            print(attempt, type(error).__name__, error, flush=True)
    os._exit(74)


def _illegal() -> None:
    def lose() -> None:
        bad = np.uint64(64)
        kernel = _held["kernel"]
        kernel(bad, bad, bad, bad, np.int32(64), np.int32(64), np.int32(3), block=(256, 1, 1), grid=(64, 1, 1))

    _held: dict[str, Any] = {}

    def fault() -> None:
        import pycuda.driver as cuda

        raw = (ROOT / "engines/gpu/kernels.fatbin").read_bytes()
        _held["kernel"] = cuda.module_from_buffer(raw).get_function("normalise")
        lose()

    _planted(fault)


def _hang() -> None:
    def fault() -> None:
        import pycuda.driver as cuda

        module = cuda.module_from_buffer(ENDLESS)
        # as many blocks as fill the device, so that nothing beside them runs
        module.get_function("endless")(block=(1024, 1, 1), grid=(4096, 1), stream=cuda.Stream())

    _planted(fault)


def main(asked: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="  log %(name)s %(message)s")
    if asked == ["--list"]:
        print(" ".join(STEPS))
        return
    if asked and asked[0].startswith("_"):
        SimpleNamespace(_illegal=_illegal, _hang=_hang).__dict__[asked[0]]()
        return
    try:
        _run(asked or list(STEPS))
    finally:
        _closed()
    print("FAILED:", [n for n in TOLD if n.endswith("FAILED")] or "nothing", flush=True)
    if out := os.environ.get("OUT"):
        (Path(out) / "first_contact.json").write_text(json.dumps(TOLD, default=str, indent=1))


def _run(names: list[str]) -> None:
    for name in names:
        print(f"== {name}: {STEPS[name].__doc__ or ''}", flush=True)
        began = time.perf_counter()
        try:
            STEPS[name]()
        except Exception:
            traceback.print_exc()
            TOLD[f"{name} FAILED"] = traceback.format_exc(limit=1)
        print(f"== {name}: {time.perf_counter() - began:.1f} s", flush=True)


def _closed() -> None:
    for opened in OPENED:
        opened.close()
    if gpu.cache_info().currsize:
        gpu().close()


if __name__ == "__main__":
    main(sys.argv[1:])
