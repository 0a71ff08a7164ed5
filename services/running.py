"""One execution from its beginning to its end, in a thread of the worker.

::

    log tables, ACTIVE, begin, insert into both logs, business
        └ went well: PREPARING, prepare both, COMMITTING, commit
        └ failed:    MARKED_ROLLBACK, ROLLING_BACK, roll back both

Each status is recorded in the replicated state before the step that it announces. So whoever takes
over from a worker that died knows that a transaction may have been begun, and asks the coordinator
what became of it before anything is done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import msgspec

import tidelock
from services import registry
from services.batch_update import update_rows
from services.complex_order import place_order
from services.messages import Configure, Run
from services.migration.migration import create_target, drop_target, migrate, plan
from services.sources import Source, connect, dialect_of
from services.synchronizations import Synchronizations, jta_status_of
from services.tables import create_missing, definitions
from services.time_limit import time_limit
from services.work import Recorder, TakenOverError, Undertaking, data_of
from tidelock.application import Application
from tidelock.errors import TidelockError, TransactionNotFoundError
from tidelock.services import (
    BatchFailedError,
    BatchUpdate,
    BusinessError,
    ComplexOrder,
    DataMigration,
    JtaStatus,
)
from tidelock.services.data_changes import TableOf
from tidelock.transaction.ending import end
from tidelock.xa import XaSource

_log: Final = logging.getLogger("services")

_GREATEST_ERROR: Final = 2_000
_GREATEST_RESULT_BYTES: Final = 200_000
_GREATEST_ATTEMPTS: Final = 5
_SETTLE_BUDGET_MS: Final = 10_000

_COMMITTED: Final = frozenset({JtaStatus.COMMITTED, JtaStatus.COMMITTING})


class Databases:
    """The two sources of a worker, as resources of its application."""

    def __init__(self, settings: Configure, application: Application) -> None:
        self.settings = settings
        self.application = application
        self.of = {"primary": settings.primary, "secondary": settings.secondary}
        self.xa = {
            "primary": XaSource(lambda: connect(settings.primary), application=application),
            "secondary": XaSource(lambda: connect(settings.secondary), application=application),
        }

    def attach(self) -> None:
        """Connect to both. Raises: DriverMissingError, and what drivers and the SDK raise."""
        for source in self.xa.values():
            source.attach()

    def define(self, *, of_orders: bool) -> None:
        """Make the tables that are not there, outside of any transaction."""
        if not self.settings.create_tables:
            return
        for name, settings in self.of.items():
            with closing(connect(settings)) as connection:
                _autocommit(connection)
                create_missing(connection, definitions(name, of_orders=of_orders))

    def outside(self, work: Callable[[dict[str, Source]], Any]) -> Any:
        """Do something on connections that are in no transaction and commit each statement."""
        with (
            closing(connect(self.settings.primary)) as first,
            closing(connect(self.settings.secondary)) as second,
        ):
            _autocommit(first)
            _autocommit(second)
            return work(
                {
                    "primary": Source("primary", dialect_of(self.settings.primary), first),
                    "secondary": Source("secondary", dialect_of(self.settings.secondary), second),
                }
            )


def _autocommit(connection: Any) -> None:
    if callable(connection.autocommit):
        connection.autocommit(True)
    else:
        connection.autocommit = True


class Runner:
    """Runs executions, one a call, in any thread."""

    def __init__(self, databases: Databases, recorder: Recorder) -> None:
        self._databases = databases
        self._recorder = recorder
        self._settings = databases.settings

    def run(self, run: Run) -> None:
        """Take an execution to its end, or leave it for later.

        Raises:
            TakenOverError: it is somebody else's now.
        """
        if run.begun_xid and not self._is_to_run_again(run):
            return
        xid = f"{run.execution}.{run.attempt}"
        self._recorder.advance(run, jta_status=JtaStatus.ACTIVE, xid=xid)
        attempt = _Attempt(self._databases, self._recorder, run, xid)
        try:
            attempt.run()
        except TakenOverError:
            attempt.take_back()
            raise
        except Exception as error:
            self._failed(run, attempt, error)
        else:
            self._committed(run, attempt)

    # --- how it ends

    def _committed(self, run: Run, attempt: _Attempt) -> None:
        status = jta_status_of(attempt.status)
        self._recorder.finish(run, "SUCCESS", status)

    def _failed(self, run: Run, attempt: _Attempt, error: Exception) -> None:
        """Find out what became of the transaction, whatever was raised."""
        status = jta_status_of(attempt.status) if attempt.begun else JtaStatus.ROLLED_BACK
        if attempt.begun and attempt.status in ("", "BEGIN"):
            # Nobody confirmed the decision: ask until somebody does.
            status = self._settle(attempt.xid)
        if status in _COMMITTED:
            self._recorder.finish(run, "SUCCESS", status)
            return
        words = _words(error)[:_GREATEST_ERROR]
        failures = error.failures if isinstance(error, BatchFailedError) else None
        if status is JtaStatus.ROLLED_BACK:
            attempt.take_back()
            self._recorder.finish(run, "ROLLBACK", status, error=words, failures=failures)
        else:
            words = f"The rollback is not confirmed; the coordinator goes on with it. {words}"
            self._recorder.finish(
                run,
                "ROLLBACK_FAILED",
                JtaStatus.UNKNOWN,
                error=words[:_GREATEST_ERROR],
                failures=failures,
            )

    # --- what an earlier attempt has left

    def _is_to_run_again(self, run: Run) -> bool:
        """End the transaction of an earlier attempt; finish the execution when that is the end."""
        status = self._settle(run.begun_xid)
        if status in _COMMITTED:
            self._recorder.finish(run, "SUCCESS", status)
            return False
        if status is not JtaStatus.ROLLED_BACK:
            error = "The process that ran it ended, and its rollback is not confirmed yet."
            self._recorder.finish(run, "ROLLBACK_FAILED", JtaStatus.UNKNOWN, error=error)
            return False
        _take_back(self._databases, run.notes)
        if run.may_run_again and run.attempt <= _GREATEST_ATTEMPTS:
            return True
        error = "The process that ran it ended before it was decided, so it was rolled back."
        if run.may_run_again:
            error = f"It was tried {_GREATEST_ATTEMPTS} times, and each time its process ended."
        self._recorder.finish(run, "ROLLBACK", JtaStatus.ROLLED_BACK, error=error)
        return False

    def _settle(self, xid: str) -> JtaStatus:
        """Roll a transaction back unless it is decided, and return how it is.

        Raises:
            TidelockError: nobody can say.
        """
        try:
            standing = self._databases.application.client.run(
                lambda client: end(
                    client,
                    xid,
                    commit=False,
                    budget_ms=_SETTLE_BUDGET_MS,
                    wait_ms=self._settings.rollback_wait_ms,
                    reason="the process that ran it ended",
                )
            )
        except TidelockError:
            if self._was_never_begun(xid):
                return JtaStatus.ROLLED_BACK
            raise
        return jta_status_of(standing.status)

    def _was_never_begun(self, xid: str) -> bool:
        try:
            self._databases.application.client.run(lambda client: client.transactions.get(xid))
        except TransactionNotFoundError as error:
            return error.never_seen
        return False


class _Attempt:
    """One transaction."""

    def __init__(self, databases: Databases, recorder: Recorder, run: Run, xid: str) -> None:
        self._databases = databases
        self._recorder = recorder
        self._run = run
        self._settings = databases.settings
        self._notes = b"null"
        self.xid = xid
        self._transaction: tidelock.Transaction | None = None

    @property
    def begun(self) -> bool:
        return self._transaction is not None

    @property
    def status(self) -> str:
        return "" if self._transaction is None else self._transaction.status

    def run(self) -> None:
        """Do it. It is committed when this returns. Raises: why it is not, as far as is known."""
        business = self._business()
        synchronizations = Synchronizations(self._settings.transaction_timeout_ms)
        with tidelock.transaction(
            f"{self._run.service.lower()} {self._run.business_type}"[:128],
            timeout_ms=self._settings.transaction_timeout_ms,
            end_wait_ms=self._settings.rollback_wait_ms,
            propagation="REQUIRES_NEW",
            hooks=[_Announcing(self._recorder, self._run), synchronizations],
            mode="XA",
            xid=self.xid,
            application=self._databases.application,
        ) as transaction:
            self._transaction = transaction
            try:
                result = self._work(business, transaction, synchronizations)
            except Exception as error:
                self._mark(error)
                raise
            transaction.add_hooks(_Deciding(self._recorder, self._run, result))

    def take_back(self) -> None:
        """Undo what no transaction does."""
        _take_back(self._databases, msgspec.Raw(self._notes))

    def _mark(self, error: Exception) -> None:
        if isinstance(error, TakenOverError) or self._run.service != "JTA":
            return
        self._recorder.advance(self._run, jta_status=JtaStatus.MARKED_ROLLBACK)

    def _work(
        self,
        business: Callable[[Undertaking], Any],
        transaction: tidelock.Transaction,
        synchronizations: Synchronizations,
    ) -> Any:
        xa, of = self._databases.xa, self._databases.of
        with xa["primary"].connection() as first, xa["secondary"].connection() as second:
            work = Undertaking(
                self._run,
                self._recorder,
                transaction,
                synchronizations,
                Source("primary", dialect_of(of["primary"]), first),
                Source("secondary", dialect_of(of["secondary"]), second),
            )
            for source in work.sources.values():
                source.execute(
                    f"INSERT INTO {self._run.service.lower()}_transaction_log"
                    " (transaction_id, attempt, xid, business_type, data_source)"
                    " VALUES (%s, %s, %s, %s, %s)",
                    [
                        self._run.execution,
                        self._run.attempt,
                        self.xid,
                        self._run.business_type,
                        source.name,
                    ],
                )
            with time_limit(
                self._settings.transaction_timeout_ms, f"Business {self._run.business_type}"
            ):
                result = business(work)
            if work.rollback_reason is not None:
                raise BusinessError(work.rollback_reason)
            return result

    # --- business, and what is defined before

    def _business(self) -> Callable[[Undertaking], Any]:
        databases, settings, kind = self._databases, self._settings, self._run.business_type
        databases.define(of_orders=kind == registry.COMPLEX_ORDER)
        data = self._run.business_data
        match kind:
            case registry.COMPLEX_ORDER:
                order = msgspec.json.decode(data, type=ComplexOrder)
                return lambda work: place_order(work.primary, work.secondary, order)
            case registry.BATCH_UPDATE:
                batch = msgspec.json.decode(data, type=BatchUpdate)
                return lambda work: update_rows(work.sources, batch, settings.batch_update_allowed)
            case registry.DATA_MIGRATION:
                return self._migration(msgspec.json.decode(data, type=DataMigration))
            case _:
                brought = registry.load(kind)
                return lambda work: brought(work, data_of(self._run))

    def _migration(self, wanted: DataMigration) -> Callable[[Undertaking], Any]:
        allowed = self._settings.migration_allowed
        made = self._databases.outside(lambda sources: plan(sources, wanted, allowed))
        if made.creates:
            # Noted before it is there, so that whoever takes over can take it back.
            self._notes = msgspec.json.encode({"created": wanted.target})
            self._recorder.advance(self._run, result=msgspec.Raw(self._notes))
            self._databases.outside(lambda sources: create_target(sources, made))
        return lambda work: migrate(
            work.sources,
            made,
            lambda read, written, total, batch: work.progress(
                read=read, written=written, total=total, batch=batch
            ),
        )


class _Announcing(tidelock.TransactionHooks):
    """Records the statuses before what they announce. It comes before any branch's own hook."""

    def __init__(self, recorder: Recorder, run: Run) -> None:
        self._recorder = recorder
        self._run = run

    def before_commit(self, transaction: tidelock.Transaction) -> None:
        """The branches are prepared next."""
        self._recorder.advance(self._run, jta_status=JtaStatus.PREPARING)

    def before_rollback(self, transaction: tidelock.Transaction) -> None:
        """The branches are undone next."""
        self._recorder.advance(self._run, jta_status=JtaStatus.ROLLING_BACK)


class _Deciding(tidelock.TransactionHooks):
    """Comes after the branches' own hooks: both are prepared, and it is still this worker's."""

    def __init__(self, recorder: Recorder, run: Run, result: Any) -> None:
        self._recorder = recorder
        self._run = run
        self._result = msgspec.json.encode(result)
        if len(self._result) > _GREATEST_RESULT_BYTES:
            raise BusinessError(
                f"The result has {len(self._result)} bytes of JSON; at most "
                f"{_GREATEST_RESULT_BYTES} are kept. Return less."
            )

    def before_commit(self, transaction: tidelock.Transaction) -> None:
        """Record the result with the announcement: once it is committed, nobody could make it."""
        self._recorder.advance(
            self._run, jta_status=JtaStatus.COMMITTING, result=msgspec.Raw(self._result)
        )


class _Notes(msgspec.Struct):
    created: TableOf | None = None


def _take_back(databases: Databases, notes: msgspec.Raw) -> None:
    """Drop the target that a migration made which was rolled back."""
    try:
        found = msgspec.json.decode(notes, type=_Notes | None)
        created = None if found is None else found.created
        if created is not None:
            databases.outside(lambda sources: drop_target(sources, created))
    except Exception as error:
        _log.warning("what the migration made is not taken back: %s", error)


def _words(error: Exception) -> str:
    if isinstance(error, BusinessError):
        return str(error)
    if isinstance(error, TidelockError):
        cause = error.__cause__
        return str(error) if cause is None or isinstance(cause, TidelockError) else (
            f"{error} ({type(cause).__name__})"
        )  # fmt: skip
    return f"{type(error).__name__}: {error}"
