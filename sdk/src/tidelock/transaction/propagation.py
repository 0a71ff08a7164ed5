"""What a block does about the transaction that it may already be in: the six propagations."""

from __future__ import annotations

import enum
from typing import Final

from tidelock.transaction.context import Binding
from tidelock.transaction.errors import TransactionNotAllowedError, TransactionRequiredError


class Propagation(enum.StrEnum):
    """How a block takes part."""

    REQUIRED = "REQUIRED"
    """Join the transaction; begin one when there is none."""
    REQUIRES_NEW = "REQUIRES_NEW"
    """Begin one of its own; that of the caller is suspended meanwhile."""
    SUPPORTS = "SUPPORTS"
    """Join the transaction; run without one when there is none."""
    NOT_SUPPORTED = "NOT_SUPPORTED"
    """Run without one; that of the caller is suspended meanwhile."""
    MANDATORY = "MANDATORY"
    """Join the transaction; `TransactionRequiredError` when there is none."""
    NEVER = "NEVER"
    """Run without one; `TransactionNotAllowedError` when there is one."""


class Step(enum.Enum):
    """What is to be done at the beginning of a block."""

    BEGIN = enum.auto()
    """Begin a transaction, and suspend what there is."""
    JOIN = enum.auto()
    WITHOUT = enum.auto()
    """Suspend what there is."""
    REQUIRED = enum.auto()
    """Refuse: there is none."""
    FORBIDDEN = enum.auto()
    """Refuse: there is one."""


_WITHIN: Final = {
    Propagation.REQUIRED: Step.JOIN,
    Propagation.REQUIRES_NEW: Step.BEGIN,
    Propagation.SUPPORTS: Step.JOIN,
    Propagation.NOT_SUPPORTED: Step.WITHOUT,
    Propagation.MANDATORY: Step.JOIN,
    Propagation.NEVER: Step.FORBIDDEN,
}
_OUTSIDE: Final = {
    Propagation.REQUIRED: Step.BEGIN,
    Propagation.REQUIRES_NEW: Step.BEGIN,
    Propagation.SUPPORTS: Step.WITHOUT,
    Propagation.NOT_SUPPORTED: Step.WITHOUT,
    Propagation.MANDATORY: Step.REQUIRED,
    Propagation.NEVER: Step.WITHOUT,
}


def step_of(propagation: Propagation, bound: Binding | None, name: str) -> Step:
    """Return what to do: begin, join, or run without.

    Raises:
        TransactionRequiredError, TransactionNotAllowedError
    """
    xid = None if bound is None else bound.xid
    step = (_OUTSIDE if xid is None else _WITHIN)[propagation]
    if step is Step.REQUIRED:
        raise TransactionRequiredError(
            f"{name} must be called within a global transaction, and none is bound here: begin one "
            "in the caller, or see that the xid is carried over (a middleware, `tidelock.bound`)"
        )
    if step is Step.FORBIDDEN:
        raise TransactionNotAllowedError(
            f"{name} must not be called within a global transaction, and {xid} is bound here: "
            "suspend it with `tidelock.suspended()`, or use NOT_SUPPORTED",
            xid or "",
        )
    return step
