"""What the cluster runs, through the SDK: sagas, definitions, TCC, messages; and what is recorded.

A driver is played by the test: it tells what each call came to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from api.saga_definitions import EXAMPLE
from statemachine.commands import RecordRecoveries
from tests.integration.resource_manager import connected
from tests.integration.serving import Api, serving
from tests.integration.transacting import Application
from tidelock.client import Client, MessageStep, Retry, SagaStep, TccBranch
from tidelock.errors import (
    InvalidRequestError,
    SagaDefinitionNotFoundError,
    TransactionDecidedError,
    TransactionExistsError,
    TransactionNotFoundError,
)

URL = "http://participant:9000/"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@pytest.fixture
def driver(api: Api) -> Application:
    return Application(api)


@pytest.fixture
async def client(api: Api) -> AsyncIterator[Client]:
    async with Client([api.url], discover=False) as made:
        yield made


def step(name: str) -> SagaStep:
    return SagaStep(name=name, action=f"{URL}{name}", compensation=f"{URL}{name}/undo")


async def test_a_saga_runs_its_steps(client: Client, driver: Application) -> None:
    pay = SagaStep(
        name="pay",
        action=f"{URL}pay",
        payload={"reservation": {"$ref": "reserve.id"}},
        depends_on=["reserve"],
        timeout_ms=1_000,
        retry=Retry(limit=5),
    )
    begun = await client.sagas.run([step("reserve"), pay], name="trip")
    assert (begun.status, [each.status for each in begun.steps]) == ("BEGIN", ["REGISTERED"] * 2)
    await driver.told(begun.xid, result=b'{"id": 7}')
    assert (await client.sagas.get(begun.xid)).steps[0].result == {"id": 7}
    await driver.told(begun.xid)
    ended = await client.sagas.get(begun.xid)
    assert ended.has_ended
    assert (ended.definition, ended.states) == (None, None)
    assert (await client.transactions.get(begun.xid)).program == "SAGA"


async def test_a_saga_that_failed_says_why(client: Client, driver: Application) -> None:
    begun = await client.sagas.run([step("a"), step("b")], xid="x", recovery="BACKWARD")
    await driver.told(begun.xid)
    await driver.told(begun.xid, "FAILED")
    await driver.told(begun.xid)
    ended = await client.sagas.get("x")
    assert (ended.status, ended.reason) == ("ROLLED_BACK", "step b failed: no stock")
    failed = ended.steps[1]
    assert (failed.status, failed.attempts) == ("WITHDRAWN", 0)
    assert failed.error is not None
    assert failed.error.message == "no stock"
    with pytest.raises(TransactionExistsError):
        await client.sagas.run([step("a")], xid="x")
    with pytest.raises(TransactionNotFoundError):
        await client.sagas.get("none")


async def test_what_is_wrong_with_a_saga_is_named(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await client.sagas.run([SagaStep(name="a.b", action=URL)])
    assert [error.path for error in refused.value.errors] == ["steps[0].name"]


async def test_a_saga_follows_a_definition(client: Client, driver: Application) -> None:
    put = await client.saga_definitions.put("purchase", EXAMPLE)
    assert (put.version, put.changed) == (1, True)
    assert not (await client.saga_definitions.put("purchase", EXAMPLE)).changed
    begun = await client.sagas.run(
        definition="purchase", input={"sku": "a-1", "count": 2}, wait_ms=0
    )
    assert begun.definition is not None
    assert (begun.definition.name, begun.definition.version) == ("purchase", 1)
    assert begun.states is not None
    assert [(state.name, state.status) for state in begun.states] == [("Reserve", "RU")]
    assert begun.variables == {"sku": "a-1", "count": 2}
    shown = await client.saga_definitions.get("purchase")
    assert shown.definition == EXAMPLE
    assert [(each.version, each.running) for each in shown.versions] == [(1, 1)]
    assert [each.name async for each in client.saga_definitions.list()] == ["purchase"]
    assert (await client.saga_definitions.delete("purchase")).deleted
    with pytest.raises(SagaDefinitionNotFoundError):
        await client.saga_definitions.get("purchase")
    with pytest.raises(SagaDefinitionNotFoundError):
        await client.sagas.run(definition="purchase")
    await driver.told(begun.xid, "FAILED")
    gone_on = await client.sagas.get(begun.xid)
    assert gone_on.states is not None
    assert gone_on.states[0].error is not None


async def test_all_that_is_wrong_with_a_definition_is_named(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await client.saga_definitions.put("d", {**EXAMPLE, "TimeoutMs": -1, "Unknown": 1})
    assert {error.path for error in refused.value.errors} == {"TimeoutMs", "Unknown"}


async def test_tcc_tries_all_and_confirms_all(client: Client, driver: Application) -> None:
    branches = [
        TccBranch(try_=f"{URL}{each}/try", confirm=f"{URL}{each}/do", cancel=f"{URL}{each}/undo")
        for each in ("from", "to")
    ]
    begun = await client.tcc.run(branches, xid="t", in_order=True)
    assert [each.name for each in begun.steps] == ["1", "2"]
    await driver.told("t")
    assert (await client.transactions.get("t")).status == "COMMITTING"
    await driver.told("t", name="1")
    await driver.told("t", name="2")
    assert (await client.transactions.get("t")).status == "COMMITTED"


async def test_a_message_is_kept_until_it_is_submitted(client: Client) -> None:
    await client.topics.subscribe("paid", "ledger", f"{URL}ledger", remark="books")
    prepared = await client.messages.prepare(
        f"{URL}query",
        [MessageStep(action=f"{URL}stock", payload={"n": 1}), MessageStep(topic="paid")],
        name="order",
        query_after_ms=9_000,
    )
    shown = await client.messages.get(prepared.xid)
    assert shown.query is not None
    assert (shown.query.url, shown.submitted) == (f"{URL}query", False)
    assert [(each.action, each.topic, each.status) for each in shown.steps] == [
        (f"{URL}stock", None, "PREPARED"),
        (None, "paid", "PREPARED"),
    ]
    assert (await client.messages.submit(prepared.xid)).status == "BEGIN"
    shown = await client.messages.get(prepared.xid)
    assert [(each.action, each.status) for each in shown.steps] == [
        (f"{URL}stock", "REGISTERED"),
        (f"{URL}ledger", "REGISTERED"),
    ]
    with pytest.raises(TransactionDecidedError) as late:
        await client.messages.abort(prepared.xid)
    assert late.value.transaction is not None
    assert late.value.transaction.xid == prepared.xid


async def test_a_message_that_is_submitted_is_waited_for(
    client: Client, driver: Application
) -> None:
    prepared = await client.messages.prepare(f"{URL}query", [MessageStep(action="")], xid="m")
    assert (await client.messages.submit(prepared.xid, wait_ms=9_000)).status == "COMMITTED"
    await client.messages.prepare(f"{URL}query", [MessageStep(action=URL)], xid="n")
    aborted = await client.messages.abort("n", reason="sold out")
    assert (aborted.status, aborted.reason) == ("ROLLED_BACK", "sold out")


async def test_topics_have_subscribers(client: Client) -> None:
    for name in ("a/b", "c"):
        made = await client.topics.subscribe("paid", name, URL)
        assert made.changed
    topic = await client.topics.get("paid")
    assert [(each.name, each.url) for each in topic.subscribers] == [("a/b", URL), ("c", URL)]
    assert [each.topic async for each in client.topics.list()] == ["paid"]
    ended = await client.topics.unsubscribe("paid", "a/b")
    assert (ended.changed, ended.subscriber_count) == (True, 1)
    assert not (await client.topics.unsubscribe("paid", "a/b")).changed


async def test_what_was_recovered_is_told(api: Api, client: Client, driver: Application) -> None:
    begun = await client.sagas.run([step("a")])
    cluster = api.cluster
    record = RecordRecoveries(epoch=cluster.term, xids=(begun.xid,))
    await cluster.propose((record,), timeout_ms=1_000)
    await driver.told(begun.xid)
    (found,) = [each async for each in client.recovery.list(xid=begun.xid)]
    assert (found.decision, found.found.status) == ("CONTINUE_FORWARD", "BEGIN")
    assert [branch.status for branch in found.found.branches] == ["REGISTERED"]
    assert found.actions
    assert found.finished_at is not None
    assert [each async for each in client.recovery.list(xid="none")] == []


async def test_resource_managers_that_are_connected_are_listed(api: Api, client: Client) -> None:
    async with connected(api.url) as manager:
        (session,) = [each async for each in client.resource_managers.sessions()]
        assert (session.session_id, session.state) == (manager.session_id, "ATTACHED")
        assert (session.application_id, session.resources) == ("orders", ["db"])
