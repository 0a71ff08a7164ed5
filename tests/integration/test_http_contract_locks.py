"""Locks over HTTP, row by row; those that wait are in a module of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from api.cluster import Consistency, NoQuorumError, OutcomeUnknownError
from statemachine import idempotency, locks
from tests.integration.local_cluster import START_MS
from tests.integration.serving import LOCKS, Answered, Api, serving

LOCK = f"{LOCKS}/stock"
ACQUIRE, RENEW, RELEASE, VERIFY, ABANDON = (
    f"{LOCK}/{verb}" for verb in ("acquire", "renew", "release", "verify", "abandon")
)
GREATEST = 2**63 - 1


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def acquire(api: Api, owner: str = "a", **more: object) -> Answered:
    return await api.post(ACQUIRE, {"owner": owner, "ttlMs": 30_000, **more})


async def valid(api: Api, token: int) -> bool:
    answered = await api.post(VERIFY, {"fencingToken": token})
    assert answered.status == 200
    assert set(answered.body) == {"valid"}
    return bool(answered.body["valid"])


# POST /api/v1/locks/{name}/acquire


async def test_a_free_lock_is_granted_with_a_token_and_an_end(api: Api) -> None:
    answered = await acquire(api, "worker-1", ttlMs=2_000)
    assert answered.status == 200
    assert answered.body == {
        "name": "stock",
        "owner": "worker-1",
        "mode": "EXCLUSIVE",
        "fencingToken": 1,
        "expiresAt": START_MS + 2_000,
    }


async def test_a_held_lock_is_refused_and_its_holder_named(api: Api) -> None:
    await acquire(api, "worker-1")
    refused = await acquire(api, "worker-2")
    assert refused.refused == (409, "LOCK_HELD", [])
    assert refused.body["holder"] == {
        "owner": "worker-1",
        "mode": "EXCLUSIVE",
        "fencingToken": 1,
        "expiresAt": START_MS + 30_000,
    }
    assert refused.body["retryable"] is True


async def test_its_owner_may_ask_again_and_has_the_same_token_for_longer(api: Api) -> None:
    await acquire(api)
    api.cluster.let_pass(5_000)
    again = await acquire(api)
    assert (again.status, again.body["fencingToken"]) == (200, 1)
    assert again.body["expiresAt"] == START_MS + 35_000


async def test_many_may_share_and_none_may_make_it_exclusive(api: Api) -> None:
    for token, owner in enumerate("ab", 1):
        shared = await acquire(api, owner, mode="SHARED")
        assert (shared.body["mode"], shared.body["fencingToken"]) == ("SHARED", token)
    assert (await acquire(api, "c")).refused == (409, "LOCK_HELD", [])
    upgrade = await acquire(api, "b", mode="EXCLUSIVE")
    assert upgrade.refused == (409, "LOCK_UPGRADE_REFUSED", [])
    assert upgrade.body["holder"]["owner"] == "b"
    assert upgrade.body["retryable"] is False


async def test_tokens_rise_over_all_locks(api: Api) -> None:
    tokens = [
        (await api.post(f"{LOCKS}/{name}/acquire", {"owner": "a", "ttlMs": 1_000})).body
        for name in ("x", "y", "z")
    ]
    assert [each["fencingToken"] for each in tokens] == [1, 2, 3]


@pytest.mark.parametrize(
    ("limit", "code", "more"),
    [
        ("GREATEST_QUEUE", "LOCK_QUEUE_FULL", {"waitMs": 9}),
        ("GREATEST_LOCKS", "LOCK_TABLE_FULL", {}),
    ],
)
async def test_what_is_full_is_429(
    api: Api, limit: str, code: str, more: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    await acquire(api, "a", ttlMs=10)
    if not more:
        api.cluster.let_pass(10)
    monkeypatch.setattr(locks, limit, 0)
    refused = await acquire(api, "b", **more)
    assert refused.refused == (429, code, [])
    assert refused.headers["Retry-After"] == "1"
    assert refused.body["retryable"] is True


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ttlMs": 1_000}, "owner"),
        ({"owner": "a"}, "ttlMs"),
        ({"owner": "", "ttlMs": 1_000}, "owner"),
        ({"owner": "o" * 129, "ttlMs": 1_000}, "owner"),
        ({"owner": "名" * 43, "ttlMs": 1_000}, "owner"),
        ({"owner": "a\n", "ttlMs": 1_000}, "owner"),
        ({"owner": 7, "ttlMs": 1_000}, "owner"),
        ({"owner": "a", "ttlMs": 9}, "ttlMs"),
        ({"owner": "a", "ttlMs": 86_400_001}, "ttlMs"),
        ({"owner": "a", "ttlMs": 1.5}, "ttlMs"),
        ({"owner": "a", "ttlMs": "1000"}, "ttlMs"),
        ({"owner": "a", "ttlMs": 1_000, "mode": "shared"}, "mode"),
        ({"owner": "a", "ttlMs": 1_000, "waitMs": -1}, "waitMs"),
        ({"owner": "a", "ttlMs": 1_000, "waitMs": 3_600_001}, "waitMs"),
        ({"owner": "a", "ttlMs": 1_000, "wait": 5}, "wait"),
    ],
)
async def test_a_wrong_field_is_named(api: Api, body: dict[str, object], field: str) -> None:
    assert (await api.post(ACQUIRE, body)).refused == (422, "INVALID_FIELD", [field])
    assert (await api.get(LOCK)).body["holder"] is None


async def test_the_bounds_themselves_are_allowed(api: Api) -> None:
    for name, ttl_ms in (("l", 10), ("m", 86_400_000)):
        body = {"owner": "o" * 128, "ttlMs": ttl_ms, "waitMs": 3_600_000, "mode": "SHARED"}
        assert (await api.post(f"{LOCKS}/{name}/acquire", body)).status == 200


@pytest.mark.parametrize("name", ["n" * 129, "a%0Ab", "%E5%90%8D" * 43])
async def test_a_name_that_no_lock_can_have_is_refused(api: Api, name: str) -> None:
    path = f"{LOCKS}/{name}"
    refused = (422, "INVALID_FIELD", ["name"])
    assert (await api.get(path)).refused == refused
    hold = {"owner": "a", "fencingToken": 1}
    for verb, body in (
        ("acquire", {"owner": "a", "ttlMs": 1_000}),
        ("renew", hold),
        ("release", hold),
        ("verify", {"fencingToken": 1}),
    ):
        assert (await api.post(f"{path}/{verb}", body)).refused == refused


# POST …/renew, …/release


async def test_a_renewed_lease_begins_anew(api: Api) -> None:
    await acquire(api)
    api.cluster.let_pass(20_000)
    renewed = await api.post(RENEW, {"owner": "a", "fencingToken": 1})
    assert renewed.status == 200
    assert renewed.body == {
        "name": "stock",
        "owner": "a",
        "mode": "EXCLUSIVE",
        "fencingToken": 1,
        "expiresAt": START_MS + 50_000,
    }


async def test_a_released_lock_is_free(api: Api) -> None:
    await acquire(api)
    released = await api.post(RELEASE, {"owner": "a", "fencingToken": 1})
    assert released.status == 200
    assert released.body == {"name": "stock", "owner": "a", "fencingToken": 1, "released": True}
    assert (await acquire(api, "b")).body["fencingToken"] == 2


async def test_a_release_without_a_key_may_be_sent_again(api: Api) -> None:
    await acquire(api)
    hold = {"owner": "a", "fencingToken": 1}
    await api.post(RELEASE, hold)
    again = await api.post(RELEASE, hold)
    assert (again.status, again.body["released"]) == (200, False)
    await acquire(api, "b")
    stale = await api.post(RELEASE, hold)
    assert stale.refused == (409, "FENCING_TOKEN_STALE", [])
    assert (await api.get(LOCK)).body["holder"]["owner"] == "b"


@pytest.mark.parametrize("path", [RENEW, RELEASE])
async def test_a_token_of_a_lease_that_ended_is_stale(api: Api, path: str) -> None:
    await acquire(api, ttlMs=2_000)
    api.cluster.let_pass(2_000)
    stale = await api.post(path, {"owner": "a", "fencingToken": 1})
    assert stale.refused == (409, "FENCING_TOKEN_STALE", [])
    assert "holder" not in stale.body
    await acquire(api, "b")
    stale = await api.post(path, {"owner": "a", "fencingToken": 1})
    assert stale.refused == (409, "FENCING_TOKEN_STALE", [])
    assert stale.body["holder"]["owner"] == "b"
    assert stale.body["retryable"] is False


@pytest.mark.parametrize("path", [RENEW, RELEASE])
@pytest.mark.parametrize(
    ("owner", "token"), [("a", 0), ("a", 2), ("a", GREATEST), ("b", 1), ("nobody", 1)]
)
async def test_a_token_that_the_owner_never_had_is_stale(
    api: Api, path: str, owner: str, token: int
) -> None:
    await acquire(api)
    stale = await api.post(path, {"owner": owner, "fencingToken": token})
    assert stale.refused == (409, "FENCING_TOKEN_STALE", [])
    assert await valid(api, 1)


@pytest.mark.parametrize("path", [RENEW, RELEASE])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"fencingToken": 1}, "owner"),
        ({"owner": "a"}, "fencingToken"),
        ({"owner": "a", "fencingToken": -1}, "fencingToken"),
        ({"owner": "a", "fencingToken": "1"}, "fencingToken"),
        ({"owner": "a", "fencingToken": 1, "ttlMs": 5}, "ttlMs"),
        ({"owner": "\t", "fencingToken": 1}, "owner"),
    ],
)
async def test_a_wrong_field_of_a_hold_is_named(
    api: Api, path: str, body: dict[str, object], field: str
) -> None:
    assert (await api.post(path, body)).refused == (422, "INVALID_FIELD", [field])


# POST …/abandon


async def test_what_was_granted_under_a_key_is_undone_by_it(api: Api) -> None:
    headers = {"Idempotency_Key": "k"}
    await api.post(ACQUIRE, {"owner": "a", "ttlMs": 30_000}, **headers)
    body = {"owner": "a", "idempotencyKey": "k"}
    undone = await api.post(ABANDON, body)
    assert undone.status == 200
    assert undone.body == {"name": "stock", "owner": "a", "cancelled": False, "released": True}
    again = await api.post(ABANDON, body, Idempotency_Key="another")
    assert (again.body["cancelled"], again.body["released"]) == (False, False)
    assert "Idempotency-Replayed" not in again.headers
    assert (await acquire(api, "b")).status == 200


async def test_a_request_that_arrives_after_it_was_abandoned_is_refused(api: Api) -> None:
    await api.post(ABANDON, {"owner": "a", "idempotencyKey": "k"})
    late = await api.post(ACQUIRE, {"owner": "a", "ttlMs": 30_000}, Idempotency_Key="k")
    assert late.refused == (409, "REQUEST_ABANDONED", [])
    assert (await acquire(api, "b")).status == 200
    other = await api.post(RELEASE, {"owner": "b", "fencingToken": 1}, Idempotency_Key="k")
    assert other.refused == (422, "IDEMPOTENCY_KEY_REUSED", [])


async def test_an_abandoned_key_needs_room_like_any_other(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "GREATEST_COUNT", 0)
    refused = await api.post(ABANDON, {"owner": "a", "idempotencyKey": "k"})
    assert refused.refused == (429, "IDEMPOTENCY_TABLE_FULL", [])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"owner": "a"}, "idempotencyKey"),
        ({"idempotencyKey": "k"}, "owner"),
        ({"owner": "a", "idempotencyKey": ""}, "idempotencyKey"),
        ({"owner": "a", "idempotencyKey": "k" * 201}, "idempotencyKey"),
        ({"owner": "a", "idempotencyKey": "two words"}, "idempotencyKey"),
        ({"owner": "a", "idempotencyKey": "k\n"}, "idempotencyKey"),
        ({"owner": "", "idempotencyKey": "k"}, "owner"),
    ],
)
async def test_what_cannot_be_abandoned_names_the_field(
    api: Api, body: dict[str, str], field: str
) -> None:
    refused = await api.post(ABANDON, body)
    assert refused.refused == (422, "INVALID_FIELD", [field])
    assert api.cluster.applied_position().entry == 0


# POST …/verify


async def test_a_token_is_valid_while_its_lease_lasts(api: Api) -> None:
    await acquire(api, ttlMs=2_000)
    assert await valid(api, 1)
    assert not await valid(api, 0)
    assert not await valid(api, 2)
    assert not await valid(api, GREATEST)
    api.cluster.let_pass(2_000)
    assert not await valid(api, 1)
    await acquire(api, "b")
    assert await valid(api, 2)
    assert not await valid(api, 1)


async def test_a_token_is_valid_for_its_own_lock_only(api: Api) -> None:
    await acquire(api)
    other = await api.post(f"{LOCKS}/other/verify", {"fencingToken": 1})
    assert other.body == {"valid": False}


async def test_verifying_never_reads_a_state_that_may_be_old(api: Api) -> None:
    await valid(api, 1)
    assert api.cluster.consistencies == [Consistency.LINEARIZABLE]
    asked = await api.post(f"{VERIFY}?consistency=local", {"fencingToken": 1})
    assert asked.refused == (422, "INVALID_FIELD", ["consistency"])
    api.cluster.fault = NoQuorumError()
    asked = await api.post(VERIFY, {"fencingToken": 1})
    assert asked.refused == (503, "NO_QUORUM", [])


async def test_verifying_looks_again_though_the_key_is_the_same(api: Api) -> None:
    await acquire(api, ttlMs=2_000)
    for wanted in (True, False):
        answered = await api.post(VERIFY, {"fencingToken": 1}, Idempotency_Key="k")
        assert answered.body == {"valid": wanted}
        api.cluster.let_pass(2_000)


# GET /api/v1/locks/{name}, GET /api/v1/locks


async def test_a_lock_that_nobody_has_is_shown_as_free(api: Api) -> None:
    free: dict[str, object] = {
        "name": "stock",
        "holder": None,
        "fencingToken": None,
        "holderCount": 0,
        "queueLength": 0,
        "holders": [],
        "queue": [],
    }
    assert (await api.get(LOCK)).body == free
    await acquire(api)
    await api.post(RELEASE, {"owner": "a", "fencingToken": 1})
    assert (await api.get(LOCK)).body == free


async def test_a_lock_is_shown_with_its_holders(api: Api) -> None:
    for owner in "ab":
        await acquire(api, owner, mode="SHARED")
    holders = [
        {"owner": owner, "mode": "SHARED", "fencingToken": token, "expiresAt": START_MS + 30_000}
        for token, owner in enumerate("ab", 1)
    ]
    assert (await api.get(LOCK)).body == {
        "name": "stock",
        "holder": holders[0],
        "fencingToken": 1,
        "holderCount": 2,
        "queueLength": 0,
        "holders": holders,
        "queue": [],
    }


async def test_held_locks_are_listed_by_name(api: Api) -> None:
    for name in ("c", "a", "b"):
        await api.post(f"{LOCKS}/{name}/acquire", {"owner": "o", "ttlMs": 1_000})
    await api.post(f"{LOCKS}/a/release", {"owner": "o", "fencingToken": 2})
    listed = (await api.get(LOCKS)).body
    assert listed["nextCursor"] is None
    assert [each["name"] for each in listed["items"]] == ["b", "c"]
    assert listed["items"][0] == {
        "name": "b",
        "holder": {
            "owner": "o",
            "mode": "EXCLUSIVE",
            "fencingToken": 3,
            "expiresAt": START_MS + 1_000,
        },
        "fencingToken": 3,
        "holderCount": 1,
        "queueLength": 0,
    }
    first = (await api.get(f"{LOCKS}?limit=1")).body
    second = (await api.get(f"{LOCKS}?limit=1&cursor={first['nextCursor']}")).body
    assert [each["name"] for each in first["items"] + second["items"]] == ["b", "c"]
    assert (await api.get(f"{LOCKS}?cursor=x")).refused == (422, "INVALID_FIELD", ["cursor"])


async def test_reads_are_as_fresh_as_they_are_asked_for(api: Api) -> None:
    for path in (LOCK, LOCKS):
        await api.get(path)
        await api.get(f"{path}?consistency=local")
    assert api.cluster.consistencies == [Consistency.LINEARIZABLE, Consistency.LOCAL] * 2


# Keys


async def test_a_retry_under_its_key_gets_the_same_grant(api: Api) -> None:
    body = {"owner": "a", "ttlMs": 30_000}
    first = await api.post(ACQUIRE, body, Idempotency_Key="k")
    await api.post(RELEASE, {"owner": "a", "fencingToken": 1})
    again = await api.post(ACQUIRE, body, Idempotency_Key="k")
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await api.get(LOCK)).body["holder"] is None


async def test_a_refusal_is_remembered_with_its_holder(api: Api) -> None:
    await acquire(api, "a")
    body = {"owner": "b", "ttlMs": 30_000}
    first = await api.post(ACQUIRE, body, Idempotency_Key="k")
    await api.post(RELEASE, {"owner": "a", "fencingToken": 1})
    again = await api.post(ACQUIRE, body, Idempotency_Key="k")
    assert again.refused == first.refused == (409, "LOCK_HELD", [])
    assert again.content == first.content


async def test_a_retry_after_an_unknown_outcome_learns_it(api: Api) -> None:
    api.cluster.fault, api.cluster.lose_answers = OutcomeUnknownError(), True
    body = {"owner": "a", "ttlMs": 30_000}
    lost = await api.post(ACQUIRE, body, Idempotency_Key="k")
    assert lost.refused == (503, "OUTCOME_UNKNOWN", [])
    api.cluster.fault = None
    found = await api.post(ACQUIRE, body, Idempotency_Key="k")
    assert (found.status, found.body["fencingToken"]) == (200, 1)
    assert found.headers["Idempotency-Replayed"] == "true"
