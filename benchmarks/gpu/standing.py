"""What the sections with workers share: photographs, graphs, services of their own, and a deployment an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gpu.children import Child
from benchmarks.gpu.networks import FAMILIES
from benchmarks.gpu.photographs import GpuGoods, Weight, rendered_goods
from benchmarks.gpu.record import Section
from benchmarks.gpu.serving import Deployed, Load, deployed, load_of, serving_of
from devstack import Addresses, Devstack
from worker.observe import configure_logs

RENDER_S: Final = 10.0
GRAPHS_S: Final = 25.0  # of ResNet-50; of ViT-B/16 a minute and a half, where no engines section left them
DEPLOY_S: Final = 45.0  # a plan is built by it


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Services that run, and the photographs."""

    section: Section
    addresses: Addresses
    goods: GpuGoods

    @property
    def files(self) -> Path:
        """The root of the photographs' URIs."""
        return self.section.folder / "files"

    def deployed(self, engine: str) -> Deployed | None:
        """One engine with its gallery and calibration; None where that failed, as the record tells."""

        def deploy() -> Deployed:
            serving = serving_of(engine, self.section.folder, dry=self.section.dry)
            folder = self.section.folder / f"stand-{self.section.name}-{engine}"
            return deployed(self.addresses, folder, self.goods, serving, self.files)

        return self.section.step(f"{engine}: deploy", DEPLOY_S, deploy)

    def load(self, weight: Weight, *, inline: bool = False) -> Load:
        return load_of(self.goods, weight, self.files, inline=inline)


@contextmanager
def standing(section: Section, engines: tuple[str, ...]) -> Iterator[Standing | None]:
    """Rendered goods, the engines' graphs and services. None where there are no photographs."""
    goods = section.step("render", RENDER_S, lambda: goods_of(section))
    section.step("graphs", GRAPHS_S, lambda: prepared(section, engines))
    if goods is None:
        yield None
        return
    with services(section) as addresses:
        yield Standing(section=section, addresses=addresses, goods=goods)


@contextmanager
def services(section: Section) -> Iterator[Addresses]:
    """Kafka and PostgreSQL of this section's own, stopped and forgotten at its end."""
    configure_logs(level="warning", form="console")
    stack = Devstack(section.folder / "stack", report=lambda line: print(line, flush=True))
    try:
        with stack.session() as addresses:
            yield addresses
    finally:
        stack.reset()


def prepared(section: Section, names: tuple[str, ...]) -> None:
    """Make the graphs of networks that an engines section did not leave here."""
    waiting = [n for n in names if n in FAMILIES and not (section.folder / n / "prepared.json").exists()]
    logs = [section.folder / f"{name}.networks.log" for name in waiting]
    children = [
        Child.started("benchmarks.gpu.networks", (n, str(section.folder / n)), log, {"CUDA_VISIBLE_DEVICES": ""})
        for n, log in zip(waiting, logs, strict=True)
    ]
    for child in children:
        child.wait(300)


def goods_of(section: Section) -> GpuGoods:
    return rendered_goods(skus=1, specimens=3) if section.dry else rendered_goods()
