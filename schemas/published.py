"""The published schema files, read from the package: Avro for producers, JSON Schema for people and small clients."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import fastavro

ADDED = {"job.v1.avsc": ("supersedes",)}


def names() -> list[str]:
    """File names of all published schemas, such as job.v1.avsc."""
    return sorted(entry.name for entry in _folder().iterdir() if entry.name.endswith((".avsc", ".json")))


def text(name: str) -> str:
    """The file as it is published. Raises FileNotFoundError for an unknown name."""
    return _folder().joinpath(name).read_text(encoding="utf-8")


@cache
def avro(name: str) -> Any:
    """A parsed Avro schema, for schemas.avro only. `name` is one of `names()`."""
    return fastavro.parse_schema(json.loads(text(name)))


@cache
def first_avro(name: str) -> Any:
    """The schema as it was first published: without the fields that were added at its end since."""
    first = json.loads(text(name))
    first["fields"] = [field for field in first["fields"] if field["name"] not in ADDED.get(name, ())]
    return fastavro.parse_schema(first)


def json_schema(name: str) -> Any:
    """A JSON Schema as plain JSON."""
    return json.loads(text(name))


def _folder() -> Traversable:
    return resources.files("schemas").joinpath("files")
