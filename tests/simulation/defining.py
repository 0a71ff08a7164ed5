"""Clients of sagas that follow definitions, and the services of a journey that these call.

What a saga comes to is known from its input alone once every call was answered at last. While
services are in trouble it may be given up as well, and then nothing of it is left.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

from node.delivery.calls import BranchRequest, Reply
from scripts.tidelock_scripts.chaos.branch_effects import DONE, BranchEffects
from statemachine.commands import PutSagaDefinition, StartSaga
from statemachine.transactions.rows import Global, get_global
from statemachine.transactions.statuses import ENDED, GlobalStatus
from tests.simulation.calls import Call, Callers
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.driving import GLOBAL_TIMEOUT_MS, Drivers, members_of
from tests.simulation.world import Violation

HOST = "journey"
RATE_PER_S = 3.0

_RETRY = [{"IntervalSeconds": 0.1, "MaxAttempts": 30, "BackoffRate": 1.2}]
_FEW = [{"IntervalSeconds": 0.1, "MaxAttempts": 2}]
_VERSIONS_EVERY_S = 4.0


def _task(name: str, following: str = "", **more: object) -> dict[str, object]:
    task = {
        "Type": "ServiceTask",
        "ServiceUrl": f"http://{HOST}/do",
        "CompensateState": f"Undo{name}",
        "Output": {f"id{name}": "$.id"},
        **more,
    }
    if following:
        task["Next"] = following
    return task


def _undoing(name: str) -> dict[str, object]:
    return {
        "Type": "ServiceTask",
        "ServiceUrl": f"http://{HOST}/undo",
        "Input": [{"id": f"$.[id{name}]"}],
    }


def journey(version: int) -> dict[str, object]:
    """Book; reserve each room; perhaps travel, in a machine of its own; pay, now or later."""
    states: dict[str, object] = {
        "Book": _task("Book", "Rooms", Retry=_FEW),
        "Rooms": _task(
            "Rooms",
            "Far",
            Loop={"Collection": "$.[rooms]", "Parallel": 2, "ElementVariableName": "room"},
            Input=[{"room": "$.[room]", "id": "$.[idBook]"}],
            Retry=_RETRY,
        ),
        "Far": {
            "Type": "Choice",
            "Choices": [{"Expression": "[far]", "Next": "Travel"}],
            "Default": "Pay",
        },
        "Travel": {
            "Type": "SubStateMachine",
            "StateMachineName": "travel",
            "Input": [{"refused": "$.[full]"}],
            "Catch": [{"Exceptions": ["*"], "Next": "GiveUp"}],
            "Next": "Pay",
        },
        "Pay": _task(
            "Pay",
            "Done",
            Input=[{"refused": "$.[poor]"}],
            Retry=_RETRY,
            Catch=[
                {"Exceptions": ["REFUSED"], "Next": "Later"},
                {"Exceptions": ["*"], "Next": "GiveUp"},
            ],
        ),
        "Later": _task("Later", "Done", Retry=_RETRY),
        "GiveUp": {"Type": "CompensationTrigger", "Next": "Stay"},
        "Stay": {"Type": "Fail", "ErrorCode": "STAY", "Message": f"version {version}"},
        "Done": {"Type": "Succeed"},
        **{f"Undo{name}": _undoing(name) for name in ("Book", "Rooms", "Pay", "Later")},
    }
    return {"StartState": "Book", "TimeoutMs": GLOBAL_TIMEOUT_MS, "States": states}


TRAVEL = {
    "StartState": "There",
    "States": {
        "There": _task("There", "Back", Retry=_RETRY),
        "Back": _task("Back", Input=[{"refused": "$.[refused]"}], Retry=_RETRY),
        "UndoThere": _undoing("There"),
        "UndoBack": _undoing("Back"),
    },
}


@dataclass(frozen=True, slots=True)
class Wish:
    """The input of a saga."""

    rooms: int
    far: bool
    full: bool
    """There is no way back, so nothing is to be left."""
    poor: bool

    @property
    def as_json(self) -> bytes:
        return json.dumps(
            {"rooms": [*range(self.rooms)], "far": self.far, "full": self.full, "poor": self.poor}
        ).encode()

    @property
    def can_be_met(self) -> bool:
        return not (self.far and self.full)

    @property
    def steps(self) -> list[str]:
        """What is done when it is met."""
        rooms = [f"Rooms[{number}]" for number in range(self.rooms)]
        travel = ["Travel/There", "Travel/Back"] if self.far else []
        return sorted(["Book", *rooms, *travel, "Later" if self.poor else "Pay"])


@dataclass(slots=True)
class Services:
    """Whoever is called; idempotent by branch."""

    effects: BranchEffects = field(default_factory=BranchEffects)
    steps: dict[str, dict[int, str]] = field(default_factory=dict)
    """By xid: the steps that were done, by the branch that each of them is."""
    broken: list[str] = field(default_factory=list)

    def receive(self, request: BranchRequest) -> Reply:
        headers = dict(request.headers)
        xid, branch_id = headers["X-Tx-Xid"], int(headers["Tidelock-Branch-Id"])
        step = unquote(headers["Tidelock-Step"])
        body = json.loads(request.body)
        name = f"b{branch_id}"
        own_id = f"{xid}/{step}"
        if request.url.endswith("undo"):
            self._check_undone_in_order(xid, branch_id)
            if body.get("id") not in (None, own_id):
                self.broken.append(f"{step} of {xid} is undone with {body}")
            return Reply(status=self.effects.call(xid, name, "undo"))
        if body.get("refused"):
            return Reply(status=409, body=b'{"code": "NO"}')
        if step.startswith("Rooms") and body != {"room": _index(step), "id": f"{xid}/Book"}:
            self.broken.append(f"{step} of {xid} is called with {body}")
        status = self.effects.call(xid, name, "do")
        if status == DONE:
            self.steps.setdefault(xid, {})[branch_id] = step
        return Reply(status=status, body=json.dumps({"id": own_id}).encode())

    def standing(self, xid: str) -> list[str]:
        """Return the steps of which the effect stands."""
        effects = self.effects.of.get(xid, {})
        done = self.steps.get(xid, {})
        return sorted(step for branch, step in done.items() if effects[f"b{branch}"].stands)

    def _check_undone_in_order(self, xid: str, branch_id: int) -> None:
        """The last call is undone first."""
        for name, effect in self.effects.of.get(xid, {}).items():
            if int(name[1:]) > branch_id and effect.stands:
                self.broken.append(f"branch {branch_id} of {xid} was undone before {name}")


def _index(step: str) -> int:
    return int(step.removeprefix("Rooms[").removesuffix("]"))


class DefinitionClients:
    """`tests.simulation.clients.Clients` of sagas that follow definitions."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        callers: Callers,
        drivers: Drivers,
        *,
        trouble: float | None = None,
    ) -> None:
        """`trouble`: how much of what services are asked goes wrong; None: the seed tells."""
        self._cluster = cluster
        self._world = cluster.world
        self._callers = callers
        self._drivers = drivers
        self._trouble = self._world.rng.choice((0.0, 0.2, 0.5)) if trouble is None else trouble
        self._services = Services()
        self._begun: dict[str, Wish] = {}
        self._running = False
        self._numbers = itertools.count()
        self._versions = itertools.count(1)
        self.counters: Counter[str] = Counter()
        drivers.hosts[HOST] = self._receive

    def start(self) -> None:
        self._running = True
        put = PutSagaDefinition(name="travel", document=json.dumps(TRAVEL).encode())
        self._callers.call(put, lambda _: self._put(), keyed=True)

    def stop(self) -> None:
        self._running = False
        self._trouble = 0.0
        self._drivers.healed = True

    def _put(self) -> None:
        """Have further sagas follow another version, which differs in what nobody sees."""
        if not self._running:
            return
        first = next(self._versions)
        put = PutSagaDefinition(name="journey", document=json.dumps(journey(first)).encode())
        begin = self._begin if first == 1 else lambda: None
        self._callers.call(put, lambda _: begin(), keyed=True)
        self._world.at(self._world.rng.expovariate(1 / _VERSIONS_EVERY_S), self._put)

    def _begin(self) -> None:
        if not self._running:
            return
        rng = self._world.rng
        xid = f"journey.{next(self._numbers)}"
        wish = self._begun[xid] = Wish(
            rng.randint(0, 3), rng.random() < 0.5, rng.random() < 0.3, rng.random() < 0.3
        )
        command = StartSaga(
            xid=xid,
            prefix="",
            name="",
            definition="journey",
            input=wish.as_json,
            timeout_ms=rng.choice((0, 0, 1_500)),
            wait_ms=0,
            forward_recovery=False,
        )
        self._callers.call(command, self._told, keyed=rng.random() < 0.7)
        self._world.at(rng.expovariate(RATE_PER_S), self._begin)

    def _told(self, call: Call) -> None:
        self.counters["definitions_begun" if call.result else "definitions_not_told"] += 1

    # --- the services, which are not always well

    def _receive(self, request: BranchRequest) -> Reply | None:
        rng = self._world.rng
        drawn = rng.random() / self._trouble if self._trouble else 1.0
        if drawn < 0.3:
            return None  # it never arrived
        if drawn < 0.5:
            return Reply(status=rng.choice((500, 503, 404, 302)))
        if drawn < 0.6:
            return Reply(status=425)
        reply = self._services.receive(request)
        if drawn < 0.7:
            self._services.receive(request)  # it was delivered twice
        return None if drawn < 0.9 else reply

    # --- the end

    def at_rest(self) -> bool:
        return all(
            row is None or row.status in ENDED
            for engine in members_of(self._cluster)
            for row in (get_global(engine.machine_store, xid) for xid in self._begun)
        )

    def check(self) -> None:
        """Each journey was made as it was wished for, or nothing of it is left."""
        services = self._services
        for broken in (*services.broken, *services.effects.broken):
            raise Violation(broken)
        reader = members_of(self._cluster)[0].machine_store
        for xid, wish in self._begun.items():
            row = get_global(reader, xid)
            self.counters[f"definitions_{'never' if row is None else row.status}"] += 1
            self._check_one(xid, wish, row)

    def _check_one(self, xid: str, wish: Wish, row: Global | None) -> None:
        standing = self._services.standing(xid)
        status = None if row is None else row.status
        if status is not GlobalStatus.COMMITTED:
            if standing:
                raise Violation(f"{xid} is {status} and there are {standing}")
        elif not wish.can_be_met or standing != wish.steps:
            raise Violation(f"{xid} of {wish} is {status} and there are {standing}")

    def seen(self) -> Iterable[object]:
        yield from self._begun.items()
        yield from (self._services.standing(xid) for xid in self._begun)
