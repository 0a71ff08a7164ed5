"""Which global transaction the running code belongs to.

It is kept in a context variable, so tasks and `asyncio.to_thread` inherit it, and threads that one
starts by hand do not: bind it there with `bound(xid)`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import msgspec

GREATEST_XID_BYTES: Final = 64


class Role(enum.Enum):
    """Who ends the transaction."""

    LAUNCHER = "LAUNCHER"
    """This code: it began it."""
    PARTICIPANT = "PARTICIPANT"
    """Somebody else: this code was called within it, and only joins."""


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """What running code is bound to."""

    xid: str | None = None
    """The transaction. None under a global lock alone, and while one is suspended."""
    role: Role = Role.PARTICIPANT
    global_lock: bool = False
    """Rows are touched only when no global transaction has them (`@global_lock`)."""


_bound: Final[ContextVar[Binding | None]] = ContextVar("tidelock-binding", default=None)


def current() -> Binding | None:
    """Return what the running code is bound to, if anything."""
    return _bound.get()


def current_xid() -> str | None:
    """Return the xid of the transaction that the running code belongs to, if it does to one."""
    binding = _bound.get()
    return None if binding is None else binding.xid


@contextmanager
def binding(new: Binding | None) -> Iterator[None]:
    """Bind what runs in the block to something else, or to nothing."""
    token = _bound.set(new)
    try:
        yield
    finally:
        _bound.reset(token)


@contextmanager
def bound(xid: str | None) -> Iterator[None]:
    """Have what runs in the block take part in a transaction: for what carries xids to services.

    Nothing is bound when `xid` is None or empty. Always unbound at the end.

    Raises:
        ValueError: it is no xid: 1 to 64 of `A-Z a-z 0-9 . _ : -`.
    """
    if not xid:
        with binding(None):
            yield
        return
    with binding(Binding(xid=checked(xid))):
        yield


def checked(xid: str) -> str:
    """Return the xid. Raises: ValueError: it is none."""
    allowed = xid.isascii() and all(letter.isalnum() or letter in "._:-" for letter in xid)
    if not allowed or not 0 < len(xid) <= GREATEST_XID_BYTES:
        raise ValueError(f"{xid[:80]!r} is no xid: 1 to 64 of A-Z a-z 0-9 . _ : - are needed")
    return xid
