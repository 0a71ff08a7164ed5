"""`@saga_step`: a function as a step of a saga, and the one that undoes it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from tidelock.application import Application
from tidelock.calls import Calls
from tidelock.errors import ProblemError, TidelockError
from tidelock.fence.action import Action, Failure, Step, name_of
from tidelock.fence.context import ActionContext, encoded
from tidelock.fence.errors import StepRefusedError
from tidelock.fence.fence import Fence, Work
from tidelock.fence.source import FencedDataSource
from tidelock.rm.resource import BranchCall
from tidelock.saga.arguments import Arguments
from tidelock.saga.errors import StepReportLostError
from tidelock.transaction.blocks import refuse_generators
from tidelock.transaction.shielding import Protect

P = ParamSpec("P")
R = TypeVar("R")

ExceptionType = type[Exception]


def saga_step(
    *,
    compensate: Callable[..., object],
    source: FencedDataSource | None = None,
    refused_by: ExceptionType | tuple[ExceptionType, ...] = (),
    name: str = "",
    resource_id: str = "",
    application: Application | None = None,
) -> Callable[[Callable[Concatenate[ActionContext, P], R]], Callable[P, R]]:
    """Make a function a step of a saga; its first argument, the context, is given to it.

    ::

        @tidelock.saga_step(compensate=give_back, source=stock, refused_by=OutOfStockError)
        def take(context: ActionContext, sku: str, count: int) -> None:
            context.connection.execute("UPDATE stock SET free = free - ? …", (count, sku))

        def give_back(context: ActionContext, sku: str, count: int) -> None: …

        take("tea", 3)  # within a global transaction

    A call registers a branch, then runs the step, which is visible to everybody once it is done.
    When the transaction rolls back, `compensate(context, ...)` is called with the same arguments,
    by name, in this process or another one that has the same step, again and again until it
    returns; those of several steps one after the other, the last one first. A commit changes
    nothing more.

    With a `source` the step, and its compensation, is one local transaction with a row in
    `tidelock_fence`: a compensation takes effect once, one without its step does nothing, and a
    step after it is refused. Without one the coordinator keeps the fence: both are done at least
    once, and a compensation may find that its step was done in part, or not at all.

    Args:
        compensate: undoes what the step did. What the step puts into `context.data` it finds there,
            besides the arguments.
        source: the database that both work in, by `context.connection`. They are `def` or
            `async def` as its driver is blocking or not.
        refused_by: what the step raises when it has done nothing and never will. Nothing is
            compensated then, and who catches it may go on and commit. Whatever else it raises has
            the transaction rolled back, caught or not, and without a database is compensated.
        name: by which other processes find the same step; the function's module and name unless
            given, so give one that stays when code moves.
        resource_id: instead of `<application>:<name>`, up to 256 bytes.
        application: instead of the configured one.

    Raises, where it decorates:
        TypeError, ValueError: a function is of the wrong kind, or the compensation does not take
            the arguments of the step.

    Raises, where the function is called:
        TransactionRequiredError: there is no global transaction.
        StepRefusedError: it was rolled back meanwhile; nothing of the step is left.
        StepReportLostError: it failed, and the coordinator could not be told.
        ValueError: arguments and data are no JSON, or too large.
        FenceError: the connection does not do.
        What the client raises when nobody can be asked, and whatever the step raises.
    """

    def decorate(function: Callable[Concatenate[ActionContext, P], R]) -> Callable[P, R]:
        for each in (function, compensate):
            refuse_generators(each, "saga_step")
        action = _SagaAction(
            function,
            compensate,
            refused_by,
            source=source,
            name=name or name_of(function),
            resource_id=resource_id,
            application=application,
        )
        return cast("Callable[P, R]", action.function())

    return decorate


class _SagaAction(Action):
    """A step with its compensation."""

    mode = "SAGA"
    refusal = StepRefusedError
    step_is_called = "step"

    def __init__(
        self,
        function: Callable[..., Any],
        compensate: Callable[..., object],
        refused_by: ExceptionType | tuple[ExceptionType, ...],
        **options: Any,
    ) -> None:
        self._arguments = Arguments(function)
        self._arguments.check_undone_by(compensate)
        self._refused_by = refused_by
        super().__init__(function, {"compensate": self._with_arguments(compensate)}, **options)

    def _with_arguments(self, compensate: Callable[..., Any]) -> Step:
        """Return the compensation as a function of the context alone."""
        if inspect.iscoroutinefunction(compensate):

            @functools.wraps(compensate)
            async def awaited(context: ActionContext) -> None:
                await compensate(context, **self._arguments.decoded(context.data))

            return awaited

        @functools.wraps(compensate)
        def called(context: ActionContext) -> None:
            compensate(context, **self._arguments.decoded(context.data))

        return called

    def data_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return all arguments by name."""
        return self._arguments.encoded(args, kwargs)

    def check_data(self, before: dict[str, Any], context: ActionContext) -> None:
        """See that the arguments are still what the step was called with."""
        for name in self._arguments.names:
            if name not in context.data or context.data[name] != before[name]:
                raise ValueError(
                    f"{self._name} has replaced {name} in context.data, which is an argument that "
                    "its compensation needs: use another name"
                )
        encoded(self._name, context.data)

    def verdict_on(self, error: BaseException, *, by_step: bool) -> Failure:
        """A step that has refused has done nothing, so there is nothing to compensate."""
        refused = by_step and isinstance(error, self._refused_by)
        return "WITHDRAWN" if refused else "PHASE_ONE_FAILED"

    def not_reported(
        self, context: ActionContext, error: BaseException, lost: TidelockError
    ) -> None:
        """Say so: who catches what the step raised would not know that it cannot be committed."""
        super().not_reported(context, error, lost)
        if isinstance(error, Exception):
            raise StepReportLostError(
                f"{self._name} failed, and the coordinator could not be told, so "
                f"{context.xid} will not be committed: {lost}"
            ) from lost

    async def done_too_late(
        self,
        fence: Fence,
        calls: Calls,
        context: ActionContext,
        refused: ProblemError,
        protect: Protect,
    ) -> None:
        """A step that was registered after the decision to commit is done, as all others are."""
        standing = refused.transaction
        if standing is None or not standing.status.startswith(("COMMIT", "ASYNC_COMMIT")):
            await super().done_too_late(fence, calls, context, refused, protect)
        elif standing.ended_at is not None:
            # Nobody cleans up after it any more.
            branch = BranchCall(
                xid=context.xid, branch_id=context.branch_id, mode="SAGA", resource_id=""
            )
            cancel = self._by_word(self._cancel)
            await protect(calls(lambda _: _forgotten(fence, branch, cancel)))


def _forgotten(fence: Fence, branch: BranchCall, cancel: Work) -> Coroutine[Any, Any, None]:
    return fence.forget([branch], cancel)
