"""A chaos run: rounds of load and faults, each followed by recovery and a full check.

A round has participants of its own and at most a minute of faults, so that what must be kept and
searched stays small however long the run is. All rounds work on one cluster, whose data grows.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from scripts.tidelock_scripts.chaos.checkers import Violation, check_everything
from scripts.tidelock_scripts.chaos.history import Ending, History, StoredEvent
from scripts.tidelock_scripts.chaos.nemesis import Nemesis, Scene, chosen_faults
from scripts.tidelock_scripts.chaos.network import Network
from scripts.tidelock_scripts.chaos.workload import ATTEMPT_TIMEOUT_S, Workload
from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.cluster_command import bring_up
from scripts.tidelock_scripts.events import UnexpectedAnswerError, list_events
from scripts.tidelock_scripts.local_cluster import ClusterError, LocalCluster, free_base_port
from scripts.tidelock_scripts.terminal import Terminal

GREATEST_ROUND_S = 60.0
_LISTERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    seconds: float
    """Of faults and load; recovery and checks come on top."""
    seed: int
    faults: Sequence[str]
    data_dir: Path
    nodes: int = 3
    base_port: int | None = None


@dataclass(slots=True)
class RoundReport:
    name: str
    writes: int
    acknowledged: int
    refused: int
    unknown: int
    retried: int
    reads: int
    draws: int
    stored: int
    participants: int
    list_digest: str
    """SHA-256 over the list of this round's events, the same from every node."""
    checked_in_s: float
    violations: list[Violation] = field(default_factory=list)


@dataclass(slots=True)
class ChaosReport:
    seed: int
    nodes: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    rounds: list[RoundReport] = field(default_factory=list)
    broke_off: str | None = None
    """Why the run could not go on, such as a node that does not come back."""

    @property
    def passed(self) -> bool:
        return self.broke_off is None and not any(done.violations for done in self.rounds)

    def findings(self) -> list[str]:
        found = [
            f"{done.name}: {violation.rule}: {violation.detail}"
            for done in self.rounds
            for violation in done.violations
        ]
        return found + ([self.broke_off] if self.broke_off else [])


async def run_chaos(options: ChaosOptions, terminal: Terminal) -> ChaosReport:
    """Start a cluster, disturb and check it, stop it. What failed stays on disk, else nothing.

    Raises:
        ClusterError: it could not even be started.
        ValueError: a fault is unknown.
    """
    faults = chosen_faults(options.faults)
    report = ChaosReport(options.seed, options.nodes, options.seconds)
    plan = LocalCluster(
        options.data_dir,
        nodes=options.nodes,
        base_port=options.base_port or free_base_port(options.nodes),
    )
    if plan.exists:
        raise ClusterError(f"{options.data_dir} holds a cluster already; choose another --data")
    async with Network(plan.places.values()) as network, ClusterClient(
        plan.addresses, attempt_timeout_s=ATTEMPT_TIMEOUT_S
    ) as client:  # fmt: skip
        environment = {node_id: network.environment(node_id) for node_id in plan.places}
        cluster = LocalCluster(
            options.data_dir, nodes=plan.size, base_port=plan.base_port, environment=environment
        )
        try:
            await bring_up(cluster, terminal)
            chance = random.Random(options.seed)  # noqa: S311  # replayed by seed
            scene = Scene(cluster, network, client, chance)
            nemesis = Nemesis(scene, faults, lambda name: terminal.progress(f"now: {name}"))
            await _rounds(options, scene, nemesis, report, terminal)
            report.faults = nemesis.done
        except asyncio.CancelledError:  # interrupted: there is nothing to look into
            cluster.stop()
            cluster.remove()
            raise
        finally:
            cluster.stop()
        if report.passed:
            cluster.remove()
    return report


async def _rounds(
    options: ChaosOptions,
    scene: Scene,
    nemesis: Nemesis,
    report: ChaosReport,
    terminal: Terminal,
) -> None:
    count = max(1, round(options.seconds / GREATEST_ROUND_S))
    for number in range(1, count + 1):
        name = f"round-{number}"
        workload = Workload(name, scene.client, scene.network.nodes, options.seed)
        try:
            await _load_and_faults(scene, nemesis, workload, options.seconds / count)
            done = await _check(scene, workload, terminal)
        except (ClusterError, UnexpectedAnswerError) as error:
            report.broke_off = f"{name}: {error}"
        else:
            report.rounds.append(done)
            terminal.line(describe_round(done, count))
        if not report.passed:
            _keep_history(options.data_dir / f"{name}-history.json", workload.history)
            return


async def _load_and_faults(
    scene: Scene, nemesis: Nemesis, workload: Workload, seconds: float
) -> None:
    async def disturb() -> None:
        try:
            await nemesis.rage(seconds)
            # Recovery is under load as well.
            await scene.recover()
        finally:
            workload.finish()

    await asyncio.gather(workload.run(), disturb())
    # What a client gave up on may still be under way; past its deadline it is refused.
    await asyncio.sleep(ATTEMPT_TIMEOUT_S)


async def _check(scene: Scene, workload: Workload, terminal: Terminal) -> RoundReport:
    terminal.progress(f"{workload.name}: listing what every node holds")
    begun_at = time.monotonic()
    lists = await _list_everywhere(scene, workload.participants())
    history = workload.history
    terminal.progress(f"{workload.name}: checking {len(history.writes)} writes")
    violations = await asyncio.to_thread(check_everything, history, lists)
    violations += [Violation("as the contract says", text) for text in workload.unexpected]
    stored = next(iter(lists.values()))
    endings = Counter(write.ending for write in history.writes)
    return RoundReport(
        name=workload.name,
        writes=len(history.writes),
        acknowledged=endings[Ending.ACKNOWLEDGED],
        refused=endings[Ending.REFUSED],
        unknown=endings[Ending.UNKNOWN],
        retried=workload.retried,
        reads=len(history.reads),
        draws=len(history.draws),
        stored=len(stored),
        participants=len(workload.participants()),
        list_digest=_digest(stored),
        checked_in_s=time.monotonic() - begun_at,
        violations=violations,
    )


async def _list_everywhere(
    scene: Scene, participants: Sequence[str]
) -> dict[str, list[StoredEvent]]:
    """Return each node's events of the participants: linearizably, and from its own state.

    The nodes' own states come after the linearizable lists, through the same node, so that they
    cannot be older than what was acknowledged.
    """
    limit = asyncio.Semaphore(_LISTERS)

    async def one(node_id: str, participant: str, consistency: str) -> list[StoredEvent]:
        async with limit:
            events = await list_events(
                scene.client, node_id, nodeId=participant, consistency=consistency
            )
        return [
            StoredEvent(
                event_id=event["eventId"],
                participant=event["nodeId"],
                lamport=event["lamportTimestamp"],
                unique_id=_unique_id(event),
            )
            for event in events
        ]

    lists: dict[str, list[StoredEvent]] = {}
    for consistency in ("linearizable", "local"):
        for node_id in scene.network.nodes:
            of_each = await asyncio.gather(
                *(one(node_id, participant, consistency) for participant in participants)
            )
            lists[f"{node_id} ({consistency})"] = [event for part in of_each for event in part]
    return lists


def _unique_id(event: Mapping[str, object]) -> str | None:
    data = event["eventData"]
    return str(data["id"]) if isinstance(data, dict) and "id" in data else None


def _digest(events: Sequence[StoredEvent]) -> str:
    digest = hashlib.sha256()
    for event in events:
        digest.update(
            f"{event.event_id} {event.participant} {event.lamport} {event.unique_id}\n".encode()
        )
    return digest.hexdigest()


def _keep_history(path: Path, history: History) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(history))


def describe_round(done: RoundReport, count: int) -> str:
    verdict = f"{len(done.violations)} VIOLATIONS" if done.violations else "no violation"
    return (
        f"{done.name} of {count}: {done.writes} writes ({done.acknowledged} acknowledged, "
        f"{done.refused} refused, {done.unknown} unknown, {done.retried} retried), "
        f"{done.reads} reads, {done.draws} draws of timestamps, {done.participants} participants: "
        f"{verdict}"
    )
