"""Row locks by themselves, without transactions around them."""

from __future__ import annotations

import msgspec

from statemachine.memory_store import MemoryStore
from statemachine.outcomes import Rejected
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.transactions.deadlocks import Deadlocks
from statemachine.transactions.granting import Granting
from statemachine.transactions.row_locks import KeyPart, RowLock, RowLocks, Wait
from statemachine.write_buffer import WriteBuffer

NOW_MS = 1_000


def row(key: KeyPart = 1, *, exclusive: bool = True, table: str = "t") -> RowLock:
    return RowLock("db", table, (key,), exclusive)


def shared(key: KeyPart = 1) -> RowLock:
    return row(key, exclusive=False)


class Table:
    """Row locks, and the tickets of whoever waits."""

    def __init__(self, before: Table | None = None) -> None:
        """Be empty, or a copy of another one."""
        self.store = MemoryStore()
        self.writes: WriteBuffer = WriteBuffer(self.store)
        self._state = MachineState()
        self._tickets = 0
        if before is not None:
            before.writes.flush()
            self.store.write(dict(before.store.items()))
            self._state = msgspec.structs.replace(before._state)
            self._tickets = before._tickets
        self.locks = RowLocks(self._state, self.writes)
        self.deadlocks = Deadlocks(self.locks)
        self.grants = Granting(self.locks, self.deadlocks, self.settle, max)
        self.answered: list[tuple[str, bool]] = []
        """Who has had an answer of late, and whether it was given its rows."""

    def take(self, xid: str, *wanted: RowLock, branch_id: int = 1) -> bool:
        if self.locks.conflict(xid, wanted) is not None:
            return False
        self.locks.take(xid, branch_id, wanted, NOW_MS)
        return True

    def wait(self, xid: str, *wanted: RowLock) -> Position:
        self._tickets += 1
        ticket = Position(self._tickets, 0)
        self.locks.enqueue(ticket, Wait(xid, wanted))
        self.writes.flush()
        return ticket

    def settle(
        self, ticket: Position, wait: Wait, refused: Rejected | None, place: int = 0
    ) -> None:
        self.answered.append((wait.xid, refused is None))
        if refused is None and self.locks.take(wait.xid, 1, wait.locks, NOW_MS):
            self.grants.look_at(wait.xid, place)

    def release(self, xid: str, branch_id: int = 1) -> list[str]:
        """Return who is given its rows by it, in order."""
        self.answered.clear()
        self.grants.free(self.locks.release(xid, branch_id), 0)
        self.grants.look_at(xid, 0)
        self.writes.flush()
        return [each for each, granted in self.answered if granted]

    def withdraw(self, ticket: Position) -> list[str]:
        """The same when somebody waits no more."""
        self.answered.clear()
        wait = self.locks.withdraw(ticket)
        self.grants.free(self.locks.names_of(wait), 0)
        self.grants.look_at(wait.xid, 0)
        self.writes.flush()
        return [each for each, granted in self.answered if granted]
