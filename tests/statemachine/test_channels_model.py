"""Whatever resource managers, nodes and time do in whatever order, sessions and branches agree."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from statemachine import keys
from statemachine.commands import ChangeRouting
from statemachine.outcomes import Applied, BranchRegistered
from statemachine.timers import TimerKind
from statemachine.transactions.channel_rows import (
    ChannelSession,
    bound_branches,
    list_sessions,
    reachable_sessions,
    sessions_of_node,
)
from statemachine.transactions.rows import Branch, Global, get_branches, get_global
from statemachine.transactions.statuses import (
    BRANCH_ENDED,
    DRIVEN,
    BranchStatus,
    GlobalStatus,
    Mode,
)
from tests.statemachine.building import result
from tests.statemachine.channels import GRACE_MS, Channels

NODES = ("n1", "n2")
XIDS = ("x", "y", "z")
nodes = st.sampled_from(NODES)
xids = st.sampled_from(XIDS)
picks = st.integers(0, 20)
resources = st.lists(st.sampled_from(("db", "more", "sqlite:f")), max_size=3, unique=True)


class Managers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log = Channels()
        self.ids: list[int] = [0]
        self.connection = 0
        self.committed: set[str] = set()
        """Transactions that said that they are COMMITTED."""

    def pick(self, number: int) -> int:
        """Return a session that there is or was, or 0."""
        return self.ids[number % len(self.ids)]

    def sessions(self) -> list[ChannelSession]:
        return list_sessions(self.log.store, 0, 1_000)

    # --- resource managers

    @rule(which=picks, node=nodes, instance=st.sampled_from(("", "i")), has=resources)
    def register(self, which: int, node: str, instance: str, has: list[str]) -> None:
        self.connection += 1
        registered = self.log.registered(
            self.pick(which),
            instance=instance,
            resources=tuple(has),
            node_id=node,
            connection=self.connection,
        )
        if isinstance(registered, Applied):
            found = result(registered)
            self.ids.append(found.session_id)  # type: ignore[attr-defined]

    @rule(which=picks, node=nodes, stale=st.booleans())
    def detach(self, which: int, node: str, stale: bool) -> None:
        found = self.log.found(self.pick(which))
        connection = 0 if found is None else found.connection - stale
        self.log.detach((self.pick(which), connection), node_id=node)

    @rule(which=picks, node=nodes)
    def attach(self, which: int, node: str) -> None:
        found = self.log.found(self.pick(which))
        self.log.attach(self.pick(which), node, 0 if found is None else found.connection)

    @rule(which=picks)
    def leave(self, which: int) -> None:
        found = self.log.found(self.pick(which))
        self.log.leave(self.pick(which), 0 if found is None else found.connection)

    @rule(node=nodes)
    def fail(self, node: str) -> None:
        self.log.do(ChangeRouting(node_id=node, state="FAILED", reason="r"))
        self.log.do(ChangeRouting(node_id=node, state="HEALTHY", reason="r"))

    @rule(duration_ms=st.sampled_from((1, GRACE_MS // 2, GRACE_MS)))
    def wait(self, duration_ms: int) -> None:
        self.log.let_pass(duration_ms)

    # --- transactions

    @rule(xid=xids)
    def begin(self, xid: str) -> None:
        self.log.begin(xid)

    @rule(xid=xids, which=picks, mode=st.sampled_from(("LCN", "XA", "AT")), done=st.booleans())
    def join(self, xid: str, which: int, mode: str, done: bool) -> None:
        joined = self.log.join(self.pick(which), xid=xid, mode=mode)
        if isinstance(joined, Applied) and done:
            assert isinstance(joined.result, BranchRegistered)
            self.log.report(joined.result.branch_id, xid=xid)

    @rule(xid=xids, commit=st.booleans())
    def decide(self, xid: str, commit: bool) -> None:
        if commit:
            self.log.commit(xid)
        else:
            self.log.roll_back(xid)

    @rule(xid=xids, verdict=st.sampled_from(("DONE", "RETRY", "FAILED")))
    def answer(self, xid: str, verdict: str) -> None:
        """Let the next branch be called, as far as somebody can be."""
        row = get_global(self.log.store, xid)
        if row is None or row.status not in DRIVEN:
            return
        for branch in get_branches(self.log.store, xid):
            if branch.status in BRANCH_ENDED or not self.log.may_be_called(branch, xid):
                continue
            if branch.mode is not Mode.LCN or reachable_sessions(self.log.store, branch):
                self.log.told(branch.branch_id, verdict, xid)
                return

    # --- what holds

    @invariant()
    def what_leads_to_sessions_leads_to_those_that_are(self) -> None:
        sessions = self.sessions()
        for node in NODES:
            held = {each.session_id for each in sessions_of_node(self.log.store, node, 1_000)}
            assert held == {
                each.session_id for each in sessions if each.is_attached and each.node_id == node
            }
        references = sum(1 + len(each.resources) + each.is_attached for each in sessions)
        by_instance = {
            (each.application_id, each.host, each.instance) for each in sessions if each.instance
        }
        kinds = [key[2:3] for key, _ in self.log.rows(keys.CHANNEL_INDEX)]
        assert sum(kind in (b"a", b"n", b"r") for kind in kinds) == references
        assert kinds.count(b"i") == len(by_instance)
        assert self.log.machine.channel_count == len(sessions)

    @invariant()
    def exactly_the_detached_ones_are_going_to_end(self) -> None:
        armed = [
            keys.timer_of(key)
            for key, _ in self.log.rows(keys.TIMER)
            if key[9] == TimerKind.CHANNEL_END
        ]
        ending = {(due_ms, int.from_bytes(timer_id, "big")) for due_ms, _, timer_id in armed}
        detached = {
            (each.ends_ms, each.session_id) for each in self.sessions() if not each.is_attached
        }
        alive = {each.session_id for each in self.sessions()}
        assert detached == {(due_ms, each) for due_ms, each in ending if each in alive}
        left_over = {session_id for _, session_id in ending} - alive
        assert all(bound_branches(self.log.store, session_id, 1) for session_id in left_over)

    @invariant()
    def a_group_never_commits_without_its_parts(self) -> None:
        for xid in XIDS:
            row = get_global(self.log.store, xid)
            if row is not None and row.status is GlobalStatus.COMMITTED:
                self.committed.add(xid)
                for branch in get_branches(self.log.store, xid):
                    assert branch.status in BRANCH_ENDED
                    assert branch.status is not BranchStatus.PHASE_TWO_ROLLED_BACK
            assert xid not in self.committed or row is None or row.status == "COMMITTED"

    @invariant()
    def an_lcn_branch_that_waits_has_its_session_or_will_be_lost(self) -> None:
        for xid in XIDS:
            row = get_global(self.log.store, xid)
            for branch in get_branches(self.log.store, xid):
                if _waits(row, branch):
                    bound = bound_branches(self.log.store, branch.session_id, 1_000)
                    assert (xid, branch.branch_id) in bound

    def teardown(self) -> None:
        """In the end everybody is gone, and no undecided group waits for a lost part."""
        for session in self.sessions():
            self.log.leave(session.session_id, session.connection)
        for _ in range(50):
            self.log.let_pass(GRACE_MS)
        assert self.sessions() == []
        for xid in XIDS:
            row = get_global(self.log.store, xid)
            for branch in get_branches(self.log.store, xid):
                assert not _waits(row, branch)


def _waits(row: Global | None, branch: Branch) -> bool:
    """Whether the fate of an LCN branch still hangs on its session."""
    open_still = row is not None and row.status in DRIVEN | {GlobalStatus.BEGIN}
    refused = branch.status.value.endswith("_UNRETRYABLE")
    return (
        open_still and branch.mode is Mode.LCN and branch.status not in BRANCH_ENDED and not refused
    )


TestManagers = Managers.TestCase
TestManagers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
