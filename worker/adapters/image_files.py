"""`file:` URIs under one root: no path, link or special file leads out of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult, unquote_to_bytes

from schemas.codes import ViewCode
from worker.adapters.image_faults import ImageRefused, not_allowed, too_large
from worker.errors import ConfigurationError, ServiceUnavailable

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block the open
_MORE_BYTES = 1 << 14
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
DENIED = {errno.EACCES, errno.EPERM}


class FileImages:
    """Reads `file:a/b.jpg`, relative to the root, and `file:///root/a/b.jpg`."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        try:
            self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(f"images.file_root is {root}: {error.strerror}; name a readable folder") from error
        self._prefixes = [os.fsencode(path).rstrip(b"/") + b"/" for path in (root.absolute(), root.resolve())]
        self._max_bytes = max_bytes

    def read(self, uri: SplitResult) -> bytes:
        """The file's bytes. Raises ImageRefused, and ServiceUnavailable where the root itself is at fault."""
        parts = self._parts(uri)
        try:
            return self._walk(parts)
        except OSError as error:
            raise self._fault(error) from error

    def close(self) -> None:
        os.close(self._root_fd)

    def _parts(self, uri: SplitResult) -> list[bytes]:
        if uri.netloc not in ("", "localhost") or uri.query or uri.fragment:
            raise not_allowed("a file: URI has no host, query or fragment")
        path = unquote_to_bytes(uri.path)
        if path.startswith(b"/"):
            prefix = next((p for p in self._prefixes if path.startswith(p)), None)
            if prefix is None:
                raise not_allowed("the file is outside the file root")
            path = path[len(prefix) :]
        parts = path.split(b"/")
        if b"\0" in path or any(part in (b"", b".", b"..") for part in parts):
            raise not_allowed("a file: URI names a path under the file root, without . and ..")
        return parts

    def _walk(self, parts: list[bytes]) -> bytes:
        """Open folder by folder, following no link, so that nothing swapped in meanwhile leads out."""
        folder = os.dup(self._root_fd)
        try:
            for part in parts[:-1]:
                folder, parent = _opened(part, FOLDER, folder), folder
                os.close(parent)
            with _closing(_opened(parts[-1], FILE, folder)) as file:
                return self._content(file)
        finally:
            os.close(folder)

    def _content(self, file: int) -> bytes:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise not_allowed("the path is no regular file")
        if status.st_size > self._max_bytes:
            raise too_large(status.st_size, self._max_bytes)
        with open(file, "rb", buffering=0, closefd=False) as stream:
            # as much as is asked for is allocated first, so no more is than the file has; it may have grown since
            data = stream.read(status.st_size) or b""
            while len(data) <= self._max_bytes and (more := stream.read(_MORE_BYTES)):
                data += more
        return data

    def _fault(self, error: OSError) -> Exception:
        if error.errno == errno.ELOOP:
            return not_allowed("the path goes through a link")
        if error.errno in ABSENT:
            return ImageRefused(ViewCode.NOT_FOUND, "there is no such file under the file root")
        if error.errno in DENIED:
            return ImageRefused(ViewCode.FORBIDDEN, "the worker may not read the file")
        return ServiceUnavailable("the file root", error.strerror or str(error))


def _opened(part: bytes, flags: int, folder: int) -> int:
    try:
        return os.open(part, flags, dir_fd=folder)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        raise
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a FIFO without a writer
            raise not_allowed("the path is no regular file") from error
        raise


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
