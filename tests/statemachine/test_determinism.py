"""The same log gives the same bytes: on every node, after a restart, under every hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from statemachine import gates, idempotency, keys, locks, timers
from statemachine import machine as machine_module
from statemachine.codec import encode_entry, encode_request, encode_unit
from statemachine.commands import (
    AbandonLock,
    AcknowledgeSync,
    ActivateVersion,
    AdvanceSequence,
    Ballot,
    CancelWait,
    ChangeRouting,
    CloseSyncRound,
    Command,
    DecideProposal,
    FireTimers,
    JoinParticipant,
    LeaveParticipant,
    ObserveHybridTime,
    ProposeData,
    RecordEvent,
    ReportClock,
    Request,
    ReserveTimestamps,
    SetSyncInterval,
    TickHybridClock,
    TrimEvents,
    VoteProposals,
)
from statemachine.machine import DIGEST_INTERVAL, Machine
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import Position, UnitOutcome
from tests.statemachine.building import (
    START_MS,
    Log,
    abandon_acquire,
    acquire,
    key,
    record,
    release,
    renew,
    sync,
)
from tests.statemachine.histories import random_log
from tests.statemachine.lock_invariants import assert_locks_intact

SEEDS = range(8)
LEADER = b"the leader's own"

GOLDEN_DIGEST = "4d45ae00ca0fcef3340bf037ddeaef49f9c2d90215f6b4ad6f39bb3683fe8c26"


def with_firings(entries: list[bytes]) -> list[bytes]:
    """Add what a leader proposes between the entries: the timers that are due."""
    machine_of_leader = Machine(store := MemoryStore())
    log: list[bytes] = []

    def propose(entry: bytes) -> None:
        log.append(entry)
        machine_of_leader.apply(len(log), 1, entry)

    for sequence, entry in enumerate(entries, 1):
        propose(entry)
        now_ms = machine_of_leader.elapsed_ms
        fire = FireTimers(timers=timers.due_timers(store, now_ms, limit=10))
        request = encode_request(Request(now_ms + 5_000, None, (fire,)))
        unit = encode_unit(LEADER, sequence, sequence, [request])
        propose(encode_entry(machine_of_leader.wall_ms, now_ms, [unit]))
    return log


def replay(entries: list[bytes]) -> tuple[MemoryStore, list[tuple[UnitOutcome, ...]]]:
    store = MemoryStore()
    machine = Machine(store)
    return store, [machine.apply(index, 1, entry) for index, entry in enumerate(entries, 1)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_that_fires_timers_leaves_little_behind(seed: int) -> None:
    """The random logs are worth replaying: every kind of row comes, and the bounded ones go."""
    store, _ = replay(with_firings(random_log(seed, 150)))
    prefixes = {key[:1] for key, _ in store.items()}
    assert prefixes >= {b"M", b"P", b"R", b"S", b"U", b"T", b"V", b"Y"}
    assert {key[:2] for key, _ in store.items()} >= {b"Dp", b"De", b"Do", b"Dc", b"Bc"}
    keyed = [key for key, _ in store.items() if key[:1] in b"I"]
    sessions = [key for key, _ in store.items() if key[:1] in b"S"]
    tickets = [key for key, _ in store.items() if key[:1] in b"W"]
    received = [key for key, _ in store.items() if key[:1] in b"H"]
    armed = [key for key, _ in store.items() if key[:1] in b"T"]
    leases = assert_locks_intact(store)
    decided = [key for key, _ in store.items() if key[:2] == b"De"]
    reports = [key for key, _ in store.items() if key[:2] == b"Br"]
    expiring = [*keyed, *sessions, *tickets, *leases, *received, *decided, *reports]
    assert len(armed) == len(expiring)
    assert Machine(store).idempotency_count == len(keyed)
    assert Machine(store).event_count == len([key for key, _ in store.items() if key[:1] in b"e"])


@pytest.mark.parametrize("seed", SEEDS)
def test_two_machines_hold_the_same_bytes_though_one_restarts_after_every_entry(seed: int) -> None:
    entries = with_firings(random_log(seed, 100))
    expected_store, expected = replay(entries)
    store = MemoryStore()
    outcomes = [Machine(store).apply(index, 1, entry) for index, entry in enumerate(entries, 1)]
    assert outcomes == expected
    assert store.items() == expected_store.items()


@pytest.mark.parametrize("seed", SEEDS)
def test_entries_that_were_applied_already_are_skipped_in_a_replay(seed: int) -> None:
    entries = with_firings(random_log(seed, 30))
    store, _ = replay(entries)
    expected = store.items()
    machine = Machine(store)
    for index, entry in enumerate(entries, 1):
        assert machine.apply(index, 1, entry) == ()
    assert store.items() == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_installed_a_snapshot_goes_on_like_the_others(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "DIGEST_INTERVAL", 16)
    entries = with_firings(random_log(seed, 60))
    expected_store, expected = replay(entries)
    source, _ = replay(entries[:70])
    store = MemoryStore()
    machine = Machine(store)
    for index, entry in enumerate(entries[:20], 1):
        machine.apply(index, 1, entry)
    store.replace(source.items())
    machine.reload()
    assert machine.applied_index == 70
    outcomes = [machine.apply(index, 1, entry) for index, entry in enumerate(entries[70:], 71)]
    assert outcomes == expected[70:]
    assert store.items() == expected_store.items()
    assert machine.checkpoint == Machine(expected_store).checkpoint
    assert machine.checkpoint[0] == len(entries) // 16 * 16


def test_hash_seeds_do_not_matter() -> None:
    program = (
        "from tests.statemachine.test_determinism import *\n"
        "for seed in SEEDS:\n"
        "    store, _ = replay(with_firings(random_log(seed, 60)))\n"
        "    print(Machine(store).digest.hex())\n"
    )
    root = Path(__file__).resolve().parents[2]
    digests = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for hash_seed in ("1", "2")
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == len(SEEDS)


def use_locks(log: Log) -> None:
    """Everything that locks can answer."""
    log.send(acquire("l", "a", ttl_ms=700), acquire("l", "b"), acquire("l", "b", wait_ms=50))
    log.send(acquire("l", "c", wait_ms=9_000), acquire("l", "d", mode="SHARED", wait_ms=9_000))
    log.send(renew(1), renew(2), release(1), release(1), release(2), release(2, "b"))
    log.send(acquire("s", "a", mode="SHARED"), acquire("s", "b", mode="SHARED"))
    log.send(acquire("s", "a"), acquire("s", "c", wait_ms=100), acquire("s", "c", mode="?"))
    log.send(acquire(""), acquire(ttl_ms=0), acquire(wait_ms=-1))
    log.wait(800)
    log.fire_due()
    waiting = log.send(acquire("s", "d", wait_ms=100), acquire("f", "d")).position
    log.do(AbandonLock(name="s", owner="d", acquire=waiting))
    log.do(AbandonLock(name="f", owner="d", acquire=Position(waiting.entry, 1)))
    log.do(CancelWait(ticket=waiting))
    log.do(abandon_acquire("late", "e", "f"))
    log.send(acquire("f", "e"), idempotency=key("late"))
    log.send(abandon_acquire("own", "e", "f"), idempotency=key("own"))


def test_the_digest_never_changes_between_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another digest means other bytes in the store: nodes of two releases would part.

    The sentences of rejections are stored as well, so this log has every kind of them.
    """
    log = Log()
    log.send(record("a", "t", b"{}"), sync("a", 7), JoinParticipant(node_id="b"), idempotency=key())
    log.send(LeaveParticipant(node_id="b"), TrimEvents(before_wall_ms=START_MS, limit=1))
    log.send(ChangeRouting(node_id="n1", state="FAILED", reason="r"), ActivateVersion(version=1))
    log.send(sync("a", 2**63), sync("a", -1), record(""), LeaveParticipant(node_id="nobody"))
    log.send(ChangeRouting(node_id="n1", state="?", reason=""), ActivateVersion(version=2))
    log.send(FireTimers(timers=((1, 1, b""),) * 1_001))
    log.send(ReserveTimestamps(term=1, upto=7), ReserveTimestamps(term=2, upto=2**63))
    log.send(TickHybridClock(), ObserveHybridTime(timestamp=START_MS << 18, max_skew_ms=0))
    log.send(ObserveHybridTime(timestamp=-1, max_skew_ms=0))
    log.send(ObserveHybridTime(timestamp=START_MS + 2 << 18, max_skew_ms=1))
    log.send(AdvanceSequence(name="s", count=3), AdvanceSequence(name="", count=1))
    log.store.put(b"Qfull\0", keys.pack_number(keys.GREATEST_NUMBER))
    log.send(AdvanceSequence(name="s", count=0), AdvanceSequence(name="full", count=1))
    log.send(record(), idempotency=key(digest=b"e"))
    log.send(record(), idempotency=key("k" * 500))
    log.send(record(), expires_at_ms=-1)
    log.send(record(), expires_at_ms=2**40)
    use_locks(log)
    with monkeypatch.context() as patched:
        patched.setattr(locks, "GREATEST_QUEUE", 0)
        patched.setattr(locks, "GREATEST_LOCKS", 0)
        log.send(acquire("f", "a"), acquire("s", "e", wait_ms=1))
    log.unit(5_000, [log.request(record())])
    log.unit(0, [log.request(record())])
    synchronise_in_every_way(log)
    propose_in_every_way(log)
    log.wait(5_000_000)
    log.fire_due()
    with monkeypatch.context() as patched:
        patched.setattr(idempotency, "GREATEST_COUNT", 0)
        log.send(record(), idempotency=key())
    with monkeypatch.context() as patched:
        since: dict[type[Command], int] = {**gates.SINCE, RecordEvent: 2}
        patched.setattr(gates, "SINCE", since)
        log.send(record())
    assert log.machine.digest.hex() == GOLDEN_DIGEST


def synchronise_in_every_way(log: Log) -> None:
    log.send(
        ReportClock(node_id="a", lamport=9, vector={"b": 1, "a": 2}, own=True),
        ReportClock(node_id="b", lamport=3, vector={"b": 4}, own=False),
        ReportClock(node_id="b", lamport=-1, vector={}, own=False),
        ReportClock(node_id="b", lamport=2**63 - 1, vector={}, own=False),
        ReportClock(node_id="b", lamport=1, vector={f"n{at}": 1 for at in range(200)}, own=False),
        CloseSyncRound(only_if_behind=True),
        CloseSyncRound(only_if_behind=True),
        *(AcknowledgeSync(round=at, node_id=name) for at in range(1, 4) for name in "abc"),
        SetSyncInterval(interval_ms=50),
        SetSyncInterval(interval_ms=0),
    )


def propose_in_every_way(log: Log) -> None:
    for proposal_id, timestamp, voters in (
        ("p", 5, ("a", "b")),
        ("q", 4, ("a", "b")),
        ("r", 6, ("a", "b")),
        ("p", 6, ("a", "b")),
        ("late", 7, ("a", "b")),
        ("", -1, ("a", "b")),
        ("", 1, ()),
        ("x" * 500, 1, ("a",)),
    ):
        log.do(
            ProposeData(
                proposal_id=proposal_id,
                integer_id=False,
                key="k",
                data=b"1",
                timestamp=timestamp,
                proposer="a",
                voters=voters,
                window_ms=1_000,
            )
        )
    for node_id, accept in (("a", True), ("b", True)):
        ballots = tuple(Ballot(each, accept, "", False) for each in ("p", "q"))
        log.do(VoteProposals(node_id=node_id, ballots=(*ballots, Ballot("r", False, "no", False))))
    log.send(*(DecideProposal(proposal_id=each) for each in ("p", "q", "r", "late", "none")))
    log.do(VoteProposals(node_id="a", ballots=(Ballot("p", True, "", True),) * 300))


def test_the_digest_tells_histories_apart() -> None:
    digests = set()
    for wall_ms, elapsed_ms, index, term, name in [
        (5, 6, 1, 1, "a"),
        (6, 6, 1, 1, "a"),
        (5, 7, 1, 1, "a"),
        (5, 6, 2, 1, "a"),
        (5, 6, 1, 2, "a"),
        (5, 6, 1, 1, "b"),
    ]:
        machine = Machine(MemoryStore())
        request = encode_request(Request(10, None, (record(name),)))
        unit = encode_unit(LEADER, 1, 1, [request])
        machine.apply(index, term, encode_entry(wall_ms, elapsed_ms, [unit]))
        digests.add(machine.digest)
    assert len(digests) == 6


def test_the_digest_covers_what_came_before_though_the_rows_are_equal() -> None:
    digests = set()
    for indexes in ([1, 3], [2, 3], [3]):
        machine = Machine(MemoryStore())
        for index in indexes:
            machine.apply(index, 1, encode_entry(5, 6, []))
        digests.add(machine.digest)
    assert len(digests) == 3


def test_a_checkpoint_is_the_first_applied_entry_at_or_after_each_multiple() -> None:
    machine = Machine(MemoryStore())
    assert (machine.checkpoint, machine.digest) == ((0, b""), b"")
    tick = encode_entry(1, 1, [])
    found = []
    for index in (
        1,
        DIGEST_INTERVAL - 1,
        DIGEST_INTERVAL,
        DIGEST_INTERVAL + 1,
        2 * DIGEST_INTERVAL + 5,
        3 * DIGEST_INTERVAL - 1,
    ):
        machine.apply(index, 1, tick)
        found.append(machine.checkpoint[0])
        if machine.checkpoint[0] == index:
            assert machine.checkpoint[1] == machine.digest
    first, second = DIGEST_INTERVAL, 2 * DIGEST_INTERVAL + 5
    assert found == [0, 0, first, first, second, second]
