"""The SDK's client for code without asyncio: from threads, and after a fork."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import warnings
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any
from unittest import mock

import pytest

from tests.integration.serving import Api, serving
from tidelock.client import BlockingClient, Client
from tidelock.errors import ClientClosedError, InvalidRequestError, LockLostError


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def test_threads_share_a_client_that_blocks() -> None:
    def work(port: int) -> None:
        with BlockingClient([f"127.0.0.1:{port}"], discover=False) as client:
            with ThreadPoolExecutor(8) as threads:
                drawn = [*threads.map(lambda _: client.timestamp(), range(80))]
            assert len({*drawn}) == 80
            assert client.next_numbers("s", 2).last == 2
            client.record("e", 1)
            assert len([*client.iterate(lambda c: c.events.list())]) == 1
            (first,) = islice(client.watch(after="0", kinds=["timestamp.event"]), 1)
            assert first.changes[0]["eventData"] == 1
            with client.lock("l", ttl_ms=60_000) as lock:
                lock.check()
                assert client.run(lambda c: c.locks.verify("l", lock.fencing_token))
            assert lock.lost
            with pytest.raises(InvalidRequestError):
                client.record("")
        with pytest.raises(ClientClosedError):
            client.timestamp()

    async with serving() as api:
        await asyncio.to_thread(work, api.port)


async def test_a_thread_that_waits_is_told_that_the_client_was_closed() -> None:
    def work(port: int) -> None:
        address = f"127.0.0.1:{port}"
        with (
            ThreadPoolExecutor(1) as threads,
            BlockingClient([address], discover=False) as other,
            other.lock("l", ttl_ms=60_000),
        ):
            client = BlockingClient([address], discover=False)
            waiting = threads.submit(client.lock("l", ttl_ms=60_000, wait_ms=60_000).__enter__)
            while other.run(lambda c: c.locks.get("l")).queue_length == 0:
                pass
            client.close()
            with pytest.raises(ClientClosedError):
                waiting.result(timeout=20)

    async with serving() as api:
        await asyncio.to_thread(work, api.port)


async def test_a_lock_whose_client_was_closed_is_no_error_until_its_lease_is_over(
    api: Api,
) -> None:
    def work() -> None:
        for ttl_ms, patience_s in ((60_000, 0.0), (300, 0.4)):
            client = BlockingClient([f"127.0.0.1:{api.port}"], discover=False)
            lock = client.lock(f"l{ttl_ms}", ttl_ms=ttl_ms)
            lock.__enter__()
            client.close()
            time.sleep(patience_s)
            if patience_s:
                with pytest.raises(LockLostError):
                    lock.__exit__(None, None, None)
            else:
                lock.__exit__(None, None, None)

    await asyncio.to_thread(work)


PROGRAM = """
import os, signal, sys, threading
from tidelock.client import BlockingClient

def interrupt() -> None:
    if os.read(0, 1):
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
with BlockingClient([sys.argv[1]], discover=False) as client:
    print("begins", flush=True)
    with client.lock("l", ttl_ms=60_000, wait_ms=60_000):
        print("entered", flush=True)
"""


# A signal that comes in the moment in which the main thread begins to wait does not wake it, as one
# that another thread gets.
@pytest.mark.parametrize("wakes", [True, False], ids=["wakes", "does-not-wake"])
async def test_a_program_that_is_interrupted_while_it_waits_leaves_the_queue(
    api: Api, wakes: bool
) -> None:
    async with Client([f"127.0.0.1:{api.port}"], discover=False) as client:
        await client.locks.acquire("l", "a", ttl_ms=60_000)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, f"127.0.0.1:{api.port}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            while (await client.locks.get("l")).queue_length == 0:
                await asyncio.sleep(0.01)
            if wakes:
                process.send_signal(signal.SIGINT)
            out, err = await process.communicate(None if wakes else b"!")
        assert out == b"begins\n"
        assert err.rstrip().endswith(b"KeyboardInterrupt")
        assert (await client.locks.get("l")).queue_length == 0


async def test_an_interruption_in_the_moment_of_the_grant_gives_the_lock_back() -> None:
    def work(port: int) -> None:
        address = f"127.0.0.1:{port}"
        with BlockingClient([address], discover=False) as client:
            lock = client.lock("l", ttl_ms=60_000)
            run = lock._engine.run

            def interrupted(work: Coroutine[Any, Any, object]) -> None:
                run(work)
                raise KeyboardInterrupt

            patched = mock.patch.object(lock._engine, "run", interrupted)
            with patched, pytest.raises(KeyboardInterrupt):
                lock.__enter__()
            ends_at = time.monotonic() + 10
            while client.run(lambda c: c.locks.get("l")).holder is not None:
                assert time.monotonic() < ends_at

    async with serving() as api:
        await asyncio.to_thread(work, api.port)


async def test_an_asyncio_client_of_the_parent_says_so_in_the_child() -> None:
    async with serving() as api, Client([f"127.0.0.1:{api.port}"], discover=False) as client:
        await client.timestamp()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.run(client.sequences.next("s"))
            except RuntimeError as error:
                status = 0 if "fork" in str(error) else 2
            finally:
                os._exit(status)
        _, ended = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(ended) == 0
        await client.timestamp()


async def test_a_child_process_has_connections_of_its_own() -> None:
    def work(port: int) -> None:
        with BlockingClient([f"127.0.0.1:{port}"], discover=False) as client:
            before = client.timestamp()
            lock = client.lock("l", ttl_ms=60_000)
            with lock:
                with warnings.catch_warnings():
                    # Newer interpreters warn of any fork in a process with threads.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    pid = os.fork()
                if pid == 0:
                    status = 1
                    try:
                        status = 0 if client.timestamp() > before and lock.lost else 2
                    finally:
                        os._exit(status)
                _, ended = os.waitpid(pid, 0)
                assert os.waitstatus_to_exitcode(ended) == 0
                lock.check()
            assert client.timestamp() > before

    async with serving() as api:
        await asyncio.to_thread(work, api.port)
