"""docker-compose.yml and Dockerfile: no Docker runs here, so what can be checked on paper is checked.

The compose file against its specification's schema, its variables against the settings, its commands against the
command line, its broker settings against the devstack's.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from devstack.kafka import SETTINGS
from worker.settings import Group, Settings

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads(gzip.decompress((Path(__file__).parent / "data" / "compose-spec.json.gz").read_bytes()))
SHARED_BROKER_SETTINGS = (
    "group.consumer.session.timeout.ms",
    "group.consumer.min.session.timeout.ms",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms",
    "auto.create.topics.enable",
)
OURS = ("topics", "migrate", "worker", "worker-gpu", "sealer", "watcher")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def known_variables(group: type[Settings] | type[Group], prefix: str) -> set[str]:
    """Every environment variable that sets something: ASSAY_GROUP__FIELD."""
    names: set[str] = set()
    for field, info in group.model_fields.items():
        name = f"{prefix}{field.upper()}"
        nested = info.annotation
        if isinstance(nested, type) and issubclass(nested, Group):
            names |= known_variables(nested, f"{name}__")
        else:
            names.add(name)
    return names


def test_it_is_a_compose_file(compose: dict[str, Any]) -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(compose)


def test_the_schema_would_notice_a_mistake(compose: dict[str, Any]) -> None:
    broken = compose | {"services": {"kafka": {"imagee": "apache/kafka"}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(broken)


def test_it_has_the_services_that_the_readme_promises(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {"kafka", "postgres", "redis", "migrate", "worker", "worker-gpu", "sealer", "watcher"} <= set(services)
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert all("profiles" not in services[name] for name in services if name != "worker-gpu")


@pytest.mark.parametrize("name", OURS)
def test_every_variable_it_passes_is_a_setting(compose: dict[str, Any], name: str) -> None:
    known = known_variables(Settings, "ASSAY_")
    passed = set(compose["services"][name]["environment"])
    assert passed
    assert passed <= known


def test_every_variable_of_the_image_is_a_setting() -> None:
    named = set(re.findall(r"\bASSAY_\w+", (ROOT / "Dockerfile").read_text()))
    assert named
    assert named <= known_variables(Settings, "ASSAY_")


@pytest.mark.parametrize("name", ["topics", "migrate", "sealer", "watcher"])
def test_every_command_it_runs_exists(compose: dict[str, Any], name: str) -> None:
    from worker.cli.main import app

    command: Any = typer.main.get_command(app)
    for word in compose["services"][name]["command"]:
        if word.startswith("--"):
            assert any(word in parameter.opts for parameter in command.params)
            continue
        command = command.get_command(None, word)
        assert command, f"assay has no {word!r}"


def test_every_dependency_and_volume_is_declared(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        named = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert named <= set(compose["volumes"])


def test_ports_are_open_to_this_machine_alone(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_broker_is_set_as_the_devstack_sets_it(compose: dict[str, Any]) -> None:
    environment = compose["services"]["kafka"]["environment"]
    for name in SHARED_BROKER_SETTINGS:
        assert environment[f"KAFKA_{name.replace('.', '_').upper()}"] == SETTINGS[name]


def test_the_image_copies_only_what_is_in_the_build_context() -> None:
    let_in = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        copied |= set(line.split()[:-1])
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
