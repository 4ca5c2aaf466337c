"""Decodes photographs in the background: baseline JPEGs in threads of this process, whatever else in helper processes.
A baseline JPEG's work is bounded by its pixels and its decoder sees only the parts that make the picture; all other
codecs, and colour profiles not seen before, are kept out of the worker's process."""

from __future__ import annotations

import functools
import hashlib
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from PIL import Image

from engines.container import Container
from engines.decode import Apart, Decoded, DecodeLimits, ImageFault, Unusable, decode_permitted, permitted
from engines.sandbox import Sandbox, SandboxLimits

_PROFILES_KEPT: Final = 1024


class PillowDecoder:
    """Pillow behind the Decoder port. `threads` decode baseline JPEGs here, `helpers` processes the rest; processes are
    started when first needed."""

    def __init__(
        self,
        size: int,
        threads: int,
        limits: DecodeLimits | None = None,
        reduced: bool = True,
        *,
        helpers: int = 2,
        sandbox: SandboxLimits | None = None,
    ) -> None:
        limits = limits or DecodeLimits()
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        self._here = functools.partial(decode_permitted, size=size, limits=limits, reduced=reduced)
        self._permitted = functools.partial(permitted, size=size, limits=limits)
        self._sandbox = Sandbox(helpers=helpers, size=size, limits=limits, reduced=reduced, sandbox=sandbox)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._outside = ThreadPoolExecutor(helpers, thread_name_prefix="decode-outside")
        self._profiles = _ProvenProfiles()

    def decode(self, blobs: Sequence[bytes]) -> list[Future[Decoded | ImageFault]]:
        return [self.begin(blob, self.examine(blob)) for blob in blobs]

    def examine(self, blob: bytes) -> Container | ImageFault:
        """A photograph's container, or why it is not let near a decoder."""
        try:
            return self._permitted(blob)
        except Unusable as refused:
            return refused.fault

    def close(self) -> None:
        for pool in (self._threads, self._outside):
            pool.shutdown(wait=True, cancel_futures=True)
        self._sandbox.close()

    def begin(self, blob: bytes, container: Container | ImageFault) -> Future[Decoded | ImageFault]:
        """Decode one photograph whose container was examined."""
        if isinstance(container, ImageFault):
            done: Future[Decoded | ImageFault] = Future()
            done.set_result(container)
            return done
        if container.baseline and container.profile in self._profiles:
            return self._threads.submit(self._here, blob, container)
        square = Apart()
        begun = self._outside.submit(self._decode_outside, square, blob, container)
        begun.add_done_callback(lambda ended: square.cancel() if ended.cancelled() else None)
        return square

    def _decode_outside(self, square: Apart, blob: bytes, container: Container) -> None:
        if not square.set_running_or_notify_cancel():
            return
        try:
            result = self._with_helper(blob, container)
        except BaseException as error:  # its owner raises it; this thread lives on
            square.set_exception(error)
        else:
            square.set_result(result)

    def _with_helper(self, blob: bytes, container: Container) -> Decoded | ImageFault:
        result = self._sandbox.decode(blob)
        if container.baseline and isinstance(result, Decoded):
            self._profiles.add(container.profile)
        return result


class _ProvenProfiles:
    """Colour profiles that a helper has used without harm, by digest; no profile at all is harmless."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()
        self._lock = threading.Lock()

    def __contains__(self, profile: bytes) -> bool:
        return not profile or hashlib.sha256(profile).digest() in self._digests

    def add(self, profile: bytes) -> None:
        with self._lock:
            if len(self._digests) >= _PROFILES_KEPT:
                self._digests.clear()
            self._digests.add(hashlib.sha256(profile).digest())
