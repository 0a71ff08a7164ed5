"""A function as a step of a global transaction, with what keeps and what undoes it."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, Literal, cast

from tidelock.application import Application, configured, declare
from tidelock.calls import Calls
from tidelock.crash_points import reached
from tidelock.driving import drive
from tidelock.errors import (
    BranchNotFoundError,
    BranchStatusFixedError,
    ProblemError,
    TidelockError,
    TransactionNotActiveError,
    TransactionNotFoundError,
)
from tidelock.fence.context import ActionContext, encoded
from tidelock.fence.coordinator_fence import CoordinatorFence
from tidelock.fence.database_fence import DatabaseFence
from tidelock.fence.errors import StepRefusedError
from tidelock.fence.fence import Fence, Work
from tidelock.fence.resource import FencedResource
from tidelock.fence.source import FencedDataSource
from tidelock.rm.workers import in_worker
from tidelock.transaction.context import current_xid
from tidelock.transaction.errors import TransactionRequiredError
from tidelock.transaction.shielding import Protect, shielded, unprotected

Step = Callable[[ActionContext], object]
"""What keeps or undoes a step; what it returns is not looked at."""

Failure = Literal["PHASE_ONE_FAILED", "WITHDRAWN"]

GREATEST_NAME_BYTES: Final = 200

_log: Final = logging.getLogger(__name__)

REFUSED: Final = (
    TransactionNotActiveError,
    TransactionNotFoundError,
    BranchNotFoundError,
    BranchStatusFixedError,
)
"""How the coordinator answers what comes too late."""


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of an action that was given none."""
    return f"{function.__module__}.{function.__qualname__}".replace(".<locals>", "")


class Action:
    """A step with its Confirm, if its mode has one, and its Cancel. One class for each mode."""

    mode: ClassVar[Literal["TCC", "SAGA"]]
    refusal: ClassVar[type[StepRefusedError]]
    """What who calls a step too late is told."""
    step_is_called: ClassVar[str]

    def __init__(
        self,
        function: Callable[..., Any],
        later: dict[str, Step],
        *,
        source: FencedDataSource | None,
        name: str,
        resource_id: str,
        application: Application | None,
    ) -> None:
        """`later` has the Confirm, if there is one, then the Cancel, by what users call them."""
        self._step = function
        self._later = later
        *confirm, self._cancel = later.values()
        self._confirm = confirm[0] if confirm else None
        self._source = source
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

    # --- what modes differ in

    def data_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return what the context of a call has as data from the beginning.

        Raises: TypeError: the call does not fit the function. ValueError: it cannot be kept.
        """
        raise NotImplementedError

    def check_data(self, before: dict[str, Any], context: ActionContext) -> None:
        """See that what the step has made of its data can be kept. Raises: ValueError."""
        encoded(self._name, context.data)

    def verdict_on(self, error: BaseException, *, by_step: bool) -> Failure:
        """Tell what is to be reported of a failure, which the step itself has raised or not."""
        return "PHASE_ONE_FAILED"

    def not_reported(
        self, context: ActionContext, error: BaseException, lost: TidelockError
    ) -> None:
        """The coordinator could not be told that a step has failed. It may raise something."""
        # A transaction with a branch that never reports is not committed.
        _log.warning("%r failed, and could not say so: %s", context, lost)

    async def done_too_late(
        self,
        fence: Fence,
        calls: Calls,
        context: ActionContext,
        refused: ProblemError,
        protect: Protect,
    ) -> None:
        """The step is done, and its transaction was decided meanwhile.

        Raises: StepRefusedError: it was rolled back.
        """
        await fence.take_back(context, _as_work(self._cancel), refused, protect)
        raise self.refusal(
            f"{self._name} was done too late: its transaction {context.xid} was rolled back"
        ) from refused

    # --- its making

    def _check_kinds(self) -> None:
        kinds = ("`def`", "`async def`")
        others = {what: inspect.iscoroutinefunction(each) for what, each in self._later.items()}
        if self._source is not None:
            for what, awaits in others.items():
                if awaits is not self._awaits:
                    raise TypeError(
                        f"{what} of {self._name} is {kinds[awaits]}, and its {self.step_is_called} "
                        f"{kinds[self._awaits]}: with one database all {_COUNTS[len(others)]} are "
                        "of one kind"
                    )
            self._source.serve(blocking=not self._awaits)
        *_, (undoing, undoing_awaits) = others.items()
        if self._source is None and not self._awaits and undoing_awaits:
            raise TypeError(
                f"{undoing} of {self._name} is `async def`, and its {self.step_is_called} `def`, "
                "after which it may have to run in the same thread"
            )

    def function(self) -> Callable[..., Any]:
        """Return what the application calls."""
        if self._awaits:

            @functools.wraps(self._step)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                application = self._application or configured()
                return await self._call(application, application.awaiting, shielded, args, kwargs)

            return awaited

        @functools.wraps(self._step)
        def called(*args: Any, **kwargs: Any) -> Any:
            application = self._application or configured()
            return drive(self._call(application, application.blocking, unprotected, args, kwargs))

        return called

    def attach(self, application: Application) -> FencedResource:
        """Have an application answer for branches of the action.

        Raises:
            ValueError: the id is too long, there are too many, or another action has it.
        """
        resource_id = self._given_id or f"{application.application_id}:{self._name}"
        found = application.resource(self.mode, resource_id)
        if isinstance(found, FencedResource):
            if found.origin == self._origin and found.source is self._source:
                return found
            if found.origin == self._origin:
                raise ValueError(
                    f"{self._origin} is an action twice in this process by the name {self._name}, "
                    "with different sources, and nobody could tell in which database a branch of "
                    "it works: give each its own name"
                )
            raise ValueError(
                f"{found.origin} and {self._origin} are two actions of one name, {self._name}: "
                "give each its own"
            )
        made = FencedResource(
            self.mode,
            resource_id,
            self._origin,
            self._fence(application, application.awaiting),
            None if self._confirm is None else self._by_word(self._confirm),
            self._by_word(self._cancel),
            self._source,
        )
        application.attach(made)
        return made

    def _fence(self, application: Application, calls: Calls) -> Fence:
        if self._source is not None:
            return DatabaseFence(application, self._source, self._name, self.refusal)
        return CoordinatorFence(application, self._name, calls, self.refusal)

    def _by_word(self, step: Step) -> Work:
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
        kwargs: dict[str, Any],
    ) -> Any:
        data = self.data_of(args, kwargs)
        encoded(self._name, data)
        context = await self._registered(application, calls, data)
        fence = self._fence(application, calls)
        raised: BaseException | None = None

        async def work(context: ActionContext) -> Any:
            nonlocal raised
            try:
                value = self._step(context, *args, **kwargs)
                return await cast("Awaitable[Any]", value) if self._awaits else value
            except BaseException as error:
                raised = error
                raise

        async def checked_work(context: ActionContext) -> Any:
            value = await work(context)
            self.check_data(data, context)
            return value

        try:
            value = await fence.run_step(context, checked_work, _as_work(self._cancel), protect)
        except BaseException as error:
            verdict = self.verdict_on(error, by_step=error is raised)
            await protect(self._say_failed(calls, context, verdict, error))
            raise
        try:
            reached("fence.before-report")
            await protect(self._say_done(calls, context))
            reached("fence.after-report")
        except REFUSED as refused:
            await self.done_too_late(fence, calls, context, refused, protect)
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
        reached("fence.before-register")
        registered = await calls(
            lambda client: client.branches.register(
                xid,
                self.mode,
                resource.resource_id,
                application_id=application.application_id,
                session_id=session_id,
                application_data=data or None,
            )
        )
        reached("fence.after-register")
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

    async def _say_failed(
        self, calls: Calls, context: ActionContext, verdict: Failure, error: BaseException
    ) -> None:
        try:
            reached("fence.before-failure-report")
            await calls(
                lambda client: client.branches.report(
                    context.xid,
                    context.branch_id,
                    verdict,
                    application_data=_sendable(context.data),
                    error_type=type(error).__name__[:100],
                    error_message=f"{error}"[:1_000],
                )
            )
            reached("fence.after-failure-report")
        except REFUSED:
            # It was rolled back meanwhile, and who has failed need not tell.
            return
        except TidelockError as lost:
            self.not_reported(context, error, lost)


_COUNTS: Final = {1: "both", 2: "three"}


def _sendable(data: dict[str, Any]) -> dict[str, Any] | None:
    """Return data unless it is what the step failed for: that it cannot be kept."""
    try:
        encoded("", data)
    except ValueError:
        return None
    return data or None


def _as_work(step: Callable[..., Any]) -> Work:
    """Return a step as what is awaited; a `def` never waits."""
    if inspect.iscoroutinefunction(step):
        return cast("Work", step)

    async def done(context: ActionContext) -> Any:
        return step(context)

    return done
