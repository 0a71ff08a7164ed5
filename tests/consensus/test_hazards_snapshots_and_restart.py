"""What a snapshot or a restart would lose.

Hazards D5, D6 and D7 of the bare library lie in its own snapshots, which are never used here: they
are shown on the bare library, and our own way is held to the same promises, once as it is and once
with its guard switched off.
"""

from __future__ import annotations

import gc
import gzip
import hashlib
import pickle
from pathlib import Path
from typing import Any, NoReturn

import msgpack
import pytest
from pysyncobj.journal import FileJournal  # type: ignore[attr-defined]

from node.consensus import engine
from node.consensus.applying import StateBehindJournalError
from node.consensus.journal import SegmentedJournal
from node.consensus.membership import Membership, configuration_command
from node.consensus.messages import _SHAPES, Frame, Kind
from node.consensus.replication import Replication
from node.consensus.settings import EngineSettings
from node.consensus.snapshots import ReceivedCopy, Snapshots
from node.consensus.transport import Message
from statemachine.machine import Machine
from statemachine.store import Store
from tests.consensus.bare_library import BareNode
from tests.consensus.harness import (
    Bench,
    BrokenPromise,
    Entry,
    event_data,
    event_entry,
    leader_name,
    never_stop,
    no_op,
    others,
    promise,
    restore_library,
    settle,
    started_cluster,
    write_and_wait,
)
from tests.simulation.cluster import SETTINGS
from tests.simulation.storage import SimulatedStorage
from tests.simulation.world import ProcessStopped

CONFIGURED = (2, 0)
_CHUNK = SETTINGS.snapshot_chunk_bytes


class Copy:
    """The state of another node that has applied entries 3 to `last`, as it comes over the wire."""

    def __init__(self, last: int, term: int = 1) -> None:
        source = Bench(name="c")
        entries = [event_entry(index, term) for index in range(3, last + 1)]
        source.receive("b", source.append(term, CONFIGURED, entries, commit=last), run_s=0.3)
        source.act(lambda: source.storage.checkpoint(force=True))
        self.data = msgpack.packb(sorted(source.medium.durable.items()))
        self.index, self.term = last, term
        self.entries = entries

    def offer(self, leader_term: int) -> Frame:
        return (
            int(Kind.SNAPSHOT_OFFER),
            leader_term,
            "copy",
            self.index,
            self.term,
            len(self.data),
            hashlib.sha256(self.data).digest(),
        )

    def chunks(self) -> list[Frame]:
        return [
            (int(Kind.SNAPSHOT_CHUNK), "copy", offset, self.data[offset : offset + _CHUNK])
            for offset in range(0, len(self.data), _CHUNK)
        ]


# --- D5: snapshot parts and the commit index


def test_in_the_bare_library_a_snapshot_part_commits_what_nobody_else_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = BareNode("a", monkeypatch)
    node.elect("b")
    acknowledged: list[tuple[str, int]] = []
    node.propose("ghost", lambda result, error: acknowledged.append((result, error)))
    node.doTick(0)
    node.snapshot_part("c", 2, 1000, (b"part one", True, False))
    node.doTick(0)
    assert acknowledged == [("ghost", 0)]


def test_the_commit_index_stays_while_a_snapshot_arrives() -> None:
    copy = Copy(200)
    bench = Bench()
    bench.lead("b")
    bench.propose()
    bench.run(0.02)
    ghost = bench.engine.journal.last()[0]
    committed = bench.engine.raft.commit_index
    assert ghost > committed
    bench.receive("c", bench.append(2, (500, 2), commit=1000))
    first, *rest = copy.chunks()
    bench.receive("c", copy.offer(2), first)
    assert rest
    assert bench.engine.raft.commit_index == committed
    assert bench.engine.raft.last_applied == committed


def test_no_frame_carries_a_snapshot_and_a_commit_index() -> None:
    assert len(_SHAPES[Kind.SNAPSHOT_OFFER]) == 6
    assert _SHAPES[Kind.SNAPSHOT_CHUNK] == (str, int, bytes)


def a_peer_is_behind_the_base_of_the_log() -> None:
    bench = Bench()
    bench.lead("b")
    for _ in range(5):
        bench.propose()
        bench.run(0.02)
        bench.acknowledge("b")
    bench.run(0.3)
    bench.act(lambda: bench.engine.journal.compact_to(bench.engine.raft.last_applied))
    bench.links.sent.clear()
    bench.act(lambda: bench.engine.raft.set_next_index("c", 3))
    bench.run(1.0)
    assert bench.sent(Kind.SNAPSHOT_OFFER, "c")


def test_the_librarys_own_snapshots_never_leave() -> None:
    a_peer_is_behind_the_base_of_the_log()


def test_d5_needs_them_to_be_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def may_send(_self: Replication, _peer: str, message: Message) -> bool:
        promise("prevLogIdx" in message, "the library's own snapshot left")
        return True

    monkeypatch.setattr(Replication, "may_send", may_send)
    with pytest.raises(BrokenPromise, match="own snapshot left"):
        a_peer_is_behind_the_base_of_the_log()


# --- D6: snapshots that cannot be installed


def test_the_bare_library_acknowledges_a_snapshot_that_it_could_not_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def deserializer(_file: str) -> NoReturn:
        raise OSError("the disk failed")

    node = BareNode(
        "b",
        monkeypatch,
        fullDumpFile=str(tmp_path / "dump"),
        serializer=lambda _file, _data: None,
        deserializer=deserializer,
    )
    node.snapshot_part("c", 2, 1, (b"data", True, False))
    node.snapshot_part("c", 2, 1, (b"", False, True))
    assert node.taken("next_node_idx")[-1]["success"]


def a_copy_cannot_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def install_copy(_self: SimulatedStorage, _incoming: object) -> None:
        raise OSError("the disk failed")

    copy = Copy(20)
    monkeypatch.setattr(SimulatedStorage, "install_copy", install_copy)
    bench = Bench()
    bench.receive("c", bench.append(2, (20, 1)))
    bench.links.sent.clear()
    bench.receive("c", copy.offer(2), *copy.chunks(), run_s=0.4)
    promise(
        bench.stopped is not None and bench.engine.raft.last_applied < 20,
        "a copy counts as applied that could not be installed",
    )
    assert not bench.sent(Kind.APPEND_REPLY)


def a_damaged_copy_arrives() -> None:
    copy = Copy(20)
    bench = Bench()
    bench.receive("c", bench.append(2, (20, 1)))
    damaged = bytearray(copy.data)
    damaged[-1] ^= 1
    copy_frames = copy.chunks()
    copy.data = bytes(damaged)
    assert copy.chunks() != copy_frames
    original = Copy(20)
    bench.receive("c", original.offer(2), *copy.chunks(), run_s=0.4)
    promise(bench.engine.raft.last_applied < 20, "a damaged copy was installed")
    assert bench.engine.counters["snapshots_damaged"] == 1
    assert bench.stopped is None
    # The next attempt is whole.
    bench.receive("c", original.offer(2), *original.chunks(), run_s=0.4)
    assert bench.engine.raft.last_applied == 20


def test_a_copy_that_cannot_be_installed_stops_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_copy_cannot_be_installed(monkeypatch)


def test_d6_needs_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    never_stop(monkeypatch)
    with pytest.raises(BrokenPromise, match="could not be installed"):
        a_copy_cannot_be_installed(monkeypatch)


def test_a_damaged_copy_is_discarded_and_asked_for_again() -> None:
    a_damaged_copy_arrives()


def test_d6_needs_the_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_finished(snapshots: Snapshots, incoming: object, result: object) -> None:
        del result
        incoming.checked = True  # type: ignore[attr-defined]
        snapshots._pulse.kick()

    monkeypatch.setattr(Snapshots, "_on_finished", on_finished)
    with pytest.raises(BrokenPromise, match="damaged copy was installed"):
        a_damaged_copy_arrives()


# --- D7: crashes between the state and the journal


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_in_the_bare_library_a_crash_before_compaction_wipes_the_tail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    restore_library(monkeypatch)
    journal = FileJournal(str(tmp_path / "journal"))
    for index in range(1, 11):
        journal.add(b"\x01", index, 1)
    journal.setCurrentTerm(1, "a")
    journal._destroy()
    snapshot: tuple[Any, ...] = ({}, (b"\x01", 8, 1), (b"\x01", 7, 1), set())
    (tmp_path / "dump").write_bytes(gzip.compress(pickle.dumps(snapshot)))
    node = BareNode(
        "a",
        monkeypatch,
        journalFile=str(tmp_path / "journal"),
        fullDumpFile=str(tmp_path / "dump"),
    )
    assert node.log[-1] == (8, 1)
    node.destroy()
    del node, journal
    gc.collect()


def a_node_restarts_with_a_state_behind_its_log() -> None:
    bench = Bench()
    entries = [event_entry(index, 1) for index in range(3, 11)]
    bench.receive("b", bench.append(1, CONFIGURED, entries, commit=8), run_s=0.3)
    bench.act(lambda: bench.storage.checkpoint(force=True))
    bench.crash()
    bench.boot()
    assert bench.engine.machine.applied_index == 8
    promise(bench.log[-1] == (10, 1), "acknowledged entries behind the state are gone")
    assert bench.log[0] == (1, 0)


def a_crash_falls_between_state_and_journal() -> None:
    """The copy is installed, the journal still ends before it, with entries that lost."""
    copy = Copy(40, term=2)
    bench = Bench()
    stale = [no_op(index, 1) for index in range(3, 61)]
    bench.receive("b", bench.append(1, CONFIGURED, stale))
    with pytest.MonkeyPatch.context() as crashing:

        def crash(_self: SegmentedJournal, _index: int, _term: int) -> NoReturn:
            raise ProcessStopped("the power failed")

        crashing.setattr(SegmentedJournal, "reset_to", crash)
        bench.receive("c", bench.append(2, (60, 2)))
        bench.receive("c", copy.offer(2), *copy.chunks(), run_s=0.4)
    assert bench.stopped == "the power failed"
    bench.crash()
    bench.boot()
    assert bench.engine.machine.applied_index == 40
    bench.receive("c", bench.append(2, (40, 2), [event_entry(41, 2)], commit=41), run_s=0.4)
    promise(bench.clock() == 39, "a node cannot follow its leader any more")
    assert bench.log == [(40, 2), (41, 2)]


def test_a_restart_keeps_the_log_behind_the_state() -> None:
    a_node_restarts_with_a_state_behind_its_log()


def test_d7_needs_the_log_to_be_kept_when_it_continues_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def align(journal: SegmentedJournal, machine: Machine) -> None:
        if machine.applied_index:
            journal.reset_to(machine.applied_index, machine.applied_term)

    monkeypatch.setattr(engine, "align_journal", align)
    with pytest.raises(BrokenPromise, match="are gone"):
        a_node_restarts_with_a_state_behind_its_log()


def test_a_crash_between_state_and_journal_is_mended_at_the_next_start() -> None:
    a_crash_falls_between_state_and_journal()


def test_d7_needs_the_journal_to_be_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "align_journal", lambda _journal, _machine: None)
    with pytest.raises(BrokenPromise, match="cannot follow"):
        a_crash_falls_between_state_and_journal()


def test_a_state_that_is_older_than_the_log_begins_is_refused() -> None:
    bench = Bench()
    entries = [event_entry(index, 1) for index in range(3, 11)]
    bench.receive("b", bench.append(1, CONFIGURED, entries, commit=10), run_s=0.3)
    bench.act(lambda: bench.engine.journal.compact_to(9))
    bench.run(0.5)
    bench.act(bench.engine.journal.flush_now)
    bench.crash()
    bench.medium.durable.clear()
    with pytest.raises(StateBehindJournalError, match="begins at 9 and the state ends at 0"):
        bench.boot()
    bench.process.up = False


def test_entries_in_the_state_are_not_applied_again() -> None:
    bench = Bench()
    entries = [event_entry(index, 1) for index in range(3, 11)]
    bench.receive("b", bench.append(1, CONFIGURED, entries, commit=10), run_s=0.3)
    bench.act(lambda: bench.storage.checkpoint(force=True))
    bench.crash()
    bench.boot()
    bench.receive("b", bench.append(1, (10, 1), commit=10), run_s=0.3)
    assert bench.clock() == 8


# --- snapshots beside the log


def the_log_overtakes_a_snapshot() -> None:
    """A new leader had the entries; they were acknowledged before the old one's copy was there."""
    copy = Copy(20)
    bench = Bench()
    bench.receive("c", bench.append(1, (20, 1)))
    *chunks, last_chunk = copy.chunks()
    bench.receive("c", copy.offer(1), *chunks)
    entries: list[Entry] = [*copy.entries, *(event_entry(index, 1) for index in range(21, 31))]
    bench.receive("b", bench.append(2, CONFIGURED, entries))
    assert bench.replies("b")[-1][3:6] == (31, False, True)
    bench.receive("c", last_chunk, run_s=0.4)
    promise(bench.log[-1] == (30, 1), "a snapshot cut acknowledged entries")
    bench.receive("b", bench.append(2, (30, 1), commit=30), run_s=0.4)
    assert bench.clock() == 28


def test_a_snapshot_that_the_log_has_overtaken_is_discarded() -> None:
    the_log_overtakes_a_snapshot()


def test_the_discarding_needs_the_log_to_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_checked(snapshots: Snapshots) -> ReceivedCopy | None:
        incoming = snapshots._incoming
        if incoming is None or not incoming.checked:
            return None
        snapshots._incoming = None
        return incoming

    monkeypatch.setattr(Snapshots, "take_checked", take_checked)
    with pytest.raises(BrokenPromise, match="cut acknowledged entries"):
        the_log_overtakes_a_snapshot()


def a_member_installs_a_snapshot_and_is_removed_later() -> None:
    copy = Copy(20)
    bench = Bench()
    bench.receive("c", bench.append(1, (20, 1)))
    bench.receive("c", copy.offer(1), *copy.chunks(), run_s=0.4)
    assert bench.engine.counters["snapshots_installed"] == 1
    removal = configuration_command(bench.configuration().without("a"))
    bench.receive("c", bench.append(1, (20, 1), [(removal, 21, 1)], commit=21), run_s=0.4)
    bench.act(lambda: bench.storage.checkpoint(force=True))
    bench.crash()
    bench.boot()
    *_, new = bench.links.events.hello("b")
    promise(not new, "a removed disk calls itself new after a snapshot")


def test_a_snapshot_does_not_bring_another_nodes_past() -> None:
    a_member_installs_a_snapshot_and_is_removed_later()


def test_that_needs_the_own_past_to_be_noted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_snapshot(membership: Membership, store: Store) -> None:
        membership._committed, membership._appended = None, []
        membership.restore(store, ())

    monkeypatch.setattr(Membership, "on_snapshot", on_snapshot)
    with pytest.raises(BrokenPromise, match="calls itself new"):
        a_member_installs_a_snapshot_and_is_removed_later()


def test_a_snapshot_goes_on_where_it_stopped_when_the_connection_breaks() -> None:
    copy = Copy(200)
    bench = Bench()
    bench.receive("c", bench.append(2, (200, 1)))
    first, *rest = copy.chunks()
    assert rest
    bench.receive("c", copy.offer(2), first)
    bench.disconnect("c")
    bench.connect("c")
    bench.links.sent.clear()
    bench.receive("c", copy.offer(2))
    assert bench.sent(Kind.SNAPSHOT_REQUEST, "c")[0][2] == _CHUNK
    bench.receive("c", *rest, run_s=0.4)
    assert bench.engine.raft.last_applied == 200


def test_an_offer_of_an_older_term_is_not_taken() -> None:
    copy = Copy(20)
    bench = Bench()
    bench.receive("c", bench.append(2, (20, 1)))
    bench.links.sent.clear()
    bench.receive("c", copy.offer(1))
    bench.receive("b", copy.offer(2))
    assert not bench.sent(Kind.SNAPSHOT_REQUEST)


def a_peer_connects_that_said_nothing_yet() -> None:
    bench = Bench()
    bench.lead("b")
    bench.propose()
    bench.run(0.02)
    bench.acknowledge("b")
    bench.disconnect("c")
    bench.connect("c")
    bench.run(1.0)
    promise(
        bench.engine.counters["snapshots_made"] == 0, "the state was copied for a mere connection"
    )
    assert bench.sent(Kind.APPEND, "c")


def test_the_state_is_not_copied_for_a_mere_connection() -> None:
    a_peer_connects_that_said_nothing_yet()


def test_the_saving_needs_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_connected(replication: Replication, peer: str) -> None:
        if replication._raft.is_leader:
            replication._rewind(peer, replication._raft.match_index(peer) + 1)

    monkeypatch.setattr(Replication, "on_connected", on_connected)
    with pytest.raises(BrokenPromise, match="mere connection"):
        a_peer_connects_that_said_nothing_yet()


def test_a_node_that_was_away_for_long_gets_a_snapshot_and_then_the_log() -> None:
    settings = EngineSettings(
        heartbeat_s=0.1,
        election_timeout_min_s=0.6,
        election_timeout_max_s=1.2,
        leader_fallback_s=1.4,
        journal_compact_bytes=2_000,
        journal_retain_bytes=4_000,
        snapshot_chunk_bytes=1_000,
    )
    cluster = started_cluster(settings=settings)
    leader = leader_name(cluster)
    away = others(cluster, leader)[0]
    cluster.kill(away)
    for number in range(60):
        write_and_wait(cluster, leader, b"%d" % number)
        cluster.world.run_until(cluster.world.now + 0.06)
    engine = cluster.engine(leader)
    assert engine is not None
    assert engine.journal.base()[0] > 10
    cluster.start(away)
    settle(cluster)
    returned = cluster.engine(away)
    assert returned is not None
    assert returned.counters["snapshots_installed"] == 1
    assert event_data(returned) == [b"%d" % number for number in range(60)]
    assert returned.machine.digest == engine.machine.digest


def test_a_snapshot_replaces_a_log_with_a_record_that_was_not_committed() -> None:
    copy = Copy(20, term=2)
    bench = Bench()
    record = configuration_command(bench.configuration().without("c"))
    bench.receive("b", bench.append(1, CONFIGURED, [(record, 3, 1)], commit=2))
    bench.receive("c", bench.append(2, (20, 2)))
    bench.receive("c", copy.offer(2), *copy.chunks(), run_s=0.4)
    assert bench.stopped is None
    assert bench.engine.raft.last_applied == 20
    in_force = bench.engine.membership.in_force
    assert in_force is not None
    assert [member.node_id for member in in_force.voters] == ["a", "b", "c"]
