"""Services on real servers, in threads or processes of their own."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from aiohttp import web
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.integration.services import aiohttp_app, fastapi_app, flask_app

ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _await_answer(port: int, dead: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/xid")
            connection.getresponse().read()
            connection.close()
            return
        except OSError:
            assert not dead(), "the server ended"
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.01)


@contextmanager
def fastapi_service() -> Iterator[int]:
    """FastAPI under uvicorn."""
    config = uvicorn.Config(
        fastapi_app.app, port=0, ws="none", lifespan="off", log_level="critical"
    )
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            port: int = listening.getsockname()[1]
            _await_answer(port, lambda: not thread.is_alive())
            yield port
        finally:
            server.should_exit = True
            thread.join(timeout=20)


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *arguments: object) -> None:
        pass


@contextmanager
def flask_service() -> Iterator[int]:
    """Flask under werkzeug's server with threads."""
    server = make_server("127.0.0.1", 0, flask_app.app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join(timeout=20)
        server.server_close()


@contextmanager
def aiohttp_service() -> Iterator[int]:
    """Aiohttp's server, on a loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(aiohttp_app.make_app(), access_log=None, shutdown_timeout=0)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port: int = runner.addresses[0][1]
        return port

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=20)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=20)
        loop.close()


@contextmanager
def _process(port: int, *command: str) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_answer(port, lambda: process.poll() is not None)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def _gunicorn(app: str) -> Iterator[int]:
    port = free_port()
    options = ("--workers=1", "--threads=4", "--graceful-timeout=1", f"--bind=127.0.0.1:{port}")
    with _process(port, "gunicorn", *options, app) as served:
        yield served


@contextmanager
def _uvicorn(app: str) -> Iterator[int]:
    port = free_port()
    options = ("--ws=none", "--lifespan=off", "--log-level=critical", f"--port={port}")
    with _process(port, "uvicorn", *options, app) as served:
        yield served


_HERE = "tests.integration.services"

SERVICES: Final[dict[str, Callable[[], AbstractContextManager[int]]]] = {
    "fastapi-uvicorn": fastapi_service,
    "flask-werkzeug": flask_service,
    "aiohttp": aiohttp_service,
    "flask-gunicorn": lambda: _gunicorn(f"{_HERE}.flask_app:app"),
    "django-gunicorn": lambda: _gunicorn(f"{_HERE}.django_app:wsgi"),
    "django-uvicorn": lambda: _uvicorn(f"{_HERE}.django_app:asgi"),
}
