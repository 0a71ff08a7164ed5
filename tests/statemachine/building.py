"""A log in miniature: commands in, outcomes out, without a word about stamps and sessions."""

from __future__ import annotations

from collections.abc import Iterable

from statemachine.codec import encode_entry, encode_request, encode_unit
from statemachine.commands import (
    AbandonAcquire,
    AcquireLock,
    AnyCommand,
    FireTimers,
    IdempotencyKey,
    IncrementVersion,
    MergeVersion,
    ReceiveMessage,
    RecordEvent,
    ReleaseLock,
    RenewLock,
    Request,
    SendMessage,
    SyncClock,
    TickVector,
    WriteObject,
)
from statemachine.machine import Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import (
    Applied,
    EventRecorded,
    LockGranted,
    Outcome,
    Pending,
    Position,
    Rejected,
    RejectionCode,
    RequestOutcome,
    UnitOutcome,
)
from statemachine.timers import due_timers

SESSION = b"0123456789abcdef"
OTHER_SESSION = b"fedcba9876543210"
START_MS = 1_700_000_000_000
MINUTE_MS = 60_000


def record(node_id: str = "a", event_type: str = "t", event_data: bytes = b"") -> RecordEvent:
    return RecordEvent(node_id=node_id, event_type=event_type, event_data=event_data)


def sync(node_id: str, timestamp: int, source_node_id: str = "b") -> SyncClock:
    return SyncClock(
        node_id=node_id,
        source_node_id=source_node_id,
        source_event_id="",
        timestamp=timestamp,
        event_type="sync",
        event_data=b"",
    )


def acquire(
    name: str = "l",
    owner: str = "a",
    *,
    mode: str = "EXCLUSIVE",
    ttl_ms: int = MINUTE_MS,
    wait_ms: int = 0,
) -> AcquireLock:
    return AcquireLock(name=name, owner=owner, mode=mode, ttl_ms=ttl_ms, wait_ms=wait_ms)


def renew(token: int, owner: str = "a", name: str = "l") -> RenewLock:
    return RenewLock(name=name, owner=owner, fencing_token=token)


def release(token: int, owner: str = "a", name: str = "l") -> ReleaseLock:
    return ReleaseLock(name=name, owner=owner, fencing_token=token)


def abandon_acquire(
    text: str = "k", owner: str = "a", name: str = "l", *, principal: str = "p"
) -> AbandonAcquire:
    return AbandonAcquire(name=name, owner=owner, principal=principal, key=text, ttl_ms=3_600_000)


def increment(key: str = "k", node_id: str = "a") -> IncrementVersion:
    return IncrementVersion(key=key, node_id=node_id)


def merge(vector: dict[str, int], key: str = "k", node_id: str = "a") -> MergeVersion:
    return MergeVersion(key=key, node_id=node_id, vector=vector)


def write(
    value: bytes, context: dict[str, int] | None = None, key: str = "k", node_id: str = "a"
) -> WriteObject:
    return WriteObject(key=key, node_id=node_id, context=context or {}, value=value)


def tick(node_id: str = "a") -> TickVector:
    return TickVector(node_id=node_id)


def send(node_id: str = "a", message: bytes = b"") -> SendMessage:
    return SendMessage(node_id=node_id, message=message)


def receive(
    node_id: str, vector: dict[str, int], message_id: str = "", message: bytes = b""
) -> ReceiveMessage:
    return ReceiveMessage(node_id=node_id, vector=vector, message_id=message_id, message=message)


def key(
    text: str = "k", *, principal: str = "p", digest: bytes = b"d" * 16, ttl_ms: int = 3_600_000
) -> IdempotencyKey:
    return IdempotencyKey(principal, text, digest, ttl_ms)


def result(outcome: Outcome) -> object:
    """Return the result of an applied command."""
    assert isinstance(outcome, Applied), outcome
    return outcome.result


def recorded(outcome: Outcome) -> EventRecorded:
    found = result(outcome)
    assert isinstance(found, EventRecorded)
    return found


def granted(outcome: Outcome | None) -> LockGranted:
    assert outcome is not None
    found = result(outcome)
    assert isinstance(found, LockGranted)
    return found


def ticket(outcome: Outcome) -> Position:
    """Return the ticket of a command that waits."""
    assert isinstance(outcome, Pending), outcome
    return outcome.ticket


def code(outcome: Outcome) -> RejectionCode:
    """Return the code of a rejection, and see that it says something."""
    assert isinstance(outcome, Rejected), outcome
    assert outcome.detail.endswith(".")
    return outcome.code


class Log:
    """A machine over a `MemoryStore`, and the log that it was fed."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.machine = Machine(self.store)
        self.entries: list[bytes] = []
        self.wall_ms = START_MS
        self.elapsed_ms = 0
        self._sequence = 0

    def append(self, payload: bytes) -> tuple[UnitOutcome, ...]:
        """Apply an encoded entry as the next one of the log."""
        outcomes = self.machine.apply(len(self.entries) + 1, 1, payload)
        self.entries.append(payload)
        return outcomes

    def units(self, *units: bytes) -> list[tuple[RequestOutcome, ...]]:
        """Apply encoded units as one entry; return the outcomes of each one's requests."""
        found = self.append(encode_entry(self.wall_ms, self.elapsed_ms, units))
        return [unit.requests for unit in found]

    def unit(
        self,
        sequence: int,
        requests: Iterable[Request],
        *,
        session: bytes = SESSION,
        watermark: int = 1,
    ) -> tuple[RequestOutcome, ...]:
        """Apply one unit as one entry."""
        return self.units(self.encode_unit(sequence, requests, session, watermark))[0]

    def encode_unit(
        self, sequence: int, requests: Iterable[Request], session: bytes, watermark: int
    ) -> bytes:
        return encode_unit(session, sequence, watermark, [encode_request(r) for r in requests])

    def request(
        self,
        *commands: AnyCommand,
        idempotency: IdempotencyKey | None = None,
        expires_at_ms: int | None = None,
    ) -> Request:
        """Make a request whose deadline is five seconds ahead."""
        deadline_ms = self.elapsed_ms + 5_000 if expires_at_ms is None else expires_at_ms
        return Request(deadline_ms, idempotency, commands)

    def send(
        self,
        *commands: AnyCommand,
        idempotency: IdempotencyKey | None = None,
        expires_at_ms: int | None = None,
    ) -> RequestOutcome:
        """Apply commands as one request in a unit and an entry of its own."""
        self._sequence += 1
        request = self.request(*commands, idempotency=idempotency, expires_at_ms=expires_at_ms)
        (outcome,) = self.unit(
            self._sequence, [request], session=b"the sender's own", watermark=self._sequence
        )
        return outcome

    def do(self, command: AnyCommand) -> Outcome:
        """Apply one command."""
        (outcome,) = self.send(command).outcomes
        return outcome

    def wait(self, duration_ms: int) -> None:
        """Let time pass; the next entry carries it."""
        self.wall_ms += duration_ms
        self.elapsed_ms += duration_ms

    def tick(self) -> None:
        """Apply an entry that carries nothing but the time."""
        self.units()

    def fire_due(self) -> Outcome:
        """Do what a leader does: propose all that is due."""
        return self.do(FireTimers(timers=due_timers(self.store, self.elapsed_ms)))

    def rows(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return [row for row in self.store.items() if row[0].startswith(prefix)]
