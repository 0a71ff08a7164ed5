"""Two-phase messages on real nodes: from who prepares them to everybody that they are for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.integration.nodes import Nodes, running_nodes
from tests.integration.participant import Participant, participating
from tests.integration.serving import MESSAGES, TOPICS

pytestmark = pytest.mark.timeout(180)

WITHIN_S = 30.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running_nodes(tmp_path_factory.mktemp("nodes") / "data") as nodes:
        yield nodes


@pytest.fixture
async def nodes(running: Nodes) -> Nodes:
    await running.put_right()
    return running


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    async with participating() as found:
        yield found


def delivery(participant: Participant, path: str = "a", payload: object = 7) -> dict[str, object]:
    return {"action": participant.url(path), "payload": payload}


def message(participant: Participant, *steps: object, **more: object) -> dict[str, object]:
    told = list(steps) or [delivery(participant)]
    return {"query": participant.url("query"), "steps": told, **more}


async def shown_as(nodes: Nodes, xid: str, status: str) -> Any:
    ends_at = time.monotonic() + WITHIN_S
    while True:
        shown = await nodes.get("n3", f"{MESSAGES}/{xid}")
        if shown["status"] == status:
            return shown
        assert time.monotonic() < ends_at, shown
        await asyncio.sleep(0.02)


async def test_a_submitted_message_reaches_everybody_as_it_was_written(
    nodes: Nodes, participant: Participant
) -> None:
    """Also what looks like a reference to another step is its own affair."""
    steps = [delivery(participant), delivery(participant, "b", {"$ref": "a.path"})]
    kept = await nodes.post("n1", MESSAGES, message(participant, *steps))
    assert participant.calls == []
    done = await nodes.post("n2", f"{MESSAGES}/{kept['xid']}/submit", {"waitMs": 20_000})
    assert done["status"] == "COMMITTED"
    assert {call.path: call.body for call in participant.calls} == {
        "a": 7,
        "b": {"$ref": "a.path"},
    }


async def test_whoever_refuses_a_message_is_told_it_until_it_is_accepted(
    nodes: Nodes, participant: Participant
) -> None:
    participant.answers["a"] = [409, 500, 200]
    kept = await nodes.post("n1", MESSAGES, message(participant))
    done = await nodes.post("n1", f"{MESSAGES}/{kept['xid']}/submit", {"waitMs": 20_000})
    assert done["status"] == "COMMITTED"
    assert participant.paths() == ["a"] * 3


@pytest.mark.parametrize(
    ("answers", "status", "told"), [([200], "COMMITTED", ["a"]), ([425, 409], "ROLLED_BACK", [])]
)
async def test_a_silent_sender_is_asked_what_became_of_its_message(
    nodes: Nodes, participant: Participant, answers: list[Any], status: str, told: list[str]
) -> None:
    participant.answers["query"] = list(answers)
    kept = await nodes.post("n2", MESSAGES, message(participant, timeoutMs=50))
    await shown_as(nodes, kept["xid"], status)
    asked = [call for call in participant.calls if call.operation == "QUERY"]
    assert len(asked) == len(answers)
    assert {(call.xid, call.step, call.content) for call in asked} == {
        (kept["xid"], "check-back", b"{}")
    }
    assert [path for path in participant.paths() if path != "query"] == told


async def test_a_message_survives_the_death_of_the_leader_between_its_phases(
    nodes: Nodes, participant: Participant
) -> None:
    kept = await nodes.post("n1", MESSAGES, message(participant, timeoutMs=300))
    nodes.cluster.kill(await nodes.leader())
    await nodes.put_right()
    await shown_as(nodes, kept["xid"], "COMMITTED")
    assert participant.paths() == ["query", "a"]


async def test_a_topic_has_all_its_subscribers_told(nodes: Nodes, participant: Participant) -> None:
    for name in ("mail", "audit"):
        body = {"url": participant.url(name)}
        path = f"{TOPICS}/paid/subscribers/{name}"
        assert (await nodes.call("n3", "PUT", path, body)).status == 200
    kept = await nodes.post(
        "n1", MESSAGES, message(participant, {"topic": "paid", "payload": 1}, delayMs=100)
    )
    done = await nodes.post("n2", f"{MESSAGES}/{kept['xid']}/submit", {"waitMs": 20_000})
    assert done["status"] == "COMMITTED"
    assert sorted(participant.paths()) == ["audit", "mail"]
