"""Items on disk: the one format that `assay enroll`, `assay calibrate` and `assay submit` read.

A folder holds photographs named after their view, one level or two below it, or is itself one item:

    goods/SKU/logo.jpg                 one specimen of SKU
    goods/SKU/specimen-1/logo.jpg      several specimens of SKU
    goods/item.json, goods/SKU/item.json, goods/SKU/specimen-1/item.json    facts; the nearer file wins

A manifest is a JSONL file, one item a line; its relative paths are relative to the manifest:

    {"sku": "BAG-1", "category": "bag", "label": "genuine", "views": {"logo": "bag-1/logo.jpg"}}
    {"sku": "BAG-1", "category": "bag", "views": {"logo": {"uri": "s3://store/logo.jpg", "sha256": "9f86..."}}}

`item.json` holds the same fields without `views`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.errors import AssayError

M = TypeVar("M", bound=BaseModel)
Label = Literal["genuine", "counterfeit"]
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
FACTS_FILE = "item.json"
URI_SCHEMES = ("file:", "s3:", "https:", "http:")


class InvalidItems(AssayError):
    """The folder or manifest cannot be read as items; the message names the file, the line and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One specimen: its claimed SKU and a photograph a view, as a path on this machine or a URI for the worker.

    `digests` holds the sha256 of views given by URI, whose bytes this machine may not reach.
    """

    sku: str
    category: str
    views: Mapping[str, Path | str]
    label: Label | None = None
    serial: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)


def read_items(path: Path, *, category: str | None = None) -> list[Item]:
    """Read every item of a folder or manifest, in a stable order.

    `category` is used for items that name none. Raises InvalidItems.
    """
    if path.is_dir():
        items = list(_from_folder(path, category))
    elif path.is_file():
        items = list(_from_manifest(path, category))
    else:
        raise InvalidItems(f"{path} does not exist: give a folder of photographs or a JSONL manifest")
    if not items:
        raise InvalidItems(f"{path} holds no items: expected SKU/view.jpg, SKU/specimen/view.jpg or JSONL lines")
    return items


Text = Annotated[str, Field(min_length=1, max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Facts(_Strict):
    """What item.json may say; everything has a place where it comes from otherwise."""

    sku: Text | None = None
    category: Text | None = None
    label: Label | None = None
    serial: Text | None = None
    labels: dict[str, str] = {}
    name: str = ""
    meta: dict[str, str | int | float | bool | None] = {}

    def under(self, nearer: _Facts) -> _Facts:
        """These facts where `nearer` is silent."""
        merged = self.model_dump(exclude_unset=True) | nearer.model_dump(exclude_unset=True)
        return _Facts.model_validate(merged)


class _Image(_Strict):
    uri: Text
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class _Line(_Facts):
    """One line of a manifest."""

    views: Annotated[dict[Text, Text | _Image], Field(min_length=1)]


def _from_manifest(path: Path, category: str | None) -> Iterator[Item]:
    for number, text in enumerate(_read_text(path).splitlines(), start=1):
        if text.strip():
            where = f"{path}, line {number}"
            line = _parse(_Line, text, where)
            yield _from_line(line, path.parent, where, category)


def _from_line(line: _Line, folder: Path, where: str, category: str | None) -> Item:
    if line.sku is None:
        raise InvalidItems(f"{where}: 'sku' is missing; every item names the SKU it claims to be")
    images = {view: image if isinstance(image, _Image) else _Image(uri=image) for view, image in line.views.items()}
    return _item(
        line,
        sku=line.sku,
        category=line.category or category,
        name=line.name or f"{line.sku}#{where.rpartition(' ')[2]}",
        views={view: _locate(image.uri, folder, where) for view, image in images.items()},
        digests={view: image.sha256 for view, image in images.items() if image.sha256},
        where=where,
    )


def _locate(uri: str, folder: Path, where: str) -> Path | str:
    if uri.startswith(URI_SCHEMES):
        return uri
    path = folder / uri
    if not path.is_file():
        raise InvalidItems(f"{where}: photograph {uri!r} is not at {path}; paths are relative to the manifest")
    return path


def _from_folder(root: Path, category: str | None) -> Iterator[Item]:
    facts = _facts_of(root, _Facts(category=category) if category else _Facts())
    if _photographs(root):
        yield _specimen(root, root.name, facts)
        return
    for sku_folder in _folders(root):
        yield from _from_sku_folder(sku_folder, facts)


def _from_sku_folder(folder: Path, outer: _Facts) -> Iterator[Item]:
    facts = _facts_of(folder, outer)
    if _photographs(folder):
        yield _specimen(folder, folder.name, facts)
    for specimen in _folders(folder):
        if _photographs(specimen):
            yield _specimen(specimen, folder.name, _facts_of(specimen, facts))


def _specimen(folder: Path, sku: str, facts: _Facts) -> Item:
    default_name = sku if folder.name == sku else f"{sku}/{folder.name}"
    return _item(
        facts,
        sku=facts.sku or sku,
        category=facts.category,
        name=facts.name or default_name,
        views=_photographs(folder),
        digests={},
        where=str(folder),
    )


def _item(
    facts: _Facts,
    *,
    sku: str,
    category: str | None,
    name: str,
    views: Mapping[str, Path | str],
    digests: Mapping[str, str],
    where: str,
) -> Item:
    if category is None:
        raise InvalidItems(f"{where}: 'category' is missing; add it to the line or {FACTS_FILE}, or give --category")
    return Item(
        sku=sku,
        category=category,
        views=views,
        label=facts.label,
        serial=facts.serial,
        labels=facts.labels,
        name=name,
        meta={key: "" if value is None else str(value) for key, value in facts.meta.items()},
        digests=digests,
    )


def _facts_of(folder: Path, outer: _Facts) -> _Facts:
    path = folder / FACTS_FILE
    if not path.is_file():
        return outer
    return outer.under(_parse(_Facts, _read_text(path), str(path)))


def _photographs(folder: Path) -> dict[str, Path | str]:
    """View to photograph. Raises InvalidItems where two files claim one view."""
    found: dict[str, Path | str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith("."):
            if path.stem in found:
                raise InvalidItems(f"{path}: view {path.stem!r} has two photographs; keep one")
            found[path.stem] = path
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidItems(f"{path} cannot be read as UTF-8 text: {error}") from error


def _parse(model: type[M], text: str, where: str) -> M:
    try:
        return model.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise InvalidItems(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the line"
        raise InvalidItems(f"{where}: {place}: {first['msg']}") from error
