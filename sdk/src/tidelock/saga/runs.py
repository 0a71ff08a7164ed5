"""Starting sagas that follow definitions, waiting for them, and reading where each state stands."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any, Final

from tidelock.application import Application, configured
from tidelock.calls import Calls
from tidelock.client import Client
from tidelock.client.answers import Saga, SagaDefinitionChange, SagaState, StepState
from tidelock.driving import drive
from tidelock.errors import OutcomeUnknownError, OverloadedError, UnavailableError, UnreachableError
from tidelock.saga.definition import SagaDefinition
from tidelock.saga.errors import SagaUnfinishedError
from tidelock.transaction.ending import Standing
from tidelock.transaction.verdicts import after_commit

_LEAST_PAUSE_S: Final = 0.02
_GREATEST_PAUSE_S: Final = 1.0

_AGAIN: Final = (OutcomeUnknownError, UnreachableError, UnavailableError, OverloadedError)


class SagaRunner:
    """Registers definitions and starts sagas that follow them, blocking or awaiting::

        sagas = SagaRunner()
        sagas.register(purchase)
        run = sagas.start("purchase", {"sku": "tea", "price": 19})
        run.wait()
        run.variables["taken"]

    The cluster runs them: a saga goes on though who started it is gone, and is found again by its
    xid.
    """

    def __init__(self, application: Application | None = None) -> None:
        """Use an application, instead of the configured one."""
        self._application = application

    def register(self, definition: SagaDefinition) -> SagaDefinitionChange:
        """Have sagas follow a definition from now on; those that run keep theirs to their end.

        Raises:
            InvalidRequestError: `errors` lists all that is wrong with it.
            What the client raises.
        """
        return drive(_register(self._asked.blocking, definition))

    async def register_async(self, definition: SagaDefinition) -> SagaDefinitionChange:
        """The same for coroutines. Raises: as `register`."""
        return await _register(self._asked.awaiting, definition)

    def start(
        self,
        name: str,
        input: Mapping[str, Any] | None = None,
        *,
        xid: str | None = None,
        transaction_timeout_ms: int | None = None,
    ) -> SagaRun:
        """Start a saga by the name of its definition, with its first variables.

        With an `xid` of yours, who starts it again is told so instead of starting another one.

        Raises:
            SagaDefinitionNotFoundError, TransactionExistsError; what the client raises.
        """
        found = _start(self._asked.blocking, name, input, xid, transaction_timeout_ms)
        return SagaRun(self._asked, drive(found))

    async def start_async(
        self,
        name: str,
        input: Mapping[str, Any] | None = None,
        *,
        xid: str | None = None,
        transaction_timeout_ms: int | None = None,
    ) -> SagaRun:
        """The same for coroutines. Raises: as `start`."""
        found = _start(self._asked.awaiting, name, input, xid, transaction_timeout_ms)
        return SagaRun(self._asked, await found)

    def find(self, xid: str) -> SagaRun:
        """Return a saga that was started. Raises: TransactionNotFoundError."""
        return SagaRun(self._asked, drive(_look(self._asked.blocking, xid)))

    async def find_async(self, xid: str) -> SagaRun:
        """The same for coroutines. Raises: as `find`."""
        return SagaRun(self._asked, await _look(self._asked.awaiting, xid))

    @property
    def _asked(self) -> Application:
        return self._application or configured()


class SagaRun:
    """A saga that was started, as it was last seen."""

    def __init__(self, application: Application, saga: Saga) -> None:
        self._application = application
        self.saga = saga
        """All that the cluster tells of it."""

    def __repr__(self) -> str:
        return f"<SagaRun {self.xid} {self.saga.status}>"

    @property
    def xid(self) -> str:
        """Its name in the cluster."""
        return self.saga.xid

    @property
    def states(self) -> list[SagaState]:
        """The states that it came to, in order."""
        return list(self.saga.states or [])

    @property
    def steps(self) -> list[StepState]:
        """The calls that were made, with what they answered."""
        return list(self.saga.steps)

    @property
    def variables(self) -> dict[str, Any]:
        """As its states have made them so far."""
        return dict(self.saga.variables or {})

    def state(self, name: str) -> SagaState | None:
        """Return the last visit to a state; None when it has not come there."""
        visits = [each for each in self.states if each.name == name]
        return visits[-1] if visits else None

    def refresh(self) -> SagaRun:
        """Look again. Raises: what the client raises."""
        self.saga = drive(_look(self._application.blocking, self.xid))
        return self

    async def refresh_async(self) -> SagaRun:
        """The same for coroutines. Raises: as `refresh`."""
        self.saga = await _look(self._application.awaiting, self.xid)
        return self

    def wait(self, within_ms: int = 60_000) -> SagaRun:
        """Wait until it is done, and return it. It goes on though nobody waits.

        Raises:
            TransactionRolledBackError: it was undone; `saga` says what went wrong.
            TransactionTimedOutError: the same, since its time was up.
            RollbackFailedError, CommitFailedError: something is left for an operator.
            SagaUnfinishedError: it is still at work.
        """
        drive(self._wait(self._application.blocking, within_ms))
        return self

    async def wait_async(self, within_ms: int = 60_000) -> SagaRun:
        """The same for coroutines. Raises: as `wait`."""
        await self._wait(self._application.awaiting, within_ms)
        return self

    async def _wait(self, calls: Calls, within_ms: int) -> None:
        if not (self.saga.has_ended or self.saga.has_failed):
            self.saga = await calls(lambda client: _ended(client, self.saga, within_ms))
        if not (self.saga.has_ended or self.saga.has_failed):
            raise SagaUnfinishedError(
                f"saga {self.xid} is {self.saga.status} after {within_ms} ms, and goes on"
            )
        after_commit(self.xid, Standing(self.saga.status, self.saga.reason))


async def _register(calls: Calls, definition: SagaDefinition) -> SagaDefinitionChange:
    text = definition.as_json()
    return await calls(lambda client: client.saga_definitions.put(definition.name, text))


async def _start(
    calls: Calls,
    name: str,
    input: Mapping[str, Any] | None,
    xid: str | None,
    timeout_ms: int | None,
) -> Saga:
    return await calls(
        lambda client: client.sagas.run(
            definition=name, input=input, xid=xid, transaction_timeout_ms=timeout_ms
        )
    )


async def _look(calls: Calls, xid: str) -> Saga:
    return await calls(lambda client: client.sagas.get(xid))


async def _ended(client: Client, saga: Saga, within_ms: int) -> Saga:
    """Look until a saga has ended, or the time is up; return what was seen last."""
    ends_at, pause_s = time.monotonic() + within_ms / 1000, _LEAST_PAUSE_S
    while (left_s := ends_at - time.monotonic()) > 0:
        # Nobody can say for the moment: that says nothing of the saga.
        with contextlib.suppress(*_AGAIN):
            saga = await client.sagas.get(saga.xid)
        if saga.has_ended or saga.has_failed:
            break
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _GREATEST_PAUSE_S)
    return saga
