"""Each worker of a real server is a resource manager of its own, and leaves when it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from api.rm_messages import Called, CallKind, Result, encode
from statemachine.transactions.channel_rows import get_session
from tests.integration.recording_resource import until
from tests.integration.services.running import ROOT, free_port
from tests.integration.serving import Api, serving

WITHIN_S = 40.0
WORKERS = 3

SERVICE = "tests.integration.services.managing"
GUNICORN = ("gunicorn", f"--workers={WORKERS}", f"{SERVICE}:wsgi")
UVICORN = ("uvicorn", f"--workers={WORKERS}", "--log-level=warning", f"{SERVICE}:asgi")

COMMANDS = {
    "gunicorn-sync": (*GUNICORN, "--worker-class=sync"),
    "gunicorn-sync-preload": (*GUNICORN, "--worker-class=sync", "--preload"),
    "gunicorn-gthread": (*GUNICORN, "--worker-class=gthread", "--threads=4"),
    "gunicorn-gthread-preload": (*GUNICORN, "--worker-class=gthread", "--threads=4", "--preload"),
    "uvicorn": UVICORN,
}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


class Service:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self._url = f"http://127.0.0.1:{port}/session"
        self.sessions: dict[int, int] = {}
        """By process."""

    async def ask(self) -> None:
        async with aiohttp.ClientSession() as session, session.get(self._url) as response:
            assert response.status == 200, await response.text()
            told = await response.json()
        assert self.sessions.setdefault(told["pid"], told["sessionId"]) == told["sessionId"]

    async def ask_all_workers(self) -> None:
        """Ask until every worker has answered."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.sessions) < WORKERS:
                assert self.process.returncode is None, "the server ended"
                try:
                    await asyncio.gather(*[self.ask() for _ in range(12)])
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WITHIN_S):
            await self.process.wait()


@asynccontextmanager
async def running(api: Api, ledger: Path, *command: str) -> AsyncIterator[Service]:
    port = free_port()
    bind = f"--bind=127.0.0.1:{port}" if command[0] == "gunicorn" else f"--port={port}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command, bind),
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "NODE": f"127.0.0.1:{api.port}",
            "LEDGER": str(ledger),
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Service(process, port)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def call(api: Api, session_id: int, xid: str) -> Result:
    session = get_session(api.cluster.store, session_id)
    assert session is not None
    called = encode(Called(xid=xid, branch_id=1, mode="AT", resource_id="ledger", epoch=1))
    return await api.channels.call(session_id, session.connection, CallKind.COMMIT, called, 20)


async def listed(api: Api) -> list[dict[str, Any]]:
    return list((await api.get("/api/v1/rm/sessions")).body["items"])


OFTEN = ("gunicorn-sync-preload", "gunicorn-gthread", "uvicorn")
"""Tried with every change; the others are alike."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in OFTEN else pytest.mark.long, id=name)
        for name in COMMANDS
    ],
)
async def test_every_worker_answers_for_its_own_branches_and_leaves_in_the_end(
    api: Api, tmp_path: Path, name: str
) -> None:
    ledger = tmp_path / "ledger"
    ledger.touch()
    async with running(api, ledger, *COMMANDS[name]) as service:
        await service.ask_all_workers()
        assert len({*service.sessions.values()}) == len(service.sessions)
        # A master that preloads has attached the resource, too, before it forked.
        preloads = name.endswith("preload")
        held = [each["sessionId"] for each in await listed(api)]
        assert len(held) == len(service.sessions) + preloads
        answers = await asyncio.gather(
            *[call(api, session_id, f"x{pid}") for pid, session_id in service.sessions.items()]
        )
        assert {each.status for each in answers} == {"COMMITTED"}
        assert {*ledger.read_text().split("\n")[:-1]} == {
            f"{pid} x{pid}" for pid in service.sessions
        }
        # What is under way when it is told to stop comes to its end.
        under_way = [
            asyncio.create_task(call(api, session_id, f"y{pid}"))
            for pid, session_id in service.sessions.items()
        ]
        await until(lambda: sum(len(each.calls) for each in api.channels._open.values()) >= WORKERS)
        await service.stop()
        assert {each.status for each in await asyncio.gather(*under_way)} == {"COMMITTED"}
        assert await listed(api) == []


async def test_a_worker_that_is_killed_is_succeeded_by_another(api: Api, tmp_path: Path) -> None:
    async with running(api, tmp_path / "ledger", *COMMANDS["gunicorn-sync-preload"]) as service:
        await service.ask_all_workers()
        pid, session_id = next(iter(service.sessions.items()))
        os.kill(pid, signal.SIGKILL)
        others = {key: value for key, value in service.sessions.items() if key != pid}
        service.sessions = dict(others)
        await service.ask_all_workers()
        (new,) = {*service.sessions.values()} - {*others.values()}
        assert new not in (session_id, *others.values())
        assert (await call(api, new, "x")).status == "COMMITTED"
