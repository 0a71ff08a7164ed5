"""The HTTP interface on a real socket, over a cluster inside the test's process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

from aiohttp import ClientSession, TCPConnector, web
from yarl import URL

from api.app import build_app
from api.metrics import Metrics
from api.settings import ApiSettings
from tests.integration.local_cluster import LocalCluster, LocalRouting

EVENT = "/api/v1/timestamp/event"
SYNC = "/api/v1/timestamp/sync"
EVENTS = "/api/v1/timestamp/events"
CLOCK = "/api/v1/timestamp/clock"
PARTICIPANTS = "/api/v1/participants"
BATCH = "/api/v1/batch"
CLUSTER = "/api/v1/cluster"


class Answered:
    """What came back."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status = status
        self.headers = headers
        self.content = content

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def code(self) -> str:
        """The code of a problem, which is checked to be a proper one."""
        assert self.headers["Content-Type"] == "application/problem+json"
        problem = self.body
        assert problem["status"] == self.status
        assert problem["type"].startswith("urn:problem-type:tidelock:")
        assert problem["title"]
        assert problem["detail"]
        assert "Traceback" not in problem["detail"]
        return str(problem["code"])

    @property
    def refused(self) -> tuple[int, str, list[str]]:
        """Status, code and the paths of the fields that a problem names."""
        return self.status, self.code, [error["path"] for error in self.body.get("errors", [])]


class Api:
    """A client of the served API, with the cluster behind it to look at and to break."""

    def __init__(
        self, session: ClientSession, port: int, cluster: LocalCluster, routing: LocalRouting
    ) -> None:
        self._session = session
        self.port = port
        self.cluster = cluster
        self.routing = routing

    async def call(
        self,
        method: str,
        path: str,
        *,
        send: object = None,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answered:
        """Send `send` as JSON, or `raw` as it is. `path` is sent as it is written."""
        body = json.dumps(send).encode() if send is not None else raw
        sent = dict(headers or {})
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        async with self._session.request(
            method,
            url,
            data=None if body is None else BytesIO(body),
            headers=sent,
            skip_auto_headers=("Content-Type",),
        ) as response:
            return Answered(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Answered:
        return await self.call("GET", path, headers=headers)

    async def post(self, path: str, send: object, **headers: str) -> Answered:
        """`headers` are named with underscores for dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("POST", path, send=send, headers=named)

    async def record(self, node_id: str = "orders", event_type: str = "created") -> Any:
        """Record an event and return the answer's body."""
        answered = await self.post(EVENT, {"nodeId": node_id, "eventType": event_type})
        assert answered.status == 200
        return answered.body


@asynccontextmanager
async def serving(
    cluster: LocalCluster | None = None, settings: ApiSettings | None = None
) -> AsyncIterator[Api]:
    cluster = LocalCluster() if cluster is None else cluster
    routing = LocalRouting()
    app = build_app(cluster, settings or ApiSettings(), routing, Metrics())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        async with ClientSession(connector=TCPConnector(limit=0), auto_decompress=False) as session:
            yield Api(session, port, cluster, routing)
    finally:
        await runner.cleanup()
