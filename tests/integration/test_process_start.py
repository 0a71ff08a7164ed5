"""A node that comes back knows who it is before anybody can ask it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from node.config import load
from node.consensus.engine import Engine
from node.consensus.tcp_links import TcpLinks
from node.process import Process
from tests.integration.engines import live_in_real_time


class StoppedError(Exception):
    """Ends a start where the test has seen enough."""


async def test_a_node_listens_only_once_it_has_restored_its_membership(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port_factory: Callable[[], int]
) -> None:
    live_in_real_time()
    peer, api = unused_tcp_port_factory(), unused_tcp_port_factory()
    path = tmp_path / "cluster.conf"
    path.write_text(
        f"[cluster]\n"
        f'nodes = [{{ id = "n1", peer = "127.0.0.1:{peer}", api = "127.0.0.1:{api}" }}]\n'
        f'[node]\nid = "n1"\ndata_dir = "{tmp_path / "data"}"\n'
    )
    config = load(path, environ={})
    engines: list[Engine] = []
    members: list[list[str]] = []
    start, listen = Engine.start, TcpLinks.listen

    def started(self: Engine) -> None:
        engines.append(self)
        start(self)

    async def listening(self: TcpLinks, host: str, port: int) -> None:
        running = engines[len(members)] if len(engines) > len(members) else None
        configuration = None if running is None else running.membership.in_force
        members.append([m.node_id for m in configuration.voters] if configuration else [])
        if len(members) == 2:
            raise StoppedError
        await listen(self, host, port)

    monkeypatch.setattr(Engine, "start", started)
    monkeypatch.setattr(TcpLinks, "listen", listening)
    first = asyncio.create_task(Process(config, bootstrap=True).run())
    async with asyncio.timeout(20):
        while not (engines and engines[0].leader_ready):
            await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    await first
    with pytest.raises(StoppedError):
        await Process(config, bootstrap=False).run()
    assert members == [[], ["n1"]]
