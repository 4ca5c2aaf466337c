"""The file route: reads what lies under the root, and nothing else, however the path is written."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from schemas.codes import ViewCode
from worker.adapters.image_faults import ImageRefused
from worker.adapters.image_files import FileImages
from worker.errors import ConfigurationError, ServiceUnavailable

LIMIT = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "bag").mkdir(parents=True)
    (folder / "bag" / "logo.jpg").write_bytes(b"logo")
    (folder / "with space.jpg").write_bytes(b"space")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "root-twin").mkdir()
    (tmp_path / "root-twin" / "a.jpg").write_bytes(b"twin")
    return folder


@pytest.fixture
def images(root: Path) -> Iterator[FileImages]:
    images = FileImages(root, max_bytes=LIMIT)
    yield images
    images.close()


def code_of(images: FileImages, uri: str) -> ViewCode:
    with pytest.raises(ImageRefused) as caught:
        images.read(urlsplit(uri))
    assert "secret" not in caught.value.detail
    return caught.value.code


@pytest.mark.parametrize(
    "uri", ["file:bag/logo.jpg", "file:///{root}/bag/logo.jpg", "file://localhost/{root}/bag/logo.jpg"]
)
def test_a_file_is_read_by_its_relative_and_its_full_path(images: FileImages, root: Path, uri: str) -> None:
    assert images.read(urlsplit(uri.replace("/{root}", str(root)))) == b"logo"


def test_a_path_may_be_percent_encoded(images: FileImages) -> None:
    assert images.read(urlsplit("file:with%20space.jpg")) == b"space"


def test_a_root_that_is_a_link_is_followed_once(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    images = FileImages(link, max_bytes=LIMIT)
    assert images.read(urlsplit(f"file://{link}/bag/logo.jpg")) == b"logo"
    assert images.read(urlsplit(f"file://{root}/bag/logo.jpg")) == b"logo"
    images.close()


@pytest.mark.parametrize(
    "uri",
    [
        "file:../secret.jpg",
        "file:bag/../../secret.jpg",
        "file:bag/%2e%2e/%2e%2e/secret.jpg",
        "file:bag%2f..%2f..%2fsecret.jpg",
        "file:./bag/logo.jpg",
        "file:bag//logo.jpg",
        "file:",
        "file:///",
        "file:bag/",
        "file:bag/logo.jpg%00.png",
        "file:bag/logo.jpg?x",
        "file:bag/logo.jpg#x",
        "file://other.host/bag/logo.jpg",
        "file:////etc/passwd",
        "file:///etc/passwd",
        "file:///proc/self/environ",
    ],
)
def test_a_path_that_leads_out_is_not_allowed(images: FileImages, uri: str) -> None:
    assert code_of(images, uri) is ViewCode.URI_NOT_ALLOWED


def test_a_folder_whose_name_begins_like_the_roots_is_outside(images: FileImages, root: Path) -> None:
    assert code_of(images, f"file://{root}-twin/a.jpg") is ViewCode.URI_NOT_ALLOWED
    assert code_of(images, f"file://{root}/../secret.jpg") is ViewCode.URI_NOT_ALLOWED


def test_links_are_not_followed(images: FileImages, root: Path, tmp_path: Path) -> None:
    (root / "file-link").symlink_to(tmp_path / "secret.jpg")
    (root / "folder-link").symlink_to(tmp_path)
    (root / "inner-link").symlink_to(root / "bag")
    assert code_of(images, "file:file-link") is ViewCode.URI_NOT_ALLOWED
    assert code_of(images, "file:folder-link/secret.jpg") is ViewCode.URI_NOT_ALLOWED
    assert code_of(images, "file:inner-link/logo.jpg") is ViewCode.URI_NOT_ALLOWED


def test_only_regular_files_are_read(images: FileImages, root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)  # a socket's path is short
        server.bind("socket")
        os.chdir(here)
        assert code_of(images, "file:socket") is ViewCode.URI_NOT_ALLOWED
    assert code_of(images, "file:fifo") is ViewCode.URI_NOT_ALLOWED
    assert code_of(images, "file:bag") is ViewCode.URI_NOT_ALLOWED


@pytest.mark.parametrize("name", ["missing.jpg", "bag/logo.jpg/deeper", "no/such/folder.jpg", quote("x" * 300)])
def test_what_is_absent_is_not_found(images: FileImages, name: str) -> None:
    assert code_of(images, f"file:{name}") is ViewCode.NOT_FOUND


def test_a_file_over_the_limit_is_refused_unread(images: FileImages, root: Path) -> None:
    with (root / "large.jpg").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    assert code_of(images, "file:large.jpg") is ViewCode.TOO_LARGE


@pytest.mark.parametrize(
    "number, raised",
    [(errno.EACCES, ImageRefused), (errno.EIO, ServiceUnavailable), (errno.EMFILE, ServiceUnavailable)],
)
def test_a_denied_file_is_a_views_fault_and_a_broken_root_the_services(
    images: FileImages, monkeypatch: pytest.MonkeyPatch, number: int, raised: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(raised) as caught:
        images.read(urlsplit("file:bag/logo.jpg"))
    assert getattr(caught.value, "code", ViewCode.FORBIDDEN) is ViewCode.FORBIDDEN


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("told", [0, 1, 399, 400])
def test_a_file_that_grows_while_it_is_read_is_read_to_its_end(
    images: FileImages, root: Path, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "grows.jpg").write_bytes(b"x" * 400)
    before = os.fstat

    def smaller(file: int) -> os.stat_result:
        fields = list(before(file))
        fields[6] = told
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", smaller)
    assert images.read(urlsplit("file:grows.jpg")) == b"x" * 400


def test_reading_leaves_no_descriptor_open(images: FileImages) -> None:
    before = open_descriptors()
    images.read(urlsplit("file:bag/logo.jpg"))
    code_of(images, "file:bag/none.jpg")
    code_of(images, "file:bag")
    assert open_descriptors() == before


def test_a_missing_root_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"images\.file_root"):
        FileImages(tmp_path / "none", max_bytes=LIMIT)
