"""The SDK's client against the API on a real socket, with a cluster inside the test's process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from api.cluster import NoQuorumError as NoQuorum
from api.cluster import OutcomeUnknownError as OutcomeUnknown
from api.cluster import StorageFullError as StorageFull
from tests.integration.serving import Api, serving
from tidelock.client import Client
from tidelock.client.answers import Event, Membership
from tidelock.clocks import Relation
from tidelock.errors import (
    ClientClosedError,
    InvalidRequestError,
    NoQuorumError,
    NotFoundError,
    OutcomeUnknownError,
    ProposalRejectedError,
    UnavailableError,
    UnreachableError,
)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


@pytest.fixture
async def client(api: Api) -> AsyncIterator[Client]:
    async with Client([f"http://127.0.0.1:{api.port}"], discover=False) as made:
        yield made


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


async def test_events_are_recorded_and_listed(client: Client) -> None:
    first = await client.events.record("created", {"n": 1}, node_id="orders")
    synced = await client.events.sync("orders", first.lamport_timestamp + 5, node_id="billing")
    assert synced.lamport_timestamp == first.lamport_timestamp + 6
    assert (await client.events.get(first.event_id)).event_data == {"n": 1}
    assert [event.node_id async for event in client.events.list()] == ["orders", "billing"]
    assert (await client.events.clock("never/seen")).lamport_timestamp == 0


async def test_versions_and_vector_clocks_are_kept(client: Client) -> None:
    await client.versions.increment("a", key="k")
    merged = await client.versions.merge({"b": 2}, key="k")
    assert (merged.relation, merged.version_vector) == (Relation.CONCURRENT, {"a": 1, "b": 2})
    compared = await client.versions.compare({"a": 1}, {"a": 2})
    assert compared.relation is Relation.BEFORE
    written = await client.versions.write_object("o", "a", None)
    assert [sibling.value for sibling in written.siblings] == [None]
    sent = await client.vector_clocks.send("a", {"hello": 1})
    got = await client.vector_clocks.receive("b", sent.vector_clock, message_id=sent.message_id)
    assert got.vector_clock == {"a": 1, "b": 1}
    assert [event.type async for event in client.vector_clocks.events()] == ["SEND", "RECEIVE"]


async def test_proposals_are_voted_on(client: Client) -> None:
    decided = await client.proposals.propose({"v": 1}, 5, key="k")
    assert decided.status == "COMMITTED"
    assert (await client.proposals.committed("k")).data == {"v": 1}
    with pytest.raises(ProposalRejectedError) as refused:
        await client.proposals.propose({"v": 0}, 4, key="k", id=2)
    assert "REJECT" in refused.value.votes.values()
    assert refused.value.reasons


async def test_the_rest_of_the_contract_answers(client: Client) -> None:
    assert (await client.participants.join("p")).active
    assert [each.node_id async for each in client.participants.list()] == ["p"]
    assert not (await client.participants.leave("p")).active
    now = await client.hlc.now()
    assert (await client.hlc.observe(now.hlc)).encoded > now.encoded
    assert (await client.sequences.next("s", 3)).last == 3
    assert (await client.sequences.get("s")).last == 3
    assert (await client.cluster.topology()).leader == "n1"
    assert len((await client.cluster.routing()).nodes) == 3


async def test_a_batch_answers_each_operation(client: Client) -> None:
    ran = await client.batches.run(
        [
            {"op": "timestamp.event", "eventType": "e", "nodeId": "a"},
            {"op": "participant.leave", "nodeId": "nobody"},
        ]
    )
    assert ran.read(0, Event).lamport_timestamp == 1
    with pytest.raises(NotFoundError):
        ran.read(1, Membership)


async def test_rounds_of_synchronisation_take_the_maximum_of_all(client: Client) -> None:
    await client.synchronisation.report("a", lamport=3, vector={"a": 3})
    reported = await client.synchronisation.report("b", lamport=5)
    assert (reported.target_lamport, reported.target_vector) == (5, {"a": 3})
    closed = await client.synchronisation.run()
    assert {node.node_id: node.lag.lamport for node in closed.nodes} == {"a": 2, "b": 0}
    for node_id, all_have in (("a", False), ("b", True)):
        done = await client.synchronisation.acknowledge(closed.round, node_id)
        assert done.synchronised == all_have
    status = await client.synchronisation.status(rounds=1)
    assert [(found.round, found.synchronised) for found in status.rounds] == [(closed.round, True)]
    assert (await client.events.clock("a")).lamport_timestamp == 5


async def test_operators_change_the_members_and_the_rotation(api: Api, client: Client) -> None:
    added = await client.cluster.add_member("n4", "127.0.0.1:7204", "127.0.0.1:7104")
    assert added.node_id == "n4"
    assert (await client.cluster.remove_member("n4")).node_id == "n4"
    with pytest.raises(NotFoundError):
        await client.cluster.remove_member("n4")
    assert (await client.cluster.transfer_leadership("n2")).leader == "n2"
    api.routing.fail("n2")
    assert (await client.cluster.rejoin("n2")).state == "RECOVERING"


async def test_the_health_of_a_node_is_asked_of_that_node(api: Api, client: Client) -> None:
    assert (await client.health.live()).status == "live"
    assert (await client.health.ready()).node_id == "n1"
    assert (await client.health.leader(at=f"127.0.0.1:{api.port}")).leader == "n1"
    api.cluster.caught_up = False
    with pytest.raises(UnavailableError, match="far behind"):
        await client.health.ready()
    with pytest.raises(UnreachableError):
        await client.health.live(at=f"127.0.0.1:{free_port()}", timeout_ms=2_000)


async def test_stored_events_of_vectors_are_found_by_their_ids(client: Client) -> None:
    counted = await client.versions.increment("a", key="k")
    assert (await client.versions.event(counted.event_id)).version_vector == {"a": 1}
    sent = await client.vector_clocks.send("a")
    assert (await client.vector_clocks.event(sent.message_id)).type == "SEND"
    merged = await client.versions.merge({"b": 1}, key="k", node_id="m")
    assert merged.version_vector == {"a": 1, "b": 1}
    events = [event async for event in client.versions.events(key="k")]
    assert [event.node_id for event in events] == ["a", "m"]


async def test_a_read_may_be_of_the_node_alone(api: Api, client: Client) -> None:
    await client.events.clock("a")
    await client.events.clock("a", consistency="local")
    assert [event async for event in client.events.list(consistency="local")] == []
    assert api.cluster.consistencies == ["linearizable", "local", "local"]


async def test_a_list_comes_in_pages_of_the_size_that_is_asked_for(
    api: Api, client: Client
) -> None:
    for number in range(7):
        await client.participants.join(f"p{number}")
    before = len(api.cluster.consistencies)
    assert len([each async for each in client.participants.list(page_size=3)]) == 7
    assert len(api.cluster.consistencies) - before == 3


async def test_diagrams_are_drawn_as_edges_and_for_shiviz(client: Client) -> None:
    for name in ("a,b", "c%"):
        sent = await client.vector_clocks.send(name)
        await client.vector_clocks.receive("r", sent.vector_clock, message_id=sent.message_id)
    drawn = [each async for each in client.diagrams.edges(kinds=["vector"])]
    assert [len(each.nodes) for each in drawn] == [4]
    assert [edge.kind for edge in drawn[0].edges].count("MESSAGE") == 2
    (only,) = [each async for each in client.diagrams.edges(participants=["a,b", "c%"])]
    assert [node.node_id for node in only.nodes] == ["a,b", "c%"]
    parts = [each async for each in client.diagrams.edges(events=3)]
    assert [len(each.nodes) for each in parts] == [3, 1]
    logs = [each async for each in client.diagrams.shiviz(events=2)]
    assert len(logs) == 2
    assert logs[0].next_cursor is not None
    assert "r" in logs[0].text
    first = drawn[0].nodes[0].event_id
    (empty,) = [each async for each in client.diagrams.edges(end=first)]
    assert empty.nodes == []


async def test_a_request_for_a_lock_can_be_given_up_by_its_key(client: Client) -> None:
    await client.locks.acquire("l", "a", ttl_ms=60_000, idempotency_key="k")
    assert (await client.locks.abandon("l", "a", "k")).released
    assert (await client.locks.get("l")).holder is None


async def test_refusals_are_typed_and_say_which_field(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await client.events.record("")
    assert [error.path for error in refused.value.errors] == ["eventType"]
    with pytest.raises(NotFoundError):
        await client.proposals.get("none")


async def test_a_node_that_does_not_listen_is_passed_over(api: Api) -> None:
    addresses = [f"http://127.0.0.1:{port}" for port in (free_port(), api.port)]
    async with Client(addresses, discover=False) as client:
        assert (await client.sequences.next("s")).first == 1
        assert (await client.sequences.next("s")).first == 2


async def test_nobody_to_ask_is_said_at_the_deadline() -> None:
    async with Client([f"127.0.0.1:{free_port()}"], timeout_ms=100) as client:
        with pytest.raises(UnreachableError):
            await client.sequences.next("s")


async def test_a_write_whose_answer_is_lost_is_done_once(api: Api, client: Client) -> None:
    api.cluster.fault = OutcomeUnknown()
    api.cluster.lose_answers = True
    taking = asyncio.create_task(client.sequences.next("s"))
    while not api.cluster.timeouts_ms:
        await asyncio.sleep(0)
    api.cluster.fault = None
    assert (await taking).first == 1
    assert (await client.sequences.get("s")).last == 1
    assert len(api.cluster.timeouts_ms) >= 3


async def test_an_outcome_that_stays_unknown_can_be_asked_for_again(
    api: Api, client: Client
) -> None:
    api.cluster.fault = OutcomeUnknown()
    api.cluster.lose_answers = True
    with pytest.raises(OutcomeUnknownError) as unknown:
        await client.sequences.next("s", timeout_ms=200)
    api.cluster.fault = None
    key = unknown.value.idempotency_key
    assert key is not None
    assert (await client.sequences.next("s", idempotency_key=key)).first == 1
    assert (await client.sequences.get("s")).last == 1


async def test_no_quorum_is_no_unknown_outcome(api: Api, client: Client) -> None:
    api.cluster.fault = NoQuorum()
    with pytest.raises(NoQuorumError):
        await client.sequences.next("s", timeout_ms=200)
    assert max(api.cluster.timeouts_ms) <= 200


@pytest.mark.parametrize("refusal", [NoQuorum(), StorageFull()], ids=["quorum", "storage"])
async def test_a_refusal_after_an_unknown_outcome_by_the_node_alone_decides_nothing(
    api: Api, client: Client, refusal: Exception
) -> None:
    api.cluster.fault = OutcomeUnknown()
    taking = asyncio.create_task(client.sequences.next("s", timeout_ms=300))
    while not api.cluster.timeouts_ms:
        await asyncio.sleep(0)
    api.cluster.fault = refusal
    with pytest.raises(OutcomeUnknownError):
        await taking


async def test_callers_at_the_same_time_share_a_request_for_timestamps(
    api: Api, client: Client
) -> None:
    given = await asyncio.gather(*(client.timestamp() for _ in range(50)))
    assert len({*given}) == 50
    assert len(api.cluster.timeouts_ms) == 1
    later = await client.timestamp()
    assert later > max(given)


async def test_who_leaves_takes_no_timestamp_of_others_along(client: Client) -> None:
    waiting = [asyncio.create_task(client.timestamp()) for _ in range(10)]
    await asyncio.sleep(0)
    waiting[3].cancel()
    given = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(given[3], asyncio.CancelledError)
    assert len({*(each for each in given if isinstance(each, int))}) == 9


async def test_a_closed_client_says_so(api: Api) -> None:
    client = Client([f"127.0.0.1:{api.port}"], discover=False)
    await client.close()
    with pytest.raises(ClientClosedError):
        await client.timestamp()
