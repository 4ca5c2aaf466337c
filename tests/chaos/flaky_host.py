"""An image host that is often away: it refuses a photograph the first times, then serves it, or never does.

The path says all: /REFUSALS/SKU/VIEW/SEED/FORGED. The harness serves it on loopback; workers are told of it by
`environment` and reach it by the route that a real host's images take.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.chaos.photographs import photograph
from worker.adapters.image_https import HttpsOptions
from worker.adapters.images import RoutedImages
from worker.ports import ImageSource
from worker.settings import Settings

HOST = "tenant.example"
VARIABLE = "CHAOS_IMAGE_HOST"
NEVER = 1_000_000


class FlakyHost:
    """`start` it before the workers; the port is chosen when it is made."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Answers)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="images", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def environment(self) -> Mapping[str, str]:
        return {VARIABLE: str(self.port)}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def uri_of(port: int, sku: str, view: str, seed: int, *, forged: bool, refusals: int) -> str:
    return f"http://{HOST}:{port}/{refusals}/{sku}/{view}/{seed}/{int(forged)}"


def open_images(settings: Settings) -> ImageSource:
    """What worker.app.build_worker is given: inline images, and those of this host where there is one."""
    if VARIABLE not in os.environ:
        return RoutedImages(max_bytes=settings.images.max_bytes)
    options = HttpsOptions(
        hosts=(HOST,),
        ports=(int(os.environ[VARIABLE]),),
        total_timeout_s=settings.images.timeout_s,
        allow_loopback_http_for_tests=True,
    )
    return RoutedImages(max_bytes=settings.images.max_bytes, https=options, resolve=lambda host, port: ["127.0.0.1"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.refused: Counter[str] = Counter()
        self.lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """A worker that was killed in the middle of a request."""


class _Answers(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        _, refusals, sku, view, seed, forged = self.path.split("/")
        with self.server.lock:
            refuse = self.server.refused[self.path] < int(refusals)
            self.server.refused[self.path] += refuse
        body = b"" if refuse else photograph(sku, view, int(seed), forged=forged == "1")
        self.send_response(503 if refuse else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""
