"""The project's own Python files, read once, for the tests of this folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "worker", "engines", "migrations", "devstack", "demo", "gateway", "benchmarks")
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """`name` is dotted, as it is imported; `path` is relative to the repository's root."""

    name: str
    path: str
    tree: ast.Module
    line_count: int


@cache
def modules(folders: tuple[str, ...] = PACKAGES) -> tuple[Module, ...]:
    """Every module of every package that exists; a package without an __init__ counts too."""
    return tuple(_read(path) for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


def walk_functions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, FunctionNode]]:
    """Every function with its qualified name, nested ones included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FunctionNode | ast.ClassDef):
            name = f"{outer}{node.name}"
            if isinstance(node, FunctionNode):
                yield name, node
            yield from walk_functions(node, f"{name}.")
        else:
            yield from walk_functions(node, outer)


def imported(module: Module) -> set[str]:
    """The dotted names that a module imports, wherever in it; `from a import b` tells both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}:{node.lineno}: a relative import; write it absolute"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _read(path: Path) -> Module:
    source = path.read_text()
    relative = path.relative_to(ROOT)
    parts = relative.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name=name, path=str(relative), tree=ast.parse(source, str(relative)), line_count=source.count("\n"))
