"""What schedules have found, and what needs a whole cluster to show: each with its name."""

from __future__ import annotations

import msgspec
import pytest

from node.consensus.engine import Engine
from statemachine.codec import encode_request
from statemachine.commands import RecordEvent, Request
from statemachine.outcomes import RequestOutcome
from statemachine.transactions.channel_rows import list_sessions
from tests.simulation.channels import SimulatedChannels
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.housekeeping import SimulatedHousekeeping
from tests.simulation.storage import SimulatedStorage
from tests.simulation.world import Violation, World


def cluster_with_leader(seed: int = 1) -> tuple[SimulatedCluster, Engine]:
    cluster = SimulatedCluster(World(seed), 3)
    cluster.start_all()
    leader = cluster.wait_for_leader()
    settle(cluster)
    return cluster, leader


def settle(cluster: SimulatedCluster) -> None:
    cluster.wait_for(
        lambda: (
            len({engine.raft.last_applied for engine in cluster.engines()}) == 1
            and len(cluster.engines()) == len(cluster.names)
        ),
        10.0,
        "all nodes stand at the same entry",
    )


def others(cluster: SimulatedCluster, engine: Engine) -> list[str]:
    return [name for name in cluster.names if name != engine.identity.node_id]


def record(cluster: SimulatedCluster, count: int, size: int = 10) -> None:
    """Record events one after the other through whoever leads."""
    for number in range(count):
        leader = cluster.wait_for_leader()
        answers: list[object] = []
        command = RecordEvent(node_id="p", event_type="t", event_data=b"1" * size)
        request = encode_request(Request(leader.stamps.elapsed_ms() + 10_000, None, (command,)))
        cluster.run_as(
            leader.identity.node_id,
            lambda: leader.propose(request, leader.now() + 5.0, answers.append),  # noqa: B023
        )
        cluster.wait_for(lambda: bool(answers), 10.0, f"event {number} is answered")  # noqa: B023
        assert isinstance(answers[0], RequestOutcome)


def test_a_compacting_leader_keeps_replicating_to_those_who_are_up_to_date() -> None:
    """Seeds 7, 15 and 17 once left everybody waiting for snapshots that nobody needed."""
    cluster, leader = cluster_with_leader()
    record(cluster, 60, size=1_000)
    assert leader.counters["compactions"] > 0
    old = leader.identity.node_id
    cluster.kill(old)
    record(cluster, 3)
    cluster.start(old)
    settle(cluster)
    record(cluster, 3)
    settle(cluster)


def test_a_follower_whose_log_ends_where_the_leaders_begins_needs_no_snapshot() -> None:
    """Seed 67: it was offered one of the very entry that it held last, and took none, for ever."""
    cluster, leader = cluster_with_leader()
    record(cluster, 5)
    behind, helper = others(cluster, leader)
    follower = cluster.engine(behind)
    assert follower is not None
    name = leader.identity.node_id
    # It gets an entry, and neither says so nor hears that the entry is committed.
    cluster.network.cut.update([(behind, name), (helper, name)])
    propose(cluster, leader)
    last = leader.raft.commit_index + 1
    cluster.wait_for(lambda: follower.journal.last()[0] == last, 5.0, "the follower has the entry")
    cluster.network.cut.add((name, behind))
    cluster.network.heal([(helper, name)])
    cluster.wait_for(lambda: leader.raft.last_applied == last, 5.0, "the entry is applied")
    assert follower.raft.commit_index < last

    def compact_and_copy() -> None:
        leader.machine_store.checkpoint(force=True)  # type: ignore[attr-defined]
        leader.journal.compact_to(last)
        leader.replication.on_compacted()
        # Somebody else makes the leader hold a copy of its state as it is now.
        leader.replication.progress(helper).needs_snapshot = True
        leader.snapshots.feed(leader.now())

    cluster.run_as(name, compact_and_copy)
    cluster.wait_for(
        lambda: leader.snapshots.oldest_index_held == last, 5.0, "a copy is held at the entry"
    )
    record(cluster, 3)
    cluster.network.reset(name, behind)
    cluster.network.heal([(name, behind), (behind, name)])
    settle(cluster)
    assert follower.counters["snapshots_installed"] == 0


def test_a_restarted_node_catches_up_by_log_and_serves_reads_while_nobody_writes() -> None:
    cluster, leader = cluster_with_leader()
    record(cluster, 5)
    victim = next(name for name in cluster.names if name != leader.identity.node_id)
    cluster.kill(victim)
    record(cluster, 3)
    cluster.start(victim)
    ready: list[Exception | None] = []
    engine = cluster.engine(victim)
    assert engine is not None
    cluster.run_as(victim, lambda: engine.read(engine.now() + 20.0, ready.append))
    cluster.wait_for(lambda: bool(ready), 5.0, "the restarted node serves a read")
    assert ready == [None]
    assert leader.counters["snapshots_made"] == 0


def test_a_leader_whose_disk_became_slow_hands_over() -> None:
    cluster, leader = cluster_with_leader()
    name = leader.identity.node_id
    disk = cluster.nodes[name].disk
    assert disk is not None
    disk.latency_s = lambda: 0.25

    def somebody_else_leads() -> bool:
        record_soon(cluster)
        return cluster.leader() not in (None, leader)

    cluster.wait_for(somebody_else_leads, 30.0, "somebody else leads")
    assert leader.counters["slow_hand_overs"] == 1


def record_soon(cluster: SimulatedCluster) -> None:
    """Keep the leader's disk busy without waiting for answers."""
    leader = cluster.leader()
    if leader is not None and leader.proposals.pending_count <= 3:
        propose(cluster, leader)


def propose(cluster: SimulatedCluster, leader: Engine) -> None:
    """Have an event recorded; nobody waits for the answer."""
    request = encode_request(
        Request(
            leader.stamps.elapsed_ms() + 10_000,
            None,
            (RecordEvent(node_id="p", event_type="t", event_data=b"1"),),
        )
    )
    cluster.run_as(
        leader.identity.node_id,
        lambda: leader.propose(request, leader.now() + 5.0, lambda _answer: None),
    )


def record_and_wait(cluster: SimulatedCluster) -> None:
    """Reach several checkpoints, and let their digests arrive."""
    record(cluster, 40)
    cluster.world.run_until(cluster.world.now + 3.0)


def test_a_row_that_a_disk_lost_is_noticed_by_comparing_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("statemachine.machine.DIGEST_INTERVAL", 8)
    cluster, leader = cluster_with_leader()
    record(cluster, 3)
    victim = next(name for name in cluster.names if name != leader.identity.node_id)
    engine = cluster.engine(victim)
    assert engine is not None
    storage = engine.machine_store
    assert isinstance(storage, SimulatedStorage)
    (key, _), *_ = storage.scan(b"E", b"z", limit=1)
    storage.delete(key)
    storage.end_entry()
    with pytest.raises(Violation, match=f"{victim} found its state diverged"):
        record_and_wait(cluster)


def test_a_node_gives_up_the_sessions_of_its_last_run_though_nobody_noticed_its_end() -> None:
    """One that was back at once, and to which nobody came, once kept the session of a resource
    manager that had died with it for ever: nobody could be told that the manager was gone."""
    cluster = SimulatedCluster(World(1), 3)
    channels = SimulatedChannels(cluster)
    SimulatedHousekeeping(cluster)
    cluster.start_all()
    leader = cluster.wait_for_leader()
    follower = others(cluster, leader)[0]
    heard: list[bytes] = []
    wire = channels.connect(follower, heard.append, lambda _code: None)
    assert wire is not None
    register = {"applicationId": "a", "host": "h", "resources": ["db"], "modes": ["LCN"]}
    wire.say(msgspec.json.encode({"type": "register", **register}))
    cluster.wait_for(lambda: bool(heard), 5.0, "the manager is welcomed")
    cluster.kill(follower)
    cluster.start(follower)
    reader = cluster.wait_for_leader().machine_store
    cluster.wait_for(lambda: not list_sessions(reader, 0, 1), 10.0, "its session ends")
    cluster.end()
