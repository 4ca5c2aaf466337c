"""What can go wrong when local services are started.

DevstackError
├── PartMissing    a program or jar is not on this machine; the message says how to get it
├── StartFailed    a service died or did not answer in time; the message ends with the tail of its log
└── StateBroken    the state folder cannot be read or is not a devstack's
"""

from __future__ import annotations


class DevstackError(Exception):
    """Base of the tree above. The message names what was found and the fix."""


class PartMissing(DevstackError):
    """A program or jar that a service needs is not on this machine."""


class StartFailed(DevstackError):
    """A service died or did not answer before its deadline."""


class StateBroken(DevstackError):
    """The state folder is unreadable, or holds something that is not a devstack."""
