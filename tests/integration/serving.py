"""The HTTP interface on a real socket, over a cluster inside the test's process."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

from aiohttp import ClientSession, TCPConnector, web
from yarl import URL

from api.app import build_app
from api.channels import Channels
from api.connections import ApiRunner
from api.metrics import Metrics
from api.settings import ApiSettings
from tests.integration.local_cluster import LocalCluster, LocalRouting

EVENT = "/api/v1/timestamp/event"
SYNC = "/api/v1/timestamp/sync"
EVENTS = "/api/v1/timestamp/events"
CLOCK = "/api/v1/timestamp/clock"
PARTICIPANTS = "/api/v1/participants"
VERSION = "/api/v1/version"
SPACE_TIME = "/api/v1/export/space-time"
VECTOR_CLOCK = "/api/v1/vector-clock"
BATCH = "/api/v1/batch"
HLC = "/api/v1/hlc"
TSO = "/api/v1/tso"
SEQUENCES = "/api/v1/sequences"
SYNCHRONISATION = "/api/v1/sync"
PROPOSALS = "/api/v1/consensus/proposals"
COMMITTED = "/api/v1/consensus/data"
LOCKS = "/api/v1/locks"
TRANSACTIONS = "/api/v1/transactions"
MESSAGES = "/api/v1/messages"
TOPICS = "/api/v1/topics"
ROW_LOCKS = "/api/v1/row-locks"
AUDIT = "/api/v1/audit"
SAGAS = "/api/v1/sagas"
SAGA_DEFINITIONS = "/api/v1/saga-definitions"
TCC = "/api/v1/tcc"
CLUSTER = "/api/v1/cluster"


_DESCRIBED: dict[ApiSettings, Any] = {}
"""The document under each settings; it is the same for every server."""


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


class _Described:
    """What the OpenAPI document says, held against every answer that a test gets."""

    def __init__(self, document: Any) -> None:
        self._operations = [
            (re.compile(re.sub(r"{\w+}", "[^/]+", path)), methods)
            for path, methods in document["paths"].items()
        ]
        self._words = {path for path in document["paths"] if "{" not in path}
        """Paths that are nothing else, though a variable of another one could have their end."""

    def check(self, method: str, path: str, answered: Answered) -> None:
        """Assert that the operation, when there is one, lists the status and the code."""
        asked = path.partition("?")[0]
        for pattern, methods in self._operations:
            if asked in self._words and pattern.pattern != asked:
                continue
            operation = methods.get(method.lower())
            if operation is None or pattern.fullmatch(asked) is None:
                continue
            listed = operation["responses"][str(answered.status)]["content"]
            schema = listed[answered.headers["Content-Type"].partition(";")[0]]["schema"]
            if answered.status >= 400:
                codes = schema["allOf"][1]["properties"]["code"].get("enum")
                assert codes is None or answered.code in codes, (path, answered.code)


class Api:
    """A client of the served API, with the cluster behind it to look at and to break."""

    def __init__(
        self,
        session: ClientSession,
        port: int,
        cluster: LocalCluster,
        routing: LocalRouting,
        described: Any,
        runner: ApiRunner,
        channels: Channels,
    ) -> None:
        self._session = session
        self._runner = runner
        self._described = _Described(described)
        self.port = port
        self.cluster = cluster
        self.routing = routing
        self.channels = channels

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open, as far as the node has noticed."""
        assert self._runner.server is not None
        return len([each for each in self._runner.server.connections if each.transport])

    async def stop(self) -> None:
        """Do what a node does that stops."""
        await self._runner.cleanup()

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
            answered = Answered(response.status, response.headers, await response.read())
        self._described.check(method, path, answered)
        return answered

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


async def converse(api: Api, *said: bytes) -> bytes:
    """Send the parts, each after something came back, and return all until the node hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    heard = b""
    async with asyncio.timeout(10):
        writer.write(said[0])
        for part in said[1:]:
            heard += await reader.readuntil(b"\r\n\r\n")
            writer.write(part)
        heard += await reader.read()
        writer.close()
        await writer.wait_closed()
    return heard


@asynccontextmanager
async def serving(
    cluster: LocalCluster | None = None, settings: ApiSettings | None = None
) -> AsyncIterator[Api]:
    cluster = LocalCluster() if cluster is None else cluster
    settings = ApiSettings() if settings is None else settings
    routing = LocalRouting()
    channels = Channels(cluster, settings)
    app = build_app(cluster, settings, routing, Metrics(), channels)
    runner = ApiRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        async with ClientSession(connector=TCPConnector(limit=0), auto_decompress=False) as session:
            described = _DESCRIBED.get(settings)
            if described is None:
                async with session.get(f"http://127.0.0.1:{port}/openapi.json") as response:
                    described = _DESCRIBED[settings] = await response.json()
            yield Api(session, port, cluster, routing, described, runner, channels)
    finally:
        await runner.cleanup()
