"""URIs and paths that lead where they must not: none may connect to a listener, none may read a file outside the root.
A listener takes any connection on every loopback address; a secret lies beside the root and in it behind links."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from schemas.codes import ViewCode
from schemas.job import AuthenticationJob, JobView
from tests.fuzz.findings import Findings
from tests.unit.test_images_addresses import PRIVATE
from worker.adapters.image_https import HttpsOptions
from worker.adapters.images import RoutedImages
from worker.core.evidence import UnusableView
from worker.errors import RetryJob, ServiceUnavailable

HOST = "shop.example"
SECRET = b"a secret that no tenant may read"
REFUSED = {ViewCode.URI_NOT_ALLOWED, ViewCode.NOT_FOUND}


@dataclass(slots=True)
class Resolver:
    """Gives each host the answers that a vector wants, and remembers what it was asked."""

    answers: Sequence[str] = ()
    asked: list[str] = field(default_factory=list)

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers


@dataclass(slots=True)
class Listener:
    """Every address of loopback, over IPv4 and IPv6."""

    sockets: list[socket.socket]
    port: int

    def connections(self) -> int:
        """How many came since it was asked last."""
        return sum(self._accepted(one) for one in self.sockets)

    def _accepted(self, one: socket.socket) -> int:
        try:
            one.accept()[0].close()
        except BlockingIOError:
            return 0
        return 1 + self._accepted(one)


def run() -> list[Findings]:
    with tempfile.TemporaryDirectory() as folder, listening() as listener:
        root = _root_with_traps(Path(folder))
        resolver = Resolver()
        https = HttpsOptions(hosts=(HOST,), ports=(443, listener.port), total_timeout_s=2.0)
        images = RoutedImages(max_bytes=1000, file_root=root, https=https, resolve=resolver)
        urls, paths = Findings(part="URLs that lead inside"), Findings(part="paths that lead outside")
        _is_heard(urls, listener)
        for url, answers in [*url_vectors(listener.port), *resolver_vectors(listener.port)]:
            resolver.answers = answers
            _try(urls, images, url, f"{url} -> {answers}")
            urls.expect(not listener.connections(), f"{url} -> {answers} connected")
        for path in path_vectors(root):
            _try(paths, images, path, path)
        urls.facts["connections seen by the listener"] = "0" if not urls.faults else "see faults"
        images.close()
    return [urls, paths]


def _try(found: Findings, images: RoutedImages, uri: str, what: str) -> None:
    """The vector as a view's URI. Its digest is the secret's own: reading it would succeed."""
    view = JobView(view="logo", sha256=hashlib.sha256(SECRET).hexdigest(), uri=uri)
    job = AuthenticationJob(
        job_id="j",
        tenant="t",
        sku="s",
        category="bag",
        submitted_at=datetime(2026, 1, 1, tzinfo=UTC),
        views=(view,),
        payload_digest="d",
    )
    try:
        got = images.fetch(job, view)
    except (RetryJob, ServiceUnavailable) as error:
        found.ended(type(error).__name__)
        found.faults.append(f"{what}: would be tried again: {error}")
        return
    except Exception as error:
        found.ended(f"raised {type(error).__name__}")
        found.faults.append(f"{what}: {type(error).__name__}: {error}")
        return
    code = got.code if isinstance(got, UnusableView) else "read"
    found.ended(code)
    found.expect(code in REFUSED, f"{what}: {code}")


@contextmanager
def listening() -> Iterator[Listener]:
    """One port that is free over both protocols."""
    sockets = [socket.create_server(("0.0.0.0", 0))]  # noqa: S104 (every address of loopback is the point)
    port = sockets[0].getsockname()[1]
    if socket.has_ipv6:
        sockets.append(socket.create_server(("::", port), family=socket.AF_INET6))
    for one in sockets:
        one.setblocking(False)
    try:
        yield Listener(sockets=sockets, port=port)
    finally:
        for one in sockets:
            one.close()


def _is_heard(found: Findings, listener: Listener) -> None:
    """A listener that hears nothing would prove nothing."""
    socket.create_connection(("127.0.0.1", listener.port)).close()
    found.expect(listener.connections() == 1, "the listener does not hear")


def url_vectors(port: int) -> list[tuple[str, Sequence[str]]]:
    """Hosts written in every way, all of which would resolve to the listener if they were looked up."""
    numbers = ["127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001"]
    more = ["0.0.0.0", "0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]"]  # noqa: S104
    names = ["localhost", "localhost.", "LOCALHOST", "ip6-localhost", "localtest.me", "127.0.0.1.nip.io", "metadata"]
    clouds = ["169.254.169.254", "metadata.google.internal", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16"]
    unicode = ["①②⑦.⓪.⓪.①", "127。0。0。1", "ｌocalhost", "shop。example", "ѕhop.example", "shop.example\u200b"]
    hosts = [f"https://{host}:{port}/x" for host in (*numbers, *more, *names, *clouds, *unicode)]
    return [(url, ["127.0.0.1"]) for url in (*hosts, *_confusing(port), *_other_kinds(port))]


def _confusing(port: int) -> list[str]:
    """URLs that two parsers read differently."""
    return [
        template.replace("PORT", str(port))
        for template in (
            "https://shop.example@127.0.0.1:PORT/",
            "https://127.0.0.1:PORT@shop.example/",
            "https://user:pass@shop.example:PORT/",
            "https://shop.example:PORT@127.0.0.1:PORT/",
            "https://shop.example%40127.0.0.1:PORT/",
            "https://shop.example%00.evil.test:PORT/",
            "https://shop.example%2f@127.0.0.1:PORT/",
            "https://shop.example\\@127.0.0.1:PORT/",
            "https://127.0.0.1:PORT\\@shop.example/",
            "https://127.0.0.1:PORT#@shop.example/",
            "https://127.0.0.1:PORT?@shop.example/",
            "https://127.0.0.1:PORT;@shop.example/",
            "https://shop.example.evil.test:PORT/",
            "https://evil-shop.example:PORT/",
            "https://xshop.example:PORT/",
            "https://shop.example.:PORT:443/",
            "https://shop.example:0/",
            "https://shop.example:-1/",
            "https://shop.example:99999/",
            "https://shop.example:22/",
            "https://shop.example:4433/",
            "https://shop.example:PORTx/",
            "https://[shop.example]:PORT/",
            "https://[::1%25lo]:PORT/",
            "https://[::1:PORT/",
            "https://::1:PORT/",
            "https:///shop.example/",
            "https:shop.example/",
            "https:/shop.example/",
            "https://",
            "https://:PORT/",
            "https://*:PORT/",
            "//127.0.0.1:PORT/",
            "\thttps://127.0.0.1:PORT/",
            "https://127.0.0.1\t:PORT/",
            "https://shop.example\r\nX: y:PORT/",
            "https://127.0.0.1:PORT/%0d%0aHost:%20shop.example",
        )
    ]


def _other_kinds(port: int) -> list[str]:
    """Kinds of URI that are not fetched at all."""
    web = ("http", "HTTP", "ftp", "gopher", "dict", "ldap", "tftp", "ws", "wss", "sftp", "smb", "jar:http")
    written = [f"{kind}://127.0.0.1:{port}/x" for kind in (*web, "redis", "unix", "ssh", "telnet")]
    return [
        *written,
        f"http://{HOST}:{port}/x",
        "s3://maison-photographs/../other/key",
        "s3://other-bucket/key",
        "data:image/png;base64,iVBORw0KGgo=",
        "javascript:alert(1)",
        "",
        "x",
        "https",
        ":",
    ]


def resolver_vectors(port: int) -> list[tuple[str, Sequence[str]]]:
    """The allowed host itself, whose name leads inside: alone, or hidden among public addresses, or rebound."""
    url = f"https://{HOST}:{port}/x"
    alone = [(url, [address]) for address in PRIVATE.split()]
    hidden = [["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1111", "::1"], ["8.8.8.8"] * 9 + ["::1"]]
    odd = [[], [""], ["localhost"], ["0x7f.1"], ["127.1"], ["8.8.8.8", "127.0.0.1%lo"], ["8.8.8.8 127.0.0.1"]]
    return [*alone, *[(url, answers) for answers in (*hidden, *odd)]]


def _root_with_traps(folder: Path) -> Path:
    root = folder / "root"
    (root / "bag").mkdir(parents=True)
    (folder / "root-twin").mkdir()
    for path in (folder / "secret.jpg", folder / "root-twin" / "secret.jpg"):
        path.write_bytes(SECRET)
    (root / "link.jpg").symlink_to(folder / "secret.jpg")
    (root / "folder-link").symlink_to(folder)
    (root / "bag" / "up").symlink_to("../..")
    (root / "loop").symlink_to("loop")
    (root / "proc").symlink_to("/proc/self")
    os.mkfifo(root / "fifo.jpg")
    return root


def path_vectors(root: Path) -> list[str]:
    """Ways out of the root, plain and disguised, and things in it that are no files."""
    ups = ["../secret.jpg", "bag/../../secret.jpg", "./../secret.jpg", "bag/./../../secret.jpg", "bag//../secret.jpg"]
    dots = ["%2e%2e/secret.jpg", "%2E%2E%2Fsecret.jpg", "..%2fsecret.jpg", ".%2e/secret.jpg", "bag%2f..%2f..%2fsecret"]
    twice = ["%252e%252e/secret.jpg", "..%252fsecret.jpg", "..%c0%afsecret.jpg", "%c0%ae%c0%ae/secret.jpg"]
    slashes = ["..\\secret.jpg", "..%5csecret.jpg", "....//secret.jpg", "..;/secret.jpg", "..．/secret.jpg"]
    links = ["link.jpg", "folder-link/secret.jpg", "bag/up/secret.jpg", "loop", "proc/environ", "proc/root/etc/passwd"]
    kinds = ["fifo.jpg", "bag", "bag/", ".", "", "link.jpg/", "link.jpg%00.png", "link.jpg?x", "link.jpg#x"]
    relative = [f"file:{path}" for path in (*ups, *dots, *twice, *slashes, *links, *kinds)]
    inside = [f"file://{root}/{path}" for path in (*ups[:2], *dots[:2], *links)]
    outside = ["/etc/passwd", "/proc/self/environ", "/proc/self/fd/0", "/dev/zero", "/dev/stdin", "//etc/passwd"]
    hosts = [f"file://{host}{root}/bag" for host in ("evil.test", "127.0.0.1", "LOCALHOST:80", "user@localhost")]
    near = [f"file://{root}-twin/secret.jpg", f"file://{root}/../secret.jpg", f"file://{root}", f"FILE:{ups[0]}"]
    return [*relative, *inside, *[f"file://{path}" for path in outside], *hosts, *near]
