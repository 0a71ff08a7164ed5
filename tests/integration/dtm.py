"""DTM's protocol on a real engine with its driver, and a participant that answers as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, TCPConnector, web
from yarl import URL

from api.cluster import Cluster
from api.connections import ApiRunner
from api.gateways.dtm import Network, build_dtm_app
from api.gateways.dtm_service import new_gid
from api.metrics import Metrics
from api.settings import ApiSettings
from node.config import DeliveryConfig
from tests.integration.engines import LoopCluster, eventually, loop_cluster

PREFIX = "/api/dtmsvr"
LOOPBACK = [ip_network("127.0.0.0/8")]

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]
Said = int | str | tuple[int, str] | Behaviour
"""A status, a body of status 200, both, or something to do."""


@dataclass(frozen=True, slots=True)
class Called:
    """One call as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    query_text: str
    headers: dict[str, str]
    content: bytes

    @property
    def op(self) -> str:
        return self.query.get("op", "")


class Participant:
    """Answers 200 to everything, unless `answers` says otherwise for a path."""

    def __init__(self) -> None:
        self.calls: list[Called] = []
        self.answers: dict[str, list[Said]] = {}
        """By path: answers in turn, the last one for ever."""
        self.latency_s = 0.0
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        app = web.Application(client_max_size=4 << 20)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}/{path}"

    @property
    def heard(self) -> list[str]:
        """The calls as path and op, in order."""
        return [f"{call.path} {call.op}" for call in self.calls]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        path = request.match_info["path"]
        self.calls.append(
            Called(
                request.method,
                path,
                dict(request.query),
                request.rel_url.raw_query_string,
                dict(request.headers),
                content,
            )
        )
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        answers = self.answers.get(path)
        said: Said = 200
        if answers:
            said = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(said):
            return await said(request)
        if isinstance(said, int):
            return web.json_response({"status": said}, status=said)
        status, text = (200, said) if isinstance(said, str) else said
        return web.Response(status=status, text=text)


@asynccontextmanager
async def participating() -> AsyncIterator[Participant]:
    participant = Participant()
    await participant.start()
    try:
        yield participant
    finally:
        await participant.stop()


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    content_type: str
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def is_success(self) -> bool:
        """Whether a client of DTM takes it for one."""
        return self.status == 200 and b"FAILURE" not in self.content


SUCCESS = (200, {"dtm_result": "SUCCESS"})


class Dtm:
    """A client of one node's gateway."""

    def __init__(self, session: ClientSession, port: int) -> None:
        self._session = session
        self.root = f"http://127.0.0.1:{port}"
        self.url = self.root + PREFIX

    async def call(
        self,
        method: str,
        path: str,
        *,
        send: object = None,
        raw: bytes | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Answered:
        """Call a path below the prefix, or one that begins with `/api`."""
        url = URL((self.root if path.startswith("/api") else self.url) + path, encoded=True)
        content = raw if send is None else json.dumps(send).encode()
        async with self._session.request(
            method,
            url.update_query(query) if query else url,
            data=None if content is None else BytesIO(content),
            headers={"Content-Type": "application/json"},
        ) as response:
            found = await response.read()
            return Answered(response.status, response.content_type, found)

    async def get(self, path: str, **query: str | int) -> Answered:
        return await self.call("GET", path, query=query)

    async def post(self, path: str, send: object) -> Answered:
        return await self.call("POST", path, send=send)

    async def said(self, path: str, send: object) -> tuple[int, Any]:
        """Post, and return status and body."""
        answered = await self.post(path, send)
        return answered.status, answered.body

    async def shown(self, gid: str) -> Any:
        """Return what `query` shows."""
        answered = await self.get("/query", gid=gid)
        assert answered.status == 200, answered
        return answered.body

    async def status(self, gid: str) -> str:
        transaction = (await self.shown(gid))["transaction"]
        return "" if transaction is None else str(transaction["status"])

    async def operations(self, gid: str) -> list[tuple[str, str, str]]:
        """Return branch id, op and status of each operation."""
        branches = (await self.shown(gid))["branches"]
        return [(each["branch_id"], each["op"], each["status"]) for each in branches]

    async def until(self, gid: str, *statuses: str) -> Any:
        """Wait until a transaction stands so, and return it."""
        async with asyncio.timeout(30):
            while True:
                transaction = (await self.shown(gid))["transaction"]
                if transaction is not None and transaction["status"] in statuses:
                    return transaction
                await asyncio.sleep(0.01)

    async def rpc(self, method: str, params: object, **members: object) -> Any:
        send = {"jsonrpc": "2.0", "method": method, "params": params, "id": "1", **members}
        return (await self.call("POST", "/api/json-rpc", send=send)).body


@dataclass(frozen=True, slots=True)
class Running:
    """A node with its gateway and a participant."""

    dtm: Dtm
    participant: Participant
    cluster: LoopCluster
    gid: str
    """One that was not used before."""

    @asynccontextmanager
    async def renewed(self) -> AsyncIterator[Running]:
        """Give the same node with another participant and another gid."""
        async with participating() as participant:
            yield Running(self.dtm, participant, self.cluster, new_gid())

    async def called(self, count: int) -> list[Called]:
        """Wait until the participant was called so often."""
        calls = self.participant.calls
        await eventually(lambda: len(calls) >= count, f"{count} calls")
        return calls


def saga(gid: str, *steps: Mapping[str, str], **members: object) -> dict[str, object]:
    """Return the body of a saga, each step with a payload."""
    payloads = ['{"amount":1}'] * len(steps)
    return {"gid": gid, "trans_type": "saga", "steps": steps, "payloads": payloads, **members}


def step(at: Participant, name: str) -> dict[str, str]:
    return {"action": at.url(f"{name}/do"), "compensate": at.url(f"{name}/undo")}


EMPTY = {"action": "", "compensate": ""}


@asynccontextmanager
async def gateway(
    cluster: Cluster,
    settings: ApiSettings | None = None,
    networks: Sequence[Network] = LOOPBACK,
) -> AsyncIterator[Dtm]:
    """Serve the gateway of a cluster at a free port."""
    settings = ApiSettings() if settings is None else settings
    runner = ApiRunner(build_dtm_app(cluster, settings, networks, Metrics()))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with ClientSession(connector=TCPConnector(limit=0)) as session:
            yield Dtm(session, runner.addresses[0][1])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(path: Path, delivery: DeliveryConfig | None = None) -> AsyncIterator[Running]:
    """Give a cluster of one that calls branches."""
    async with AsyncExitStack() as opened:
        participant = await opened.enter_async_context(participating())
        cluster = await opened.enter_async_context(loop_cluster(path, 1, delivery))
        leader = await cluster.leader()
        settings = ApiSettings(destinations=leader.destinations)
        dtm = await opened.enter_async_context(gateway(leader.cluster, settings))
        yield Running(dtm, participant, cluster, new_gid())
