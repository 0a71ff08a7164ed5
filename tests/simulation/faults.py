"""What goes wrong, when, and for how long: all of it chosen by the seed."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable

from node.consensus.admission import ADD, REMOVE, TRANSFER
from tests.simulation.cluster import SimulatedCluster

FaultAction = Callable[[], None]

_MOST_ADDED = 2
"""How many nodes join that no configuration file names."""

_LEAST_VOTERS = 3


class Faults:
    """Injects one fault after another; never destroys what only a majority of disks holds."""

    def __init__(self, cluster: SimulatedCluster, rate_per_s: float) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._rate_per_s = rate_per_s
        self.counters: Counter[str] = Counter()
        self.running = False
        self._actions: list[tuple[str, FaultAction]] = [
            ("kill", self._kill),
            ("kill_leader", self._kill_leader),
            ("power_loss", self._power_loss),
            ("power_loss_of_all", self._power_loss_of_all),
            ("pause", self._pause),
            ("pause_leader", self._pause_leader),
            ("isolate", self._isolate),
            ("split", self._split),
            ("one_way", self._one_way),
            ("ring", self._ring),
            ("flap", self._flap),
            ("reset", self._reset),
            ("slow_link", self._slow_link),
            ("clog", self._clog),
            ("clock_jump", self._clock_jump),
            ("slow_disk", self._slow_disk),
            ("failing_disk", self._failing_disk),
            ("full_disk", self._full_disk),
            ("bit_flip", self._bit_flip),
            ("wipe", self._wipe),
            ("transfer", self._transfer),
            ("add_member", self._add_member),
            ("remove_member", self._remove_member),
        ]

    def start(self) -> None:
        self.running = True
        self._schedule()

    def _schedule(self) -> None:
        self._world.at(self._world.rng.expovariate(self._rate_per_s), self._inject)

    def _inject(self) -> None:
        if not self.running:
            return
        name, action = self._world.rng.choice(self._actions)
        self.counters[name] += 1
        action()
        self._schedule()

    def heal_everything(self) -> None:
        self.running = False
        self._cluster.network.slow.clear()
        self._cluster.network.heal(sorted(self._cluster.network.cut))
        for name in self._cluster.names:
            self._cluster.resume(name)
            self._cluster.start(name)

    # --- choosing

    def _any(self) -> str:
        return self._world.rng.choice(self._cluster.names)

    def _leader_name(self) -> str:
        leader = self._cluster.leader()
        return leader.identity.node_id if leader is not None else self._any()

    def _for(self, least_s: float, most_s: float) -> float:
        return self._world.rng.uniform(least_s, most_s)

    # --- processes

    def _kill_and_restart(self, name: str, *, power_loss: bool) -> None:
        self._cluster.kill(name, power_loss=power_loss)
        self._world.at(self._for(0.05, 6.0), lambda: self._cluster.start(name))

    def _kill(self) -> None:
        self._kill_and_restart(self._any(), power_loss=False)

    def _kill_leader(self) -> None:
        self._kill_and_restart(self._leader_name(), power_loss=False)

    def _power_loss(self) -> None:
        self._kill_and_restart(self._any(), power_loss=True)

    def _power_loss_of_all(self) -> None:
        for name in self._cluster.names:
            self._kill_and_restart(name, power_loss=True)

    def _pause_one(self, name: str) -> None:
        self._cluster.pause(name)
        self._world.at(self._for(0.05, 5.0), lambda: self._cluster.resume(name))

    def _pause(self) -> None:
        self._pause_one(self._any())

    def _pause_leader(self) -> None:
        self._pause_one(self._leader_name())

    def _clock_jump(self) -> None:
        process = self._cluster.nodes[self._any()].process
        process.wall_offset_ms += self._world.rng.choice((-60_000, -500, 500, 60_000))

    def _transfer(self) -> None:
        self._ask(TRANSFER, "")

    # --- members

    def _ask(self, kind: str, node_id: str) -> None:
        """As an operator does, through any node; nobody waits for the answer."""
        name = self._any()
        engine = self._cluster.engine(name)
        if engine is not None:
            self._cluster.run_as(
                name,
                lambda: engine.admission.ask(
                    kind, node_id, engine.now() + 5.0, lambda _code, _detail: None, node_id, node_id
                ),
            )

    def _add_member(self) -> None:
        """One that was removed, with an empty disk, or one that nobody has heard of."""
        voters = self._cluster.voters()
        if not self._agree(voters):
            # One who was removed may be needed again, if that was not for good.
            return
        outside = [name for name in self._cluster.names if not self._cluster.is_member(name)]
        if outside:
            name = self._world.rng.choice(outside)
            self._cluster.kill(name)
            self._cluster.wipe(name)
            self._cluster.start(name)
        elif len(self._cluster.names) < len(self._cluster.configured) + _MOST_ADDED:
            name = self._cluster.start_another()
        else:
            return
        self._world.at(self._for(0.0, 1.0), lambda: self._ask(ADD, name))

    def _remove_member(self) -> None:
        voters = self._cluster.voters()
        if len(voters) > _LEAST_VOTERS:
            self._ask(REMOVE, self._world.rng.choice(voters))

    # --- network

    def _cut(self, pairs: list[tuple[str, str]], duration_s: float) -> None:
        self._cluster.network.cut.update(pairs)
        self._world.at(duration_s, lambda: self._cluster.network.heal(pairs))

    def _both_ways(self, left: list[str], right: list[str]) -> list[tuple[str, str]]:
        pairs = [(a, b) for a in left for b in right if a != b]
        return pairs + [(b, a) for a, b in pairs]

    def _isolate(self) -> None:
        name = self._any() if self._world.rng.random() < 0.5 else self._leader_name()
        self._cut(self._both_ways([name], self._cluster.names), self._for(0.2, 8.0))

    def _split(self) -> None:
        names = self._cluster.names.copy()
        self._world.rng.shuffle(names)
        half = len(names) // 2
        self._cut(self._both_ways(names[:half], names[half:]), self._for(0.2, 8.0))

    def _one_way(self) -> None:
        source, target = self._world.rng.sample(self._cluster.names, 2)
        self._cut([(source, target)], self._for(0.2, 6.0))

    def _ring(self) -> None:
        names = self._cluster.names
        count = len(names)
        pairs = [
            (names[a], names[b])
            for a in range(count)
            for b in range(count)
            if a != b and (a - b) % count not in (1, count - 1)
        ]
        self._cut(pairs or self._both_ways(names[:1], names[1:2]), self._for(0.2, 6.0))

    def _flap(self) -> None:
        left, right = self._world.rng.sample(self._cluster.names, 2)
        for turn in range(5):
            self._world.at(turn * 0.3, lambda: self._cut(self._both_ways([left], [right]), 0.15))

    def _reset(self) -> None:
        source, target = self._world.rng.sample(self._cluster.names, 2)
        self._cluster.network.reset(source, target)

    def _slow_link(self) -> None:
        source, target = self._world.rng.sample(self._cluster.names, 2)
        slow = self._cluster.network.slow
        slow[(source, target)] = self._for(0.005, 0.2)

        def mend() -> None:
            slow.pop((source, target), None)

        self._world.at(self._for(0.5, 6.0), mend)

    def _clog(self) -> None:
        """A link stands still and then delivers everything at once."""
        source, target = self._world.rng.sample(self._cluster.names, 2)
        self._cut([(source, target)], self._for(0.05, 0.6))

    # --- disks

    def _slow_disk(self) -> None:
        disk = self._cluster.nodes[self._any()].disk
        if disk is not None:
            usual, quick = disk.latency_s, disk.quick
            disk.quick = False
            disk.latency_s = lambda: self._world.rng.uniform(0.01, 0.15)

            def mend() -> None:
                disk.latency_s = usual
                disk.quick = quick

            self._world.at(self._for(0.2, 4.0), mend)

    def _break_disk(self, number: int) -> None:
        name = self._any()
        disk = self._cluster.nodes[name].disk
        if disk is not None:
            disk.fail(number)
            self._world.at(self._for(1.0, 6.0), lambda: self._restart_failed(name))

    def _restart_failed(self, name: str) -> None:
        self._cluster.kill(name)
        self._cluster.start(name)

    def _failing_disk(self) -> None:
        self._break_disk(errno.EIO)

    def _full_disk(self) -> None:
        self._break_disk(errno.ENOSPC)

    def _may_lose_a_disk(self, name: str) -> bool:
        """Whether everybody else is up, holds all that is committed, and nobody is new."""
        others = [other for other in self._cluster.voters() if other != name]
        if name not in self._cluster.voters() or len(others) < 2 or not self._agree(others):
            return False
        engines = [engine for other in others if (engine := self._cluster.engine(other))]
        commit = max(engine.raft.commit_index for engine in engines)
        return all(engine.journal.durable_index >= commit for engine in engines)

    def _agree(self, names: list[str]) -> bool:
        """Whether all of these are up and sound, and know of no other members than each other."""
        if self._cluster.network.cut or any(node.damaged for node in self._cluster.nodes.values()):
            return False
        voters = set(self._cluster.voters())
        return bool(names) and all(
            engine is not None
            and engine.membership.is_voter
            and not engine.membership.change_pending
            and {*engine.membership.other_voters, engine.identity.node_id} == voters
            for engine in map(self._cluster.engine, names)
        )

    def _bit_flip(self) -> None:
        name = self._any()
        if not self._may_lose_a_disk(name):
            return
        self._cluster.kill(name)
        self._cluster.flip_bit(name)
        self._world.at(self._for(0.1, 3.0), lambda: self._cluster.start(name))

    def _wipe(self) -> None:
        name = self._any()
        if not self._may_lose_a_disk(name):
            return
        self._cluster.kill(name)
        self._cluster.wipe(name)
        self._world.at(self._for(0.1, 3.0), lambda: self._cluster.start(name))
