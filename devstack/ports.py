"""Choosing ports on the loopback interface: the ones used before while they are free, else any free one."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from devstack.state import State


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: closing sessions do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port nobody listens on. Another process may take it before we do: the caller then asks again."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def with_free_ports(state: State, names: Iterable[str], *, renew: bool = False) -> State:
    """`state` with a free port under each of `names`; `renew` gives up the ports used before."""
    for name in names:
        known = state.ports.get(name)
        if known is None or renew or not is_free(known):
            state = state.with_port(name, free_port())
    return state
