"""The SDK's client for code without asyncio: from threads, and after a fork."""

from __future__ import annotations

import asyncio
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from tests.integration.serving import serving
from tidelock.client import BlockingClient
from tidelock.errors import ClientClosedError, InvalidRequestError


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
