"""What LCN raises.

::

    TidelockError
    └── LcnError
        ├── ConnectionsHeldError   so many groups hold a connection that none is left for this one
        ├── LcnMisuseError         a group's connection was used in a way that LCN does not allow
        └── GroupOverError         the group was decided, and its connection is closed
"""

from __future__ import annotations

from tidelock.errors import TidelockError


class LcnError(TidelockError):
    """Something is wrong with a connection that is held for a group."""


class ConnectionsHeldError(LcnError):
    """No connection became free in time: groups hold them all, or a unit of this one is at work.

    Its message says which, and for how long. Nothing was done.
    """


class LcnMisuseError(LcnError):
    """Two at once used a group's connection, or somebody after the end of its block; or something
    has ended its local transaction, as COMMIT and the DDL of MySQL do.
    """


class GroupOverError(LcnError):
    """The group was decided meanwhile, or lost its session, and its work here was ended."""
