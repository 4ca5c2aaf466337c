"""Section `transactions`: what transactions cost on this host, with a stand-in for the encoders: G15."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console

from benchmarks.gpu.record import Section
from benchmarks.gpu.standing import services
from benchmarks.transactions import Turn, finding, transaction_cost
from devstack import Addresses


def transactions_section(section: Section) -> None:
    with services(section) as addresses:
        section.step("turns", 60, lambda: _turns(section, addresses))


def _turns(section: Section, addresses: Addresses) -> list[dict[str, object]]:
    jobs = 200 if section.dry else 8000
    turns: list[Turn] = transaction_cost(addresses, section.folder, Console(width=120), jobs=jobs)
    found = finding(turns)
    section.find("G15", found.value, found.explained)
    return [asdict(turn) for turn in turns]
