"""Applying alone: the state machine on real LMDB in this process, with nothing beside it.

What every node does with every entry of the log, in processor time. A few callers take turns, each
with one request in each entry, as a loaded cluster gathers them.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import msgspec

from api.destinations import AnyDestination
from api.gateways.dtm_bodies import read_body
from api.gateways.dtm_requests import DtmRequests
from node.storage import LmdbStorage
from scripts.tidelock_scripts.bench.figures import Figure
from scripts.tidelock_scripts.bench.setting import Bench
from statemachine.codec import encode_entry, encode_request, encode_unit
from statemachine.commands import (
    AcquireLock,
    AnyCommand,
    BeginGlobal,
    DecideGlobal,
    RecordEvent,
    RegisterBranch,
    ReleaseLock,
    ReportBranch,
    Request,
)
from statemachine.machine import Machine
from statemachine.outcomes import (
    Applied,
    BranchRegistered,
    GlobalAnswered,
    LockGranted,
    Outcome,
    Result,
    UnitOutcome,
)
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import Calls

CALLERS = 31
"""As many requests are in an entry."""

_ENTRY_EVERY_MS = 4
_WARM_UP_ENTRIES = 60
_BEGUN_AT_MS = 1_700_000_000_000
_SESSION = b"s" * 16
_EVENT_DATA = {"orderId": 48213, "amountCents": 12990, "currency": "EUR", "channel": "web"}
_SAGA = (
    '{"gid":"%s","trans_type":"saga","steps":[{"action":"","compensate":""},'
    '{"action":"","compensate":""}],"payloads":["",""],"wait_result":true}'
)

Caller = Generator[AnyCommand, Outcome, None]
"""Yields commands, and is sent what became of each."""

Wanted = TypeVar("Wanted", bound=Result)


async def applying(bench: Bench) -> None:
    """Transactions, sagas of DTM's protocol, locks and events, each applied for a while."""
    for name, (caller, requests) in _LOADS.items():
        bench.say(f"applying: {name}")
        bench.add(await asyncio.to_thread(_measure, name, caller, requests, bench.seconds))


def _measure(name: str, caller: Callable[[int], Caller], requests: int, seconds: float) -> Figure:
    with tempfile.TemporaryDirectory(prefix="tidelock-applying-") as directory:
        load = _Load(Path(directory), caller)
        for _ in range(_WARM_UP_ENTRIES):
            load.apply_entry()
        load.applying_s = 0.0
        entries = 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            load.apply_entry()
            entries += 1
        load.close()
    done = entries * CALLERS / requests
    details = {"requestsAnEntry": CALLERS, "entries": entries, "requestsEach": requests}
    return Figure(
        f"applying {name}, processor time of a node", load.applying_s / done * 1e6, "µs",
        details=details,
    )  # fmt: skip


class _Load:
    """Callers and the machine that serves them. Commits come as the entries' own time passes."""

    def __init__(self, directory: Path, caller: Callable[[int], Caller]) -> None:
        self._index = 0
        self._storage = LmdbStorage.open(
            directory, clock=lambda: self._index * _ENTRY_EVERY_MS / 1_000
        )
        self._machine = Machine(self._storage)
        self._callers = [caller(number) for number in range(CALLERS)]
        self._commands = [next(each) for each in self._callers]
        self.applying_s = 0.0
        """Processor time in applying and committing."""

    def apply_entry(self) -> None:
        self._index += 1
        elapsed_ms = self._index * _ENTRY_EVERY_MS
        requests = [
            encode_request(Request(elapsed_ms + 5_000, None, (command,)))
            for command in self._commands
        ]
        unit = encode_unit(_SESSION, self._index, self._index, requests)
        entry = encode_entry(_BEGUN_AT_MS + elapsed_ms, elapsed_ms, [unit])
        begun_s = time.thread_time()
        outcomes = self._machine.apply(self._index, 1, entry)
        self._storage.end_entry()
        self._storage.checkpoint()
        self.applying_s += time.thread_time() - begun_s
        self._hear(outcomes)

    def _hear(self, outcomes: tuple[UnitOutcome, ...]) -> None:
        answers = [request.outcomes[0] for request in outcomes[0].requests]
        pairs = zip(self._callers, answers, strict=True)
        self._commands = [caller.send(answer) for caller, answer in pairs]

    def close(self) -> None:
        self._storage.close()


def _transactions(caller: int) -> Caller:
    """Two branches with three row locks each, as the case `transactions` has them."""
    rows = itertools.count(caller * 1_000_000_000)
    calls = Calls(None, "", "")
    while True:
        begin = BeginGlobal(xid="", prefix="127.0.0.1:7101", name="", timeout_ms=60_000)
        xid = _result(GlobalAnswered, (yield begin)).xid
        for _ in range(2):
            register = RegisterBranch(
                xid=xid,
                mode="AT",
                resource_id="db",
                locks=tuple([RowLock("db", "accounts", (next(rows),), True) for _ in range(3)]),
                wait_ms=0,
                application_id="",
                unit_id="",
                session_id=0,
                application_data=b"",
                calls=calls,
            )
            branch_id = _result(BranchRegistered, (yield register)).branch_id
            yield ReportBranch(
                xid=xid,
                branch_id=branch_id,
                status="PHASE_ONE_DONE",
                application_data=None,
                failure=None,
            )
        decided = yield DecideGlobal(
            xid=xid, commit=True, reason="", wait_ms=5_000, reports_expected=True
        )
        assert _result(GlobalAnswered, decided).status == "COMMITTED", decided


def _sagas(caller: int) -> Caller:
    requests = DtmRequests(AnyDestination())
    for number in itertools.count():
        yield requests.submit(read_body((_SAGA % f"saga-{caller}-{number}").encode()))


def _locks(caller: int) -> Caller:
    name, owner = f"lock-{caller}", f"worker-{caller}"
    while True:
        granted = yield AcquireLock(
            name=name, owner=owner, mode="EXCLUSIVE", ttl_ms=30_000, wait_ms=0
        )
        token = _result(LockGranted, granted).fencing_token
        yield ReleaseLock(name=name, owner=owner, fencing_token=token)


def _events(caller: int) -> Caller:
    data = msgspec.json.encode(_EVENT_DATA)
    while True:
        yield RecordEvent(node_id=f"participant-{caller}", event_type="ORDER_PAID", event_data=data)


def _result(wanted: type[Wanted], outcome: Outcome) -> Wanted:
    assert isinstance(outcome, Applied), outcome
    assert isinstance(outcome.result, wanted), outcome
    return outcome.result


_LOADS: dict[str, tuple[Callable[[int], Caller], int]] = {
    "a transaction of two branches with three row locks each": (_transactions, 6),
    "a DTM saga of two empty steps": (_sagas, 1),
    "acquire and release of a lock": (_locks, 2),
    "an event": (_events, 1),
}
"""Who asks for it, and how many requests it takes."""
