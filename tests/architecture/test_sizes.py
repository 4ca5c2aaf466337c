"""A function is one thought: median at most 10 lines, 90 % under 30, none over 60; modules under 400 lines.

A function's lines are those from `def` to its end, less its docstring. Declarations without a body (a Protocol's
methods) do not count: they would flatter the median. `pytest tests/architecture/test_sizes.py -s` prints the table.
"""

from __future__ import annotations

import ast
import statistics
from dataclasses import dataclass

from architecture.sources import PACKAGES, FunctionNode, modules, walk_functions

MEDIAN_MAX = 10
P90_BELOW = 30
LONGEST = 60
SIZED = (*PACKAGES, "scripts")  # no package, and nothing imports it, but people read it too
MODULE_BELOW = 400
# "path::function" or "path": why it may be longer. A reason is one line; an exception no longer needed fails the test.
EXCEPTIONS: dict[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    where: str
    lines: int


def function_sizes(package: str = "") -> list[Size]:
    found = [(m, name, node) for m in modules(SIZED) for name, node in walk_functions(m.tree) if has_body(node)]
    return [Size(where=f"{m.path}::{name}", lines=line_count(n)) for m, name, n in found if m.path.startswith(package)]


def module_sizes(package: str = "") -> list[Size]:
    return [Size(where=m.path, lines=m.line_count) for m in modules(SIZED) if m.path.startswith(package)]


def has_body(node: FunctionNode) -> bool:
    return not all(isinstance(s, ast.Pass) or is_constant_expression(s) for s in node.body)


def is_constant_expression(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def line_count(node: FunctionNode) -> int:
    """Lines from `def` to the end, less the docstring. ast sets end_lineno on every statement."""
    assert node.end_lineno is not None
    docstring = node.body[0] if is_constant_expression(node.body[0]) else None
    documented = docstring.end_lineno - docstring.lineno + 1 if docstring and docstring.end_lineno else 0
    return node.end_lineno - node.lineno + 1 - documented


def percentile_90(lines: list[int]) -> float:
    return statistics.quantiles(lines, n=10, method="inclusive")[8] if len(lines) > 1 else float(lines[0])


def row(package: str) -> str:
    lines, longest = [size.lines for size in function_sizes(package)], module_sizes(package)
    figures = (len(lines), statistics.median(lines), percentile_90(lines), max(lines))
    return "{:<12}{:>6}{:>8.0f}{:>6.0f}{:>6}".format(package or "all", *figures) + (
        f"{len(longest):>9}{max(size.lines for size in longest):>9}"
    )


def test_the_table_is_printed() -> None:
    present = [package for package in SIZED if function_sizes(f"{package}/")]
    heading = f"{'package':<12}{'funcs':>6}{'median':>8}{'p90':>6}{'max':>6}{'modules':>9}{'longest':>9}"
    table = [heading, *(row(f"{package}/") for package in present), row("")]
    print("\n" + "\n".join(table))  # noqa: T201 (the table is what this test is for)
    assert len(table) > 2


def test_half_of_the_functions_have_ten_lines_or_fewer() -> None:
    assert statistics.median(size.lines for size in function_sizes()) <= MEDIAN_MAX


def test_nine_of_ten_functions_have_fewer_than_thirty_lines() -> None:
    assert percentile_90([size.lines for size in function_sizes()]) < P90_BELOW


def test_no_function_has_more_than_sixty_lines() -> None:
    assert over(function_sizes(), LONGEST) == []


def test_no_module_has_four_hundred_lines() -> None:
    assert over(module_sizes(), MODULE_BELOW - 1) == []


def test_every_exception_is_still_needed_and_says_why() -> None:
    sizes = {size.where: size.lines for size in function_sizes() + module_sizes()}
    for where, reason in EXCEPTIONS.items():
        limit = LONGEST if "::" in where else MODULE_BELOW - 1
        assert sizes.get(where, 0) > limit, f"{where} no longer needs its exception"
        assert reason.strip() and "\n" not in reason


def test_a_long_function_would_be_noticed() -> None:
    source = 'def f():\n    """One.\n\n    Two."""\n' + "    x = 1\n" * 61
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    assert line_count(node) == 62
    assert over([Size(where="f", lines=62)], LONGEST) == ["f: 62"]


def over(sizes: list[Size], limit: int) -> list[str]:
    return [f"{size.where}: {size.lines}" for size in sizes if size.lines > limit and size.where not in EXCEPTIONS]
