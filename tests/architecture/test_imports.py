"""Imports point one way: schemas <- worker.core <- worker.ports <- worker.pipeline; third parties stay at the edge."""

from __future__ import annotations

import ast

import pytest
from architecture.sources import PACKAGES, Module, imported, modules

# What the stages may build on: the values that travel between them, the errors, the settings, the ports.
FOUNDATION = (
    "schemas",
    "worker.core",
    "worker.errors",
    "worker.outcomes",
    "worker.ports",
    "worker.settings",
    "worker.work",
)
# Who may import whom among our own; the longest matching name decides, so a module has exactly one row.
ALLOWED: dict[str, tuple[str, ...]] = {
    "schemas": ("schemas",),
    "engines": ("engines",),
    "migrations": ("migrations",),
    "devstack": ("devstack",),
    "worker.core": ("schemas", "worker.core"),
    "worker.errors": ("schemas", "worker.errors"),
    "worker.outcomes": ("schemas", "worker.core", "worker.errors", "worker.outcomes"),
    "worker.work": ("schemas", "worker.core", "worker.errors", "worker.outcomes", "worker.work"),
    "worker.ports": ("schemas", "worker.core", "worker.errors", "worker.outcomes", "worker.work", "worker.ports"),
    "worker.settings": (
        "worker.engine_settings",
        "worker.errors",
        "worker.judgement_settings",
        "worker.production",
        "worker.setting_types",
        "worker.settings",
        "worker.topics",
    ),
    "worker": ("schemas", "worker"),
    "worker.adapters": (*FOUNDATION, "worker.adapters", "worker.observe", "engines", "migrations"),
    "worker.app": PACKAGES,
    "worker.cli": PACKAGES,
    "gateway": ("schemas", "gateway"),
    "demo": PACKAGES,
    "benchmarks": PACKAGES,
}
# Names under `worker` that only the composition root and the commands may import.
EDGES = ("worker.adapters", "worker.app", "worker.cli")
# Where a third party's types may be named; anywhere else they would leak.
CONFINED: dict[str, tuple[str, ...]] = {
    "confluent_kafka": ("worker.adapters", "devstack", "demo", "benchmarks", "worker.cli"),
    "redis": ("worker.adapters", "devstack", "demo"),
    "boto3": ("worker.adapters",),
    "sqlalchemy": ("worker.adapters", "migrations", "worker.cli", "worker.app", "demo", "benchmarks"),
    "psycopg": ("worker.adapters", "migrations", "devstack", "demo", "benchmarks"),
    "pgvector": ("worker.adapters", "migrations"),
    "fastavro": ("schemas",),
    "openvino": ("engines",),
    "onnxruntime": ("engines", "demo", "benchmarks"),
    "tensorrt": ("engines.gpu", "engines.build", "benchmarks"),
    "pycuda": ("engines.gpu", "benchmarks"),
    "pydantic_settings": ("worker.settings", "worker.setting_types"),
    "typer": ("worker.cli",),
    "torch": ("demo", "engines.importing_torch", "benchmarks"),
}
# worker.core decides and does nothing else: no clock, no randomness, no input or output, no logging, no threads.
IMPURE = (
    "io",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "structlog",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
)


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def allowed_for(module: Module) -> tuple[str, ...]:
    rows = [prefix for prefix in ALLOWED if within(module.name, (prefix,))]
    assert rows, f"{module.path} has no row in ALLOWED"
    return ALLOWED[max(rows, key=len)]


def ours(module: Module) -> set[str]:
    """The modules of ours that `module` imports; names inside a module are cut off."""
    known = {other.name for other in modules()} | set(PACKAGES)
    return {name for name in imported(module) if name in known}


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.path)
def test_a_module_imports_only_what_its_layer_may(module: Module) -> None:
    allowed = allowed_for(module)
    wrong = {name for name in ours(module) - {"worker"} if not within(name, allowed)}
    if not within(module.name, EDGES) and within(module.name, ("worker",)):
        wrong |= {name for name in ours(module) if within(name, EDGES)}
    assert not wrong, f"{module.path} may not import {sorted(wrong)}"


@pytest.mark.parametrize("package", sorted(CONFINED))
def test_a_third_partys_types_stay_at_their_edge(package: str) -> None:
    at = CONFINED[package]
    leaks = [m.path for m in modules() if within(m.name, PACKAGES) and not within(m.name, at) if _names(m, package)]
    assert not leaks, f"{package} belongs to {at}, not to {leaks}"


def test_the_core_is_pure() -> None:
    impure = {m.path: _impure(m) for m in modules() if within(m.name, ("worker.core",)) and _impure(m)}
    assert not impure


def test_no_two_modules_need_each_other() -> None:
    graph = {module.name: ours(module) - {module.name} for module in modules()}
    packages = {m.name for m in modules() if m.path.endswith("__init__.py")}
    assert not (cycle := find_cycle({name: uses - packages for name, uses in graph.items()})), " -> ".join(cycle)


def test_a_cycle_would_be_found() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_environment_is_not_read_at_import() -> None:
    readers = [
        f"{m.path}:{line}" for m in modules() if within(m.name, ("schemas", "worker", "engines")) for line in _reads(m)
    ]
    assert not readers


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of `graph`, first and last the same, or an empty list."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for used in sorted(graph.get(name, ())):
            if found := visit(used, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def _names(module: Module, package: str) -> bool:
    return any(within(name, (package,)) for name in imported(module))


def _impure(module: Module) -> set[str]:
    """`datetime` as a type is a value; reading the clock is not, and is caught by name."""
    names = {name for name in imported(module) if within(name, IMPURE)}
    calls = {ast.unparse(node.func) for node in ast.walk(module.tree) if isinstance(node, ast.Call)}
    return names | {call for call in calls if call.endswith((".now", ".utcnow", ".today")) or call in ("open", "print")}


def _reads(module: Module) -> list[int]:
    """Lines outside any function that touch os.environ or os.getenv."""
    inside = {id(n) for f in ast.walk(module.tree) if isinstance(f, ast.FunctionDef | ast.Lambda) for n in ast.walk(f)}
    outside = (node for node in ast.walk(module.tree) if id(node) not in inside and isinstance(node, ast.Attribute))
    return [node.lineno for node in outside if ast.unparse(node) in ("os.environ", "os.getenv")]
