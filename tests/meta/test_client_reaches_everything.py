"""The SDK's client reaches every operation that nodes serve, and reads all that they answer."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final
from urllib.parse import parse_qsl

import pytest
from msgspec import inspect

from tests.integration.serving import serving
from tidelock.client import BusinessCall, Client, attempts
from tidelock.client.answers import Hlc
from tidelock.client.attempts import JsonOf
from tidelock.client.messages import MessageStep
from tidelock.client.row_keys import RowsToLock
from tidelock.client.runs import SagaStep, TccBranch
from tidelock.client.transport import Call
from tidelock.errors import ConflictError, NotFoundError, Problem, of_problem

# Parts of OpenAPI documents are whatever JSON holds.
Json = dict[str, Any]

NOT_FOR_CLIENTS: Final = frozenset({"metrics", "description"})
"""Tags of what is for scrapers, and for people and generators."""

Reached = Awaitable[object] | AsyncIterator[object]

WAYS: Final[dict[str, Callable[[Client], Reached]]] = {
    "recordEvent": lambda c: c.events.record("t", 1, node_id="a"),
    "syncClock": lambda c: c.events.sync(
        "b", 1, node_id="a", source_event_id="e", event_type="t", event_data=1
    ),
    "getClock": lambda c: c.events.clock("a", consistency="local"),
    "getEvent": lambda c: c.events.get("e", consistency="local"),
    "listEvents": lambda c: c.events.list(
        node_id="a", event_type="t", after_lamport=1, consistency="local", page_size=7
    ),
    "joinParticipant": lambda c: c.participants.join("a"),
    "leaveParticipant": lambda c: c.participants.leave("a"),
    "listParticipants": lambda c: c.participants.list(consistency="local", page_size=7),
    "tickHybridClock": lambda c: c.hlc.now(),
    "observeHybridTime": lambda c: c.hlc.observe(Hlc(wall_ms=1, logical=0)),
    "drawTimestamps": lambda c: c.timestamps(3),
    "takeFromSequence": lambda c: c.sequences.next("s", 3),
    "getSequence": lambda c: c.sequences.get("s", consistency="local"),
    "reportClock": lambda c: c.synchronisation.report("a", lamport=1, vector={"a": 1}),
    "runSync": lambda c: c.synchronisation.run(),
    "acknowledgeSync": lambda c: c.synchronisation.acknowledge(1, "a"),
    "getSyncStatus": lambda c: c.synchronisation.status(rounds=3, consistency="local"),
    "proposeData": lambda c: c.proposals.propose(1, 2, id=3, key="k"),
    "getProposal": lambda c: c.proposals.get(3, consistency="local"),
    "getCommittedData": lambda c: c.proposals.committed("k", consistency="local"),
    "incrementVersion": lambda c: c.versions.increment("a", key="k"),
    "mergeVersion": lambda c: c.versions.merge({"a": 1}, key="k", node_id="a"),
    "compareVersions": lambda c: c.versions.compare({}, {}),
    "listVersionEvents": lambda c: c.versions.events(
        key="k", node_id="a", consistency="local", page_size=7
    ),
    "getVersionEvent": lambda c: c.versions.event("e", consistency="local"),
    "getVersion": lambda c: c.versions.get("k", consistency="local"),
    "writeObject": lambda c: c.versions.write_object("k", "a", 1, context={}),
    "getObject": lambda c: c.versions.read_object("k", consistency="local"),
    "compareVectorClocks": lambda c: c.vector_clocks.compare({}, {}),
    "tickVectorClock": lambda c: c.vector_clocks.tick("a"),
    "sendMessage": lambda c: c.vector_clocks.send("a", 1),
    "receiveMessage": lambda c: c.vector_clocks.receive("a", {}, message_id="m", message=1),
    "listVectorEvents": lambda c: c.vector_clocks.events(
        node_id="a", consistency="local", page_size=7
    ),
    "getVectorEvent": lambda c: c.vector_clocks.event("e", consistency="local"),
    "getVectorClock": lambda c: c.vector_clocks.get("a", consistency="local"),
    "acquireLock": lambda c: c.locks.acquire("l", "a", ttl_ms=9, wait_ms=9, mode="SHARED"),
    "renewLock": lambda c: c.locks.renew("l", "a", 1),
    "releaseLock": lambda c: c.locks.release("l", "a", 1),
    "abandonLock": lambda c: c.locks.abandon("l", "a", "k"),
    "verifyFencingToken": lambda c: c.locks.verify("l", 1),
    "getLock": lambda c: c.locks.get("l", consistency="local"),
    "listLocks": lambda c: c.locks.list(consistency="local", page_size=7),
    "exportSpaceTime": lambda c: c.diagrams.edges(
        participants=["a"], kinds=["version"], begin=1, end=2, events=3, consistency="local"
    ),
    "runBatch": lambda c: c.batches.run([{"op": "timestamp.event", "eventType": "t"}]),
    "beginTransaction": lambda c: c.transactions.begin(
        "n", transaction_timeout_ms=9, xid="x", mode="AT"
    ),
    "listTransactions": lambda c: c.transactions.list(
        status="BEGIN",
        mode="AT",
        resource_id="r",
        name="n",
        since=1,
        consistency="local",
        page_size=7,
    ),
    "listTransactionExceptions": lambda c: c.transactions.exceptions(
        consistency="local", page_size=7
    ),
    "getTransaction": lambda c: c.transactions.get("x", consistency="local"),
    "commitTransaction": lambda c: c.transactions.commit(
        "x", wait_ms=9, reason="r", branches_done=[1]
    ),
    "rollBackTransaction": lambda c: c.transactions.rollback(
        "x", wait_ms=9, reason="r", branches_done=[1]
    ),
    "operateTransaction": lambda c: c.transactions.operate("x", "FORGET", "r"),
    "registerBranch": lambda c: c.branches.register(
        "x",
        "XA",
        "r",
        lock_keys={"t": [[1]]},
        lock_mode="SHARED",
        locks=[RowsToLock({"t": [[2]]})],
        wait_ms=9,
        application_id="a",
        unit_id="u",
        session_id=1,
        application_data={},
        commit_url="",
        rollback_url="",
    ),
    "lockRows": lambda c: c.branches.lock(
        "x",
        1,
        lock_keys={"t": [[1]]},
        lock_mode="SHARED",
        locks=[RowsToLock({"t": [[2]]})],
        wait_ms=9,
    ),
    "unlockRows": lambda c: c.branches.unlock(
        "x", 1, lock_keys={"t": [[1]]}, lock_mode="SHARED", locks=[RowsToLock({"t": [[2]]})]
    ),
    "reportBranch": lambda c: c.branches.report(
        "x",
        1,
        "PHASE_ONE_FAILED",
        application_data={},
        error_type="e",
        error_message="m",
        error_at=1,
    ),
    "passFence": lambda c: c.branches.fence("x", 1, "TRY", "ENTER"),
    "queryRowLocks": lambda c: c.row_locks.query(
        "r", {"t": [[1]]}, lock_mode="SHARED", xid="x", wait_ms=1, consistency="local"
    ),
    "listRowLocks": lambda c: c.row_locks.list(
        resource_id="r", xid="x", consistency="local", page_size=7
    ),
    "runSaga": lambda c: c.sagas.run(
        [SagaStep(name="s", action="u")],
        definition="d",
        input={},
        xid="x",
        name="n",
        concurrent=True,
        compensate_failed=True,
        recovery="FORWARD",
        transaction_timeout_ms=9,
        wait_ms=9,
    ),
    "getSaga": lambda c: c.sagas.get("x", consistency="local"),
    "putSagaDefinition": lambda c: c.saga_definitions.put(
        "d",
        {
            "StartState": "s",
            "States": {},
            "Name": "d",
            "Comment": "c",
            "Version": "v",
            "RecoverStrategy": "Forward",
            "TimeoutMs": 9,
        },
    ),
    "getSagaDefinition": lambda c: c.saga_definitions.get("d", consistency="local"),
    "listSagaDefinitions": lambda c: c.saga_definitions.list(consistency="local", page_size=7),
    "deleteSagaDefinition": lambda c: c.saga_definitions.delete("d"),
    "runTcc": lambda c: c.tcc.run(
        [TccBranch(try_="t", confirm="c", cancel="u")],
        xid="x",
        name="n",
        in_order=True,
        transaction_timeout_ms=9,
        wait_ms=9,
    ),
    "executeXa": lambda c: c.xa.execute("t", {"a": 1}, wait_ms=9),
    "executeXaBatch": lambda c: c.xa.execute_batch([BusinessCall("t", {})], wait_ms=9),
    "executeXaAsync": lambda c: c.xa.execute_async("t", {}),
    "getXaStatus": lambda c: c.xa.status("x", consistency="local"),
    "executeJta": lambda c: c.jta.execute("t", {}, wait_ms=9),
    "getJtaStatus": lambda c: c.jta.status("x", consistency="local"),
    "prepareMessage": lambda c: c.messages.prepare(
        "q", [MessageStep(topic="t")], xid="x", name="n", delay_ms=9, query_after_ms=9
    ),
    "getMessage": lambda c: c.messages.get("x", consistency="local"),
    "submitMessage": lambda c: c.messages.submit("x", wait_ms=9),
    "abortMessage": lambda c: c.messages.abort("x", reason="r"),
    "listTopics": lambda c: c.topics.list(consistency="local", page_size=7),
    "listSubscribers": lambda c: c.topics.get("t", consistency="local"),
    "putSubscriber": lambda c: c.topics.subscribe("t", "s", "u", remark="r"),
    "deleteSubscriber": lambda c: c.topics.unsubscribe("t", "s"),
    "listRecoveries": lambda c: c.recovery.list(xid="x", consistency="local", page_size=7),
    "listAuditRecords": lambda c: c.audit.list(consistency="local", page_size=7),
    "listRmSessions": lambda c: c.resource_managers.sessions(consistency="local", page_size=7),
    "getCluster": lambda c: c.cluster.topology(),
    "getRouting": lambda c: c.cluster.routing(),
    "addMember": lambda c: c.cluster.add_member("n4", "h:1", "h:2"),
    "removeMember": lambda c: c.cluster.remove_member("n4"),
    "transferLeadership": lambda c: c.cluster.transfer_leadership("n2"),
    "rejoin": lambda c: c.cluster.rejoin("n2"),
    "isLive": lambda c: c.health.live(),
    "isReady": lambda c: c.health.ready(),
    "isLeader": lambda c: c.health.leader(),
}
"""How each operation is reached, with every option that it takes."""

BY_OTHER_WAYS: Final = frozenset({"watch", "openRmChannel"})
"""They are no requests with an answer; what `Client.watch` sends is in its own tests."""

OF_TRANSACTIONS: Final = frozenset(
    {"transactions", "row locks", "sagas", "saga definitions", "tcc", "messages"}
)
"""Tags of what applications decide by: there, they must be able to tell refusals apart."""

OF_A_ROLLING_UPGRADE: Final = "VERSION_NOT_ACTIVE"


class Sent(Exception):  # noqa: N818 - no error
    """Carries what was about to be sent out of the client."""

    def __init__(self, wanted: Call, read: object) -> None:
        super().__init__(wanted.path)
        self.wanted = wanted
        self.read = read


@pytest.fixture
async def document() -> Json:
    async with serving() as api:
        return dict((await api.get("/openapi.json")).body)


def operations(document: Json) -> Iterator[tuple[str, str, str, Json]]:
    """Yield id, method, path and description of what is for clients."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not NOT_FOR_CLIENTS.intersection(operation["tags"]):
                yield operation["operationId"], method.upper(), path, operation


async def sent_by(client: Client, reach: Callable[[Client], Reached]) -> Sent:
    reached = reach(client)
    first = anext(reached) if isinstance(reached, AsyncIterator) else reached
    with pytest.raises(Sent) as sent:
        await first
    return sent.value


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """A client that raises what it would have sent."""

    async def run(attempt: Any) -> None:
        raise Sent(attempt._call, attempt._read)

    monkeypatch.setattr(attempts._Attempts, "run", run)
    async with Client(["127.0.0.1:1"], discover=False) as made:
        yield made


async def test_there_is_a_way_to_every_operation_and_to_no_other(document: Json) -> None:
    served = {operation_id for operation_id, *_ in operations(document)}
    ways = WAYS.keys() | BY_OTHER_WAYS
    assert not served - ways, "give tidelock.client a method for these, and a row in WAYS"
    assert not ways - served, "these are not served any more"


async def test_each_way_sends_what_the_operation_takes(document: Json, client: Client) -> None:
    for operation_id, method, path, operation in operations(document):
        if operation_id in BY_OTHER_WAYS:
            continue
        wanted = (await sent_by(client, WAYS[operation_id])).wanted
        asked, _, query = wanted.path.partition("?")
        pattern = re.sub(r"{\w+}", "[^/]+", path)
        assert wanted.method == method, operation_id
        assert re.fullmatch(pattern, asked), (operation_id, asked)
        parameters = operation.get("parameters", ())
        known = {each["name"] for each in parameters if each["in"] == "query"}
        # It goes along from the second part of a list on.
        assert {name for name, _ in parse_qsl(query)} == known - {"cursor"}, operation_id
        takes_key = any(each["name"] == "Idempotency-Key" for each in parameters)
        assert not wanted.writes or takes_key, operation_id
        body = operation.get("requestBody")
        if body is None:
            assert wanted.body is None, operation_id
        else:
            schema = resolved(document, body["content"]["application/json"]["schema"])
            assert wanted.body is not None, operation_id
            given = json.loads(wanted.body).keys()
            assert given == schema.get("properties", {}).keys(), operation_id


async def test_every_member_of_an_answer_can_be_read(document: Json, client: Client) -> None:
    for operation_id, _, _, operation in operations(document):
        if operation_id in BY_OTHER_WAYS:
            continue
        read = (await sent_by(client, WAYS[operation_id])).read
        assert isinstance(read, JsonOf)
        answered = next(
            response for status, response in operation["responses"].items() if status < "300"
        )
        schema = answered["content"]["application/json"]["schema"]
        left_out = {*missing(document, schema, inspect.type_info(read.answer))}
        assert not left_out, f"{operation_id}: {read.answer} has no {left_out}"


async def test_every_refusal_about_a_transaction_has_an_error_of_its_own(document: Json) -> None:
    for operation_id, _, _, operation in operations(document):
        if not OF_TRANSACTIONS.intersection(operation["tags"]):
            continue
        for status, general in ((404, NotFoundError), (409, ConflictError)):
            for code in codes_of(operation, status) - {OF_A_ROLLING_UPGRADE}:
                error = of_problem(Problem(status=status, code=code))
                assert type(error) is not general, f"{operation_id}: {code}"


def codes_of(operation: Json, status: int) -> set[str]:
    """Return the codes of the problems that an operation answers with a status."""
    response = operation["responses"].get(str(status))
    if response is None:
        return set()
    schema = response["content"]["application/problem+json"]["schema"]
    return {*schema["allOf"][1]["properties"]["code"]["enum"]}


def resolved(document: Json, schema: Json) -> Json:
    """Return what a schema refers to."""
    while "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        schema = document["components"]["schemas"][name]
    return schema


def missing(document: Json, schema: Json, known: inspect.Type, at: str = "") -> Iterator[str]:
    """Yield the members that a schema has and a type has not."""
    schema = resolved(document, schema)
    if isinstance(known, inspect.UnionType):
        known = next((one for one in known.types if not isinstance(one, inspect.NoneType)), known)
        alternatives = schema.get("anyOf", [schema])
        schema = next(one for one in alternatives if one.get("type") != "null")
        schema = resolved(document, schema)
    if isinstance(known, inspect.ListType):
        if "items" in schema:
            yield from missing(document, schema["items"], known.item_type, f"{at}[]")
    elif isinstance(known, inspect.StructType):
        fields = {field.encode_name: field.type for field in known.fields}
        for name, member in schema["properties"].items():
            if name in fields:
                yield from missing(document, member, fields[name], f"{at}.{name}")
            else:
                yield f"{at}.{name}"
