"""The channel of resource managers on a real socket, over a cluster inside the test's process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from api import channels as channels_module
from api import rm_channel
from api.channels import ChannelBusyError, ChannelGoneError
from api.cluster import NoQuorumError, OutcomeUnknownError
from api.rm_messages import Called, CallKind, CleanBranch, Result, encode
from api.settings import ApiSettings
from statemachine.commands import ChangeRouting, RegisterChannel
from statemachine.transactions.channel_rows import ChannelSession, get_session, list_sessions
from tests.integration.local_cluster import LocalCluster
from tests.integration.resource_manager import CHANNEL, ResourceManager, agree, connected, register
from tests.integration.serving import TRANSACTIONS, Api, serving

QUICK = ApiSettings(channel_drain_s=0.2)


def session_of(api: Api, manager: ResourceManager) -> ChannelSession:
    found = get_session(api.cluster.store, manager.session_id)
    assert found is not None
    return found


async def call(
    api: Api,
    manager: ResourceManager,
    kind: CallKind = CallKind.COMMIT,
    *,
    timeout_s: float = 10.0,
    application_data: bytes = b"",
    branch_id: int = 7,
) -> Result:
    """Do what the leader does through the node that has the channel."""
    called = Called(
        xid="x",
        branch_id=branch_id,
        mode="AT",
        resource_id="db",
        application_data=msgspec.Raw(application_data) if application_data else None,
        epoch=3,
    )
    number = session_of(api, manager).connection
    return await api.channels.call(manager.session_id, number, kind, encode(called), timeout_s)


# --- registering


async def test_a_resource_manager_is_welcomed_with_a_replicated_session() -> None:
    async with serving() as api, connected(api.url) as manager:
        welcome = manager.heard[0]
        assert welcome == {
            "type": "welcome",
            "sessionId": manager.session_id,
            "resumed": False,
            "clusterId": "c0ffee",
            "nodeId": "n1",
            "heartbeatMs": 5_000,
            "graceMs": 10_000,
            "takesRequests": True,
        }
        session = session_of(api, manager)
        assert (session.application_id, session.host, session.resources) == (
            "orders",
            "h1",
            ("db",),
        )
        assert session.is_attached


async def test_registering_again_changes_what_it_has() -> None:
    async with serving() as api, connected(api.url) as manager:
        first = manager.session_id
        welcome = await manager.register(resources=["db", "more"], graceMs=3_000)
        assert (welcome["sessionId"], welcome["resumed"]) == (first, True)
        session = session_of(api, manager)
        assert (session.resources, session.grace_ms) == (("db", "more"), 3_000)
        assert len(list_sessions(api.cluster.store, 0, 10)) == 1


async def test_the_handshake_is_stamped_like_every_answer() -> None:
    async with (
        serving() as api,
        ClientSession() as client,
        client.ws_connect(f"{api.url}{CHANNEL}") as socket,
    ):
        headers = socket._response.headers
        assert headers["Tidelock-Node"] == "n1"
        assert headers["Tidelock-Term"] == "3"
        assert headers["Server"] == "Tidelock"


async def test_what_asks_for_no_websocket_is_told_so() -> None:
    async with serving() as api:
        answered = await api.get(CHANNEL)
        assert (answered.status, answered.code) == (426, "UPGRADE_REQUIRED")
        assert answered.headers["Upgrade"] == "websocket"
        wrong = await api.get(CHANNEL, Upgrade="websocket", Connection="Upgrade")
        assert wrong.code == "UPGRADE_REQUIRED"
        assert (await api.get(CHANNEL)).code == "UPGRADE_REQUIRED"


async def test_there_is_a_greatest_number_of_channels() -> None:
    async with serving(settings=ApiSettings(greatest_channels=1)) as api, connected(api.url):
        with pytest.raises(WSServerHandshakeError) as refused:
            async with connected(api.url):
                raise AssertionError("it was taken")
        assert refused.value.status == 429


# --- what is refused


async def complaint(api: Api, *messages: str | bytes, first: bool = True) -> tuple[str, int | None]:
    """Return the code of the error that a conversation ends with, and the code of its close."""
    async with connected(api.url, registers=not first) as manager:
        for message in messages:
            if isinstance(message, bytes):
                await manager.socket.send_bytes(message)
            else:
                await manager.socket.send_str(message)
        closed = await manager.ended()
        told = manager.heard[-1]
        assert told["type"] == "error"
        assert told["detail"]
        return told["code"], closed


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "MALFORMED_JSON"),
        ("{", "MALFORMED_JSON"),
        ('{"type": "register", "type": "register"}', "DUPLICATE_KEY"),
        ("[]", "INVALID_FIELD"),
        ("{}", "INVALID_FIELD"),
        ('{"type": "dance"}', "INVALID_FIELD"),
        (json.dumps(register(modes=["ZZ"])), "INVALID_FIELD"),
        (json.dumps(register(modes=[])), "INVALID_FIELD"),
        (json.dumps(register(resources=[""])), "INVALID_FIELD"),
        (json.dumps(register(resources=["r"] * 65)), "INVALID_FIELD"),
        (json.dumps(register(resources=["r", "r"])), "INVALID_COMMAND"),
        (json.dumps(register(host="")), "INVALID_FIELD"),
        (json.dumps(register(host="a\nb")), "INVALID_FIELD"),
        (json.dumps(register(applicationId="ä" * 100)), "INVALID_FIELD"),
        (json.dumps(register(instance="😀" * 120)), "INVALID_COMMAND"),
        (json.dumps(register(sessionId=-1)), "INVALID_FIELD"),
        (json.dumps(register(sessionId=2**60)), "INVALID_FIELD"),
        (json.dumps(register(graceMs=1)), "INVALID_FIELD"),
        (json.dumps(register(cleanBatch=0)), "INVALID_FIELD"),
        (json.dumps(register(surprise=1)), "INVALID_FIELD"),
        (json.dumps({"type": "leave"}), "NOT_REGISTERED"),
        (json.dumps({"type": "result", "requestId": 1, "status": "COMMITTED"}), "NOT_REGISTERED"),
        (json.dumps(register(host="h" * 70_000)), "MESSAGE_TOO_LARGE"),
    ],
)
async def test_a_bad_message_is_answered_with_what_is_wrong(message: str, code: str) -> None:
    async with serving() as api:
        assert await complaint(api, message) == (code, 4400)
        assert list_sessions(api.cluster.store, 0, 10) == []
        assert len(api.channels) == 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("nonsense", "MALFORMED_JSON"),
        (b"\x00\x01", "NOT_JSON"),
        ('{"type": "result"}', "INVALID_FIELD"),
        ('{"type": "result", "requestId": 1, "status": "DONE"}', "INVALID_FIELD"),
        ('{"type": "result", "requestId": "1", "status": "COMMITTED"}', "INVALID_FIELD"),
        ('{"type": "result", "requestId": 1, "status": "COMMITTED", "x": 1}', "INVALID_FIELD"),
    ],
)
async def test_also_of_one_who_is_registered(message: str | bytes, code: str) -> None:
    async with serving() as api:
        assert await complaint(api, message, first=False) == (code, 4400)


async def test_what_is_too_large_to_be_read_ends_the_channel() -> None:
    async with serving() as api, connected(api.url) as manager:
        await manager.socket.send_str("x" * 300_000)
        assert await manager.ended() == 1009


async def test_who_does_not_register_in_time_is_sent_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rm_channel, "REGISTER_WITHIN_S", 0.05)
    async with serving() as api:
        assert await complaint(api) == ("NOT_REGISTERED", 4408)


async def test_nobody_takes_the_session_of_another_process() -> None:
    async with serving() as api, connected(api.url) as manager:
        stolen = json.dumps(register(sessionId=manager.session_id, host="elsewhere"))
        assert await complaint(api, stolen) == ("CHANNEL_SESSION_TAKEN", 4409)
        assert session_of(api, manager).is_attached


# --- calls


async def test_a_call_reaches_the_manager_and_its_answer_comes_back() -> None:
    async with serving() as api, connected(api.url) as manager:
        waiting = asyncio.create_task(call(api, manager, application_data=b'{"a": [1]}'))
        told = await manager.called()
        assert told == {
            "type": "branch-commit",
            "requestId": told["requestId"],
            "xid": "x",
            "branchId": 7,
            "mode": "AT",
            "resourceId": "db",
            "applicationData": {"a": [1]},
            "epoch": 3,
        }
        await manager.result(told, "COMMIT_FAILED_RETRYABLE", detail="the database is away")
        result = await waiting
        assert (result.status, result.detail) == ("COMMIT_FAILED_RETRYABLE", "the database is away")


@pytest.mark.parametrize("kind", list(CallKind))
async def test_every_kind_of_call_has_its_answers(kind: CallKind) -> None:
    async with serving() as api, connected(api.url) as manager:
        manager.answer = agree
        result = await call(api, manager, kind)
        assert result.status == agree({"type": kind.value})
        assert manager.calls[0]["type"] == kind.value


async def test_many_calls_are_under_way_and_answered_in_any_order() -> None:
    async with serving() as api, connected(api.url) as manager:
        waiting = [asyncio.create_task(call(api, manager, branch_id=each)) for each in range(50)]
        await manager.called(50)
        for told in reversed(manager.calls):
            await manager.result(told, "COMMITTED", detail=str(told["branchId"]))
        results = await asyncio.gather(*waiting)
        assert [result.detail for result in results] == [str(each) for each in range(50)]


async def test_a_long_detail_is_cut() -> None:
    async with serving() as api, connected(api.url) as manager:
        manager.answer = lambda _: {"status": "COMMITTED", "detail": "d" * 5_000}
        assert len((await call(api, manager)).detail or "") == 1_000


async def test_results_that_answer_nothing_change_nothing() -> None:
    async with serving() as api, connected(api.url) as manager, connected(api.url) as other:
        waiting = asyncio.create_task(call(api, manager))
        told = await manager.called()
        await other.result(told, "COMMIT_FAILED_UNRETRYABLE")
        await manager.result({"requestId": told["requestId"] + 1}, "COMMIT_FAILED_UNRETRYABLE")
        await manager.result(told, "COMMITTED")
        await manager.result(told, "COMMIT_FAILED_UNRETRYABLE")
        await manager.result(told, "ROLLED_BACK")
        assert (await waiting).status == "COMMITTED"
        manager.answer = agree
        other.answer = agree
        assert (await call(api, manager)).status == "COMMITTED"
        assert (await call(api, other)).status == "COMMITTED"


async def test_too_many_of_them_end_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels_module, "GREATEST_STRAYS", 5)
    async with serving() as api, connected(api.url) as manager:
        for _ in range(6):
            await manager.result({"requestId": 99}, "COMMITTED")
        assert await manager.ended() == 4400
        assert manager.heard[-1]["code"] == "TOO_MANY_STRAY_RESULTS"


async def test_a_status_that_answers_another_question_ends_the_channel() -> None:
    async with serving() as api, connected(api.url) as manager:
        manager.answer = lambda _: "ROLLED_BACK"
        with pytest.raises(ChannelGoneError):
            await call(api, manager)
        assert await manager.ended() == 4400
        assert manager.heard[-1]["code"] == "STATUS_UNEXPECTED"


async def test_a_call_that_is_not_answered_is_given_up_and_its_late_answer_ignored() -> None:
    async with serving() as api, connected(api.url) as manager:
        with pytest.raises(TimeoutError):
            await call(api, manager, timeout_s=0.05)
        await manager.result(await manager.called(), "COMMITTED")
        manager.answer = agree
        assert (await call(api, manager)).status == "COMMITTED"


async def test_a_call_under_way_ends_with_its_connection() -> None:
    async with serving() as api, connected(api.url) as manager:
        waiting = asyncio.create_task(call(api, manager))
        await manager.called()
        await manager.hang_up()
        with pytest.raises(ChannelGoneError):
            await waiting


async def test_a_connection_that_the_session_has_left_is_not_called() -> None:
    async with serving() as api, connected(api.url) as manager:
        with pytest.raises(ChannelGoneError):
            await api.channels.call(manager.session_id, 12345, CallKind.COMMIT, b"{}", 1.0)
        number = session_of(api, manager).connection
        with pytest.raises(ChannelGoneError):
            await api.channels.call(manager.session_id + 1, number, CallKind.COMMIT, b"{}", 1.0)


async def test_who_has_too_many_calls_gets_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels_module, "GREATEST_CALLS", 2)
    async with serving() as api, connected(api.url) as manager:
        waiting = [asyncio.create_task(call(api, manager)) for _ in range(2)]
        await manager.called(2)
        with pytest.raises(ChannelBusyError):
            await call(api, manager)
        for told in manager.calls:
            await manager.result(told, "COMMITTED")
        await asyncio.gather(*waiting)


async def test_a_batch_to_clean_names_its_branches() -> None:
    async with serving() as api, connected(api.url, cleanBatch=10) as manager:
        manager.answer = agree
        branches = [CleanBranch(xid=f"x{each}", branch_id=each, mode="AT") for each in (1, 2)]
        called = Called(
            xid="x1", branch_id=1, mode="AT", resource_id="db", epoch=3, branches=branches
        )
        number = session_of(api, manager).connection
        await api.channels.call(manager.session_id, number, CallKind.CLEAN, encode(called), 5.0)
        assert manager.calls[0]["branches"] == [
            {"xid": "x1", "branchId": 1, "mode": "AT"},
            {"xid": "x2", "branchId": 2, "mode": "AT"},
        ]


async def test_a_sweep_names_a_resource_and_a_mode_and_no_branch() -> None:
    async with serving() as api, connected(api.url) as manager:
        manager.answer = agree
        called = encode(Called(mode="AT", resource_id="db", epoch=3))
        number = session_of(api, manager).connection
        result = await api.channels.call(
            manager.session_id, number, CallKind.SWEEP, called, timeout_s=5.0
        )
        assert result.status == "CLEANED"
        assert manager.calls == [
            {"type": "sweep", "requestId": 1, "mode": "AT", "resourceId": "db", "epoch": 3}
        ]


# --- what became of branches


async def test_a_manager_learns_what_became_of_branches() -> None:
    settings = ApiSettings(channel_clean_after_s=0.0)
    async with serving(settings=settings) as api, connected(api.url) as manager:
        ids = []
        for xid in ("open", "over"):
            assert (await api.call("POST", TRANSACTIONS, send={"xid": xid})).status == 201
            registered = await api.call(
                "POST",
                f"{TRANSACTIONS}/{xid}/branches",
                send={"mode": "TCC", "resourceId": "db", "callbacks": {"rollback": ""}},
            )
            ids.append(registered.body["branchId"])
        await api.call("POST", f"{TRANSACTIONS}/over/rollback", send={})
        told = await manager.fates(("open", ids[0]), ("over", ids[1]), ("gone", 1), ("gone", 1_000))
        assert told == [
            ("BEGIN", False),
            ("ROLLED_BACK", True),
            ("FORGOTTEN", True),
            ("UNKNOWN", False),
        ]


async def test_what_is_over_lately_is_guarded_for_a_while() -> None:
    async with serving() as api, connected(api.url) as manager:
        await api.call("POST", TRANSACTIONS, send={"xid": "x"})
        await api.call("POST", f"{TRANSACTIONS}/x/rollback", send={})
        assert await manager.fates(("x", 1)) == [("ROLLED_BACK", False)]


@pytest.mark.parametrize(
    "branches",
    [[], [{}], [{"xid": "x"}], [{"xid": "x", "branchId": 0}], [{"xid": "x y", "branchId": 1}],
     [{"xid": "x", "branchId": 1}] * 501],
)  # fmt: skip
async def test_fates_of_nothing_or_of_too_much_are_not_told(branches: list[Any]) -> None:
    async with serving() as api, connected(api.url) as manager:
        await manager.say({"type": "ask-fates", "requestId": 1, "branches": branches})
        assert await manager.ended() == 4400
        assert manager.heard[-1]["code"] == "INVALID_FIELD"


async def test_a_node_without_a_majority_tells_no_fates_and_sends_elsewhere() -> None:
    async with serving() as api, connected(api.url) as manager:
        api.cluster.fault = NoQuorumError()
        await manager.say(
            {"type": "ask-fates", "requestId": 1, "branches": [{"xid": "x", "branchId": 1}]}
        )
        assert await manager.ended() == 4503
        assert manager.heard[-1]["type"] == "go-elsewhere"
        api.cluster.fault = None


# --- connections that break


async def settle(api: Api, holds: Any) -> None:
    """Let the node keep its channels until it holds."""
    async with asyncio.timeout(10):
        while not holds():
            await api.channels.keep()
            await asyncio.sleep(0.01)


async def test_a_session_whose_connection_broke_waits_and_is_taken_up_again() -> None:
    async with serving() as api, connected(api.url) as manager:
        await manager.hang_up()
        await settle(api, lambda: not session_of(api, manager).is_attached)
        async with connected(api.url, sessionId=manager.session_id) as again:
            assert again.session_id == manager.session_id
            assert again.heard[0]["resumed"]
            again.answer = agree
            assert (await call(api, again)).status == "COMMITTED"


async def test_a_session_that_was_not_taken_up_in_time_is_replaced_by_another() -> None:
    async with serving() as api, connected(api.url, graceMs=1_000) as manager:
        await manager.hang_up()
        await settle(api, lambda: not session_of(api, manager).is_attached)
        api.cluster.let_pass(1_000)
        async with connected(api.url, sessionId=manager.session_id) as again:
            assert again.session_id != manager.session_id
            assert not again.heard[0]["resumed"]


async def test_the_newest_connection_of_a_session_has_it() -> None:
    async with (
        serving() as api,
        connected(api.url) as manager,
        connected(api.url, sessionId=manager.session_id) as newer,
    ):
        assert await manager.ended() == 4409
        newer.answer = agree
        assert (await call(api, newer)).status == "COMMITTED"
        await api.channels.keep()
        assert session_of(api, newer).is_attached


async def test_the_newest_process_of_an_instance_ends_the_one_before() -> None:
    async with (
        serving() as api,
        connected(api.url, instance="w1") as older,
        connected(api.url, instance="w1") as newer,
    ):
        assert newer.session_id != older.session_id
        await settle(api, lambda: older.socket.closed)
        assert older.close_code == 4410
        assert session_of(api, newer).is_attached


async def test_one_that_moved_to_another_node_is_let_go() -> None:
    async with serving() as api, connected(api.url) as manager:
        row = session_of(api, manager)
        moved = register(sessionId=manager.session_id)
        command = channels_command(moved, node_id="n2", connection=row.connection + 1)
        await api.cluster.propose((command,), timeout_ms=1_000)
        await settle(api, lambda: manager.socket.closed)
        assert manager.close_code == 4409
        assert session_of(api, manager).node_id == "n2"
        assert session_of(api, manager).is_attached


def channels_command(said: dict[str, Any], *, node_id: str, connection: int) -> RegisterChannel:
    return RegisterChannel(
        session_id=said["sessionId"],
        application_id=said["applicationId"],
        host=said["host"],
        instance="",
        resources=tuple(said["resources"]),
        modes=tuple(said["modes"]),
        clean_batch=1,
        grace_ms=5_000,
        node_id=node_id,
        connection=connection,
    )


async def test_a_node_that_passed_for_failed_takes_its_sessions_back() -> None:
    async with serving() as api, connected(api.url) as manager:
        failed = ChangeRouting(node_id="n1", state="FAILED", reason="a mistake")
        await api.cluster.propose((failed,), timeout_ms=1_000)
        api.cluster.let_pass(1)
        assert not session_of(api, manager).is_attached
        await settle(api, lambda: session_of(api, manager).is_attached)
        manager.answer = agree
        assert (await call(api, manager)).status == "COMMITTED"


async def test_a_node_that_was_restarted_lets_go_of_what_it_held() -> None:
    cluster = LocalCluster()
    async with serving(cluster) as api, connected(api.url) as manager:
        session_id = manager.session_id
        row = session_of(api, manager)
    # As if it had been killed: nobody said that the connection is gone.
    command = channels_command(
        register(sessionId=session_id), node_id="n1", connection=row.connection
    )
    await cluster.propose((command,), timeout_ms=1_000)
    async with serving(cluster) as api:
        await api.channels.keep()
        found = get_session(cluster.store, session_id)
        assert found is not None
        assert not found.is_attached


async def test_one_that_leaves_is_not_waited_for() -> None:
    async with serving() as api, connected(api.url) as manager:
        await manager.say({"type": "leave"})
        assert await manager.ended() == 1000
        assert get_session(api.cluster.store, manager.session_id) is None


async def test_one_that_hears_nothing_and_says_nothing_is_given_up() -> None:
    settings = ApiSettings(channel_heartbeat_s=0.1)
    async with serving(settings=settings) as api, ClientSession() as client:
        socket = await client.ws_connect(f"{api.url}{CHANNEL}", autoping=False)
        await socket.send_json(register())
        assert (await socket.receive_json())["type"] == "welcome"
        async with asyncio.timeout(10):
            while len(api.channels):
                await asyncio.sleep(0.01)
        await socket.close()


# --- nodes that cannot serve


async def test_a_node_without_a_leader_sends_its_managers_elsewhere() -> None:
    settings = ApiSettings(channel_leaderless_s=0.05)
    async with serving(settings=settings) as api, connected(api.url) as manager:
        await api.channels.keep()
        assert not manager.socket.closed
        api.cluster.quorum_confirmed_ms = None
        await settle(api, lambda: manager.socket.closed)
        assert manager.close_code == 4503
        assert manager.heard[-1]["type"] == "go-elsewhere"
        assert "no leader" in manager.heard[-1]["reason"]


@pytest.mark.parametrize("fault", [NoQuorumError(), OutcomeUnknownError()])
async def test_one_that_cannot_be_registered_here_is_sent_elsewhere(fault: Exception) -> None:
    async with serving() as api, connected(api.url, registers=False) as manager:
        api.cluster.fault = fault
        await manager.say(register())
        assert await manager.ended() == 4503
        assert manager.heard[-1]["type"] == "go-elsewhere"
        api.cluster.fault = None


async def test_a_session_of_which_nobody_heard_is_let_go() -> None:
    async with serving() as api, connected(api.url, registers=False) as manager:
        api.cluster.fault, api.cluster.lose_answers = OutcomeUnknownError(), True
        await manager.say(register())
        assert await manager.ended() == 4503
        api.cluster.fault, api.cluster.lose_answers = None, False
        (session,) = list_sessions(api.cluster.store, 0, 10)
        assert session.is_attached
        await settle(api, lambda: not list_sessions(api.cluster.store, 0, 10)[0].is_attached)


async def test_a_node_that_stops_lets_calls_end_and_sends_its_managers_elsewhere() -> None:
    cluster = LocalCluster()
    async with serving(cluster) as api, connected(api.url) as manager:
        waiting = asyncio.create_task(call(api, manager))
        told = await manager.called()
        stopping = asyncio.create_task(api.stop())
        await asyncio.sleep(0)
        await manager.result(told, "COMMITTED")
        assert (await waiting).status == "COMMITTED"
        assert await manager.ended() == 1001
        assert manager.heard[-1]["type"] == "go-elsewhere"
        await stopping
        assert not session_of(api, manager).is_attached


async def test_a_call_that_does_not_end_does_not_keep_a_node_from_stopping() -> None:
    async with serving(settings=QUICK) as api, connected(api.url) as manager:
        waiting = asyncio.create_task(call(api, manager))
        await manager.called()
        await api.stop()
        with pytest.raises(ChannelGoneError):
            await waiting


# --- who is connected


async def test_sessions_are_listed_with_their_state() -> None:
    async with serving() as api, connected(api.url) as first, connected(api.url) as second:
        await second.hang_up()
        await settle(api, lambda: not session_of(api, second).is_attached)
        listed = (await api.get("/api/v1/rm/sessions")).body
        assert [(each["sessionId"], each["state"]) for each in listed["items"]] == [
            (first.session_id, "ATTACHED"),
            (second.session_id, "DETACHED"),
        ]
        assert listed["nextCursor"] is None
        page = (await api.get("/api/v1/rm/sessions?limit=1")).body
        rest = (await api.get(f"/api/v1/rm/sessions?cursor={page['nextCursor']}")).body
        assert [each["sessionId"] for each in (*page["items"], *rest["items"])] == [
            first.session_id,
            second.session_id,
        ]
        assert (await api.get("/api/v1/rm/sessions?cursor=zz")).status == 422


async def test_channels_and_their_calls_are_counted() -> None:
    async with serving() as api, connected(api.url) as manager:
        manager.answer = agree
        await call(api, manager)
        text = (await api.get("/metrics")).content.decode()
        assert "tidelock_rm_channels 1.0" in text
        assert 'tidelock_rm_calls_total{outcome="committed"} 1.0' in text
