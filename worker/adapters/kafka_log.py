"""The client's own log, passed on to Python's; it alone tells when a connection broke and requests were sent again."""

from __future__ import annotations

import logging

# librdkafka's names: a connection failed or was closed, and requests were given up without an answer.
_RESENT = frozenset({"FAIL", "REQTMOUT"})


class ClientLog:
    """What a client takes for its logger. It is called by the thread that polls the client."""

    def __init__(self) -> None:
        self.resent = False  # since it was last set to False, requests may have been sent a second time
        self._logger = logging.getLogger("librdkafka")

    def log(self, level: int, message: str, *arguments: object) -> None:
        """`arguments` are librdkafka's name for the event, the client's name and the text."""
        if arguments and arguments[0] in _RESENT:
            self.resent = True
        self._logger.log(level, message, *arguments)
