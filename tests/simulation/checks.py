"""What must hold at the end of a run, whatever went wrong in it."""

from __future__ import annotations

import itertools
from collections import defaultdict

from statemachine import timestamps
from statemachine.store import Reader
from tests.simulation.calls import Call
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.workload import Draw, History, Write
from tests.simulation.world import Violation


def check(cluster: SimulatedCluster, history: History, calls: list[Call]) -> None:
    """Raises: Violation"""
    _check_agreement(cluster)
    _check_answers(cluster, calls, history.draws)
    events = _all_events(cluster.engines()[0].machine_store)
    _check_events(history, events)
    _check_real_time(history)
    _check_reads(history)
    check_draws(history.draws)


def _check_agreement(cluster: SimulatedCluster) -> None:
    digests = {
        (engine.machine.applied_index, engine.machine.digest) for engine in cluster.engines()
    }
    if len(digests) != 1:
        raise Violation(f"the nodes end in different states: {len(digests)}")


def _check_answers(cluster: SimulatedCluster, calls: list[Call], draws: list[Draw]) -> None:
    """Every caller of a process that lived on was told something by its deadline."""
    requests: list[Call | Draw] = [*calls, *draws]
    for request in requests:
        if request.asked is None:
            continue
        name, incarnation = request.asked
        if cluster.nodes[name].process.incarnation == incarnation:
            raise Violation(f"{name} never answered the caller of {request}")


def _all_events(reader: Reader) -> dict[bytes, list[tuple[str, int]]]:
    """Data of each stored event, with every (participant, Lamport) that it was stored as."""
    found: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    cursor: str | None = None
    while True:
        page, cursor = timestamps.list_events(
            reader, node_id=None, event_type=None, after_lamport=0, cursor=cursor, limit=1000
        )
        for event in page:
            found[event.event_data].append((event.node_id, event.lamport_timestamp))
        if cursor is None:
            return found


def _check_events(history: History, events: dict[bytes, list[tuple[str, int]]]) -> None:
    """Every acknowledged event is there once; nothing is there twice or was never sent."""
    sent = {write.data for write in history.writes}
    for data, stored in events.items():
        if len(stored) > 1:
            raise Violation(f"event {data[:12]!r} was stored {len(stored)} times: {stored}")
        if data not in sent:
            raise Violation(f"event {data[:12]!r} was never sent")
    for write in history.writes:
        stored = events.get(write.data, [])
        if write.lamport is not None and stored != [(write.participant, write.lamport)]:
            raise Violation(
                f"event {write.data[:12]!r} was acknowledged at {write.lamport}, stored {stored}"
            )
        if write.rejected and stored and write.call.key is None:
            raise Violation(f"event {write.data[:12]!r} was rejected and is stored")


def _by_participant(writes: list[Write]) -> dict[str, list[Write]]:
    found: dict[str, list[Write]] = defaultdict(list)
    for write in writes:
        if write.lamport is not None:
            found[write.participant].append(write)
    return found


def _check_real_time(history: History) -> None:
    """What began after another's acknowledgement has the greater timestamp.

    A keyed request may have been applied by an attempt long before its answer, so only requests
    of one attempt begin when they are applied.
    """
    for participant, writes in _by_participant(history.writes).items():
        ended = sorted((write.ended_at or 0.0, write.lamport or 0) for write in writes)
        begun = sorted((write.begun_at, write.lamport or 0) for write in writes)
        greatest, position = 0, 0
        for begun_at, lamport in begun:
            while position < len(ended) and ended[position][0] < begun_at:
                greatest = max(greatest, ended[position][1])
                position += 1
            if lamport <= greatest:
                raise Violation(
                    f"{participant}: {lamport} was given after {greatest} was acknowledged"
                )


def _check_reads(history: History) -> None:
    """A read shows at least all that was acknowledged, or read, before it began."""
    writes = _by_participant(history.writes)
    for participant in sorted({read.participant for read in history.reads}):
        reads = [read for read in history.reads if read.participant == participant]
        known = [(write.ended_at or 0.0, write.lamport or 0) for write in writes[participant]]
        known += [(read.ended_at, read.lamport) for read in reads]
        known.sort()
        floor, position = 0, 0
        for read in sorted(reads, key=lambda each: each.begun_at):
            while position < len(known) and known[position][0] < read.begun_at:
                floor = max(floor, known[position][1])
                position += 1
            if read.lamport < floor:
                raise Violation(f"{participant}: read {read.lamport} after {floor} was known")


def check_draws(draws: list[Draw]) -> None:
    """No timestamp is given twice, and all are greater than those given before they were asked for.

    Raises: Violation
    """
    given = [draw for draw in draws if draw.first is not None]
    given.sort(key=lambda draw: draw.first or 0)
    for lower, upper in itertools.pairwise(given):
        if upper.first is not None and upper.first <= lower.last:
            raise Violation(f"timestamps were given twice: {lower} and {upper}")
    ended = sorted(given, key=lambda draw: draw.ended_at or 0.0)
    greatest, position = None, 0
    for draw in sorted(given, key=lambda draw: draw.begun_at):
        while position < len(ended) and (ended[position].ended_at or 0.0) < draw.begun_at:
            if greatest is None or ended[position].last > greatest.last:
                greatest = ended[position]
            position += 1
        if greatest is not None and draw.first is not None and draw.first <= greatest.last:
            raise Violation(f"{draw} was given after {greatest} was")
