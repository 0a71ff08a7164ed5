"""Transactions on real nodes, from the request to the participant and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.nodes import Nodes, running_nodes
from tests.integration.participant import Participant, participating
from tests.integration.serving import ROW_LOCKS, SAGAS, TCC, TRANSACTIONS

pytestmark = pytest.mark.timeout(180)

WAIT = {"waitMs": 20_000}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    kept = {"TIDELOCK_TRANSACTIONS_RETENTION_MS": "2000"}
    with running_nodes(tmp_path_factory.mktemp("nodes") / "data", kept) as nodes:
        yield nodes


@pytest.fixture
async def nodes(running: Nodes) -> Nodes:
    await running.put_right()
    return running


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    async with participating() as found:
        yield found


def step(participant: Participant, name: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "action": participant.url(name),
        "compensation": participant.url(f"{name}/undo"),
        **more,
    }


async def test_results_of_steps_reach_later_ones(nodes: Nodes, participant: Participant) -> None:
    fed = step(participant, "pay", payload={"for": {"$ref": "reserve.path"}, "amount": 30})
    saga = {"steps": [step(participant, "reserve", payload={"sku": "a"}), fed], **WAIT}
    for node_id in nodes.names:
        done = await nodes.post(node_id, SAGAS, saga)
        assert done["status"] == "COMMITTED"
        calls = [call for call in participant.calls if call.xid == done["xid"]]
        assert [call.path for call in calls] == ["reserve", "pay"]
        assert calls[0].body == {"sku": "a"}
        assert calls[1].body == {"for": "reserve", "amount": 30}


async def test_a_failed_step_has_the_others_undone_with_their_payloads(
    nodes: Nodes, participant: Participant
) -> None:
    participant.answers["ship"] = [409]
    steps = [
        step(participant, "reserve", payload={"sku": "b"}),
        step(participant, "pay", payload={"for": {"$ref": "reserve.path"}}),
        step(participant, "ship"),
    ]
    done = await nodes.post("n2", SAGAS, {"steps": steps, **WAIT})
    assert done["status"] == "ROLLED_BACK"
    assert done["reason"].startswith("step ship failed")
    calls = [call for call in participant.calls if call.xid == done["xid"]]
    assert [call.path for call in calls] == ["reserve", "pay", "ship", "pay/undo", "reserve/undo"]
    assert calls[3].body == {"for": "reserve"}


async def test_tcc_confirms_all_or_cancels_all(nodes: Nodes, participant: Participant) -> None:
    participant.answers["c/try"] = [409]
    branches = {
        name: {call: participant.url(f"{name}/{call}") for call in ("try", "confirm", "cancel")}
        for name in "abc"
    }
    done = await nodes.post("n1", TCC, {"branches": [branches["a"], branches["b"]], **WAIT})
    assert done["status"] == "COMMITTED"
    assert sorted(participant.paths(done["xid"])) == ["a/confirm", "a/try", "b/confirm", "b/try"]
    done = await nodes.post("n3", TCC, {"branches": [branches["a"], branches["c"]], **WAIT})
    assert done["status"] == "ROLLED_BACK"
    assert sorted(participant.paths(done["xid"])) == ["a/cancel", "a/try", "c/try"]


async def register(nodes: Nodes, node_id: str, xid: str, row: str, **more: object) -> int:
    body = {
        "mode": "AT",
        "resourceId": "db",
        "lockKeys": {"t": [[row]]},
        "callbacks": {"commit": "", "rollback": ""},
        **more,
    }
    registered = await nodes.post(node_id, f"{TRANSACTIONS}/{xid}/branches", body)
    return int(registered["branchId"])


async def test_rows_are_waited_for_at_one_node_and_freed_through_another(nodes: Nodes) -> None:
    for node_id, xid in (("n1", "waited-for"), ("n2", "waits")):
        await nodes.post(node_id, TRANSACTIONS, {"xid": xid})
    branch = await register(nodes, "n1", "waited-for", "a")
    waiting = asyncio.ensure_future(register(nodes, "n3", "waits", "a", waitMs=20_000))

    async def stands_in_the_queue() -> bool:
        listed = await nodes.get("n2", f"{ROW_LOCKS}?xid=waited-for")
        return bool(listed["items"][0]["queueLength"])

    await nodes.eventually(stands_in_the_queue)
    report = f"{TRANSACTIONS}/waited-for/branches/{branch}/report"
    committing = asyncio.ensure_future(
        nodes.post("n2", f"{TRANSACTIONS}/waited-for/commit", {"waitMs": 20_000})
    )
    await nodes.post("n1", report, {"status": "PHASE_ONE_DONE"})
    assert (await committing)["status"] == "COMMITTED"
    assert await waiting > branch
    (row,) = (await nodes.get("n1", f"{ROW_LOCKS}?resourceId=db"))["items"]
    assert [holder["xid"] for holder in row["holders"]] == ["waits"]


async def test_the_leaders_retention_is_that_of_all(nodes: Nodes) -> None:
    await nodes.post("n2", TRANSACTIONS, {"xid": "short-lived"})
    await nodes.post("n3", f"{TRANSACTIONS}/short-lived/rollback", {"reason": "no more"})
    for node_id in nodes.names:

        async def is_over(asked: str = node_id) -> bool:
            shown = await nodes.get(asked, f"{TRANSACTIONS}/short-lived")
            assert (shown["status"], shown["reason"]) == ("ROLLED_BACK", "no more")
            return not shown["keptInFull"]

        await nodes.eventually(is_over)
