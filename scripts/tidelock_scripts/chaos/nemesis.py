"""Faults, and who chooses them.

Each fault is a coroutine that does its harm, holds it for a while and takes it back. The order,
the victims and the lengths come from one seed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from scripts.tidelock_scripts.chaos.network import Disturbance, Network
from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.cluster_command import find_leader
from scripts.tidelock_scripts.local_cluster import ClusterError, LocalCluster

_LEADER_WITHIN_S = 15.0
_READY_WITHIN_S = 60.0
_CALM_S = (0.3, 2.0)


@dataclass(slots=True)
class Scene:
    """What a fault works on."""

    cluster: LocalCluster
    network: Network
    client: ClusterClient
    chance: random.Random
    down: set[str] = field(default_factory=set)
    """Nodes that we ended and have not started again."""

    def expect_alive(self) -> None:
        """Raises ClusterError when a node ended that nobody killed, which is a finding."""
        running = self.cluster.running()
        for node_id in self.network.nodes:
            if node_id not in running and node_id not in self.down:
                log = self.cluster.log_tail(node_id)
                raise ClusterError(f"{node_id} ended by itself\n{log}")

    async def leader(self) -> str:
        """Return the node that leads; when nobody does for long, any: a fault needs a victim."""
        ends_at = time.monotonic() + _LEADER_WITHIN_S
        while time.monotonic() < ends_at:
            leader = await find_leader(self.client, self.cluster)
            if leader is not None:
                return leader
            await asyncio.sleep(0.05)
        return self.chance.choice(self.network.nodes)

    async def follower(self) -> str:
        leader = await self.leader()
        return self.chance.choice([node for node in self.network.nodes if node != leader])

    def others(self, node_id: str) -> list[str]:
        return [node for node in self.network.nodes if node != node_id]

    async def hold(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.chance.uniform(least_s, most_s))

    async def kill(self, node_ids: Sequence[str]) -> None:
        """SIGKILL. From before their end nothing listens at their addresses, links included."""
        await self._end(node_ids)
        await asyncio.gather(
            *(asyncio.to_thread(self.cluster.kill, node_id) for node_id in node_ids)
        )

    async def stop(self, node_ids: Sequence[str]) -> None:
        """SIGTERM: they end in order."""
        await self._end(node_ids)
        await asyncio.to_thread(self.cluster.stop, node_ids)

    async def _end(self, node_ids: Sequence[str]) -> None:
        self.expect_alive()
        self.down.update(node_ids)
        for node_id in node_ids:
            await self.network.node_is_down(node_id, True)

    async def start(self, node_ids: Sequence[str]) -> None:
        for node_id in node_ids:
            await asyncio.to_thread(self.cluster.start, node_id)
            await self.network.node_is_down(node_id, False)
            self.down.discard(node_id)

    async def recover(self) -> None:
        """Take every fault back and return when all nodes are ready.

        Raises:
            ClusterError: one ended by itself, or they do not get ready, which is a finding.
        """
        self.expect_alive()
        await self.network.heal()
        for node_id in self.network.nodes:
            if self.cluster.is_paused(node_id):
                self.cluster.resume(node_id)
        await self.start(sorted(self.down))
        await self.cluster.wait_until_ready(timeout_s=_READY_WITHIN_S)


async def _kill_leader(scene: Scene) -> None:
    victim = await scene.leader()
    await scene.kill([victim])
    await scene.hold(0.2, 3.0)
    await scene.start([victim])


async def _kill_follower(scene: Scene) -> None:
    victim = await scene.follower()
    await scene.kill([victim])
    await scene.hold(0.2, 3.0)
    await scene.start([victim])


async def _kill_majority(scene: Scene) -> None:
    survivor = scene.chance.choice(scene.network.nodes)
    await scene.kill(scene.others(survivor))
    await scene.hold(0.1, 1.5)
    await scene.start(scene.others(survivor))


async def _kill_all(scene: Scene) -> None:
    await scene.kill(scene.network.nodes)
    await scene.hold(0.0, 0.5)
    order = list(scene.network.nodes)
    scene.chance.shuffle(order)
    await scene.start(order)


async def _pause_leader(scene: Scene) -> None:
    await _pause(scene, await scene.leader())


async def _pause_follower(scene: Scene) -> None:
    await _pause(scene, await scene.follower())


async def _pause(scene: Scene, victim: str) -> None:
    scene.cluster.pause(victim)
    await scene.hold(0.1, 3.0)
    scene.cluster.resume(victim)


async def _isolate_leader(scene: Scene) -> None:
    leader = await scene.leader()
    await _partition(scene, scene.network.both_ways([leader], scene.others(leader)))


async def _isolate_follower(scene: Scene) -> None:
    follower = await scene.follower()
    await _partition(scene, scene.network.both_ways([follower], scene.others(follower)))


async def _halves(scene: Scene) -> None:
    nodes = list(scene.network.nodes)
    scene.chance.shuffle(nodes)
    middle = len(nodes) // 2
    await _partition(scene, scene.network.both_ways(nodes[:middle], nodes[middle:]))


async def _broken_triangle(scene: Scene) -> None:
    """Two nodes do not reach each other, while all others reach both."""
    one, other = scene.chance.sample(scene.network.nodes, 2)
    await _partition(scene, scene.network.both_ways([one], [other]))


async def _leader_unheard(scene: Scene) -> None:
    leader = await scene.leader()
    await _partition(scene, [(leader, other) for other in scene.others(leader)])


async def _leader_deaf(scene: Scene) -> None:
    leader = await scene.leader()
    await _partition(scene, [(other, leader) for other in scene.others(leader)])


async def _partition(scene: Scene, pairs: Sequence[tuple[str, str]]) -> None:
    kinds = [Disturbance.STALL, Disturbance.SWALLOW, Disturbance.REFUSE]
    await scene.network.disturb(pairs, scene.chance.choice(kinds))
    await scene.hold(0.3, 4.0)
    await scene.network.heal()


async def _delay(scene: Scene) -> None:
    scene.network.delay(scene.chance.uniform(0.002, 0.08))
    await scene.hold(1.0, 4.0)
    await scene.network.heal()


async def _flap(scene: Scene) -> None:
    for _ in range(scene.chance.randrange(3, 12)):
        await scene.network.reset()
        await scene.hold(0.01, 0.3)


async def _wipe(scene: Scene) -> None:
    """A node loses its disk and comes back empty, while all the others are well."""
    await scene.recover()
    victim = scene.chance.choice(scene.network.nodes)
    await scene.kill([victim])
    await asyncio.to_thread(scene.cluster.wipe, victim)
    await scene.hold(0.0, 1.0)
    await scene.start([victim])
    await scene.cluster.wait_until_ready(timeout_s=_READY_WITHIN_S)


Fault = Callable[[Scene], Awaitable[None]]

FAULTS: dict[str, dict[str, Fault]] = {
    "kill": {
        "kill-leader": _kill_leader,
        "kill-follower": _kill_follower,
        "kill-majority": _kill_majority,
        "kill-all": _kill_all,
    },
    "pause": {"pause-leader": _pause_leader, "pause-follower": _pause_follower},
    "partition": {
        "isolate-leader": _isolate_leader,
        "isolate-follower": _isolate_follower,
        "halves": _halves,
        "broken-triangle": _broken_triangle,
        "leader-unheard": _leader_unheard,
        "leader-deaf": _leader_deaf,
    },
    "delay": {"delay": _delay},
    "flap": {"flap": _flap},
    "wipe": {"wipe": _wipe},
}
"""Faults by name, in the groups that `--faults` takes as well."""


def chosen_faults(names: Sequence[str]) -> dict[str, Fault]:
    """Return the faults of these names or groups.

    Raises:
        ValueError: a name is neither.
    """
    every = {name: fault for group in FAULTS.values() for name, fault in group.items()}
    chosen: dict[str, Fault] = {}
    for name in names:
        if name in FAULTS:
            chosen.update(FAULTS[name])
        elif name in every:
            chosen[name] = every[name]
        else:
            known = ", ".join([*FAULTS, *(fault for fault in every if fault not in FAULTS)])
            raise ValueError(f"there is no fault {name!r}; there are {known}")
    return chosen


@dataclass(slots=True)
class Nemesis:
    """Brings one fault after another, each kind before any comes again."""

    scene: Scene
    faults: dict[str, Fault]
    on_fault: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)
    _deck: list[str] = field(default_factory=list)

    async def rage(self, seconds: float) -> None:
        """Bring faults until the time is over; the last one is taken back before this returns."""
        ends_at = time.monotonic() + seconds
        chance = self.scene.chance
        await self.scene.hold(*_CALM_S)
        while time.monotonic() < ends_at:
            if not self._deck:
                self._deck = sorted(self.faults)
                chance.shuffle(self._deck)
            name = self._deck.pop()
            self.on_fault(name)
            await self.faults[name](self.scene)
            self.scene.expect_alive()
            self.done[name] += 1
            if chance.random() < 0.7:  # else the next fault meets a cluster that still recovers
                await self.scene.hold(*_CALM_S)
