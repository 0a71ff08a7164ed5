"""The client for code that does not use asyncio: the same client, on a loop in a thread of its own.

It may be used from any number of threads. After a fork the child makes a loop and connections of
its own at the first call; those of the parent stay the parent's.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import ssl
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from tidelock.client.access import Secret
from tidelock.client.answers import Drawn, Event, Taken
from tidelock.client.cluster_client import Client
from tidelock.client.leases import Lock
from tidelock.client.locks import LockMode
from tidelock.client.resource import Asking, Writing
from tidelock.client.transport import INHERITED
from tidelock.client.watching import Applied
from tidelock.errors import ClientClosedError, LockLostError

T = TypeVar("T")

_LOOK_FOR_SIGNALS_S: Final = 0.5
"""A signal that comes in the moment in which a thread begins to wait does not wake it: the main
thread, which alone handles signals, looks up from time to time.
"""


class _End(enum.Enum):
    END = enum.auto()


class _Engine:
    """A loop in a thread, and the client on it."""

    def __init__(
        self, make: Callable[[], Client], on_start: Callable[[Client], None] | None
    ) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tidelock", daemon=True)
        self._thread.start()

        async def made() -> Client:
            client = make()
            if on_start is not None:
                on_start(client)
            return client

        self.client = self.run(made())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread and os.getpid() == self._pid:
            work.close()
            raise RuntimeError("a blocking call within the client's own loop would never return")
        future = self.submit(work)
        try:
            return _awaited(future)
        except CancelledError:
            raise ClientClosedError("the client was closed before the answer") from None
        except BaseException:
            # Interrupted: nobody waits for it any more.
            future.cancel()
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if os.getpid() != self._pid:
            work.close()
            raise RuntimeError("a lock or a list of the parent process; begin it anew in this one")
        with self._lock:
            if self._closed:
                work.close()
                raise ClientClosedError("the client is closed; make another one")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def soon(self, work: Callable[[], object]) -> None:
        """Have it done on the loop, without waiting for it."""
        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(work)

    def close(self) -> None:
        """End what is under way, then the thread."""
        with self._lock:
            self._closed = True
            ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self.client.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


def _awaited(future: Future[T]) -> T:
    """Return what a future comes to, or raise it. In the main thread no signal stays unseen."""
    if threading.current_thread() is threading.main_thread():
        while not future.done():
            with contextlib.suppress(TimeoutError):
                future.exception(_LOOK_FOR_SIGNALS_S)
    return future.result()


class BlockingClient:
    """A `Client` whose calls return when they are done. Use it as `with`, or `close` it."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        timeout_ms: int = 5_000,
        attempt_timeout_ms: int = 2_000,
        discover: bool = True,
        ssl_context: ssl.SSLContext | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        token: str | None = None,
        insecure: bool = False,
        on_start: Callable[[Client], None] | None = None,
    ) -> None:
        """Take what `Client` takes; connections are made at the first call.

        `on_start` is called on the loop of the thread when that begins: at the first call, and at
        the first one in a child process.

        Raises: as `Client`.
        """
        secret = None if token is None else Secret(token)

        def make() -> Client:
            return Client(
                addresses,
                timeout_ms=timeout_ms,
                attempt_timeout_ms=attempt_timeout_ms,
                discover=discover,
                ssl_context=ssl_context,
                ca_file=ca_file,
                token=secret,
                insecure=insecure,
            )

        # What cannot be is refused here, not at the first call.
        make()
        self._make = make
        self._on_start = on_start
        self._lock = threading.Lock()
        self._engine: _Engine | None = None
        self._closed = False
        _living.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread."""
        with self._lock:
            engine, self._engine, self._closed = self._engine, None, True
        if engine is not None:
            engine.close()

    def run(self, call: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Do a call of the contract: `client.run(lambda c: c.versions.increment("a", key="k"))`."""

        async def called(client: Client) -> T:
            return await call(client)

        engine = self._running()
        return engine.run(called(engine.client))

    def submit(self, call: Callable[[Client], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begin a call, and return its future: `await asyncio.wrap_future(client.submit(...))`.

        It is cancelled with its future, and when the client is closed.
        """

        async def called(client: Client) -> T:
            return await call(client)

        engine = self._running()
        return engine.submit(called(engine.client))

    def iterate(self, call: Callable[[Client], AsyncIterator[T]]) -> Iterator[T]:
        """Go through a list or a watch: `client.iterate(lambda c: c.events.list())`."""
        engine = self._running()

        async def begin() -> AsyncIterator[T]:
            return call(engine.client)

        items = engine.run(begin())

        async def following() -> T | _End:
            return await anext(items, _End.END)

        async def end() -> None:
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()

        try:
            while True:
                item = engine.run(following())
                if isinstance(item, _End):
                    return
                yield item
        finally:
            with contextlib.suppress(ClientClosedError):
                engine.run(end())

    def timestamp(self) -> int:
        """Return a timestamp of the oracle; threads that ask at the same time share a request."""
        return self.run(lambda client: client.timestamp())

    def timestamps(self, count: int, **options: Unpack[Asking]) -> Drawn:
        """Return timestamps in a row."""
        return self.run(lambda client: client.timestamps(count, **options))

    def record(
        self,
        event_type: str,
        event_data: Any = None,
        *,
        node_id: str | None = None,
        **options: Unpack[Writing],
    ) -> Event:
        """Tick a participant's clock and store an event."""
        return self.run(
            lambda client: client.events.record(event_type, event_data, node_id=node_id, **options)
        )

    def next_numbers(self, name: str, count: int = 1, **options: Unpack[Writing]) -> Taken:
        """Take the next numbers of a sequence."""
        return self.run(lambda client: client.sequences.next(name, count, **options))

    def watch(self, *, kinds: Sequence[str] = (), after: str | None = None) -> Iterator[Applied]:
        """Go through what is applied, for ever."""
        return self.iterate(lambda client: client.watch(kinds=kinds, after=after))

    def lock(
        self,
        name: str,
        *,
        ttl_ms: int,
        wait_ms: int = 0,
        mode: LockMode = "EXCLUSIVE",
        owner: str | None = None,
    ) -> BlockingLock:
        """Return a lock for a `with` block; see `Client.lock`."""
        engine = self._running()

        async def made() -> Lock:
            client = engine.client
            return client.lock(name, ttl_ms=ttl_ms, wait_ms=wait_ms, mode=mode, owner=owner)

        return BlockingLock(engine, engine.run(made()))

    def _running(self) -> _Engine:
        with self._lock:
            if self._closed:
                raise ClientClosedError("the client is closed; make another one")
            if self._engine is None:
                self._engine = _Engine(self._make, self._on_start)
            return self._engine

    def _after_fork(self) -> None:
        """In the child: the thread is not there, and another one may have held the lock."""
        self._lock = threading.Lock()
        if self._engine is not None:
            INHERITED.append(self._engine)
            self._engine = None


class BlockingLock:
    """A `Lock` for a `with` block. It is renewed by the client's thread, whatever the block does.

    A child process does not hold what its parent locked.
    """

    def __init__(self, engine: _Engine, lock: Lock) -> None:
        self._engine = engine
        self._lock = lock
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        try:
            self._engine.run(self._lock.__aenter__())
        except BaseException:
            # Interrupted in the moment of the grant, nobody would give it back.
            if os.getpid() == self._pid:
                self._engine.soon(self._lock.quit)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if os.getpid() != self._pid:
            return
        try:
            self._engine.run(self._lock.__aexit__(kind, error, trace))
        except ClientClosedError:
            # Nobody renews it or gives it back any more; it ends by itself.
            if error is None:
                self.check()

    @property
    def fencing_token(self) -> int:
        """As `Lock.fencing_token`."""
        return self._lock.fencing_token

    @property
    def remaining_ms(self) -> int:
        """How long the lease can still be trusted; 0 when it cannot."""
        return self._lock.remaining_ms if os.getpid() == self._pid else 0

    @property
    def lost(self) -> bool:
        """Whether the lease is over or can no longer be trusted."""
        return self.remaining_ms == 0

    def check(self) -> None:
        """Raise `LockLostError` unless the lease can still be trusted."""
        if self.lost:
            raise LockLostError(
                f"the lease of lock {self._lock.name!r} is over, or another process's"
            )


_living: Final[weakref.WeakSet[BlockingClient]] = weakref.WeakSet()


def _forked() -> None:
    for client in list(_living):
        client._after_fork()


os.register_at_fork(after_in_child=_forked)
