"""A chaos run: rounds of load and faults, each followed by recovery and a full check.

A round has participants of its own and at most a minute of faults, so that what must be kept and
searched stays small however long the run is. All rounds work on one cluster, whose data grows.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.nemesis import Nemesis, Scene, chosen_faults
from scripts.tidelock_scripts.chaos.network import Network
from scripts.tidelock_scripts.chaos.round_clients import (
    ATTEMPT_TIMEOUT_S,
    Round,
    RoundClients,
)
from scripts.tidelock_scripts.chaos.watch_clients import Watchers, mark, told_upto
from scripts.tidelock_scripts.chaos.workloads import WORKLOADS, make_clients
from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.cluster_command import bring_up
from scripts.tidelock_scripts.events import UnexpectedAnswerError
from scripts.tidelock_scripts.local_cluster import ClusterError, LocalCluster, free_base_port
from scripts.tidelock_scripts.terminal import Terminal

GREATEST_ROUND_S = 60.0
_WATCH_HEARTBEAT_MS = 500
"""A watcher gives up a node that it does not hear for some seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    seconds: float
    """Of faults and load; recovery and checks come on top."""
    seed: int
    faults: Sequence[str]
    data_dir: Path
    workloads: Sequence[str] = WORKLOADS
    nodes: int = 3
    base_port: int | None = None


@dataclass(slots=True)
class WorkloadReport:
    """What became of the clients of one kind in one round."""

    what: str
    figures: dict[str, int]
    violations: list[Violation] = field(default_factory=list)


@dataclass(slots=True)
class RoundReport:
    name: str
    checked_in_s: float
    changes_told: int
    """To the one watcher that each round has."""
    workloads: list[WorkloadReport] = field(default_factory=list)

    def figures(self, what: str) -> dict[str, int]:
        """Return those of one workload."""
        (found,) = [each.figures for each in self.workloads if each.what == what]
        return found

    @property
    def violations(self) -> list[Violation]:
        return [violation for each in self.workloads for violation in each.violations]


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

    def findings(self, *, of_each: int | None = None) -> list[str]:
        """Return what was found, or only the first findings of each workload."""
        found = [
            f"{done.name}, {each.what}: {violation.rule}: {violation.detail}"
            for done in self.rounds
            for each in done.workloads
            for violation in each.violations[:of_each]
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
        heartbeat = {"TIDELOCK_WATCH_HEARTBEAT_MS": str(_WATCH_HEARTBEAT_MS)}
        environment = {
            node_id: {**heartbeat, **network.environment(node_id)} for node_id in plan.places
        }
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
    nodes = scene.network.nodes
    dtm_urls = {node_id: scene.cluster.place(node_id).dtm_url for node_id in nodes}
    for number in range(1, count + 1):
        of_round = Round(f"round-{number}", scene.client, nodes, options.seed, dtm_urls)
        clients: list[RoundClients] = []
        try:
            begin = await mark(scene.client, nodes[0], of_round.name)
            addresses = list(scene.cluster.addresses.values())
            clients = make_clients(options.workloads, of_round, addresses, begin)
            recorder = Watchers(addresses, 1, begin)
            recorder.start()
            try:
                await _load_and_faults(scene, nemesis, clients, options.seconds / count)
                done = await _check(scene, of_round, clients, recorder, terminal)
            finally:
                await recorder.close()
        except (ClusterError, UnexpectedAnswerError) as error:
            report.broke_off = f"{of_round.name}: {error}"
        else:
            report.rounds.append(done)
            terminal.line(describe_round(done, count))
        if not report.passed:
            _keep_histories(options.data_dir / f"{of_round.name}-history.json", clients)
            return


async def _load_and_faults(
    scene: Scene, nemesis: Nemesis, clients: Sequence[RoundClients], seconds: float
) -> None:
    async def disturb() -> None:
        try:
            await nemesis.rage(seconds)
            # Recovery is under load as well.
            await scene.recover()
        finally:
            for each in clients:
                each.finish()

    await asyncio.gather(disturb(), *(each.run() for each in clients))
    # What a client gave up on may still be under way; past its deadline it is refused.
    await asyncio.sleep(ATTEMPT_TIMEOUT_S)


async def _check(
    scene: Scene,
    of_round: Round,
    clients: Sequence[RoundClients],
    recorder: Watchers,
    terminal: Terminal,
) -> RoundReport:
    begun_at = time.monotonic()
    end = await mark(scene.client, of_round.nodes[0], f"{of_round.name}-end")
    await recorder.reach(end)
    log = told_upto(recorder.watches[0], end)
    done = RoundReport(of_round.name, 0.0, len(log))
    for each in clients:
        terminal.progress(f"{of_round.name}: checking {each.what}")
        violations = await each.check(scene, log)
        violations += [Violation("as the contract says", text) for text in each.unexpected]
        figures = dict(sorted(each.counters.items()))
        done.workloads.append(WorkloadReport(each.what, figures, violations))
    done.checked_in_s = time.monotonic() - begun_at
    return done


def _keep_histories(path: Path, clients: Sequence[RoundClients]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    histories = {each.what: each.history() for each in clients}
    path.write_bytes(msgspec.json.encode(histories, enc_hook=str))


def describe_round(done: RoundReport, count: int) -> str:
    found = len(done.violations)
    verdict = f"{found} VIOLATIONS" if found else "no violation"
    lines = [f"{done.name} of {count}: {done.changes_told} changes in the log: {verdict}"]
    for each in done.workloads:
        figures = ", ".join(f"{count} {name}" for name, count in each.figures.items())
        lines.append(f"  {each.what}: {figures}")
    return "\n".join(lines)
