"""Calls of simulated clients: through any node, with deadlines, retries under a key, and waits.

A call is a command and what its client was told of it. With an idempotency key it is tried again
through other nodes until its outcome is known. Without one it is sent once, and may stay unknown.
A call that must wait for its turn waits on the node's change feed, as requests do.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from node.change_feed import ChangeFeed
from node.consensus.engine import Engine
from node.consensus.proposals import Answer
from statemachine.codec import encode_request
from statemachine.commands import AnyCommand, CancelWait, IdempotencyKey, Request
from statemachine.outcomes import (
    AnyResult,
    Applied,
    Outcome,
    Pending,
    Position,
    Rejected,
    RejectionCode,
    RequestOutcome,
)
from statemachine.tickets import get_ticket
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.world import Violation

TIMEOUT_S = 3.0
_KEY_TTL_MS = 3_600_000
_GRACE_S = 1.0
"""How much longer than a node a client waits."""


@dataclass(slots=True, eq=False)
class Call:
    """One command that a client sends, and what it was told."""

    command: AnyCommand
    key: str | None
    begun_at: float
    wait_s: float = 0.0
    """How long it may wait for its turn."""
    undo: Callable[[Position], AnyCommand] | None = None
    """Of a command that may wait: what takes it back when its client has gone."""
    ended_at: float | None = None
    outcome: Applied | Rejected | None = None
    """None: it is not known, or not yet."""
    position: Position | None = None
    """Where the command stands in the log, once that is known."""
    via: str = ""
    """The node that was asked last."""
    attempts: int = 0
    asked: tuple[str, int] | None = None
    """Node and incarnation that still owe this caller an answer."""

    @property
    def result(self) -> AnyResult | None:
        return self.outcome.result if isinstance(self.outcome, Applied) else None

    @property
    def sent(self) -> bool:
        """Tell whether any node was asked."""
        return bool(self.via)

    @property
    def begun_ns(self) -> int:
        return nanoseconds(self.begun_at)

    @property
    def ended_ns(self) -> int | None:
        return None if self.ended_at is None else nanoseconds(self.ended_at)


OnEnd = Callable[[Call], None]


def nanoseconds(virtual_s: float) -> int:
    return int(virtual_s * 1e9)


@dataclass(slots=True)
class _Desk:
    """Where requests wait at one incarnation of a node: its change feed is the product's."""

    engine: Engine
    loop: asyncio.AbstractEventLoop
    feed: ChangeFeed


class Callers:
    """Sends calls; remembers all of them."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._numbers = itertools.count()
        self._desks: dict[str, _Desk] = {}
        self.calls: list[Call] = []
        self.counters: Counter[str] = Counter()
        cluster.on_started.append(self._open_desk)

    def _open_desk(self, name: str) -> None:
        engine = self._cluster.nodes[name].engine
        assert engine is not None
        loop = self._cluster.nodes[name].process.loop
        assert loop is not None
        feed = ChangeFeed(engine.machine_store, lambda: engine.machine.applied_position)
        self._desks[name] = _Desk(engine, loop, feed)
        engine.notices.on_applied.append(feed.on_applied)

    def feed(self, name: str) -> ChangeFeed:
        """Return the change feed of a node that is up."""
        return self._desks[name].feed

    def call(
        self,
        command: AnyCommand,
        on_end: OnEnd,
        *,
        keyed: bool,
        wait_s: float = 0.0,
        undo: Callable[[Position], AnyCommand] | None = None,
    ) -> Call:
        """Send a command; `on_end` hears once that its outcome is known, or will not be."""
        key = f"k{next(self._numbers)}" if keyed else None
        call = Call(command, key, self._world.now, wait_s, undo)
        self.calls.append(call)
        self._send(call, on_end)
        return call

    def open_calls(self) -> int:
        """Return how many are under way."""
        return sum(call.ended_at is None for call in self.calls)

    def hang_up(self, call: Call, on_end: OnEnd) -> None:
        """The client of a call without a key goes away, and its node takes back what it can."""
        if call.ended_at is not None or call.key is not None:
            return
        if call.asked is not None:
            self._undo(call, call.via)
            call.asked = None
        self._end(call, None, on_end)

    # --- one attempt

    def _send(self, call: Call, on_end: OnEnd) -> None:
        call.attempts += 1
        name = self._world.rng.choice(self._cluster.names)
        engine = self._cluster.engine(name)
        if engine is None:
            self._failed(call, on_end)
            return
        call.via = name
        asked = call.asked = (name, self._cluster.nodes[name].process.incarnation)
        attempt = call.attempts

        def answered(answer: Answer) -> None:
            if call.asked != asked or call.attempts != attempt:
                return
            if not isinstance(answer, RequestOutcome):
                self.counters[type(answer).__name__] += 1
                call.asked = None
                self._failed(call, on_end)
                return
            call.position = answer.position
            (outcome,) = answer.outcomes
            if isinstance(outcome, Pending):
                self._wait(call, outcome.ticket, on_end)
                return
            call.asked = None
            if isinstance(outcome, Rejected) and outcome.code is RejectionCode.REQUEST_EXPIRED:
                # This attempt was not done; one before it may have been.
                self.counters["expired"] += 1
                if call.key is not None:
                    self._failed(call, on_end)
                    return
            self._end(call, outcome, on_end)

        self._cluster.run_as(name, lambda: self._propose(engine, call.command, call.key, answered))
        # A client whose node died, or stands still, hears nothing and asks another one.
        self._world.at(TIMEOUT_S + _GRACE_S, lambda: self._lose_patience(call, attempt, on_end))

    @staticmethod
    def _propose(
        engine: Engine, command: AnyCommand, key: str | None, on_answer: Callable[[Answer], None]
    ) -> None:
        idempotency = key and IdempotencyKey(
            "client", key, key.encode()[:16].ljust(16), _KEY_TTL_MS
        )
        expires_at_ms = engine.stamps.elapsed_ms() + int(TIMEOUT_S * 2000)
        request = encode_request(Request(expires_at_ms, idempotency or None, (command,)))
        try:
            engine.propose(request, engine.now() + TIMEOUT_S, on_answer)
        except Exception as error:
            on_answer(error)

    def _lose_patience(self, call: Call, attempt: int, on_end: OnEnd) -> None:
        if call.ended_at is None and call.attempts == attempt and call.asked is not None:
            name, incarnation = call.asked
            process = self._cluster.nodes[name].process
            if process.up and not process.paused and process.incarnation == incarnation:
                # The call waits for its turn, or the node stood still. That it answers is checked.
                self._world.at(TIMEOUT_S, lambda: self._lose_patience(call, attempt, on_end))
                return
            if not process.paused:
                call.asked = None
            self._failed(call, on_end)

    def _failed(self, call: Call, on_end: OnEnd) -> None:
        """Only a key makes a retry safe; without one the outcome stays unknown."""
        if call.ended_at is not None:
            return
        if call.key is None:
            self._end(call, None, on_end)
            return

        def again() -> None:
            if call.ended_at is None:
                self._send(call, on_end)

        self._world.at(0.05 + self._world.rng.random() * 0.2, again)

    def _end(self, call: Call, outcome: Applied | Rejected | None, on_end: OnEnd) -> None:
        if call.ended_at is not None:
            return
        call.ended_at = self._world.now
        call.outcome = outcome
        if isinstance(outcome, Applied):
            self.counters["done"] += 1
        elif isinstance(outcome, Rejected):
            self.counters[f"refused_{outcome.code.name}"] += 1
        else:
            self.counters["unknown"] += 1
        on_end(call)

    # --- waiting

    def _wait(self, call: Call, ticket: Position, on_end: OnEnd) -> None:
        """Do what a node does for a request that waits."""
        name, attempt, asked = call.via, call.attempts, call.asked
        desk = self._desks[name]

        def is_awaited() -> bool:
            return call.asked == asked and call.attempts == attempt

        def settled(task: asyncio.Task[Outcome]) -> None:
            if not is_awaited():
                task.exception()
                return
            call.asked = None
            try:
                outcome = task.result()
            except LookupError:
                # The wait is forgotten; a node says that it does not know.
                self._failed(call, on_end)
                return
            assert not isinstance(outcome, Pending)
            self.counters["waited"] += 1
            self._end(call, outcome, on_end)

        def pass_deadline() -> None:
            if is_awaited():
                self._propose(desk.engine, CancelWait(ticket=ticket), None, lambda _answer: None)
                self._world.at_node(process, TIMEOUT_S, give_up)

        def give_up() -> None:
            """Its end was proposed, and it was not heard of: nobody knows."""
            if not is_awaited():
                return
            found = get_ticket(desk.engine.machine_store, ticket)
            if found is not None and found.outcome is not None:
                raise Violation(f"{name} never told the caller of {call} how its wait ended")
            self._undo(call, name)
            call.asked = None
            self._failed(call, on_end)

        process = self._cluster.nodes[name].process
        desk.loop.create_task(desk.feed.settled(ticket)).add_done_callback(settled)
        self._world.at_node(process, call.wait_s + TIMEOUT_S, pass_deadline)

    def _undo(self, call: Call, name: str) -> None:
        """Have what was done for a client that has gone taken back, sooner or later."""
        engine = self._cluster.engine(name)
        if call.key is None and call.undo is not None and call.position is not None and engine:
            undo = call.undo(call.position)
            self._cluster.run_as(
                name, lambda: self._propose(engine, undo, None, lambda _answer: None)
            )
