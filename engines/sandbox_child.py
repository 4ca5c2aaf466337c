"""A helper process: decodes photographs under resource limits until its socket closes. Started by engines.sandbox with
the socket as standard input, an environment without anything of the worker's, and its settings as one JSON argument."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import socket
import sys
import warnings
from typing import Final

from PIL import (
    Image,
    ImageCms,
    JpegImagePlugin,  # noqa: F401 (a plugin registers itself when it is imported)
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from engines.decode import DecodeLimits, decode_photograph
from engines.lesser_process import lessen
from engines.sandbox_frames import LENGTH, NO_MEMORY, READY, packed

_MAX_DESCRIPTORS: Final = 16
_NICE: Final = 5  # what takes long here must not take the cores from what does not; a third of a neighbour's share


def main(argument: str) -> None:
    settings = json.loads(argument)
    limits = DecodeLimits(**settings["limits"])
    size, reduced, cpu_s = int(settings["size"]), bool(settings["reduced"]), float(settings["cpu_s"])
    owner = socket.socket(fileno=os.dup(0))
    _load_everything()
    _give_up_powers(limits.memory_bytes)
    _say(owner, READY)
    while (blob := _heard(owner)) is not None:
        _limit_cpu(cpu_s)
        try:
            answer = packed(decode_photograph(blob, size=size, limits=limits, reduced=reduced))
        except MemoryError:
            answer = NO_MEMORY
        _limit_cpu(0.0)
        del blob
        _say(owner, answer)


def _load_everything() -> None:
    """What is loaded on first use is loaded now, before descriptors and memory are limited."""
    Image.preinit()
    ImageCms.createProfile("sRGB")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def _give_up_powers(memory_bytes: int) -> None:
    """From here on: no new privileges, no files, no cores, a bounded address space, and no life after the owner's."""
    lessen(_NICE)
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS))
    most = _address_space_bytes() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _address_space_bytes() -> int:
    with open("/proc/self/statm") as counts:  # noqa: PTH123 (pathlib would be one import more)
        return int(counts.read().split()[0]) * resource.getpagesize()


def _limit_cpu(seconds: float) -> None:
    """End this process (SIGPROF, then the kernel's own SIGXCPU) after so much CPU time; 0 is no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1 if seconds else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def _heard(owner: socket.socket) -> bytes | None:
    """The next photograph; None where the owner has closed."""
    head = owner.recv(LENGTH.size, socket.MSG_WAITALL)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    blob = bytearray(length)
    view, at = memoryview(blob), 0
    while at < length:
        got = owner.recv_into(view[at:])
        if got == 0:
            return None
        at += got
    return bytes(blob)


def _say(owner: socket.socket, body: bytes) -> None:
    owner.sendall(LENGTH.pack(len(body)) + body)


if __name__ == "__main__":
    main(sys.argv[1])
