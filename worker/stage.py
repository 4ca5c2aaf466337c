"""A named thread whose end is never silent: what its body raised is told at once, from the thread itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

OnFatal = Callable[[str, BaseException], None]


class StageThread:
    """Runs `body` in a named thread. `on_fatal(name, exception)` is called from that thread if the body raises."""

    def __init__(self, name: str, body: Callable[[], None], on_fatal: OnFatal) -> None:
        self.name = name
        self._body = body
        self._on_fatal = on_fatal
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; False when `timeout_s` passed first."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._body()
        except BaseException as error:  # the thread's last frame: everything must be reported
            self._on_fatal(self.name, error)
