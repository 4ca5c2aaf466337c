"""`python -m benchmarks.gpu.rival_consumer WAY FAMILY`: what most would build first, over the same topic and files.

WAY `pillow`: Pillow on all cores, torch.compile, a consumer that commits after each batch. WAY `nvjpeg`: nvJPEG decodes
and PyTorch resizes on the device, one batch after another. Embeddings go to a topic; there is no database, no verdict.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from numpy.typing import NDArray
from PIL import Image

from benchmarks.gpu.networks import FAMILIES, Family
from benchmarks.gpu.record import write_json
from schemas.codec import parse_job
from schemas.message import InputRecord, Source

BATCH: Final = 256  # photographs, as the rival's network is compiled for elsewhere; 42 jobs of six
SILENCE_S: Final = 20.0
Pixels = Any  # a tensor [n,3,S,S] on the device


def squares_by_pillow(pool: ProcessPoolExecutor, size: int, device: Any) -> Callable[[Sequence[bytes]], Pixels]:
    import torch

    def made(blobs: Sequence[bytes]) -> Pixels:
        chunk = max(1, len(blobs) // (2 * len(os.sched_getaffinity(0))))
        squares = np.stack(list(pool.map(_square, blobs, [size] * len(blobs), chunksize=chunk)))
        return torch.from_numpy(squares).to(device, non_blocking=True).permute(0, 3, 1, 2)

    return made


def _square(blob: bytes, size: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(blob)) as opened:
        image = opened.convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def squares_by_nvjpeg(size: int, device: Any) -> Callable[[Sequence[bytes]], Pixels]:
    import torch
    import torchvision

    def made(blobs: Sequence[bytes]) -> Pixels:
        files = [torch.frombuffer(bytearray(blob), dtype=torch.uint8) for blob in blobs]
        decoded = torchvision.io.decode_jpeg(files, mode=torchvision.io.ImageReadMode.RGB, device=device)
        kind = torch.float16 if device.type == "cuda" else torch.float32
        wanted = dict(size=(size, size), mode="bilinear", antialias=True)
        return torch.cat([torch.nn.functional.interpolate(d[None].to(kind), **wanted) for d in decoded])

    return made


def embedder(family: Family, size: int, device: Any, batch: int) -> Callable[[Pixels], NDArray[np.float32]]:
    """Normalises and embeds; the last batch is filled up, so that nothing is compiled twice."""
    import torch

    from benchmarks.gpu.rival import MODES, served

    network, half = served(family, size, device), device.type == "cuda"
    call = torch.compile(network, mode=MODES[0], dynamic=False) if half else network
    kind = torch.float16 if half else torch.float32
    mean = torch.tensor([123.675, 116.28, 103.53], device=device, dtype=kind).view(1, 3, 1, 1)
    scale = 1 / torch.tensor([58.395, 57.12, 57.375], device=device, dtype=kind).view(1, 3, 1, 1)

    def embed(pixels: Pixels) -> NDArray[np.float32]:
        with torch.inference_mode():
            images = torch.zeros(batch, 3, size, size, device=device, dtype=kind)
            images[: len(pixels)] = (pixels.to(kind) - mean) * scale
            images = images.contiguous(memory_format=torch.channels_last)
            found = torch.nn.functional.normalize(call(images).float(), dim=-1)[: len(pixels)]
            answer: NDArray[np.float32] = found.cpu().numpy()
        return answer

    embed(torch.zeros(batch, 3, size, size, device=device))
    embed(torch.zeros(batch, 3, size, size, device=device))
    return embed


class SimpleConsumer:
    """Polls jobs, embeds their photographs batch by batch, sends the embeddings, commits."""

    def __init__(self, bootstrap: str, topic: str, group: str, root: Path, batch: int = BATCH) -> None:
        self._most = batch
        read = {"group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        more = {"queued.max.messages.kbytes": 1_000_000, "fetch.queue.backoff.ms": 5}
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "isolation.level": "read_committed", **read, **more})
        self._consumer.subscribe([topic])
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
        self._root = root
        self._out = f"{topic}.rival"
        made = AdminClient({"bootstrap.servers": bootstrap}).create_topics([NewTopic(self._out, 4, 1)])
        with contextlib.suppress(KafkaException):  # another rival made it
            made[self._out].result(10)

    def run(
        self, photographs: Callable[[Sequence[bytes]], Pixels], embed: Callable[[Pixels], Any], seconds: float
    ) -> float:
        """Jobs a second, from the second batch on, over `seconds` or what the topic holds."""
        jobs, began_s, last_s = 0, 0.0, time.monotonic()
        while not began_s or last_s - began_s < seconds:
            batch = self._batch()
            if not batch:
                break
            blobs = [blob for _, views in batch for blob in views]
            embeddings = embed(photographs(blobs))
            self._send(batch, embeddings)
            last_s = time.monotonic()
            if not began_s:
                began_s = last_s
            else:
                jobs += len(batch)
        self._producer.flush(10)
        self._consumer.close()
        return jobs / max(last_s - began_s, 1e-9)

    def _batch(self) -> list[tuple[bytes, list[bytes]]]:
        found: list[tuple[bytes, list[bytes]]] = []
        views, silent_s = 0, time.monotonic()
        while views + 6 <= self._most and time.monotonic() - silent_s < (SILENCE_S if not found else 0.2):
            for message in self._consumer.consume((self._most - views) // 6, 0.1):
                if message.error() is None:
                    found.append((message.key(), self._views(message)))
                    views += len(found[-1][1])
                    silent_s = time.monotonic()
        return found

    def _views(self, message: Any) -> list[bytes]:
        source = Source(topic=message.topic(), partition=message.partition(), offset=message.offset())
        headers = tuple(message.headers() or ())
        record = InputRecord(
            source=source, epoch=0, key=message.key(), value=message.value(), headers=headers, timestamp_ms=0
        )
        job = parse_job(record, max_bytes=16 * 2**20)
        return [v.data or (self._root / (v.uri or "").removeprefix("file:")).read_bytes() for v in job.views]

    def _send(self, batch: Sequence[tuple[bytes, list[bytes]]], embeddings: NDArray[np.float32]) -> None:
        first = 0
        for key, views in batch:
            rows = embeddings[first : first + len(views)]
            first += len(views)
            told = json.dumps({"shape": rows.shape, "embedding": rows.astype("f2").tobytes().hex()})
            self._producer.produce(self._out, key=key, value=told)
        self._producer.poll(0)
        self._consumer.commit(asynchronous=True)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("pillow", "nvjpeg"))
    parser.add_argument("family", choices=sorted(FAMILIES))
    for name in ("bootstrap", "topic", "root", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--batch", type=int, default=BATCH, help="photographs")
    given = parser.parse_args()
    family = FAMILIES[given.family]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        pillow = given.way == "pillow"
        made = squares_by_pillow(pool, family.size, device) if pillow else squares_by_nvjpeg(family.size, device)
        embed = embedder(family, family.size, device, given.batch)
        group = f"rival-{given.way}-{time.time_ns()}"
        consumer = SimpleConsumer(given.bootstrap, given.topic, group, Path(given.root), given.batch)
        rate = consumer.run(made, embed, given.seconds)
    write_json(Path(given.out), {"way": given.way, "family": family.name, "jobs_per_s": rate})
    print(rate)


if __name__ == "__main__":
    main()
