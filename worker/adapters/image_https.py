"""`https:` URIs of allow-listed hosts, proof against server-side request forgery.

A host is resolved once, every answer must be public, and the connection goes to that very address with the host's name
in TLS and `Host`. No redirect is followed, no proxy used, no cookie or credential sent; bytes are counted as they
arrive, and one deadline ends everything from the first look-up to the last byte.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult

from schemas.codes import ViewCode
from worker.adapters.addresses import Resolve, is_loopback, is_public, resolved
from worker.adapters.image_faults import ImageRefused, not_allowed, too_large, try_later

CHUNK_BYTES = 1 << 16
RESOLVERS = 4
DEFAULT_PORTS = {"https": 443, "http": 80}
TRANSIENT = {408, 425, 429}
ABSENT = {404, 410}
DENIED = {401, 403, 407, 451}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpsOptions:
    """`hosts` are exact names in lower case. `allow_loopback_http_for_tests` also admits http: and loopback addresses
    and is refused in production.
    """

    hosts: tuple[str, ...]
    ports: tuple[int, ...] = (443,)
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 5.0
    total_timeout_s: float = 10.0
    ca_file: Path | None = None
    allow_loopback_http_for_tests: bool = False


class HttpsImages:
    """Reads images of allow-listed hosts. Called by many threads."""

    def __init__(self, options: HttpsOptions, *, max_bytes: int, resolve: Resolve = resolved) -> None:
        self._options = options
        self._hosts = frozenset(host.lower().rstrip(".") for host in options.hosts)
        self._max_bytes = max_bytes
        self._resolve = resolve
        self._resolvers = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolve")
        self._tls = ssl.create_default_context(cafile=options.ca_file)

    def read(self, uri: SplitResult) -> bytes:
        """The body of the answer. Raises ImageRefused, and RetryJob for what may pass."""
        host, port = self._place(uri)
        deadline_s = time.monotonic() + self._options.total_timeout_s
        addresses = self._addresses(host, port)
        try:
            with _ended_at(deadline_s, self._connected(addresses, port, deadline_s)) as connection:
                return self._exchange(uri, host, port, connection)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise try_later(f"{host}: {_kind(error)}") from error

    def close(self) -> None:
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    def _place(self, uri: SplitResult) -> tuple[str, int]:
        try:
            host, port = uri.hostname or "", uri.port or DEFAULT_PORTS[uri.scheme]
        except ValueError as error:
            raise not_allowed("the URI's port is no number") from error
        if "@" in uri.netloc:
            raise not_allowed("the URI holds a user name: send none")
        if host.rstrip(".") not in self._hosts:
            raise not_allowed(f"the host {host[:80]!a} is not in images.https_hosts")
        if port not in self._options.ports:
            raise not_allowed(f"port {port} is not allowed: use {self._options.ports}")
        return host.rstrip("."), port

    def _addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses to connect to. Every answer counts: a host with one private address is refused."""
        try:
            answers = self._resolvers.submit(self._resolve, host, port).result(self._options.total_timeout_s)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise try_later(f"{host} does not resolve ({_kind(error)})") from error
        if not answers or not self._all_allowed(answers):
            raise not_allowed(f"{host} has an address that is not public")
        return answers

    def _all_allowed(self, answers: Sequence[str]) -> bool:
        if self._options.allow_loopback_http_for_tests and all(map(is_loopback, answers)):
            return True
        return all(map(is_public, answers))

    def _connected(self, addresses: Sequence[str], port: int, deadline_s: float) -> socket.socket:
        """A connection to the first address that answers: a host without IPv6 here is reached by its IPv4 address."""
        fault: OSError = TimeoutError()
        for address in addresses:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            try:
                connection = socket.create_connection((address, port), min(left_s, self._options.connect_timeout_s))
            except OSError as error:
                fault = error
                continue
            connection.settimeout(self._options.read_timeout_s)
            return connection
        raise fault

    def _exchange(self, uri: SplitResult, host: str, port: int, connection: socket.socket) -> bytes:
        if uri.scheme == "https":
            # an end without TLS's own is a cut answer, not a short one
            connection = self._tls.wrap_socket(connection, server_hostname=host, suppress_ragged_eofs=False)
        with connection:
            client = http.client.HTTPConnection(host, port)
            client.sock = connection  # connected already, to the address that was checked
            client.request("GET", _target(uri), headers=_headers(host, port, uri.scheme))
            with client.getresponse() as response:
                return self._body(host, response)

    def _body(self, host: str, response: http.client.HTTPResponse) -> bytes:
        _check_status(host, response.status)
        length = response.length
        if length is not None and length > self._max_bytes:
            raise too_large(length, self._max_bytes)
        body = bytearray()
        while chunk := response.read(CHUNK_BYTES):
            body += chunk
            if len(body) > self._max_bytes:
                raise too_large(None, self._max_bytes)
        if length is not None and len(body) != length:
            raise try_later(f"{host} sent {len(body)} of {length} bytes")
        return bytes(body)


def _check_status(host: str, status: int) -> None:
    if status == 200:
        return
    if status in TRANSIENT or status >= 500:
        raise try_later(f"{host} answered {status}")
    if status in DENIED:
        raise ImageRefused(ViewCode.FORBIDDEN, f"{host} answered {status}")
    if 300 <= status < 400:
        raise not_allowed(f"{host} answered {status}: redirects are not followed, send the final URI")
    raise ImageRefused(ViewCode.NOT_FOUND, f"{host} answered {status}")


def _target(uri: SplitResult) -> str:
    return (uri.path or "/") + (f"?{uri.query}" if uri.query else "")


def _headers(host: str, port: int, scheme: str) -> dict[str, str]:
    name = f"[{host}]" if ":" in host else host
    place = name if port == DEFAULT_PORTS[scheme] else f"{name}:{port}"
    return {"Host": place, "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}


def _kind(error: Exception) -> str:
    """What kind of fault, without its text, which may hold the URI."""
    return "timeout" if isinstance(error, TimeoutError) else type(error).__name__


@contextmanager
def _ended_at(deadline_s: float, connection: socket.socket) -> Iterator[socket.socket]:
    """Shuts the connection at the deadline, whatever phase it is in: a peer that drips bytes resets every timeout.

    Raises TimeoutError where the deadline came first, as the end it made may look like the answer's own.
    """
    ended = threading.Event()
    with connection, connection.dup() as handle:
        timer = threading.Timer(max(0.0, deadline_s - time.monotonic()), _shut, (handle, ended))
        timer.name = "image-deadline"
        timer.start()
        try:
            yield connection
        finally:
            timer.cancel()
            timer.join()
    if ended.is_set():
        raise TimeoutError


def _shut(connection: socket.socket, ended: threading.Event) -> None:
    ended.set()
    with suppress(OSError):  # the peer was faster
        connection.shutdown(socket.SHUT_RDWR)
