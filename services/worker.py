"""The worker: reads what its node wants, runs it in threads, and has the node record what comes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Final

import msgspec

from services import registry
from services.messages import (
    Advance,
    Answer,
    Configure,
    Finish,
    FromNode,
    FromWorker,
    Left,
    Ready,
    Run,
    Steps,
    Stop,
    Unavailable,
    from_node,
    to_line,
)
from services.sources import DriverMissingError, driver_of
from services.work import TakenOverError
from tidelock import Application
from tidelock.services import JtaStatus

_log: Final = logging.getLogger("services")

RECONCILE_EVERY_S: Final = 30.0
"""How often the databases are searched for branches that were prepared too late."""

_RETRY_S: Final = (0.5, 1.0, 2.0, 5.0)
_ANSWER_WITHIN_S: Final = 30.0
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Pipe:
    """The node's end of the conversation, as the worker's threads use it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._calls: dict[int, Future[str]] = {}
        self._last_call = 0

    def send(self, message: FromWorker) -> None:
        """Send a message. When the node has gone, so does this process."""
        with self._lock:
            try:
                self._out.write(to_line(message) + b"\n")
                self._out.flush()
            except OSError:
                os._exit(0)

    def number(self) -> tuple[int, Future[str]]:
        """Return the number of a new call, and what will have its answer."""
        with self._lock:
            self._last_call += 1
            answered: Future[str] = Future()
            self._calls[self._last_call] = answered
            return self._last_call, answered

    def answered(self, answer: Answer) -> None:
        with self._lock:
            waiting = self._calls.pop(answer.call, None)
        if waiting is not None:
            waiting.set_result(answer.error)


class NodeRecorder:
    """`services.work.Recorder` by way of the node."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def advance(
        self,
        run: Run,
        *,
        jta_status: str = "",
        xid: str = "",
        progress: Steps | None = None,
        result: Any = None,
    ) -> None:
        """Raises: TakenOverError"""
        call, answered = self._pipe.number()
        self._pipe.send(
            Advance(
                call=call,
                execution=run.execution,
                epoch=run.epoch,
                jta_status=jta_status,
                xid=xid,
                progress=progress,
                result=msgspec.Raw(b"null") if result is None else result,
            )
        )
        _recorded(answered)

    def finish(
        self,
        run: Run,
        status: str,
        jta_status: JtaStatus,
        *,
        error: str = "",
        failures: list[Any] | None = None,
    ) -> None:
        """Raises: TakenOverError"""
        call, answered = self._pipe.number()
        self._pipe.send(
            Finish(
                call=call,
                execution=run.execution,
                epoch=run.epoch,
                status=status,
                jta_status=jta_status,
                error=error,
                failures=msgspec.Raw(
                    b"null" if failures is None else msgspec.json.encode(failures)
                ),
            )
        )
        _recorded(answered)


def _recorded(answered: Future[str]) -> None:
    try:
        error = answered.result(_ANSWER_WITHIN_S)
    except TimeoutError:
        error = "the node did not answer in time"
    if error:
        raise TakenOverError(error)


class Worker:
    """One process's work."""

    def __init__(self, settings: Configure, pipe: Pipe) -> None:
        self._settings = settings
        self._pipe = pipe
        # What they stand on is installed with the drivers, for which `main` has looked.
        from services.running import Databases, Runner  # noqa: PLC0415

        # No instance: a worker that follows one that died is another session, at once.
        self._application = Application(
            settings.addresses,
            application_id="tidelock-services",
            host=settings.node_id,
            timeout_ms=10_000,
        )
        self._databases = Databases(settings, self._application)
        self._runner = Runner(self._databases, NodeRecorder(pipe))
        self._threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="execution")
        self._stopping = threading.Event()

    def start(self) -> None:
        """Find the databases, in the background, and then say that this worker is ready."""
        threading.Thread(target=self._attach, name="attach", daemon=True).start()

    def take(self, message: FromNode) -> None:
        match message:
            case Run():
                self._threads.submit(self._run, message)
            case Answer():
                self._pipe.answered(message)
            case Stop():
                self._stopping.set()
            case Configure():
                raise ValueError("a worker is configured once")

    def _attach(self) -> None:
        for pause_s in _pauses():
            try:
                self._databases.attach()
                break
            except Exception as error:
                _log.warning("a data source cannot be used: %s", error)
                self._pipe.send(Unavailable(why=f"{type(error).__name__}: {error}"))
            if self._stopping.wait(pause_s):
                return
        self._pipe.send(Ready(business_types=registry.business_types()))
        while not self._stopping.wait(RECONCILE_EVERY_S):
            self._reconcile()

    def _reconcile(self) -> None:
        for name, source in self._databases.xa.items():
            try:
                for each in source.reconcile():
                    _log.warning("%s holds %s prepared: %s", name, each.xid, each.why)
            except Exception as error:
                _log.info("%s was not searched for prepared branches: %s", name, error)

    def _run(self, run: Run) -> None:
        try:
            if not self._stopping.is_set():
                self._runner.run(run)
        except TakenOverError as error:
            _log.info("%s is left: %s", run.execution, error)
        except Exception:
            _log.exception("%s is left for later", run.execution)
        finally:
            self._pipe.send(Left(execution=run.execution, epoch=run.epoch))


def _pauses() -> Iterator[float]:
    yield from _RETRY_S[:-1]
    while True:
        yield _RETRY_S[-1]


def main() -> None:
    """Serve the node at the other end of the standard input and output, until it goes."""
    # Nothing else may write where the node reads.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines = sys.stdin.buffer
    configured = from_node.decode(lines.readline())
    if not isinstance(configured, Configure):
        raise ValueError("the first message configures the worker")
    logging.basicConfig(
        level=_LEVELS.get(configured.log_level, logging.INFO),
        format=f"%(asctime)s %(levelname)s {configured.node_id} %(name)s %(message)s",
    )
    pipe = Pipe(out)
    try:
        for source in (configured.primary, configured.secondary):
            driver_of(source.kind)
    except DriverMissingError as error:
        # It stays, so that its node need not start it again and again.
        pipe.send(Unavailable(why=str(error)))
        lines.read()
        os._exit(0)
    worker = Worker(configured, pipe)
    worker.start()
    started_at = time.monotonic()
    for line in lines:
        worker.take(from_node.decode(line))
    _log.info("the node has gone after %.0f s", time.monotonic() - started_at)
    with contextlib.suppress(Exception):
        out.close()
    # What is under way is not waited for: nobody could have it recorded, so it is rolled back.
    os._exit(0)
