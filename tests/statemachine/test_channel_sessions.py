"""Sessions of resource managers: registered, held by a node, taken along to another, ended."""

from __future__ import annotations

import pytest

from statemachine import keys
from statemachine.commands import ChangeRouting
from statemachine.outcomes import ChannelRegistered, Position, RejectionCode
from statemachine.timers import TimerKind
from statemachine.transactions import channel_sessions
from statemachine.transactions.channel_rows import (
    holding_nodes,
    latest_registration,
    list_sessions,
    reachable_sessions,
    session_to_clean,
    sessions_of_node,
)
from statemachine.transactions.rows import Branch
from tests.statemachine.building import code, result
from tests.statemachine.channels import GRACE_MS, Channels


def reachable(log: Channels, branch_id: int) -> list[int]:
    branch = next(each for each in log.branches() if each.branch_id == branch_id)
    return [session.session_id for session in reachable_sessions(log.store, branch)]


def branch_of(log: Channels, session_id: int, mode: str = "AT", resource_id: str = "db") -> Branch:
    if not log.rows(keys.GLOBAL):
        log.begin()
    log.join(session_id, mode=mode, resource_id=resource_id)
    return log.branches()[-1]


# --- registering


def test_each_process_gets_a_session_of_its_own() -> None:
    log = Channels()
    first, second = log.open(), log.open(connection=2)
    assert first != second
    assert [each.session_id for each in list_sessions(log.store, 0, 10)] == [first, second]
    assert log.machine.channel_count == 2


def test_a_process_takes_its_session_along_to_another_node() -> None:
    log = Channels()
    session = log.open(node_id="n1", connection=7)
    again = result(log.registered(session, node_id="n2", connection=9, resources=("db", "more")))
    assert again == ChannelRegistered(session_id=session, resumed=True)
    found = log.found(session)
    assert found is not None
    assert (found.node_id, found.connection, found.resources) == ("n2", 9, ("db", "more"))
    assert sessions_of_node(log.store, "n1", 10) == []
    assert [each.session_id for each in sessions_of_node(log.store, "n2", 10)] == [session]
    assert log.machine.channel_count == 1


def test_a_process_whose_session_has_ended_gets_another_one() -> None:
    log = Channels()
    session = log.open()
    log.leave(session)
    again = result(log.registered(session))
    assert isinstance(again, ChannelRegistered)
    assert not again.resumed
    assert again.session_id != session


@pytest.mark.parametrize("other", [{"application_id": "b"}, {"host": "g"}, {"instance": "i"}])
def test_nobody_takes_the_session_of_another(other: dict[str, str]) -> None:
    log = Channels()
    session = log.open()
    refused = log.registered(session, node_id="n2", **other)  # type: ignore[arg-type]
    assert code(refused) is RejectionCode.CHANNEL_SESSION_TAKEN
    found = log.found(session)
    assert found is not None
    assert found.node_id == "n1"


def test_the_newest_session_of_an_instance_ends_the_one_before() -> None:
    log = Channels()
    first = log.open(instance="worker-1")
    other = log.open(instance="worker-2")
    second = log.open(instance="worker-1", connection=2)
    assert log.found(first) is None
    assert log.found(other) is not None
    assert log.found(second) is not None
    # The one that was succeeded is gone, and says nothing of its successor.
    assert log.leave(first) == 0
    third = log.open(instance="worker-1", connection=3)
    assert log.found(second) is None
    assert log.found(third) is not None


@pytest.mark.parametrize(
    "unusable",
    [
        {"application_id": ""},
        {"host": ""},
        {"application_id": "a" * 399},
        {"resources": ("",)},
        {"resources": ("r" * 256,)},
        {"resources": ("r", "r")},
        {"resources": tuple(f"r{number}" for number in range(65))},
        {"modes": ()},
        {"modes": ("MESSAGE",)},
        {"modes": ("AT",) * 7},
        {"clean_batch": 0},
        {"clean_batch": 201},
        {"grace_ms": 999},
        {"grace_ms": 600_001},
        {"node_id": ""},
        {"node_id": "n" * 480},
        {"connection": -1},
        {"connection": 2**63},
        {"modes_of": (("AT",), ("AT",))},
        {"modes_of": ((),)},
        {"modes_of": (("ZZ",),)},
        {"modes": ("AT",), "modes_of": (("AT", "XA"),)},
    ],
)
def test_what_cannot_be_kept_is_refused(unusable: dict[str, object]) -> None:
    log = Channels()
    assert code(log.registered(**unusable)) is RejectionCode.INVALID_COMMAND  # type: ignore[arg-type]
    assert log.channel_rows() == []


def test_names_that_begin_with_others_are_not_taken_for_them() -> None:
    log = Channels()
    log.open(resources=("db\0x",), application_id="app\0h", node_id="n1\0")
    mine = log.open(resources=("db",))
    assert reachable(log, branch_of(log, 0).branch_id) == [mine]
    assert [each.session_id for each in sessions_of_node(log.store, "n1", 10)] == [mine]
    assert holding_nodes(log.store) == ["n1", "n1\0"]


def test_there_is_a_greatest_number_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_sessions, "GREATEST_SESSIONS", 1)
    log = Channels()
    session = log.open()
    assert code(log.registered()) is RejectionCode.TOO_MANY_CHANNELS
    assert log.open(session) == session
    log.leave(session)
    log.open()


# --- connections that break


def test_a_session_outlives_its_connection_by_its_grace() -> None:
    log = Channels()
    session = log.open(modes=("LCN",))
    assert log.detach((session, 1)) == 1
    log.let_pass(GRACE_MS - 1)
    found = log.found(session)
    assert found is not None
    assert not found.is_attached
    log.let_pass(1)
    assert log.found(session) is None
    assert log.machine.channel_count == 0
    assert log.channel_rows() == []
    assert [key for key, _ in log.rows(keys.TIMER) if key[9] == TimerKind.CHANNEL_END] == []
    assert log.states() == [(session, "ATTACHED"), (session, "DETACHED"), (session, "ENDED")]


def test_a_process_that_comes_back_in_time_keeps_its_session() -> None:
    log = Channels()
    session = log.open()
    log.detach((session, 1))
    log.let_pass(GRACE_MS - 1)
    assert log.open(session, node_id="n2", connection=2) == session
    log.let_pass(10 * GRACE_MS)
    assert log.found(session) is not None


def test_what_is_said_of_a_connection_that_was_left_changes_nothing() -> None:
    log = Channels()
    session = log.open(node_id="n1", connection=1)
    log.open(session, node_id="n2", connection=2)
    assert log.detach((session, 1), node_id="n1") == 0
    assert log.detach((session, 2), node_id="n1") == 0
    assert log.detach((session, 1), node_id="n2") == 0
    assert log.leave(session, connection=1) == 0
    assert code(log.attach(session, "n1", 1)) is RejectionCode.CHANNEL_SESSION_TAKEN
    found = log.found(session)
    assert found is not None
    assert found.is_attached


def test_a_node_gives_a_session_back_to_the_connection_that_it_still_has() -> None:
    log = Channels()
    session = log.open()
    log.detach((session, 1))
    assert code(log.attach(session, "n1", 2)) is RejectionCode.CHANNEL_SESSION_TAKEN
    log.attach(session)
    log.let_pass(10 * GRACE_MS)
    found = log.found(session)
    assert found is not None
    assert found.is_attached
    log.leave(session)
    assert code(log.attach(session)) is RejectionCode.CHANNEL_SESSION_ENDED


def test_too_many_connections_at_once_are_refused() -> None:
    log = Channels()
    session = log.open()
    with pytest.raises(AssertionError, match="INVALID_COMMAND"):
        log.detach(*[(session, 1)] * 1_001)
    assert log.found(session) is not None


# --- nodes that fail


def failed(node_id: str) -> ChangeRouting:
    return ChangeRouting(node_id=node_id, state="FAILED", reason="it does not answer")


def test_sessions_of_a_failed_node_have_their_grace_to_go_elsewhere() -> None:
    log = Channels()
    moved, lost, elsewhere = log.open(), log.open(), log.open(node_id="n2")
    log.do(failed("n1"))
    log.let_pass(1)
    assert [each.is_attached for each in list_sessions(log.store, 0, 10)] == [False, False, True]
    log.open(moved, node_id="n3", connection=5)
    log.let_pass(GRACE_MS)
    assert [log.found(each) is not None for each in (moved, lost, elsewhere)] == [True, False, True]


def test_a_failed_node_with_many_sessions_is_left_in_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel_sessions, "_DETACHED_AT_ONCE", 2)
    log = Channels()
    for _ in range(5):
        log.open()
    log.do(failed("n1"))
    left = []
    for _ in range(4):
        log.fire_due()
        left.append(len(sessions_of_node(log.store, "n1", 10)))
    assert left == [3, 1, 0, 0]


def test_a_failed_node_without_sessions_leaves_nothing_to_do() -> None:
    log = Channels()
    log.do(failed("n1"))
    assert [key for key, _ in log.rows(keys.TIMER) if key[9] == TimerKind.CHANNEL_NODE_LOST] == []


# --- who does phase two


def test_phase_two_goes_to_the_registering_session_then_its_host_then_anyone() -> None:
    log = Channels()
    far = log.open(host="g", application_id="other")
    near = log.open()
    own = log.open()
    branch = branch_of(log, own)
    assert reachable(log, branch.branch_id) == [own, near, far]
    log.detach((own, 1))
    assert reachable(log, branch.branch_id) == [near, far]
    log.leave(own)
    log.leave(near)
    assert reachable(log, branch.branch_id) == [far]
    log.leave(far)
    assert reachable(log, branch.branch_id) == []


def test_phase_two_goes_to_nobody_who_lacks_the_resource_or_the_mode() -> None:
    log = Channels()
    log.open(resources=("other",))
    log.open(modes=("XA",))
    fits = log.open(modes=("AT",))
    assert reachable(log, branch_of(log, 0).branch_id) == [fits]


def test_phase_two_goes_to_nobody_who_has_the_resource_in_other_modes_only() -> None:
    log = Channels()
    both = {"resources": ("db", "files"), "modes": ("AT", "XA")}
    crossed = log.open(modes_of=(("XA",), ("AT",)), **both)  # type: ignore[arg-type]
    fits = log.open(modes_of=(("AT", "XA"), ("AT",)), **both)  # type: ignore[arg-type]
    branch = branch_of(log, 0)
    assert reachable(log, branch.branch_id) == [fits]
    log.detach((fits, 1))
    assert reachable(log, branch.branch_id) == []
    assert session_to_clean(log.store, "db", "AT", "h", 0) is None
    found = session_to_clean(log.store, "db", "XA", "h", 0)
    assert found is not None
    assert found.session_id == crossed
    # Its own branches are its own, though it has let go of the resource.
    own = branch_of(log, crossed, resource_id="gone")
    assert reachable(log, own.branch_id) == [crossed]


def test_phase_two_of_lcn_goes_to_the_process_that_holds_the_connection_or_to_nobody() -> None:
    log = Channels()
    log.open()
    own = log.open()
    branch = branch_of(log, own, "LCN")
    assert reachable(log, branch.branch_id) == [own]
    log.detach((own, 1))
    assert reachable(log, branch.branch_id) == []


def test_phase_two_on_a_file_stays_on_its_host() -> None:
    log = Channels()
    log.open(host="g", resources=("sqlite:/data/a",))
    own = log.open(host="h", resources=("sqlite:/data/a",))
    beside = log.open(host="h", application_id="other", resources=("sqlite:/data/a",))
    branch = branch_of(log, own, resource_id="sqlite:/data/a")
    assert reachable(log, branch.branch_id) == [own, beside]


def test_branches_are_spread_over_those_that_can_do_them() -> None:
    log = Channels()
    three = [log.open(application_id="other") for _ in range(3)]
    firsts = {reachable(log, branch_of(log, 0).branch_id)[0] for _ in range(6)}
    assert firsts == set(three)


def test_a_registration_is_noticed_and_dated() -> None:
    log = Channels()
    before = log.machine.channel_revision
    session = log.open(resources=("db",))
    first = latest_registration(log.store, "db")
    assert log.machine.channel_revision != before
    log.open(session, resources=("db",))
    assert latest_registration(log.store, "db") > first
    assert latest_registration(log.store, "none") == Position(0, 0)
