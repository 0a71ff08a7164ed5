"""A real HAProxy, with the configuration that the repository ships, in front of given nodes."""

from __future__ import annotations

import asyncio
import csv
import shutil
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from scripts.tidelock_scripts.local_cluster import ROOT

CONFIGURATION: Final = ROOT / "scripts" / "haproxy.cfg"

ABSENT: Final = (
    "There is no HAProxy on this machine. Run `apt-get install haproxy` as root (scripts/test, run "
    "by root, does it by itself), or leave these tests out with -m 'not haproxy'."
)

WITHIN_S: Final = 30.0


class Balancer:
    """A running HAProxy."""

    def __init__(self, ports: Mapping[int, int]) -> None:
        """`ports` are those of the configuration, and which are used instead."""
        self.clients = f"127.0.0.1:{ports[7000]}"
        self.writers = f"127.0.0.1:{ports[7001]}"
        self._rotation = f"http://127.0.0.1:{ports[7002]}/;csv"

    async def in_rotation(self, backend: str = "nodes") -> set[str]:
        """Return the nodes to which it sends requests now."""
        return {
            row["svname"]
            for row in await self._statistics(backend)
            if row["svname"] not in {"BACKEND", "FRONTEND"} and row["status"].startswith("UP")
        }

    async def checks(self, node_id: str) -> dict[str, str]:
        """Return what HAProxy tells of a node, by the names of its columns."""
        (row,) = (row for row in await self._statistics("nodes") if row["svname"] == node_id)
        return row

    async def _statistics(self, backend: str) -> list[dict[str, str]]:
        async with aiohttp.ClientSession() as session, session.get(self._rotation) as answer:
            lines = (await answer.text()).removeprefix("# ").splitlines()
        return [row for row in csv.DictReader(lines) if row["pxname"] == backend]

    async def expect(self, nodes: set[str], backend: str = "nodes") -> None:
        """Wait until exactly these are in rotation."""
        ends_at = time.monotonic() + WITHIN_S
        while (found := await self.in_rotation(backend)) != nodes:
            assert time.monotonic() < ends_at, f"in rotation are {found}, not {nodes}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def balancing(api_ports: Mapping[str, int], directory: Path) -> AsyncIterator[Balancer]:
    """Run one in front of the nodes n1 to n3 at these ports."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.fail(ABSENT, pytrace=False)
    own = [_free_port() for _ in range(3)]
    ports = {7000: own[0], 7001: own[1], 7002: own[2]}
    for number in (1, 2, 3):
        ports[7100 + number] = api_ports[f"n{number}"]
    text = CONFIGURATION.read_text(encoding="utf-8")
    for shipped, used in ports.items():
        assert f"127.0.0.1:{shipped}\n" in text
        text = text.replace(f"127.0.0.1:{shipped}\n", f"127.0.0.1:{used}\n")
    configuration = directory / "haproxy.cfg"
    configuration.write_text(text, encoding="utf-8")
    log = directory / "haproxy.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program, "-db", "-f", str(configuration), stdout=output, stderr=output
        )
    try:
        balancer = Balancer(ports)
        ends_at = time.monotonic() + WITHIN_S
        while True:
            assert process.returncode is None, log.read_text(encoding="utf-8")
            try:
                await balancer.expect({"n1", "n2", "n3"})
                break
            except aiohttp.ClientError:
                assert time.monotonic() < ends_at, log.read_text(encoding="utf-8")
                await asyncio.sleep(0.05)
        yield balancer
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
