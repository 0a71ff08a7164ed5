"""`@tcc_transaction`: a function that reserves, and the two that keep it or give it back."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from tidelock.application import Application
from tidelock.fence.action import Action, Step, name_of
from tidelock.fence.context import ActionContext
from tidelock.fence.source import FencedDataSource
from tidelock.tcc.errors import TryRefusedError
from tidelock.transaction.blocks import refuse_generators

P = ParamSpec("P")
R = TypeVar("R")


def tcc_transaction(
    *,
    confirm: Step,
    cancel: Step,
    source: FencedDataSource | None = None,
    carry: tuple[str, ...] = (),
    name: str = "",
    resource_id: str = "",
    application: Application | None = None,
) -> Callable[[Callable[Concatenate[ActionContext, P], R]], Callable[P, R]]:
    """Make a function the Try of a branch; its first argument, the context, is given to it.

    ::

        @tidelock.tcc_transaction(confirm=sell, cancel=give_back, source=stock, carry=("sku",))
        def reserve(context: ActionContext, sku: str) -> None:
            context.connection.execute("UPDATE stock SET reserved = reserved + 1 WHERE sku = ?", …)

        reserve("tea")  # within a global transaction

    A call registers a branch, then runs the Try. When the transaction commits, `confirm(context)`
    is called, when it rolls back `cancel(context)`, in this process or another one that has the
    same action, again and again until it returns. An exception of the Try rolls the transaction
    back, unless it is caught; then, too, nothing can be committed any more.

    With a `source` each step is one local transaction with its row in `tidelock_fence`: Confirm and
    Cancel take effect once, a Cancel without a Try does nothing, and a Try after its Cancel is
    refused. Without one the coordinator keeps the fence: each step is done at least once, and a
    Cancel may find that its Try was done in part, or not at all.

    Args:
        confirm, cancel: what they need is in `context.data`.
        source: the database that all three work in, by `context.connection`. They are `def` or
            `async def` as its driver is blocking or not.
        carry: names of arguments of the Try that are in `context.data` from the beginning.
        name: by which other processes find the same action; the function's module and name unless
            given, so give one that stays when code moves.
        resource_id: instead of `<application>:<name>`, up to 256 bytes.
        application: instead of the configured one.

    Raises, where it decorates:
        TypeError, ValueError: a function is of the wrong kind, an argument is not the function's.

    Raises, where the function is called:
        TransactionRequiredError: there is no global transaction.
        TryRefusedError: it was rolled back meanwhile; nothing of the Try is left.
        ValueError: the data is no JSON, or too large.
        FenceError: the connection does not do.
        What the client raises when nobody can be asked, and whatever the Try raises.
    """

    def decorate(function: Callable[Concatenate[ActionContext, P], R]) -> Callable[P, R]:
        for each in (function, confirm, cancel):
            refuse_generators(each, "tcc_transaction")
        action = _TccAction(
            function,
            {"confirm": confirm, "cancel": cancel},
            source=source,
            name=name or name_of(function),
            resource_id=resource_id,
            application=application,
            carried=carry,
        )
        return cast("Callable[P, R]", action.function())

    return decorate


class _TccAction(Action):
    """A Try with its Confirm and its Cancel."""

    mode = "TCC"
    refusal = TryRefusedError
    step_is_called = "Try"

    def __init__(
        self, function: Callable[..., Any], later: dict[str, Step], *, carried: Any, **options: Any
    ) -> None:
        self._signature = inspect.signature(function)
        self._carried: tuple[str, ...] = carried
        for each in self._carried:
            if each not in self._signature.parameters:
                raise ValueError(f"{function.__qualname__} has no argument {each!r} to carry")
        super().__init__(function, later, **options)

    def data_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that Confirm and Cancel find as data."""
        bound = self._signature.bind(None, *args, **kwargs)
        bound.apply_defaults()
        return {each: bound.arguments[each] for each in self._carried}
