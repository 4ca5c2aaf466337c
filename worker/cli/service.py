"""Runs one periodic thread as a service of its own: health pages, signals, and an end that is never silent."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import structlog

from worker.observe import HealthServer, Meter, configure_logs
from worker.settings import Settings
from worker.stage import StageThread

_log = structlog.get_logger()


def serve(settings: Settings, name: str, body: Callable[[threading.Event], None], meter: Meter) -> None:
    """Run `body` until SIGTERM or SIGINT. Raises what it raised."""
    configure_logs(level=settings.observe.log_level, form=settings.observe.log_format)
    stop, errors = threading.Event(), list[BaseException]()
    # On a thread of its own: a signal must not meet the main thread inside the very lock that its handler takes.
    thread = StageThread(name, lambda: body(stop), lambda _, error: errors.append(error))
    health = HealthServer(
        host=settings.observe.host,
        port=settings.observe.port,
        registry=meter.registry,
        live=lambda: {} if thread.alive else {name: "ended"},
        ready=dict,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    thread.start()
    health.start()
    _log.info("health_listening", address=health.address)
    while not thread.join(1.0):  # a wait without a limit would hold signals back
        pass
    health.close()
    if errors:
        raise errors[0]
