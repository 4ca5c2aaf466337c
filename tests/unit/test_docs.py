"""The documents against what they describe: settings, metrics, log lines, exit codes, commands, codes and links."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import jsonschema
import pytest
import typer
from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from typer.core import TyperGroup

from devstack.kafka import SETTINGS
from migrations.tables import metadata
from schemas import published
from schemas.codes import AlertKind, ErrorCode, ReasonCode, ViewCode
from worker.cli.main import app
from worker.core.calibration import POOL_BELOW_ITEMS, VIEW_SHARE
from worker.core.conformal import items_needed
from worker.items import read_items
from worker.observe import Meter
from worker.profiles import read_profiles
from worker.settings import Group, Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
CONTRACT = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
NOT_SETTINGS = {"ASSAY_SETTINGS_FILE", "ASSAY_SECRETS_DIR", "ASSAY_DEVSTACK"}
DRAWN = ("<!-- demo:begin -->", "<!-- demo:end -->")  # what stands between is of a real run


def table_rows(text: str, heading: str) -> list[list[str]]:
    """The cells of every row between the heading and the next one of its level."""
    level = heading.split()[0]
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"no heading {heading!r}"
    section = re.split(rf"^{level} ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    rows = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


@cache
def sources() -> tuple[ast.Module, ...]:
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "worker").rglob("*.py")))


def calls(*names: str) -> Iterator[ast.Call]:
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
                yield node


def texts(node: ast.expr) -> list[str]:
    """The text of a constant, or both texts of a choice between two."""
    branches = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]
    return [branch.value for branch in branches if isinstance(branch, ast.Constant) and isinstance(branch.value, str)]


# Settings


def settings_of(group: type[Settings] | type[Group], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in group.model_fields.items():
        nested = info.annotation
        if isinstance(nested, type) and issubclass(nested, Group):
            yield from settings_of(nested, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}", info


def default_of(info: FieldInfo) -> str:
    if info.default_factory is not None:
        return "the host's name"
    match info.default:
        case None:
            return "unset"
        case SecretStr() as secret:
            return f"`{secret.get_secret_value()}`"
        case tuple() | dict() as values:
            return f"`{json.dumps(values)}`"
        case value:
            return f"`{value}`".replace("True", "true").replace("False", "false")


def choices_of(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in choices_of(part)]


def setting_row(variable: str, info: FieldInfo) -> list[str]:
    choices = choices_of(info.annotation)
    told = [info.description or "", f"one of {', '.join(f'`{choice}`' for choice in choices)}" if choices else ""]
    return [f"`{variable}`", default_of(info), "; ".join(part for part in told if part)]


def test_every_setting_has_its_row_with_default_and_meaning() -> None:
    wanted = [setting_row(variable, info) for variable, info in settings_of(Settings, "ASSAY_")]
    written = [row for row in table_rows(OPERATIONS, "## Settings") if row[0].strip("`") not in NOT_SETTINGS]
    missing = ["| " + " | ".join(row) + " |" for row in wanted if row not in written]
    assert missing == [], "docs/operations.md lacks:\n" + "\n".join(missing)
    assert [row for row in written if row not in wanted] == []


@pytest.mark.parametrize(("variable", "info"), list(settings_of(Settings, "ASSAY_")))
def test_every_setting_says_what_it_is(variable: str, info: FieldInfo) -> None:
    assert info.description, f"{variable} has no description"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_variable_named_is_one(document: Path) -> None:
    known = {variable for variable, _ in settings_of(Settings, "ASSAY_")} | NOT_SETTINGS
    named = set(re.findall(r"\bASSAY_[A-Z0-9_]*[A-Z0-9]", document.read_text(encoding="utf-8")))
    assert {name for name in named if name not in known and not any(k.startswith(f"{name}__") for k in known)} == set()


# Metrics


def metered() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and labels of every metric by the name that /metrics shows: the Meter's own and those it watches."""
    own = [metric for metric in vars(Meter()).values() if isinstance(metric, MetricWrapperBase)]
    shown = {}
    for metric in own:
        (family,) = metric.collect()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown[name] = (family.type, tuple(vars(metric)["_labelnames"]))
    return shown | watched()


def watched() -> dict[str, tuple[str, tuple[str, ...]]]:
    found = {}
    for call in calls("watch"):
        (name,) = texts(call.args[0])
        found[name] = ("gauge", tuple(texts(call.args[3])) if len(call.args) > 3 else ())
    return found


def test_every_metric_has_its_row_with_type_and_labels() -> None:
    rows = table_rows(OPERATIONS, "## Metrics")
    written = {row[0].strip("`"): (row[1], tuple(re.findall(r"`(\w+)`", row[2]))) for row in rows}
    assert written == metered()
    assert len(watched()) >= 4


def test_alerts_ask_for_metrics_that_are() -> None:
    asked = set(re.findall(r"\bassay_[a-z_]+", OPERATIONS))
    names = set(metered())
    roles = {"assay_owner", "assay_migrator", "assay_worker", "assay_gateway", "assay_curator", "assay_eraser"}
    roles |= {"assay_auditor", "assay_sealer", "assay_watcher", "assay_analyst"}
    suffixed = {f"{name}{suffix}" for name in names for suffix in ("_bucket", "_sum", "_count")}
    assert asked - names - suffixed - roles == set()


# Logs


def logged() -> dict[str, set[str]]:
    """Fields of every event that is logged."""
    found: dict[str, set[str]] = {}
    for call in calls("debug", "info", "warning", "error", "exception"):
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id == "_log":
            fields = {keyword.arg for keyword in call.keywords if keyword.arg} - {"exc_info"}
            for event in texts(call.args[0]):
                found.setdefault(event, set()).update(fields)
    return found | {"library_said": {"library", "detail"}, "log_lines_lost": {"lines"}}


def test_every_log_line_has_its_row_with_its_fields() -> None:
    rows = table_rows(OPERATIONS, "## Logs")
    written = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in rows}
    assert set(written) == set(logged())
    for event, fields in logged().items():
        assert fields <= written[event], event


# Exit codes


def exit_codes() -> set[int]:
    found = {0, 1, 2}
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                named = node.targets[0].id.startswith("EXIT_")
                if named and isinstance(node.value, ast.Constant) and isinstance(node.value.value, int):
                    found.add(node.value.value)
    for call in calls("Exit"):
        if call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, int):
            found.add(call.args[0].value)
    return found


def test_every_exit_code_has_its_row() -> None:
    written = {int(row[0].strip("`")) for row in table_rows(OPERATIONS, "## Exit codes")}
    assert exit_codes() >= {3, 70, 71, 72, 73, 78}
    assert exit_codes() <= written


# Codes of the contract


@pytest.mark.parametrize("code", [*ErrorCode, *ViewCode, *ReasonCode, *AlertKind], ids=str)
def test_the_contract_explains_every_code(code: str) -> None:
    assert f"`{code}`" in CONTRACT


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_codes_that_are_named_exist(document: Path) -> None:
    """A backticked snake_case word that looks like a code of the contract must be one."""
    known = {*ErrorCode, *ViewCode, *ReasonCode, *(table.name for table in metadata.tables.values())}
    for code in re.findall(r"`((?:no|too|view|image|job|missing|unlike|critical)_[a-z_]+)`", document.read_text()):
        assert code in known or code in CONTRACT, code


# Commands


def commands(text: str) -> set[tuple[str, ...]]:
    """Words after `assay` in code: a command, its subcommand, and the options that are used with it."""
    code = "\n".join([*re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)])
    code = code.replace("\\\n", " ")
    lines = re.findall(r"(?:^|[\s;&|])assay ((?:[a-z]+)(?: [^\n#|;&]*)?)", f"\n{code}")
    return {tuple(line.split()) for line in lines}


def resolved(words: tuple[str, ...]) -> tuple[Any, list[str]]:
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and isinstance(command, TyperGroup):
        if found := command.get_command(None, rest[0]):
            command = found
            rest.pop(0)
        elif command.name == "enroll":  # `assay enroll PATH` is `assay enroll add PATH`
            command = command.get_command(None, "add")
        elif re.fullmatch(r"[a-z|,]+", rest[0]):
            pytest.fail(f"assay {' '.join(words)}: {command.name} has no {rest[0]!r}")
        else:
            break
    return command, rest


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_named_exists(document: Path) -> None:
    for words in commands(document.read_text(encoding="utf-8")):
        if words[0] == "devstack" and "|" in " ".join(words):
            continue
        command, rest = resolved(words)
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {re.split("[=`]", word)[0] for word in rest if word.startswith("-")}
        assert used <= known | {"--help"}, f"assay {' '.join(words)}"


def test_the_commands_are_found_in_the_readme() -> None:
    named = {words[0] for words in commands((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {"migrate", "topics", "enroll", "calibrate", "worker", "submit", "results", "report"} <= named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_named_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^    |^)make ([a-z][a-z-]*)", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


# Links


def links(document: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(rf"{DRAWN[0]}.*?{DRAWN[1]}", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "http://", "mailto:")):
            yield target


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in links(document):
        name, _, anchor = target.partition("#")
        page = (document.parent / name).resolve() if name else document
        assert page.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in anchors(page.read_text(encoding="utf-8")), f"{document.name} links to {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    seen, to_see = set(), [ROOT / "README.md"]
    while to_see:
        page = to_see.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        to_see += [(page.parent / target.partition("#")[0]).resolve() for target in links(page) if target[0] != "#"]
    decisions = ROOT / "docs" / "decisions"
    assert {page for page in DOCUMENTS if page.parent != decisions and "measurements" not in page.parts} <= seen


def test_the_readme_keeps_a_place_for_what_the_demo_measures() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(DRAWN[0]) == text.count(DRAWN[1]) == 1
    assert text.index(DRAWN[0]) < text.index(DRAWN[1])


# Examples


def examples(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def test_the_settings_file_of_the_example_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = examples("docs/operations.md", "toml")
    (tmp_path / "assay.toml").write_text(example, encoding="utf-8")
    monkeypatch.setenv("ASSAY_SETTINGS_FILE", str(tmp_path / "assay.toml"))
    monkeypatch.setenv("ASSAY_DATABASE__URL", "postgresql+psycopg://assay_worker:s3k5@db/assay?sslmode=verify-full")
    settings = load_settings()
    assert settings.mode == "production"
    assert settings.images.https_hosts == ("images.example",)


def test_the_broker_settings_are_those_that_the_tests_run_with() -> None:
    named = dict(re.findall(r"^    ([a-z.]+\.ms)=(\d+)$", OPERATIONS, re.MULTILINE))
    assert len(named) == 3
    assert named.items() <= SETTINGS.items()


def test_the_profile_of_the_example_loads(tmp_path: Path) -> None:
    (example,) = examples("docs/your-goods.md", "toml")
    (tmp_path / "profiles.toml").write_text(example, encoding="utf-8")
    (profile,) = read_profiles(tmp_path / "profiles.toml")
    assert [view.view for view in profile.views if view.required] == ["logo", "serial"]


def test_the_manifest_line_of_the_example_is_an_item(tmp_path: Path) -> None:
    (example,) = examples("docs/your-goods.md", "json")
    (tmp_path / "1").mkdir()
    for view in ("logo", "serial"):
        (tmp_path / "1" / f"{view}.jpg").write_bytes(b"photograph")
    (tmp_path / "items.jsonl").write_text(example, encoding="utf-8")
    (item,) = read_items(tmp_path / "items.jsonl")
    assert (item.sku, item.label, set(item.views)) == ("BAG-001", "genuine", {"logo", "serial"})


def test_the_job_of_the_readme_keeps_to_its_schema() -> None:
    (example,) = examples("README.md", "json")
    job = json.loads(example.replace("9f86...", "9f" * 32).replace("60303...", "60" * 32).replace("...", "AAAA"))
    schema = json.loads(published.text("job.v1.schema.json"))
    jsonschema.Draft202012Validator(schema).validate(job)
    assert set(job) <= set(schema["properties"])


def test_the_specimens_to_label_follow_from_the_arithmetic() -> None:
    text = (ROOT / "docs" / "your-goods.md").read_text(encoding="utf-8")
    rows = [row for row in table_rows(text, "## 4. Labelled items") if re.fullmatch(r"`0\.\d+`", row[0])]
    assert len(rows) == 5
    for budget, for_decision, specimens in rows:
        needed = max(items_needed(float(budget.strip("`"))), POOL_BELOW_ITEMS)
        assert int(for_decision) == needed
        assert kept_for_the_decision(int(specimens)) == needed
        assert kept_for_the_decision(int(specimens) - 1) < needed


def kept_for_the_decision(specimens: int) -> int:
    return specimens - round(VIEW_SHARE * specimens)
