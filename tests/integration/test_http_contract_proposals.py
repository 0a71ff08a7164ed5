"""Data proposals over HTTP, row by row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api import proposals as api_proposals
from api.cluster import NoQuorumError, OutcomeUnknownError
from statemachine import proposals
from statemachine.proposals import GREATEST_DATA_BYTES, KEPT_MS
from tests.integration.local_cluster import START_MS, LocalCluster
from tests.integration.serving import COMMITTED, PROPOSALS, Answered, Api, serving

ALL_ACCEPT = {"n1": "ACCEPT", "n2": "ACCEPT", "n3": "ACCEPT"}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


def body(proposal_id: object = "p", timestamp: int = 1, **more: object) -> dict[str, object]:
    return {"id": proposal_id, "data": "d", "timestamp": timestamp, **more}


async def committed(api: Api, **fields: Any) -> Any:
    answered = await api.post(PROPOSALS, body(**fields))
    assert answered.status == 200, answered.content
    return answered.body


async def begun(api: Api, send: object, **headers: str) -> asyncio.Task[Answered]:
    """Send a proposal that is not decided at once; return when it is applied."""
    before = api.cluster.machine.applied_index
    task = asyncio.create_task(api.post(PROPOSALS, send, **headers))
    async with asyncio.timeout(5):
        while api.cluster.machine.applied_index == before:
            await asyncio.sleep(0.001)
    return task


# POST /api/v1/consensus/proposals


async def test_a_proposal_that_all_accept_is_committed(api: Api) -> None:
    answered = await api.post(PROPOSALS, {"id": 123, "data": "update_value", "timestamp": 1001})
    assert answered.status == 200
    decided = answered.body
    index = decided["index"]
    assert decided == {
        "id": 123,
        "key": "123",
        "timestamp": 1001,
        "status": "COMMITTED",
        "index": index,
        "term": 3,
        "votes": ALL_ACCEPT,
        "reasons": {},
        "appliedBy": {"n1": index, "n2": index, "n3": index},
    }
    assert answered.headers["Tidelock-Index"].partition(".")[0] == str(index)


async def test_a_node_that_is_down_is_pending_and_a_majority_suffices(api: Api) -> None:
    api.cluster.down = ["n3"]
    decided = await committed(api)
    assert decided["votes"] == {"n1": "ACCEPT", "n2": "ACCEPT", "n3": "PENDING"}
    assert list(decided["appliedBy"]) == ["n1", "n2"]
    api.cluster.down = []
    api.cluster.vote()
    later = (await api.get(f"{PROPOSALS}/p")).body
    assert later["votes"] == ALL_ACCEPT
    assert later["appliedBy"]["n3"] == decided["index"]


async def test_an_answer_waits_a_little_for_nodes_that_are_well(api: Api) -> None:
    """A node that is heard and has not voted yet is given the time to."""
    api.cluster.down = ["n2", "n3"]
    task = await begun(api, body())
    api.cluster.down = ["n3"]
    api.cluster.vote()
    api.cluster.down = []
    await asyncio.sleep(0)
    api.cluster.vote()
    assert (await task).body["votes"] == ALL_ACCEPT


async def test_an_answer_does_not_wait_long(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_proposals, "GATHERING_S", 0.01)
    api.cluster.down = ["n2", "n3"]
    task = await begun(api, body())
    api.cluster.down = ["n3"]
    api.cluster.vote()
    api.cluster.down = []
    assert (await task).body["votes"]["n3"] == "PENDING"


async def test_a_timestamp_that_is_not_above_the_committed_one_is_rejected(api: Api) -> None:
    await committed(api, proposal_id="first", timestamp=7, key="k")
    for timestamp in (7, 6, 0):
        answered = await api.post(PROPOSALS, body(f"p{timestamp}", timestamp, key="k"))
        assert answered.refused == (409, "REJECTED", [])
        problem = answered.body
        assert problem["votes"] == dict.fromkeys(ALL_ACCEPT, "REJECT")
        assert set(problem["reasons"]) == set(ALL_ACCEPT)
        assert f"{timestamp} is not above 7" in problem["reasons"]["n2"]
        assert problem["retryable"] is False
        assert problem["detail"].startswith("3 of 3 nodes refused it.")
    assert (await api.get(f"{COMMITTED}/k")).body["timestamp"] == 7
    assert (await committed(api, proposal_id="next", timestamp=8, key="k"))["timestamp"] == 8


async def test_of_concurrent_proposals_for_a_key_none_undoes_a_greater_timestamp(api: Api) -> None:
    answers = await asyncio.gather(
        *(api.post(PROPOSALS, body(f"p{at}", at, key="k")) for at in range(20))
    )
    winners = [answered.body["timestamp"] for answered in answers if answered.status == 200]
    assert {answered.status for answered in answers} <= {200, 409}
    assert (await api.get(f"{COMMITTED}/k")).body["timestamp"] == max(winners)


async def test_a_proposal_without_a_majority_expires_and_says_who_is_missing(api: Api) -> None:
    api.cluster.down = ["n2", "n3"]
    task = await begun(api, body(), Tidelock_Timeout_Ms="4000")
    api.cluster.let_pass(2_999)
    assert (await api.get(f"{PROPOSALS}/p")).body["status"] == "PROPOSED"
    api.cluster.let_pass(1)
    answered = await task
    assert answered.refused == (409, "PROPOSAL_EXPIRED", [])
    assert answered.body["votes"] == {"n1": "ACCEPT", "n2": "PENDING", "n3": "PENDING"}
    assert answered.body["detail"].endswith("n2, n3.")
    shown = (await api.get(f"{PROPOSALS}/p")).body
    assert (shown["status"], shown["reason"]) == ("EXPIRED", answered.body["detail"])
    assert (await api.get(f"{COMMITTED}/p")).code == "DATA_NOT_FOUND"


async def test_an_outcome_that_is_not_learnt_in_time_is_unknown_and_can_be_asked_for_again(
    api: Api,
) -> None:
    api.cluster.down = ["n2", "n3"]
    answered = await api.post(PROPOSALS, body(), Tidelock_Timeout_Ms="100")
    assert answered.refused == (503, "OUTCOME_UNKNOWN", [])
    api.cluster.down = []
    api.cluster.vote()
    assert (await committed(api))["status"] == "COMMITTED"


@pytest.mark.parametrize("ended", [False, True])
async def test_the_same_proposal_again_answers_the_same(api: Api, ended: bool) -> None:
    if ended:
        first = await committed(api)
    else:
        api.cluster.down = ["n2", "n3"]
        tasks = [await begun(api, body()) for _ in range(2)]
        api.cluster.down = []
        api.cluster.vote()
        first, second = [(await task).body for task in tasks]
        assert first == second
    assert await committed(api) == first
    stored = (await api.get(f"{COMMITTED}/p")).body
    assert stored["index"] == first["index"]


@pytest.mark.parametrize(
    "other", [{"timestamp": 2}, {"data": "e"}, {"data": {"d": 1}}, {"key": "k"}]
)
async def test_an_id_with_another_content_is_refused(api: Api, other: dict[str, Any]) -> None:
    await committed(api)
    answered = await api.post(PROPOSALS, {**body(), **other})
    assert answered.refused == (409, "PROPOSAL_ID_TAKEN", [])


async def test_an_id_is_answered_as_it_was_first_written(api: Api) -> None:
    assert (await committed(api, proposal_id=7))["id"] == 7
    assert (await committed(api, proposal_id="7"))["id"] == 7
    assert (await api.get(f"{PROPOSALS}/7")).body["id"] == 7
    assert (await api.get(f"{COMMITTED}/7")).body["proposalId"] == 7
    assert (await committed(api, proposal_id="8"))["id"] == "8"
    assert (await committed(api, proposal_id=-(2**63)))["id"] == -(2**63)


async def test_without_an_id_the_cluster_makes_one(api: Api) -> None:
    sent = {"data": 1, "timestamp": 1}
    first, second = [(await api.post(PROPOSALS, sent)).body for _ in range(2)]
    assert first["id"] != second["id"]
    assert first["key"] == first["id"]
    assert (await api.get(f"{PROPOSALS}/{first['id']}")).body["votes"] == ALL_ACCEPT
    third = (await api.post(PROPOSALS, {**sent, "key": "k", "id": None})).body
    assert third["key"] == "k"
    assert (await api.get(f"{COMMITTED}/k")).body["proposalId"] == third["id"]


@pytest.mark.parametrize(
    "data", ["null", "false", '"text"', '{"a": 1.10,  "b": [1, {"c": "汉"}]}', "[" * 60 + "]" * 60]
)
async def test_data_comes_back_as_it_was_written(api: Api, data: str) -> None:
    raw = f'{{"id":"p","timestamp":1,"data":{data}}}'.encode()
    assert (await api.call("POST", PROPOSALS, raw=raw)).status == 200
    assert f'"data":{data},'.encode() in (await api.get(f"{COMMITTED}/p")).content


async def test_data_has_up_to_64_kib(api: Api) -> None:
    fits = json.dumps("x" * (GREATEST_DATA_BYTES - 2)).encode()
    raw = b'{"id":"p","timestamp":1,"data":' + fits + b"}"
    assert (await api.call("POST", PROPOSALS, raw=raw)).status == 200
    raw = b'{"id":"q","timestamp":1,"data":' + fits[:-1] + b'x"}'
    answered = await api.call("POST", PROPOSALS, raw=raw)
    assert answered.refused == (413, "REQUEST_TOO_LARGE", ["data"])
    assert (await api.get(f"{PROPOSALS}/q")).code == "PROPOSAL_NOT_FOUND"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data": ...}, "data"),
        ({"timestamp": ...}, "timestamp"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": 2**63}, "timestamp"),
        ({"timestamp": "1"}, "timestamp"),
        ({"timestamp": 1.5}, "timestamp"),
        ({"id": ""}, "id"),
        ({"id": "x" * 129}, "id"),
        ({"id": "汉" * 43}, "id"),
        ({"id": "line\n"}, "id"),
        ({"id": 1.5}, "id"),
        ({"id": True}, "id"),
        ({"id": 2**63}, "id"),
        ({"id": ["p"]}, "id"),
        ({"key": ""}, "key"),
        ({"key": 7}, "key"),
        ({"key": "x" * 129}, "key"),
        ({"votes": {}}, "votes"),
    ],
)
async def test_a_field_that_is_wrong_is_refused_by_name(
    api: Api, change: dict[str, object], field: str
) -> None:
    sent = {name: value for name, value in {**body(), **change}.items() if value is not ...}
    answered = await api.post(PROPOSALS, sent)
    assert answered.refused == (422, "INVALID_FIELD", [field])


async def test_a_key_of_the_request_makes_a_retry_the_same_request(api: Api) -> None:
    sent = {"data": 1, "timestamp": 1}
    first = await api.post(PROPOSALS, sent, Idempotency_Key="k-1")
    again = await api.post(PROPOSALS, sent, Idempotency_Key="k-1")
    assert again.content == first.content
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Tidelock-Index"] == first.headers["Tidelock-Index"]
    other = await api.post(PROPOSALS, {**sent, "timestamp": 2}, Idempotency_Key="k-1")
    assert other.refused == (422, "IDEMPOTENCY_KEY_REUSED", [])


async def test_a_retry_through_another_node_hears_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = LocalCluster("n1")
    cluster.down = ["n2", "n3"]
    sent = {"data": 1, "timestamp": 1}
    async with serving(cluster) as api:
        lost = await api.post(PROPOSALS, sent, Idempotency_Key="k-1", Tidelock_Timeout_Ms="100")
        assert lost.code == "OUTCOME_UNKNOWN"
    cluster.node_id = "n2"
    cluster.down = []
    async with serving(cluster) as api:
        cluster.vote()
        again = await api.post(PROPOSALS, sent, Idempotency_Key="k-1")
    assert again.status == 200
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.body["votes"] == ALL_ACCEPT


async def test_a_replay_answers_what_was_decided_though_the_proposal_is_forgotten(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "GREATEST_KEPT", 1)
    first = await api.post(PROPOSALS, body("a"), Idempotency_Key="k-1")
    await committed(api, proposal_id="b")
    assert (await api.get(f"{PROPOSALS}/a")).status == 404
    again = await api.post(PROPOSALS, body("a"), Idempotency_Key="k-1")
    assert again.status == 200
    # Nobody remembers who applied it, nor votes that came after the decision.
    assert (again.body["status"], again.body["index"]) == ("COMMITTED", first.body["index"])


async def test_a_wait_that_is_forgotten_is_answered_from_the_proposal(api: Api) -> None:
    """A second request for a proposal may remember a wait for longer than the first one's."""
    api.cluster.down = ["n2", "n3"]
    tasks = [await begun(api, body()), await begun(api, body(), Idempotency_Key="k-2")]
    api.cluster.down = []
    api.cluster.vote()
    first = await tasks[0]
    assert (await tasks[1]).body == first.body
    api.cluster.let_pass(600_000)
    again = await api.post(PROPOSALS, body(), Idempotency_Key="k-2")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.body == first.body


async def test_too_many_undecided_proposals_are_refused_for_now(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "GREATEST_UNDECIDED", 1)
    api.cluster.down = ["n2", "n3"]
    task = await begun(api, body("a"))
    answered = await api.post(PROPOSALS, body("b"))
    assert answered.refused == (429, "PROPOSALS_FULL", [])
    assert answered.body["retryable"]
    api.cluster.down = []
    api.cluster.vote()
    await task
    assert (await committed(api, proposal_id="b"))["status"] == "COMMITTED"


async def test_too_many_keys_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "GREATEST_KEYS", 1)
    await committed(api, proposal_id="a")
    answered = await api.post(PROPOSALS, body("b"))
    assert answered.refused == (507, "COMMITTED_KEYS_FULL", [])


@pytest.mark.parametrize(
    ("fault", "code"),
    [(NoQuorumError(), "NO_QUORUM"), (OutcomeUnknownError(), "OUTCOME_UNKNOWN")],
)
async def test_no_majority_is_said_and_no_vote_is_made_up(
    api: Api, fault: Exception, code: str
) -> None:
    api.cluster.fault = fault
    answered = await api.post(PROPOSALS, body())
    assert answered.refused == (503, code, [])
    assert "votes" not in answered.body


async def test_a_node_that_knows_of_no_cluster_proposes_nothing(api: Api) -> None:
    api.cluster.members = []
    assert (await api.post(PROPOSALS, body())).refused == (503, "NO_QUORUM", [])
    assert api.cluster.machine.applied_index == 0


# GET


async def test_a_proposal_is_shown_while_it_is_undecided(api: Api) -> None:
    api.cluster.down = ["n2", "n3"]
    task = await begun(api, body(7, 5, key="k"))
    assert (await api.get(f"{PROPOSALS}/7")).body == {
        "id": 7,
        "key": "k",
        "timestamp": 5,
        "status": "PROPOSED",
        "index": None,
        "term": None,
        "votes": {"n1": "ACCEPT", "n2": "PENDING", "n3": "PENDING"},
        "reasons": {},
        "appliedBy": {},
        "reason": "",
        "proposedBy": "n1",
        "proposedAt": START_MS,
        "decidedAt": None,
    }
    api.cluster.down = []
    api.cluster.vote()
    decided = (await task).body
    shown = (await api.get(f"{PROPOSALS}/7")).body
    assert {name: shown[name] for name in decided} == decided
    assert (shown["proposedBy"], shown["decidedAt"]) == ("n1", START_MS)


async def test_committed_data_is_found_under_its_key(api: Api) -> None:
    decided = await committed(api, proposal_id=7, timestamp=5, key="config/limits", data={"a": 1})
    answered = await api.get(f"{COMMITTED}/config%2Flimits")
    assert answered.status == 200
    assert answered.body == {
        "key": "config/limits",
        "data": {"a": 1},
        "timestamp": 5,
        "index": decided["index"],
        "term": 3,
        "proposalId": 7,
        "committedAt": START_MS,
    }


async def test_what_is_not_there_is_404(api: Api) -> None:
    assert (await api.get(f"{PROPOSALS}/nothing")).refused == (404, "PROPOSAL_NOT_FOUND", [])
    assert (await api.get(f"{COMMITTED}/nothing")).refused == (404, "DATA_NOT_FOUND", [])
    await committed(api)
    api.cluster.let_pass(KEPT_MS)
    assert (await api.get(f"{PROPOSALS}/p")).refused == (404, "PROPOSAL_NOT_FOUND", [])
    assert (await api.get(f"{COMMITTED}/p")).refused == (404, "DATA_NOT_FOUND", [])


@pytest.mark.parametrize(
    ("path", "field"), [(f"{PROPOSALS}/{'x' * 129}", "id"), (f"{COMMITTED}/%0A", "key")]
)
async def test_a_name_that_cannot_be_is_refused(api: Api, path: str, field: str) -> None:
    assert (await api.get(path)).refused == (422, "INVALID_FIELD", [field])


async def test_reads_are_linearizable_unless_asked_otherwise(api: Api) -> None:
    await committed(api)
    for path in (f"{PROPOSALS}/p", f"{COMMITTED}/p"):
        api.cluster.consistencies.clear()
        await api.get(path)
        await api.get(f"{path}?consistency=local")
        assert [each.value for each in api.cluster.consistencies] == ["linearizable", "local"]
