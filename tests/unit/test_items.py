"""Reading items from folders and manifests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.items import InvalidItems, read_items


def touch(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_folder_of_specimens_inherits_the_nearest_facts(tmp_path: Path) -> None:
    touch(tmp_path / "item.json", b'{"category": "bag", "label": "genuine"}')
    logo = touch(tmp_path / "BAG-1" / "a" / "logo.jpg")
    touch(tmp_path / "BAG-1" / "b" / "serial.PNG")
    touch(tmp_path / "BAG-1" / "b" / "notes.txt")
    touch(tmp_path / "BAG-1" / "b" / "item.json", b'{"label": "counterfeit", "serial": "S9", "meta": {"family": 3}}')
    first, second = read_items(tmp_path)
    assert (first.sku, first.category, first.label, first.name) == ("BAG-1", "bag", "genuine", "BAG-1/a")
    assert first.views == {"logo": logo}
    assert (second.label, second.serial, second.meta) == ("counterfeit", "S9", {"family": "3"})
    assert list(second.views) == ["serial"]


def test_one_folder_may_be_one_item(tmp_path: Path) -> None:
    touch(tmp_path / "BAG-7" / "logo.jpg")
    (item,) = read_items(tmp_path / "BAG-7", category="bag")
    assert (item.sku, item.category, item.label, item.name) == ("BAG-7", "bag", None, "BAG-7")


def test_manifest_paths_are_relative_to_it_and_uris_stay(tmp_path: Path) -> None:
    photo = touch(tmp_path / "photos" / "logo.jpg")
    digest = "ab" * 32
    line = {
        "sku": "B",
        "category": "bag",
        "labels": {"subject": "s"},
        "views": {"logo": "photos/logo.jpg", "serial": {"uri": "s3://store/serial.jpg", "sha256": digest}},
    }
    manifest = touch(tmp_path / "items.jsonl", ("\n" + json.dumps(line) + "\n").encode())
    (item,) = read_items(manifest)
    assert item.views == {"logo": photo, "serial": "s3://store/serial.jpg"}
    assert item.digests == {"serial": digest}
    assert item.labels == {"subject": "s"}
    assert item.name == "B#2"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", "not JSON"),
        ('{"sku": "B", "category": "c", "views": {}}', "views"),
        ('{"sku": "B", "views": {"logo": "s3://a/b"}}', "category"),
        ('{"category": "c", "views": {"logo": "s3://a/b"}}', "sku"),
        ('{"sku": "B", "category": "c", "views": {"logo": "gone.jpg"}}', "gone.jpg"),
        ('{"sku": "B", "category": "c", "label": "real", "views": {"logo": "s3://a/b"}}', "label"),
        ('{"sku": "B", "category": "c", "colour": 1, "views": {"logo": "s3://a/b"}}', "colour"),
        ("[]", "line 1"),
        ("", "no items"),
    ],
)
def test_a_bad_manifest_says_where_and_what(tmp_path: Path, text: str, names: str) -> None:
    manifest = touch(tmp_path / "items.jsonl", text.encode())
    with pytest.raises(InvalidItems, match=names) as raised:
        read_items(manifest)
    assert "items.jsonl" in str(raised.value)


def test_a_missing_path_and_two_photographs_of_one_view_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidItems, match="does not exist"):
        read_items(tmp_path / "nowhere")
    touch(tmp_path / "S" / "logo.jpg")
    touch(tmp_path / "S" / "logo.png")
    with pytest.raises(InvalidItems, match="two photographs"):
        read_items(tmp_path, category="bag")
