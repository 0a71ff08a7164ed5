"""How a database calls our branches: by the transaction's xid and the branch's number.

Both servers are told names in the text of statements, since neither takes a bound value there, so a
name consists of what needs no escaping, or is refused.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tidelock.transaction.context import checked

FORMAT_ID: Final = 0x54444C4B
"""Ours among the users of XA on one MySQL server."""

_PREFIX: Final = "tidelock"


class BranchName(msgspec.Struct, frozen=True):
    """One branch, as databases are told of it."""

    xid: str
    branch_id: int

    @property
    def mysql(self) -> str:
        """As it stands in XA statements: `'xid','branch',format`."""
        return f"'{checked(self.xid)}','{self.branch_id:d}',{FORMAT_ID}"

    @property
    def postgresql(self) -> str:
        """As the literal of PREPARE TRANSACTION and its kin."""
        return f"'{self.gid}'"

    @property
    def gid(self) -> str:
        """As pg_prepared_xacts lists it."""
        return f"{_PREFIX}:{self.branch_id:d}:{checked(self.xid)}"


def of_recovered(format_id: int, gtrid_bytes: int, data: str) -> BranchName | None:
    """Return the branch of a row of XA RECOVER; None when it is somebody else's."""
    if format_id != FORMAT_ID:
        return None
    return _named(data[:gtrid_bytes], data[gtrid_bytes:])


def of_gid(gid: str) -> BranchName | None:
    """Return the branch of a row of pg_prepared_xacts; None when it is somebody else's."""
    prefix, _, rest = gid.partition(":")
    number, _, xid = rest.partition(":")
    return _named(xid, number) if prefix == _PREFIX else None


def _named(xid: str, number: str) -> BranchName | None:
    if not (number.isascii() and number.isdecimal()):
        return None
    try:
        return BranchName(checked(xid), int(number))
    except ValueError:
        return None
