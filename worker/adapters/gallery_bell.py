"""Redis pub/sub that tells workers of a moved gallery revision at once. It may be lost: the mirror polls anyway."""

from __future__ import annotations

import threading
import time

import redis
import structlog

from worker.adapters.redis_cache import Failed, connected

CHANNEL = "assay.gallery"
TIMEOUT_S = 1.0
_log = structlog.get_logger()


class GalleryBell:
    """`ring` is ReferenceStore's `announce`, `wait` PostgresGallery's; neither raises. `wait` is for one thread."""

    def __init__(self, url: str, *, channel: str = CHANNEL, failed: Failed = lambda reason: None) -> None:
        self._redis = connected(url, TIMEOUT_S)
        self._channel = channel
        self._failed = failed
        self._listening: redis.client.PubSub | None = None
        self._closed = threading.Event()

    def ring(self, tenant: str, revision: int) -> None:
        try:
            self._redis.publish(self._channel, f"{tenant} {revision}")
        except Exception as error:  # see redis_cache.Breaker
            self._failed("away")
            _log.warning("gallery_bell_silent", error=type(error).__name__)

    def wait(self, seconds: float) -> None:
        """Return when the bell rings, or after `seconds`."""
        end_s = time.monotonic() + seconds
        try:
            while (left_s := end_s - time.monotonic()) > 0 and not self._heard(left_s):
                continue
        except Exception as error:  # see redis_cache.Breaker
            self._failed("away")
            self._listening = None
            _log.warning("gallery_bell_silent", error=type(error).__name__)
            self._closed.wait(max(end_s - time.monotonic(), 0))

    def close(self) -> None:
        """Call it when nobody waits any more."""
        self._closed.set()
        if self._listening is not None:
            self._listening.close()
        self._redis.close()

    def _heard(self, seconds: float) -> bool:
        if self._listening is None:
            listening = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            listening.subscribe(self._channel)
            self._listening = listening
        return self._listening.get_message(timeout=seconds) is not None
