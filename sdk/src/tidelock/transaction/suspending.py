"""Leaving a transaction for a while, and coming back to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tidelock.transaction.context import Binding, Rebinding, binding, current


class Suspended:
    """What `suspend` took from the running code; give it to `resume`."""

    def __init__(self, rebinding: Rebinding, bound: Binding | None) -> None:
        self._rebinding: Rebinding | None = rebinding
        self._bound = bound

    @property
    def xid(self) -> str | None:
        """The transaction that waits; None: there was none."""
        return None if self._bound is None else self._bound.xid


def suspend() -> Suspended:
    """Take the running code out of its transaction until `resume`.

    The transaction goes on: its timeout counts, its launcher's block still ends it. So resume it
    before that block ends, in the same thread or task. `suspended()` does both.
    """
    bound = current()
    return Suspended(Rebinding(_outside(bound)), bound)


def resume(suspended: Suspended) -> None:
    """Put the running code back into the transaction that `suspend` took it out of.

    Raises:
        RuntimeError: it was resumed before.
    """
    rebinding, suspended._rebinding = suspended._rebinding, None
    if rebinding is None:
        raise RuntimeError(f"transaction {suspended.xid} was resumed before")
    rebinding.undo()


@contextmanager
def suspended() -> Iterator[None]:
    """Run the block outside of the transaction; for `async` code as well, as a plain `with`."""
    with binding(_outside(current())):
        yield


def _outside(bound: Binding | None) -> Binding | None:
    return Binding(global_lock=True) if bound is not None and bound.global_lock else None
