"""`@tcc_transaction`: a function that reserves, and the two that keep it or give it back."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from tidelock.application import Application, configured, declare
from tidelock.calls import Calls
from tidelock.crash_points import reached
from tidelock.driving import drive
from tidelock.errors import (
    BranchNotFoundError,
    BranchStatusFixedError,
    TidelockError,
    TransactionNotActiveError,
    TransactionNotFoundError,
)
from tidelock.rm.workers import in_worker
from tidelock.tcc.context import ActionContext, encoded
from tidelock.tcc.coordinator_fence import CoordinatorFence
from tidelock.tcc.database_fence import DatabaseFence
from tidelock.tcc.errors import TryRefusedError
from tidelock.tcc.fence import Fence, Work
from tidelock.tcc.resource import TccResource
from tidelock.tcc.source import TccDataSource
from tidelock.transaction.blocks import refuse_generators
from tidelock.transaction.context import current_xid
from tidelock.transaction.errors import TransactionRequiredError
from tidelock.transaction.shielding import Protect, shielded, unprotected

P = ParamSpec("P")
R = TypeVar("R")

Step = Callable[[ActionContext], object]
"""A Confirm or a Cancel; what it returns is not looked at."""

GREATEST_NAME_BYTES: Final = 200

_log: Final = logging.getLogger(__name__)

_REFUSED: Final = (
    TransactionNotActiveError,
    TransactionNotFoundError,
    BranchNotFoundError,
    BranchStatusFixedError,
)


def tcc_transaction(
    *,
    confirm: Step,
    cancel: Step,
    source: TccDataSource | None = None,
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
        action = _Action(
            function,
            confirm,
            cancel,
            source=source,
            carried=_Carried(function, carry),
            name=name or f"{function.__module__}.{function.__qualname__}".replace(".<locals>", ""),
            resource_id=resource_id,
            application=application,
        )
        return cast("Callable[P, R]", action.function())

    return decorate


class _Carried:
    """The arguments of a Try that its Confirm and Cancel find as data."""

    def __init__(self, function: Callable[..., Any], names: tuple[str, ...]) -> None:
        self._signature = inspect.signature(function)
        self._names = names
        for each in names:
            if each not in self._signature.parameters:
                raise ValueError(f"{function.__qualname__} has no argument {each!r} to carry")

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return them. Raises: TypeError: the call does not fit the function."""
        bound = self._signature.bind(None, *args, **kwargs)
        bound.apply_defaults()
        return {each: bound.arguments[each] for each in self._names}


class _Action:
    """A Try with its Confirm and its Cancel."""

    def __init__(
        self,
        function: Callable[..., Any],
        confirm: Step,
        cancel: Step,
        *,
        source: TccDataSource | None,
        carried: _Carried,
        name: str,
        resource_id: str,
        application: Application | None,
    ) -> None:
        self._try = function
        self._confirm = confirm
        self._cancel = cancel
        self._source = source
        self._carried = carried
        self._name = name
        self._given_id = resource_id
        self._application = application
        self._awaits = inspect.iscoroutinefunction(function)
        self._origin = f"{function.__module__}.{function.__qualname__}"
        self._check_kinds()
        if not name.isprintable() or len(name.encode()) > GREATEST_NAME_BYTES:
            raise ValueError(f"{name[:80]!r} is no name of an action: up to 200 printable bytes")
        if application is None:
            declare(self.attach)
        else:
            self.attach(application)

    def _check_kinds(self) -> None:
        others = {
            what: inspect.iscoroutinefunction(each)
            for what, each in (("confirm", self._confirm), ("cancel", self._cancel))
        }
        if self._source is not None:
            for what, awaits in others.items():
                if awaits is not self._awaits:
                    kinds = ("`def`", "`async def`")
                    raise TypeError(
                        f"{what} of {self._name} is {kinds[awaits]}, and its Try "
                        f"{kinds[self._awaits]}: with one database all three are of one kind"
                    )
            self._source.serve(blocking=not self._awaits)
        elif not self._awaits and others["cancel"]:
            raise TypeError(
                f"cancel of {self._name} is `async def`, and its Try `def`, after which it may "
                "have to run in the same thread"
            )

    def function(self) -> Callable[..., Any]:
        """Return what the application calls."""
        if self._awaits:

            @functools.wraps(self._try)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                application = self._application or configured()
                return await self._call(application, application.awaiting, shielded, args, kwargs)

            return awaited

        @functools.wraps(self._try)
        def called(*args: Any, **kwargs: Any) -> Any:
            application = self._application or configured()
            return drive(self._call(application, application.blocking, unprotected, args, kwargs))

        return called

    def attach(self, application: Application) -> TccResource:
        """Have an application answer for branches of the action.

        Raises:
            ValueError: the id is too long, there are too many, or another action has it.
        """
        resource_id = self._given_id or f"{application.application_id}:{self._name}"
        found = application.resource("TCC", resource_id)
        if isinstance(found, TccResource):
            if found.origin == self._origin:
                return found
            raise ValueError(
                f"{found.origin} and {self._origin} are two actions of one name, {self._name}: "
                "give each its own"
            )
        fence = self._fence(application, application.awaiting)
        confirm, cancel = self._later(self._confirm), self._later(self._cancel)
        made = TccResource(resource_id, self._origin, fence, confirm, cancel)
        application.attach(made)
        return made

    def _fence(self, application: Application, calls: Calls) -> Fence:
        if self._source is not None:
            return DatabaseFence(application, self._source, self._name)
        return CoordinatorFence(application, self._name, calls)

    def _later(self, step: Step) -> Work:
        """Return a step as the coordinator's word runs it, on the application's own loop.

        With a database that is blocking, the whole local transaction is in a worker already.
        """
        if self._source is not None or inspect.iscoroutinefunction(step):
            return _as_work(step)

        async def in_thread(context: ActionContext) -> None:
            await in_worker(lambda: step(context))

        return in_thread

    # --- a call

    async def _call(
        self,
        application: Application,
        calls: Calls,
        protect: Protect,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        data = self._carried.of(args, kwargs)
        encoded(self._name, data)
        context = await self._registered(application, calls, data)
        fence = self._fence(application, calls)
        cancel = _as_work(self._cancel)

        async def work(context: ActionContext) -> Any:
            value = self._try(context, *args, **kwargs)
            return await cast("Awaitable[Any]", value) if self._awaits else value

        try:
            value = await fence.run_try(context, work, cancel, protect)
            encoded(self._name, context.data)
        except BaseException as error:
            await protect(self._say_failed(calls, context, error))
            raise
        try:
            reached("tcc.before-report")
            await protect(self._say_done(calls, context))
            reached("tcc.after-report")
        except _REFUSED as refused:
            await fence.take_back(context, cancel, refused, protect)
            raise TryRefusedError(
                f"{self._name} was done too late: its transaction {context.xid} was rolled back"
            ) from refused
        return value

    async def _registered(
        self, application: Application, calls: Calls, data: dict[str, Any]
    ) -> ActionContext:
        xid = current_xid()
        if xid is None:
            raise TransactionRequiredError(
                f"{self._name} was called outside of a global transaction: put "
                "@tidelock.global_transaction, or `with tidelock.transaction()`, around it"
            )
        resource = self.attach(application)
        session_id = await application.session_id(calls)
        reached("tcc.before-register")
        registered = await calls(
            lambda client: client.branches.register(
                xid,
                "TCC",
                resource.resource_id,
                application_id=application.application_id,
                session_id=session_id,
                application_data=data or None,
            )
        )
        reached("tcc.after-register")
        return ActionContext(
            xid=xid, branch_id=registered.branch_id, name=self._name, data=dict(data)
        )

    async def _say_done(self, calls: Calls, context: ActionContext) -> None:
        await calls(
            lambda client: client.branches.report(
                context.xid,
                context.branch_id,
                "PHASE_ONE_DONE",
                application_data=context.data or None,
            )
        )

    async def _say_failed(self, calls: Calls, context: ActionContext, error: BaseException) -> None:
        try:
            await calls(
                lambda client: client.branches.report(
                    context.xid,
                    context.branch_id,
                    "PHASE_ONE_FAILED",
                    application_data=context.data or None,
                    error_type=type(error).__name__[:100],
                    error_message=f"{error}"[:1_000],
                )
            )
        except (TidelockError, TypeError, ValueError) as lost:
            # Without a report the transaction will not be committed either.
            _log.warning("%r failed, and could not say so: %s", context, lost)


def _as_work(step: Callable[..., Any]) -> Work:
    """Return a step as what is awaited; a `def` never waits."""
    if inspect.iscoroutinefunction(step):
        return cast("Work", step)

    async def done(context: ActionContext) -> Any:
        return step(context)

    return done
