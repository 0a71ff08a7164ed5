"""Which global transaction the running code belongs to.

It is kept in a context variable, so tasks and `asyncio.to_thread` inherit it, and threads that one
starts by hand do not: bind it there with `bound(xid)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import msgspec

from tidelock.transaction.handle import Role, Transaction

__all__ = [
    "Binding",
    "Rebinding",
    "Role",
    "binding",
    "bound",
    "checked",
    "current",
    "current_transaction",
    "current_xid",
]

GREATEST_XID_BYTES: Final = 64


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """What running code is bound to."""

    xid: str | None = None
    """The transaction. None under a global lock alone, and while one is suspended."""
    role: Role = Role.PARTICIPANT
    global_lock: bool = False
    """Rows are touched only when no global transaction has them (`@global_lock`)."""
    transaction: Transaction | None = None
    """Of the innermost block; None when a middleware, or `bound`, named the xid and no block is
    around the code yet."""


_bound: Final[ContextVar[Binding | None]] = ContextVar("tidelock-binding", default=None)


def current() -> Binding | None:
    """Return what the running code is bound to, if anything."""
    return _bound.get()


def current_xid() -> str | None:
    """Return the xid of the transaction that the running code belongs to, if it does to one."""
    binding = _bound.get()
    return None if binding is None else binding.xid


def current_transaction() -> Transaction | None:
    """Return the transaction of the block that the running code is in, if there is one.

    None also where only a middleware, or `bound`, has named an xid.
    """
    binding = _bound.get()
    return None if binding is None else binding.transaction


class Rebinding:
    """What the running code is bound to, changed from now until `undo`."""

    def __init__(self, new: Binding | None) -> None:
        self._before = _bound.get()
        self._token = _bound.set(new)

    def undo(self) -> None:
        """Bind the running code to what it was bound to before.

        It may run in another context than the change: test frameworks finish in one task what they
        began in another.
        """
        try:
            _bound.reset(self._token)
        except ValueError:
            _bound.set(self._before)


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
