"""A log with the words of resource managers, and of the nodes that hold their channels."""

from __future__ import annotations

from statemachine import keys
from statemachine.change_log import read_changes
from statemachine.changes import ChannelChanged
from statemachine.commands import (
    AttachChannel,
    DetachChannels,
    EndChannel,
    RegisterBranch,
    RegisterChannel,
)
from statemachine.outcomes import (
    BranchRegistered,
    ChannelRegistered,
    ChannelsChanged,
    Outcome,
    Position,
)
from statemachine.transactions.channel_rows import ChannelSession, get_session
from statemachine.transactions.planning import next_calls
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import Branch, Calls
from tests.statemachine.building import result
from tests.statemachine.transacting import Transactions

GRACE_MS = 5_000
ALL_MODES = ("AT", "LCN", "SAGA", "TCC", "TXC", "XA")


class Channels(Transactions):
    """A log with resource managers."""

    def registered(
        self,
        session_id: int = 0,
        *,
        application_id: str = "app",
        host: str = "h",
        instance: str = "",
        resources: tuple[str, ...] = ("db",),
        modes: tuple[str, ...] = ALL_MODES,
        clean_batch: int = 1,
        grace_ms: int = GRACE_MS,
        node_id: str = "n1",
        connection: int = 1,
        modes_of: tuple[tuple[str, ...], ...] = (),
    ) -> Outcome:
        return self.do(
            RegisterChannel(
                session_id=session_id,
                application_id=application_id,
                host=host,
                instance=instance,
                resources=resources,
                modes=modes,
                clean_batch=clean_batch,
                grace_ms=grace_ms,
                node_id=node_id,
                connection=connection,
                modes_of=modes_of,
            )
        )

    def open(
        self,
        session_id: int = 0,
        *,
        application_id: str = "app",
        host: str = "h",
        instance: str = "",
        resources: tuple[str, ...] = ("db",),
        modes: tuple[str, ...] = ALL_MODES,
        node_id: str = "n1",
        connection: int = 1,
        modes_of: tuple[tuple[str, ...], ...] = (),
    ) -> int:
        """Register a resource manager; return its session."""
        registered = result(
            self.registered(
                session_id,
                application_id=application_id,
                host=host,
                instance=instance,
                resources=resources,
                modes=modes,
                node_id=node_id,
                connection=connection,
                modes_of=modes_of,
            )
        )
        assert isinstance(registered, ChannelRegistered)
        return registered.session_id

    def attach(self, session_id: int, node_id: str = "n1", connection: int = 1) -> Outcome:
        return self.do(AttachChannel(session_id=session_id, node_id=node_id, connection=connection))

    def detach(self, *connections: tuple[int, int], node_id: str = "n1") -> int:
        """Return how many sessions were detached."""
        changed = result(self.do(DetachChannels(node_id=node_id, connections=connections)))
        assert isinstance(changed, ChannelsChanged)
        return changed.count

    def leave(self, session_id: int, connection: int = 1) -> int:
        changed = result(self.do(EndChannel(session_id=session_id, connection=connection)))
        assert isinstance(changed, ChannelsChanged)
        return changed.count

    def found(self, session_id: int) -> ChannelSession | None:
        return get_session(self.store, session_id)

    def states(self) -> list[tuple[int, str]]:
        """What was told of sessions, in order."""
        recorded = read_changes(self.store, Position(0, 0), limit=10_000)
        return [
            (change.session_id, change.state)
            for each in recorded
            for change in each.changes
            if isinstance(change, ChannelChanged)
        ]

    def let_pass(self, duration_ms: int) -> None:
        """Let time pass, and do what is due then."""
        self.wait(duration_ms)
        self.fire_due()

    def join(
        self,
        session_id: int,
        *locks: RowLock,
        xid: str = "x",
        mode: str = "LCN",
        resource_id: str = "db",
        wait_ms: int = 0,
        calls: Calls | None = None,
    ) -> Outcome:
        return self.do(
            RegisterBranch(
                xid=xid,
                mode=mode,
                resource_id=resource_id,
                locks=locks,
                wait_ms=wait_ms,
                application_id="app",
                unit_id="",
                session_id=session_id,
                application_data=b"",
                calls=calls or Calls(),
            )
        )

    def held(self, session_id: int, *locks: RowLock, xid: str = "x", mode: str = "LCN") -> int:
        """Register a branch of a session whose phase one is done; return its id."""
        joined = result(self.join(session_id, *locks, xid=xid, mode=mode))
        assert isinstance(joined, BranchRegistered)
        result(self.report(joined.branch_id, xid=xid))
        return joined.branch_id

    def may_be_called(self, branch: Branch, xid: str) -> bool:
        calls = next_calls(self.row(xid), self.branches(xid))
        return branch.branch_id in [call.branch.branch_id for call in calls]

    def channel_rows(self) -> list[bytes]:
        return [
            key for prefix in (keys.CHANNEL, keys.CHANNEL_INDEX) for key, _ in self.rows(prefix)
        ]
