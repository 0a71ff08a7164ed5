"""The resource manager of an application at nodes that end connections and sessions by chance."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from tests.integration.fake_channel import Line, Message, listening, welcome
from tests.integration.recording_resource import SessionRecording, until
from tidelock import Application
from tidelock.rm import session
from tidelock.rm.resource import BranchCall, PhaseTwoResult, PhaseTwoStatus

CONNECTIONS = 25
CLOSE_CODES = [1000, 1001, 1006, 1006, 1006, 1011, 4400, 4409, 4410, 4503]


class Slow(SessionRecording):
    """A resource that takes its time, and sees whether a branch is asked two things at once."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__("db", "AT")
        self._chance = chance
        self._busy: Counter[str] = Counter()
        self.faults: list[str] = []
        self.events: list[str] = []

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        self.events.append(f"call {call.application_data}")
        self._busy[call.xid] += 1
        if self._busy[call.xid] > 1:
            self.faults.append(f"{call.xid} is asked two things at once")
        await asyncio.sleep(self._chance.choice((0, 0, 0.01, 0.03)))
        self._busy[call.xid] -= 1
        if self._chance.random() < 0.1:
            raise ConnectionError("the database is away")
        return PhaseTwoResult(status=PhaseTwoStatus.COMMITTED)

    async def session_lost(self, session_id: int) -> None:
        await asyncio.sleep(self._chance.choice((0, 0.02)))
        self.events.append(f"lost {session_id}")
        self.lost.append(session_id)


class Coordinator:
    """All nodes: they share what is known of sessions."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.session_id = 0
        self._last = 0
        self.ended: list[int] = []
        self.asked: dict[tuple[int, int], str] = {}
        self.connections = 0
        self.faults: list[str] = []

    def register(self, registered: Message) -> Message:
        named = registered.get("sessionId", 0)
        if named != self.session_id or named == 0:
            if named not in (0, *self.ended):
                self.faults.append(f"{named} was never its session")
            if self.session_id:
                # It does not know that it has this one, or gave it up.
                self.ended.append(self.session_id)
            self._last += 1
            self.session_id = self._last
            return welcome(self.session_id, heartbeatMs=60_000)
        return welcome(named, resumed=True, heartbeatMs=60_000)

    async def serve(self, line: Line) -> None:
        self.connections += 1
        number = self.connections
        registered = await line.next("register")
        if number >= CONNECTIONS:
            await line.say(self.register(registered))
            await self._ask(line, number, 40)
            return
        if self._chance.random() < 0.15:
            line.break_off()
            return
        if self._chance.random() < 0.3 and self.session_id:
            self._end_session()
        await line.say(self.register(registered))
        if self._chance.random() < 0.1:
            # It is applied, and the connection breaks before anybody hears of it.
            line.break_off()
            return
        await self._ask(line, number, self._chance.randrange(12))
        await asyncio.sleep(self._chance.choice((0, 0.01, 0.03)))
        code = self._chance.choice(CLOSE_CODES)
        if code == 4410:
            self._end_session()
        if code == 1006:
            line.break_off()
        else:
            await line.close(code)

    def _end_session(self) -> None:
        if self.session_id:
            self.ended.append(self.session_id)
            self.session_id = 0

    async def _ask(self, line: Line, connection: int, count: int) -> None:
        for request_id in range(1, count + 1):
            xid = f"x{self._chance.randrange(6)}"
            self.asked[connection, request_id] = xid
            await line.call(request_id=request_id, xid=xid, applicationData=self.session_id)


def results_of(line: Line) -> list[Message]:
    return [each for each in line.heard if each["type"] == "result"]


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_answers_find_their_questions_and_losses_are_told_once(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_GREATEST_PAUSE_S", 0.02)
    monkeypatch.setattr(session, "_GREATEST_PAUSE_REFUSED_S", 0.02)
    chance = random.Random(seed)
    coordinator = Coordinator(chance)
    resource = Slow(chance)
    async with listening(coordinator.serve) as one, listening(coordinator.serve) as other:
        options: dict[str, Any] = {"application_id": "orders", "host": "h1", "discover": False}
        application = Application([one.address, other.address], **options)
        application.attach(resource)
        lines: list[Line] = []

        def answered() -> bool:
            lines[:] = [*one.lines, *other.lines]
            return any(len(results_of(line)) == 40 for line in lines)

        await until(answered, "the last connection is answered")
        last = coordinator.session_id
        assert await application.session_id(application.awaiting) == last
        await application.aclose()
    assert coordinator.faults == []
    assert resource.faults == []
    # Sessions that it never heard of cannot be missed; the last one ends with the application.
    over = [*coordinator.ended, *([] if last in coordinator.ended else [last])]
    assert resource.lost == [each for each in over if each in resource.lost]
    assert last in resource.lost
    assert len({*resource.lost}) == len(resource.lost)
    for line in lines:
        numbers = [each["requestId"] for each in results_of(line)]
        assert len({*numbers}) == len(numbers)
    used: set[int] = set()
    for event in resource.events:
        what, _, number = event.partition(" ")
        if what == "call":
            used.add(int(number))
        else:
            # Nothing is asked in a newer session before the loss of the older one was told.
            assert all(each <= int(number) for each in used), resource.events
    assert used.intersection(coordinator.ended) <= {*resource.lost}
