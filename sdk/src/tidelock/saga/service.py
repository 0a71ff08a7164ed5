"""Functions as steps of sagas that the cluster runs: what it calls, and what it is answered.

The service is an ASGI application, and for aiohttp there is `SagaService.aiohttp_handler`. Each
function is at `/name`, its compensation at `/name/compensate`.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import msgspec
from aiohttp import web

from tidelock.application import Application, configured
from tidelock.barrier.barrier import BranchBarrier
from tidelock.barrier.branch import Branch, BranchRequestError
from tidelock.barrier.outcomes import Outcome
from tidelock.barrier.signatures import SIGNATURE, SignatureError, verify
from tidelock.barrier.sweeping import ENDED_SINCE_MS, Sweeper, Swept
from tidelock.barrier.tables import BARRIER
from tidelock.client.runs import Retry, SagaStep
from tidelock.crash_points import reached
from tidelock.fence.source import FencedDataSource, check_open
from tidelock.saga.arguments import Arguments
from tidelock.saga.asgi import Receive, Scope, Send, serve
from tidelock.saga.context import StepContext
from tidelock.saga.results import DEFAULT_TABLE, GREATEST_RESULT_BYTES, ResultTable, StepResult
from tidelock.saga.serving import (
    GREATEST_BODY_BYTES,
    PayloadError,
    Reply,
    Request,
    arguments_of,
    failed,
    read_payload,
    refusal_of,
)
from tidelock.sql.session import Session, release, rollback_to, savepoint
from tidelock.transaction.blocks import refuse_generators

P = ParamSpec("P")
R = TypeVar("R")

StepFunction = Callable[Concatenate[StepContext, P], R]
ExceptionType = type[Exception]

COMPENSATE: Final = "compensate"

_ACTIONS: Final = frozenset({"forward", "action"})
_COMPENSATIONS: Final = frozenset({"rollback", "compensate"})
_BEFORE_THE_STEP: Final = "tidelock_saga_step"

_log: Final = logging.getLogger(__name__)


class _Served:
    """A step that is served."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        compensate: Callable[..., Any] | None,
        refused_by: ExceptionType | tuple[ExceptionType, ...],
        timeout_ms: int | None,
        retry: Retry | None,
    ) -> None:
        self.name: Final = name
        self.function: Final = function
        self.arguments: Final = Arguments(function)
        self.compensate: Final = compensate
        self.undone_by: Final = None if compensate is None else Arguments(compensate)
        self.refused_by: Final = refused_by
        self.timeout_ms: Final = timeout_ms
        self.retry: Final = retry


class SagaService:
    """Serves functions to the cluster, each with its compensation, behind a barrier::

        shop = SagaService(SagaDataSource(lambda: sqlite3.connect("shop.db")))

        @shop.step(compensate=give_back, refused_by=OutOfStockError)
        def take(context: StepContext, sku: str, count: int) -> dict[str, int]: ...

        app.mount("/saga", shop)  # an ASGI application, here within FastAPI

        await client.sagas.run(shop.steps("http://shop:9000/saga", {"take": {"sku": …}}))

    The members of a step's payload are the function's arguments, what it returns is its result. The
    database needs the tables of `barrier_ddl` and `saga_result_ddl`: each function is one local
    transaction with its rows in them. It is done once however often it is called, answers the same
    each time, is not undone before it was done, and not done after it was undone.
    """

    def __init__(
        self,
        source: FencedDataSource,
        *,
        key: bytes | None = None,
        barrier_table: str = BARRIER,
        result_table: str = DEFAULT_TABLE,
    ) -> None:
        """Let functions work in a database, by `context.connection`.

        With a `key`, that of the operator's `delivery.signature_key_file`, calls that are not
        signed with it are answered 401.

        Raises:
            ValueError: the key is empty.
        """
        if key is not None and not key:
            raise ValueError("the key of signatures is empty")
        self._source = source
        self._key = key
        self._barrier_table = barrier_table
        self._result_table = result_table
        self._steps: dict[str, _Served] = {}

    # --- what is served

    def step(
        self,
        *,
        compensate: Callable[..., object] | None = None,
        refused_by: ExceptionType | tuple[ExceptionType, ...] = (),
        name: str = "",
        timeout_ms: int | None = None,
        retry: Retry | None = None,
    ) -> Callable[[StepFunction[P, R]], StepFunction[P, R]]:
        """Serve a function; its first argument, the context, is given to it.

        Args:
            compensate: undoes what it did, with those of the arguments that it names; what the
                function has returned is in `context.result`. None: there is nothing to undo.
            refused_by: what the function raises when nothing is done and never will be, which is
                answered 409: the saga is undone. Its `code`, if it has one, is told. After anything
                else the function is called again.
            name: the function's own unless given.
            timeout_ms, retry: of `steps`: how long one call may take, how it is repeated.

        Raises:
            TypeError, ValueError: a function is of the wrong kind, or the name is taken.
        """

        def decorate(function: StepFunction[P, R]) -> StepFunction[P, R]:
            given = name or getattr(function, "__name__", "")
            if not given or not all(each.isalnum() or each in "_-" for each in given):
                raise ValueError(f"{given!r} is no name of a step: letters, digits, - and _")
            if given in self._steps:
                raise ValueError(f"there is a step {given!r} already")
            for each in (function, *([] if compensate is None else [compensate])):
                refuse_generators(each, "SagaService.step")
            awaits = inspect.iscoroutinefunction(function)
            if compensate is not None and inspect.iscoroutinefunction(compensate) is not awaits:
                raise TypeError(f"{given} and its compensation are both `def`, or both `async def`")
            self._source.serve(blocking=not awaits)
            self._steps[given] = _Served(given, function, compensate, refused_by, timeout_ms, retry)
            return function

        return decorate

    def steps(
        self,
        base_url: str,
        payloads: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        depends_on: Mapping[str, Sequence[str]] | None = None,
    ) -> list[SagaStep]:
        """Return steps for `client.sagas.run`, where this service is reached at `base_url`.

        They are those of `payloads`, in its order, or all, in the order of their definition. A
        payload has the arguments by name; `{"$ref": "step.path"}` stands for what an earlier step
        returned.

        Raises:
            ValueError: there is no such step, or its arguments are others.
        """
        wanted = dict.fromkeys(self._steps, None) if payloads is None else dict(payloads)
        for name in (*wanted, *(depends_on or {})):
            if name not in self._steps:
                raise ValueError(f"no step {name!r} is served: there are {', '.join(self._steps)}")
        return [
            self._described(base_url.rstrip("/"), name, payload, (depends_on or {}).get(name))
            for name, payload in wanted.items()
        ]

    def _described(
        self,
        base_url: str,
        name: str,
        payload: Mapping[str, Any] | None,
        depends_on: Sequence[str] | None,
    ) -> SagaStep:
        step = self._steps[name]
        if payload is not None and "$ref" not in payload:
            step.arguments.check_names(payload)
        return SagaStep(
            name=name,
            action=f"{base_url}/{name}",
            compensation="" if step.compensate is None else f"{base_url}/{name}/{COMPENSATE}",
            payload=payload,
            depends_on=depends_on,
            timeout_ms=step.timeout_ms,
            retry=step.retry,
        )

    # --- serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI application, alone or mounted below a path."""
        await serve(self.answer, scope, receive, send)

    async def aiohttp_handler(self, request: web.Request) -> web.Response:
        """Serve for aiohttp: `app.router.add_post("/saga/{path:.+}", shop.aiohttp_handler)`."""
        if (request.content_length or 0) > GREATEST_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(GREATEST_BODY_BYTES, request.content_length or 0)
        path = request.match_info.get("path", request.path)
        reply = await self.answer(
            Request(
                path=path, query=request.query, headers=request.headers, body=await request.read()
            )
        )
        return web.Response(status=reply.status, body=reply.body, content_type="application/json")

    async def answer(self, request: Request) -> Reply:
        """Answer a call, whichever framework brings it. It raises nothing but cancellation."""
        name, _, what = request.path.strip("/").partition("/")
        step = self._steps.get(name)
        if step is None or what not in ("", COMPENSATE) or (what and step.compensate is None):
            return failed(404, "STEP_NOT_FOUND", f"no step is served at /{request.path.strip('/')}")
        try:
            if self._key is not None:
                sent = {key.lower(): value for key, value in request.headers.items()}
                verify(sent.get(SIGNATURE.lower()), request.body, self._key, time.time())
            branch = Branch.of_request(request.query, request.headers)
        except SignatureError as error:
            return failed(401, "SIGNATURE_INVALID", str(error))
        except BranchRequestError as error:
            return failed(400, "BRANCH_INVALID", str(error))
        if branch.op not in (_COMPENSATIONS if what else _ACTIONS):
            return failed(400, "OPERATION_INVALID", f"{branch.op} is not asked at this path")
        try:
            if what:
                return await self._compensated(step, branch, request.body)
            return await self._done(step, branch, request.body)
        except Exception as error:
            _log.exception("%s of %s of %s failed", what or "action", name, branch.gid)
            return failed(500, type(error).__name__, str(error))

    async def _done(self, step: _Served, branch: Branch, body: bytes) -> Reply:
        try:
            arguments = arguments_of(step.arguments, read_payload(body), exactly=True)
        except PayloadError as error:
            # It is wrong each time, and nothing was done.
            return failed(409, "PAYLOAD_INVALID", str(error))

        async def run(session: Session) -> Reply:
            place, table = (branch.gid, branch.branch_id), self._results(session)
            result: StepResult | None = None

            async def work() -> None:
                nonlocal result
                result = await self._run(step, branch, session, arguments)
                reached("saga.before-result-row")
                await table.insert(session, place, result)
                reached("saga.after-result-row")

            outcome = await self._barrier(branch).run_on(session, work)
            if outcome is Outcome.LATE:
                return failed(409, "UNDONE_BEFORE", "this step was undone before it came")
            if outcome is Outcome.REPEATED:
                result = await table.read(session, place)
                if session.in_transaction:
                    await session.rollback()
            if result is None:
                return Reply(status=200, body=b"null")
            return Reply(status=409 if result.refused else 200, body=result.text.encode())

        return await self._source.database.run(run)

    async def _run(
        self, step: _Served, branch: Branch, session: Session, arguments: dict[str, Any]
    ) -> StepResult:
        """Run a step; one that refuses leaves nothing but that."""
        context = _context(step, branch, session)
        await savepoint(session, _BEFORE_THE_STEP)
        try:
            value = step.function(context, **arguments)
            if inspect.isawaitable(value):
                value = await value
        except step.refused_by as refused:
            await rollback_to(session, _BEFORE_THE_STEP)
            return StepResult(refused=True, text=refusal_of(refused))
        await check_open(session)
        await release(session, _BEFORE_THE_STEP)
        text = msgspec.json.encode(value)
        if len(text) > GREATEST_RESULT_BYTES:
            raise ValueError(
                f"{step.name} returned {len(text)} bytes of JSON, more than the cluster keeps "
                f"({GREATEST_RESULT_BYTES}): return a key, and keep the rest"
            )
        return StepResult(refused=False, text=text.decode())

    async def _compensated(self, step: _Served, branch: Branch, body: bytes) -> Reply:
        compensate, names = step.compensate, step.undone_by
        assert compensate is not None, "it was looked for"
        assert names is not None

        async def run(session: Session) -> Reply:
            async def work() -> None:
                done = await self._results(session).read(session, (branch.gid, branch.branch_id))
                if done is not None and done.refused:
                    return
                context = _context(step, branch, session)
                context.result = None if done is None else msgspec.json.decode(done.text)
                value = compensate(
                    context, **arguments_of(names, read_payload(body), exactly=False)
                )
                if inspect.isawaitable(value):
                    await value
                await check_open(session)

            await self._barrier(branch).run_on(session, work)
            return Reply(status=200, body=b"null")

        return await self._source.database.run(run)

    # --- cleaning up

    async def sweep(
        self, *, application: Application | None = None, ended_since_ms: int = ENDED_SINCE_MS
    ) -> Swept:
        """Delete the rows of transactions that have ended, as the cluster says. Call it now and
        then, from one process (docs/sdk/BARRIER.md of the repository).

        Raises: as `tidelock.barrier.sweeping.sweep`.
        """
        asked = configured() if application is None else application
        calls = asked.blocking if self._source.blocking else asked.awaiting

        async def run(session: Session) -> Swept:
            forget = self._results(session).forget
            sweeper = Sweeper(session, calls, self._barrier_table, ended_since_ms, forget)
            return await sweeper.sweep()

        return await self._source.database.run(run)

    def _barrier(self, branch: Branch) -> BranchBarrier:
        return BranchBarrier(branch, table=self._barrier_table)

    def _results(self, session: Session) -> ResultTable:
        return ResultTable(session.dialect, self._result_table)


def _context(step: _Served, branch: Branch, session: Session) -> StepContext:
    return StepContext(
        xid=branch.gid,
        branch_id=branch.branch_id,
        name=step.name,
        connection=session.connection,
    )
