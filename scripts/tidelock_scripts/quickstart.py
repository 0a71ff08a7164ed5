"""`scripts/quickstart`: three durable nodes, a killed leader, the proof that nothing is lost.

It ends with a transaction over three services, once made and once undone.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.tidelock_scripts.client import (
    Answer,
    ClusterClient,
    NotDoneError,
    OutcomeUnknownError,
    new_idempotency_key,
)
from scripts.tidelock_scripts.cluster_command import bring_up, find_leader
from scripts.tidelock_scripts.events import (
    CLOCK_PATH,
    EVENT_PATH,
    UnexpectedAnswerError,
    list_events,
)
from scripts.tidelock_scripts.local_cluster import DEFAULT_DATA_DIR, ClusterError, LocalCluster
from scripts.tidelock_scripts.purchase.books import files
from scripts.tidelock_scripts.purchase.purchases import Plan
from scripts.tidelock_scripts.purchase.report import show_briefly
from scripts.tidelock_scripts.purchase.services import ServiceError
from scripts.tidelock_scripts.purchase.shop import NotSettledError, open_shop
from scripts.tidelock_scripts.terminal import Terminal

PARTICIPANTS = {
    "orders": ("ORDER_PLACED", "ORDER_PAID"),
    "stock": ("STOCK_RESERVED", "STOCK_SHIPPED"),
    "payments": ("CARD_CHARGED", "INVOICE_SENT"),
}
_BEFORE_THE_KILL_S = 0.7
_AFTER_THE_KILL_S = 1.5
_WRITERS_PAUSE_S = 0.004
_LEADER_WITHIN_S = 10.0


class BrokenPromiseError(Exception):
    """What the cluster holds is not what it acknowledged."""


_EXPLAINED = (
    BrokenPromiseError,
    ClusterError,
    NotDoneError,
    NotSettledError,
    OutcomeUnknownError,
    ServiceError,
    UnexpectedAnswerError,
)


@dataclass(frozen=True, slots=True)
class Taken:
    """An acknowledged event."""

    participant: str
    lamport: int
    event_id: str
    unique_id: str
    via: str
    attempts: int
    acknowledged_at: float


@dataclass(slots=True)
class Journey:
    """What happened so far, for the proof and the summary."""

    clocks_at_start: dict[str, int] = field(default_factory=dict)
    taken: list[Taken] = field(default_factory=list)
    killed: str = ""
    killed_at: float = 0.0

    def after_the_kill(self) -> list[Taken]:
        return [event for event in self.taken if event.acknowledged_at > self.killed_at]


def main() -> int:
    argparse.ArgumentParser(
        prog="scripts/quickstart",
        description="Start three durable nodes, take timestamps through each of them, kill the "
        "leader with SIGKILL, show that no event was lost or repeated, and make a purchase over "
        "three services whole and not at all. Takes no arguments.",
    ).parse_args()
    terminal = Terminal()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cluster = LocalCluster(DEFAULT_DATA_DIR)
        asyncio.run(_run(cluster, terminal))
    except KeyboardInterrupt:
        print("scripts/quickstart: interrupted; the nodes are stopped", file=sys.stderr)
        return 130
    except _EXPLAINED as error:
        print(f"scripts/quickstart: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(cluster: LocalCluster, terminal: Terminal) -> None:
    begun_at = time.monotonic()
    terminal.line(terminal.strong("Tidelock: three nodes, one clock, no event lost"))
    started = await _start(cluster, terminal)
    try:
        journey = Journey()
        async with ClusterClient(cluster.addresses) as client:
            for participant in PARTICIPANTS:
                clock = await client.get(f"{CLOCK_PATH}/{participant}", via="n1")
                journey.clocks_at_start[participant] = clock.body["lamportTimestamp"]
            await _take_timestamps(client, cluster, journey, terminal)
            await _kill_the_leader(client, cluster, journey, terminal)
            survivors = [node for node in cluster.places if node != journey.killed]
            _heading(terminal, 4, "No event lost, none twice")
            await _prove(client, survivors, journey, terminal)
            await _bring_back(client, cluster, journey, terminal)
        await _buy(cluster, terminal)
        _sum_up(cluster, journey, terminal, time.monotonic() - begun_at)
    except BaseException:
        cluster.stop(started)
        raise


def _heading(terminal: Terminal, number: int, text: str) -> None:
    terminal.line()
    terminal.line(terminal.strong(f"{number}. {text}"))


async def _start(cluster: LocalCluster, terminal: Terminal) -> list[str]:
    _heading(terminal, 1, "Start three nodes")
    begun_at = time.monotonic()
    started = await bring_up(cluster, terminal)
    took_s = time.monotonic() - begun_at
    for node_id, place in cluster.places.items():
        process = cluster.process(node_id)
        pid = process.pid if process else "-"
        terminal.line(f"   {node_id}   {place.url}   pid {pid:<8} data in {place.data_dir}")
    found = f"ready after {took_s:.1f} s" if started else "they were running already"
    terminal.line(f"   {terminal.good(found)}")
    return started


async def _take(client: ClusterClient, participant: str, event_type: str, via: str) -> Taken:
    """Take one timestamp; retried through the other nodes under one key until it is certain."""
    unique_id = new_idempotency_key()
    body = {"nodeId": participant, "eventType": event_type, "eventData": {"id": unique_id}}
    answer = await client.post(EVENT_PATH, body, via=via, idempotency_key=unique_id)
    _expect_ok(answer)
    return Taken(
        participant=participant,
        lamport=answer.body["lamportTimestamp"],
        event_id=answer.body["eventId"],
        unique_id=unique_id,
        via=answer.node_id,
        attempts=answer.attempts,
        acknowledged_at=time.monotonic(),
    )


def _expect_ok(answer: Answer) -> None:
    if not answer.ok:
        raise UnexpectedAnswerError(f"{answer.node_id} answered {answer.status}: {answer.body}")


async def _take_timestamps(
    client: ClusterClient, cluster: LocalCluster, journey: Journey, terminal: Terminal
) -> None:
    _heading(terminal, 2, "Take Lamport timestamps for events, through each of them")
    rows = []
    for participant, event_types in PARTICIPANTS.items():
        for node_id, event_type in zip(cluster.places, itertools.cycle(event_types)):
            begun_at = time.monotonic()
            event = await _take(client, participant, event_type, node_id)
            took_ms = (event.acknowledged_at - begun_at) * 1000
            journey.taken.append(event)
            rows.append(
                [
                    f"   {participant}",
                    event_type,
                    str(event.lamport),
                    event.via,
                    event.event_id,
                    f"{took_ms:.1f} ms",
                ]
            )
    header = ["   participant", "event", "timestamp", "through", "event id", "durable after"]
    terminal.table(header, rows)


async def _kill_the_leader(
    client: ClusterClient, cluster: LocalCluster, journey: Journey, terminal: Terminal
) -> None:
    leader = await _leader(client, cluster)
    process = cluster.process(leader)
    _heading(terminal, 3, f"kill -9 the leader, {leader}, while events keep coming")
    enough = asyncio.Event()

    async def kill_in_between() -> None:
        await asyncio.sleep(_BEFORE_THE_KILL_S)
        journey.killed = leader
        await asyncio.to_thread(cluster.kill, leader)
        journey.killed_at = time.monotonic()
        await asyncio.sleep(_AFTER_THE_KILL_S)
        enough.set()

    writers = (
        _keep_writing(client, participant, node_id, journey, enough)
        for participant, node_id in zip(PARTICIPANTS, cluster.places, strict=False)
    )
    await asyncio.gather(kill_in_between(), *writers)
    after = journey.after_the_kill()
    if not after:
        raise BrokenPromiseError("no event was acknowledged after the leader's death")
    terminal.line(f"   killed pid {process.pid if process else '?'}")
    first = min(after, key=lambda event: event.acknowledged_at)
    gap_ms = (first.acknowledged_at - journey.killed_at) * 1000
    retried = sum(event.attempts > 1 for event in after)
    terminal.line(
        f"   first event acknowledged {gap_ms:.0f} ms later: {first.participant} "
        f"{first.lamport}, through {first.via}"
    )
    terminal.line(
        f"   {len(after)} events acknowledged without it; {retried} repeated through another "
        "node, under the same Idempotency-Key"
    )
    terminal.line(f"   new leader: {await _leader(client, cluster)}")


async def _keep_writing(
    client: ClusterClient, participant: str, via: str, journey: Journey, enough: asyncio.Event
) -> None:
    event_types = itertools.cycle(PARTICIPANTS[participant])
    while not enough.is_set():
        event = await _take(client, participant, next(event_types), via)
        journey.taken.append(event)
        via = event.via  # a client stays with the node that answers
        await asyncio.sleep(_WRITERS_PAUSE_S)


async def _leader(client: ClusterClient, cluster: LocalCluster) -> str:
    ends_at = time.monotonic() + _LEADER_WITHIN_S
    while time.monotonic() < ends_at:
        leader = await find_leader(client, cluster)
        if leader is not None:
            return leader
        await asyncio.sleep(0.02)
    raise ClusterError(f"no node leads after {_LEADER_WITHIN_S:.0f} s")


async def _prove(
    client: ClusterClient, node_ids: list[str], journey: Journey, terminal: Terminal
) -> None:
    """Compare what each node lists with what was acknowledged, one event at a time."""
    acknowledged = {
        (event.participant, event.lamport, event.event_id, event.unique_id)
        for event in journey.taken
    }
    if len(acknowledged) != len(journey.taken):
        raise BrokenPromiseError("two acknowledgements name the same event")
    for node_id in node_ids:
        listed = []
        for participant, start in journey.clocks_at_start.items():
            events = await list_events(client, node_id, nodeId=participant, afterLamport=str(start))
            timestamps = [event["lamportTimestamp"] for event in events]
            if timestamps != list(range(start + 1, start + 1 + len(events))):
                raise BrokenPromiseError(f"{node_id} lists {participant} with a gap or a repeat")
            listed += [
                (participant, event["lamportTimestamp"], event["eventId"], event["eventData"]["id"])
                for event in events
            ]
        lost, extra = acknowledged - set(listed), set(listed) - acknowledged
        if lost or extra or len(listed) != len(set(listed)):
            raise BrokenPromiseError(f"{node_id}: {len(lost)} lost, {len(extra)} not acknowledged")
        terminal.line(
            f"   {node_id} lists {len(listed)} events, {len(acknowledged)} were acknowledged: "
            + terminal.good("the same, each once")
        )
    counts = Counter(event.participant for event in journey.taken)
    spans = (
        f"{participant} {start + 1} to {start + counts[participant]}"
        for participant, start in journey.clocks_at_start.items()
    )
    terminal.line(f"   timestamps without a gap: {', '.join(spans)}")


async def _bring_back(
    client: ClusterClient, cluster: LocalCluster, journey: Journey, terminal: Terminal
) -> None:
    _heading(terminal, 5, f"Start {journey.killed} again")
    begun_at = time.monotonic()
    cluster.start(journey.killed)
    await cluster.wait_until_ready([journey.killed])
    terminal.line(f"   ready after {time.monotonic() - begun_at:.1f} s")
    await _prove(client, [journey.killed], journey, terminal)


async def _buy(cluster: LocalCluster, terminal: Terminal) -> None:
    """Make two purchases over three databases, of which the account cannot pay the second."""
    _heading(terminal, 6, "A transaction over three services: all of it, or nothing")
    begun_at = time.monotonic()
    with TemporaryDirectory(prefix="tidelock-quickstart-") as folder, files(Path(folder)) as books:
        books.make()
        terminal.progress("starting four services")
        async with open_shop(cluster, books, Path(folder)) as shop:
            took_s = time.monotonic() - begun_at
            terminal.line(
                f"   business, storage, order and account: four processes, three databases of "
                f"SQLite, ready after {took_s:.1f} s"
            )
            plans = (Plan("AT"), Plan("AT", fails=True))
            purchases = [await shop.purchase(plan, guards_go=False) for plan in plans]
    faults = show_briefly(purchases, terminal, "   ")
    if faults:
        raise BrokenPromiseError("; ".join(faults))
    terminal.line(
        f"   the last one to be called, account, said no: {purchases[-1].answer}; "
        + terminal.good("what storage and order had done is undone")
    )


def _sum_up(cluster: LocalCluster, journey: Journey, terminal: Terminal, took_s: float) -> None:
    last = dict.fromkeys(PARTICIPANTS, 0)
    for event in journey.taken:
        last[event.participant] = max(last[event.participant], event.lamport)
    clocks = ", ".join(f"{participant} = {value}" for participant, value in last.items())
    first_url = cluster.places["n1"].url
    terminal.line()
    terminal.line(terminal.strong(f"Done in {took_s:.1f} s"))
    terminal.line(f"   {len(journey.taken)} events acknowledged and found on every node; {clocks}")
    terminal.line("   the three nodes go on running:")
    for place in cluster.places.values():
        terminal.line(f"      {place.url}   API: {place.url}/docs")
    terminal.line("   the next timestamp:")
    terminal.line(f"      curl -s {first_url}{EVENT_PATH} -H 'Content-Type: application/json' \\")
    terminal.line("""           -d '{"nodeId": "orders", "eventType": "ORDER_PLACED"}'""")
    terminal.line("   the purchase, in other modes, or with somebody killed in the middle:")
    terminal.line("      scripts/purchase --mode TCC --fail account --kill leader")
    terminal.line("   look:    scripts/cluster status")
    terminal.line("   stop:    scripts/cluster down        the data stays in .tidelock/")
    terminal.line("   forget:  scripts/cluster wipe        after `down`")


if __name__ == "__main__":
    sys.exit(main())
