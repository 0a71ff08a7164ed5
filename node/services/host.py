"""This node's part in the XA and JTA services: it hosts the worker and speaks for it in the log.

Everything that lasts stands in the replicated state. What is here can be lost with the node: who
takes over finds the execution, its owner's last word, and asks the coordinator for the rest.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Sequence
from typing import Final

from api.cluster import OutcomeUnknownError
from api.errors import Problem
from node.cluster import EngineCluster
from node.config import Config
from node.config.transaction_sections import DatabaseKind, PrimarySourceConfig, ServicesConfig
from node.consensus.engine import Engine
from node.services.agenda import Agenda
from node.services.worker_process import WorkerProcess
from services.messages import (
    Advance,
    Answer,
    Configure,
    Finish,
    FromWorker,
    Left,
    Ready,
    SourceSettings,
    Unavailable,
)
from services.registry import business_types
from statemachine.commands import (
    AdvanceExecution,
    AnyCommand,
    ClaimExecution,
    FinishExecution,
    Progress,
)
from statemachine.execution_rows import get_execution, parse_transaction_id
from statemachine.outcomes import Applied, ExecutionMoved, Outcome, Position, Rejected
from statemachine.store import DamagedStateError, Reader

logger = logging.getLogger(__name__)

_TIMEOUT_MS: Final = 5_000
_TRIES: Final = 4
_LEFT_FOR_S: Final = 1.0
_RETRY_S: Final = 0.2
_DRAIN_S: Final = 5.0
_PORTS: Final = {DatabaseKind.MARIADB: 3306, DatabaseKind.POSTGRESQL: 5432}

_UNREADABLE: Final = "Its password: "
_STARTING: Final = "The node's worker is starting. Ask again in a moment, or ask another node."


class ServicesHost:
    """`api.execution_runs.ExecutionRuns`, and work of the node, where it has data sources."""

    def __init__(
        self, engine: Engine, cluster: EngineCluster, reader: Reader, config: Config
    ) -> None:
        self._engine = engine
        self._cluster = cluster
        self._reader = reader
        self._config = config
        business = config.services_business
        self._agenda = Agenda(
            cluster.node_id,
            reader,
            concurrency=business.concurrency,
            lease_ms=business.lease_ms,
        )
        self._worker = WorkerProcess(self._settings, self._heard, self._ended)
        self._ready = False
        self._why_not = _STARTING
        self._types = business_types()
        self._stopping = False
        self._seen: tuple[int, int] | None = None
        self._woken = asyncio.Event()
        self._drained = asyncio.Event()
        self._waiting: dict[Position, list[asyncio.Future[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def of(
        cls, engine: Engine, cluster: EngineCluster, reader: Reader, config: Config
    ) -> list[ServicesHost]:
        """Return the host of a node's services; none when it has no data sources."""
        configured = config.services_primary.kind and config.services_secondary.kind
        return [cls(engine, cluster, reader, config)] if configured else []

    # --- for the API

    @property
    def lease_ms(self) -> int:
        return self._config.services_business.lease_ms

    @property
    def business_types(self) -> tuple[str, ...]:
        return self._types

    def refusal(self) -> Problem | None:
        if self._ready and not self._stopping:
            return None
        return Problem("SERVICES_UNAVAILABLE", self._why_not)

    async def ended(self, execution: Position) -> None:
        """Raises: OutcomeUnknownError: the node stops first."""
        if self._stopping:
            raise OutcomeUnknownError
        if self._has_ended(execution):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(execution, [])
        waiting.append(future)
        try:
            await future
        finally:
            waiting.remove(future)
            if not waiting:
                self._waiting.pop(execution, None)

    # --- as work of the node

    def start(self) -> None:
        self._engine.notices.on_applied.append(self._on_applied)
        self._worker.start()
        for each in (self._serve(), self._renew()):
            self._spawn(each)

    async def close(self) -> None:
        """Begin nothing more, let what runs come to its end for a while, end the worker."""
        self._stopping = True
        for waiting in list(self._waiting.values()):
            for future in waiting:
                if not future.done():
                    future.set_exception(OutcomeUnknownError())
        self._worker.stop()
        try:
            async with asyncio.timeout(_DRAIN_S):
                while self._agenda.running:
                    self._drained.clear()
                    await self._drained.wait()
        except TimeoutError:
            logger.warning("%d executions are left to other nodes", len(self._agenda.running))
        await self._worker.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_applied(self) -> None:
        if self._engine.machine.executions_revision == self._seen:
            return
        self._seen = self._engine.machine.executions_revision
        self._woken.set()
        for execution in [each for each in self._waiting if self._has_ended(each)]:
            for future in self._waiting[execution]:
                if not future.done():
                    future.set_result(None)

    def _has_ended(self, execution: Position) -> bool:
        row = get_execution(self._reader, execution)
        return row is None or row.ended

    async def _serve(self) -> None:
        """Give the worker what it is to run, whenever the state has something."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._woken.clear()
                claims: list[ClaimExecution] = []
                if self._ready and not self._stopping:
                    runs, claims = self._agenda.step(loop.time())
                    for position, run in runs:
                        self._agenda.running[position] = run.epoch
                        self._worker.send(run)
                if claims:
                    await self._claim(claims)
                    continue
                await self._sleep(self._agenda.next_wake_s(loop.time()))
            except DamagedStateError as error:
                self._cluster.report_damage(error)
                return
            except Exception as error:
                logger.info("the services were interrupted: %r", error)
                await asyncio.sleep(_RETRY_S)

    async def _claim(self, claims: Sequence[ClaimExecution]) -> None:
        answered = await self._cluster.propose_internal(claims, timeout_ms=_TIMEOUT_MS)
        for command, outcome in zip(claims, answered.outcomes, strict=True):
            if isinstance(outcome, Applied) and isinstance(outcome.result, ExecutionMoved):
                self._agenda.claimed[command.execution] = outcome.result.epoch

    async def _renew(self) -> None:
        """Keep what is owned, for as long as there is a worker that can run it."""
        while True:
            await asyncio.sleep(self.lease_ms / 3000)
            try:
                command = self._agenda.renewal() if self._ready else None
                if command is not None:
                    await self._cluster.propose_internal([command], timeout_ms=self.lease_ms)
            except DamagedStateError as error:
                self._cluster.report_damage(error)
                return
            except Exception as error:
                logger.info("leases of executions were not renewed: %r", error)

    async def _sleep(self, pause_s: float | None) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._woken.wait()
        except TimeoutError:
            return

    # --- the worker

    def _heard(self, message: FromWorker) -> None:
        match message:
            case Ready():
                self._ready = True
                self._types = message.business_types
                self._woken.set()
                logger.info("the services are ready")
            case Unavailable():
                self._ready = False
                self._why_not = f"A data source cannot be used: {message.why}"
            case Advance() | Finish():
                self._spawn(self._record(message))
            case Left():
                self._left(message)

    def _ended(self, why: str) -> None:
        self._ready = False
        self._why_not = why if why.startswith(_UNREADABLE) else _STARTING
        self._agenda.worker_died()
        self._drained.set()
        self._woken.set()

    def _left(self, message: Left) -> None:
        position = _position(message.execution)
        if self._agenda.running.get(position) == message.epoch:
            del self._agenda.running[position]
            self._drained.set()
            if not self._has_ended(position):
                # Under another epoch next time: this one has been worked on.
                self._agenda.claimed.pop(position, None)
                later = asyncio.get_running_loop().time() + _LEFT_FOR_S
                self._agenda.waits_until[position] = later
        self._woken.set()

    async def _record(self, message: Advance | Finish) -> None:
        command = self._command(message)
        error = "the cluster did not record it in time"
        for _ in range(_TRIES):
            try:
                answered = await self._cluster.propose_internal([command], timeout_ms=_TIMEOUT_MS)
            except Exception as failure:
                # Saying the same again under the same epoch changes nothing.
                logger.info("%s is not recorded yet: %r", message.execution, failure)
                await asyncio.sleep(_RETRY_S)
                continue
            error = self._error(message, answered.outcomes[0])
            break
        self._worker.send(Answer(call=message.call, error=error))

    def _error(self, message: Advance | Finish, outcome: Outcome) -> str:
        if not isinstance(outcome, Rejected):
            return ""
        row = get_execution(self._reader, _position(message.execution))
        if isinstance(message, Finish) and row is not None and row.ended:
            # Said twice, because the first answer was lost.
            return "" if row.epoch == message.epoch else outcome.detail
        return outcome.detail

    def _command(self, message: Advance | Finish) -> AnyCommand:
        position = _position(message.execution)
        if isinstance(message, Finish):
            failures = bytes(message.failures)
            return FinishExecution(
                execution=position,
                epoch=message.epoch,
                status=message.status,
                jta_status=message.jta_status,
                error=message.error,
                failures=b"" if failures == b"null" else failures,
                keep_ms=self._config.services_business.retention_ms,
            )
        steps = message.progress
        return AdvanceExecution(
            execution=position,
            epoch=message.epoch,
            jta_status=message.jta_status,
            xid=message.xid,
            progress=None
            if steps is None
            else Progress(steps.read, steps.written, steps.total, steps.batch),
            result=None if bytes(message.result) == b"null" else bytes(message.result),
            lease_ms=self.lease_ms,
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- what it is told

    def _settings(self) -> Configure:
        """Raises: ValueError: a password cannot be read."""
        config, business = self._config, self._config.services_business
        return Configure(
            node_id=config.node.id,
            addresses=_addresses(config),
            primary=_source("primary", config.services_primary, business),
            secondary=_source("secondary", config.services_secondary, business),
            concurrency=business.concurrency,
            transaction_timeout_ms=business.transaction_timeout_ms,
            rollback_wait_ms=business.rollback_wait_ms,
            batch_update_allowed=business.batch_update_allowed,
            migration_allowed=business.migration_allowed,
            create_tables=business.create_tables,
            log_level=config.log.level.value,
        )


def _addresses(config: Config) -> tuple[str, ...]:
    """Return where the worker finds the API: at its own node first."""
    own = config.node.advertise_api_address
    if config.node.api_address.is_loopback:
        own = config.node.api_address
    others = [node.api for node in config.cluster.nodes if node.id != config.node.id]
    return tuple(f"http://{address}" for address in (own, *others))


def _source(name: str, source: PrimarySourceConfig, business: ServicesConfig) -> SourceSettings:
    return SourceSettings(
        kind=source.kind.value,
        host=source.host,
        port=source.port or _PORTS[source.kind],
        user=source.user,
        database=source.database,
        password=_password(name, source),
        ca_file="" if source.ca_file is None else str(source.ca_file),
        timeout_ms=business.transaction_timeout_ms,
    )


def _password(name: str, source: PrimarySourceConfig) -> str:
    """Return the password of a source, which stands in no configuration and in no log."""
    if source.password_file is not None:
        try:
            lines = source.password_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{_UNREADABLE}services.{name}.password_file cannot be read: {error}."
            ) from None
        return lines[0] if lines else ""
    if not source.password_variable:
        return ""
    password = os.environ.get(source.password_variable)
    if password is None:
        raise ValueError(
            f"{_UNREADABLE}the environment has no {source.password_variable}, which "
            f"services.{name}.password_variable names."
        )
    return password


def _position(execution: str) -> Position:
    parsed = parse_transaction_id(execution)
    assert parsed is not None, "a worker names executions as it was told"
    return parsed[1]
