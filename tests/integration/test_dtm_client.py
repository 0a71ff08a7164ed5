"""`dtmcli`, DTM's own client for Python, as it is published, against three nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from dtmcli import msg as dtm_msg
from dtmcli import saga as dtm_saga
from dtmcli import tcc as dtm_tcc
from dtmcli import utils as dtm_utils

from tests.integration.dtm import Participant, participating
from tests.integration.nodes import WITHIN_S, Nodes, running_nodes

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running_nodes(tmp_path_factory.mktemp("dtmcli")) as found:
        yield found


@pytest_asyncio.fixture
async def at() -> AsyncIterator[Participant]:
    async with participating() as found:
        yield found


@pytest.fixture(params=["n1", "n2", "n3"])
def node_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def dtm_of(nodes: Nodes, node_id: str) -> str:
    return nodes.cluster.place(node_id).dtm_url


async def ended(nodes: Nodes, gid: str, status: str) -> Any:
    """Wait until every node shows that a transaction ended so, and return it."""
    transaction: Any = None
    async with ClientSession() as session:
        for node_id in nodes.names:
            async with asyncio.timeout(WITHIN_S):
                while True:
                    url = f"{dtm_of(nodes, node_id)}/query"
                    async with session.get(url, params={"gid": gid}) as response:
                        transaction = (await response.json())["transaction"]
                    if transaction is not None and transaction["status"] == status:
                        break
                    await asyncio.sleep(0.02)
    return transaction


async def run_saga(dtm: str, at: Participant, wait: bool = False) -> str:
    def work() -> str:
        gid = str(dtm_utils.gen_gid(dtm))
        saga = dtm_saga.Saga(dtm, gid)
        saga.trans_base.wait_result = wait
        saga.add({"amount": 30}, at.url("out"), at.url("out-undone"))
        saga.add({"amount": 30}, at.url("in"), at.url("in-undone"))
        saga.submit()
        return gid

    return await asyncio.to_thread(work)


async def test_a_saga_succeeds(nodes: Nodes, node_id: str, at: Participant) -> None:
    gid = await run_saga(dtm_of(nodes, node_id), at)
    await ended(nodes, gid, "succeed")
    assert at.heard == ["out action", "in action"]
    assert [call.content for call in at.calls] == [b'{"amount": 30}'] * 2
    assert {call.query["gid"] for call in at.calls} == {gid}


async def test_a_saga_is_undone(nodes: Nodes, node_id: str, at: Participant) -> None:
    at.answers["in"] = [409]
    gid = await run_saga(dtm_of(nodes, node_id), at)
    await ended(nodes, gid, "failed")
    assert at.heard == [
        "out action",
        "in action",
        "in-undone compensate",
        "out-undone compensate",
    ]


async def test_who_waits_for_a_saga_that_is_undone_hears_of_it(
    nodes: Nodes, node_id: str, at: Participant
) -> None:
    at.answers["in"] = [409]
    with pytest.raises(dtm_utils.DTMFailureError):
        await run_saga(dtm_of(nodes, node_id), at, wait=True)


async def run_tcc(dtm: str, at: Participant) -> tuple[str, str]:
    """Return the gid, and what the client returned."""

    def work() -> tuple[str, str]:
        gid = str(dtm_utils.gen_gid(dtm))

        def tries(tcc: dtm_tcc.Tcc) -> None:
            tcc.call_branch({"amount": 30}, at.url("out"), at.url("out-yes"), at.url("out-no"))
            tcc.call_branch({"amount": 30}, at.url("in"), at.url("in-yes"), at.url("in-no"))

        return gid, str(dtm_tcc.tcc_global_transaction(dtm, gid, tries))

    return await asyncio.to_thread(work)


async def test_a_tcc_is_confirmed(nodes: Nodes, node_id: str, at: Participant) -> None:
    gid, returned = await run_tcc(dtm_of(nodes, node_id), at)
    assert returned == gid
    await ended(nodes, gid, "succeed")
    assert at.heard == ["out try", "in try", "in-yes confirm", "out-yes confirm"]
    assert at.calls[-1].content == b'{"amount": 30}'


async def test_a_tcc_is_cancelled(nodes: Nodes, node_id: str, at: Participant) -> None:
    at.answers["in"] = [409]
    gid, returned = await run_tcc(dtm_of(nodes, node_id), at)
    assert returned == ""
    await ended(nodes, gid, "failed")
    assert at.heard == ["out try", "in try", "in-no cancel", "out-no cancel"]


async def run_message(dtm: str, at: Participant, work: Any) -> str:
    def send() -> str:
        gid = str(dtm_utils.gen_gid(dtm))
        message = dtm_msg.Msg(dtm, gid).add({"amount": 30}, at.url("in"))
        message.do_and_submit(at.url("asked"), work)
        return gid

    return await asyncio.to_thread(send)


async def test_a_message_is_delivered(nodes: Nodes, node_id: str, at: Participant) -> None:
    gid = await run_message(dtm_of(nodes, node_id), at, lambda barrier: None)
    await ended(nodes, gid, "succeed")
    assert at.heard == ["in action"]


async def test_a_message_whose_work_fails_is_aborted(
    nodes: Nodes, node_id: str, at: Participant
) -> None:
    seen: list[str] = []

    def fails(barrier: Any) -> None:
        seen.append(barrier.gid)
        raise dtm_utils.DTMFailureError("no money")

    with pytest.raises(dtm_utils.DTMFailureError):
        await run_message(dtm_of(nodes, node_id), at, fails)
    await ended(nodes, seen[0], "failed")
    assert at.heard == []


async def test_a_message_whose_sender_does_not_know_is_what_the_check_back_says(
    nodes: Nodes, node_id: str, at: Participant
) -> None:
    def lost(barrier: Any) -> None:
        # What the client asks itself: it has no branch id of its own for it.
        barrier.branch_id, barrier.op = "00", "msg"
        raise RuntimeError("the connection to the database was lost")

    with pytest.raises(RuntimeError):
        await run_message(dtm_of(nodes, node_id), at, lost)
    assert at.heard[0] == "asked msg"
    gid = at.calls[0].query["gid"]
    await ended(nodes, gid, "succeed")
    assert at.heard == ["asked msg", "in action"]


async def test_our_own_api_shows_what_dtms_client_did(nodes: Nodes, at: Participant) -> None:
    gid = await run_saga(dtm_of(nodes, "n1"), at)
    await ended(nodes, gid, "succeed")
    shown = await nodes.get("n2", f"/api/v1/transactions/{gid}")
    assert shown["status"] == "COMMITTED"
