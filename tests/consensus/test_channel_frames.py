"""Frames of resource managers' channels: their bounds, who may send them, and what is lost."""

from __future__ import annotations

from collections.abc import Callable

import msgpack
import pytest

from api.rm_messages import CallKind
from node.consensus.messages import (
    GREATEST_CALL_BYTES,
    GREATEST_DETAIL,
    GREATEST_WORD,
    Frame,
    Kind,
    ProtocolError,
    decode,
    encode,
)
from node.delivery import relay as relay_module
from node.delivery.calls import Cancel
from node.delivery.relay import ManagerReply, OnReply, Outcome, Relay
from statemachine.transactions.channel_rows import ChannelSession
from tests.consensus.harness import Bench
from tests.simulation.world import SimulatedRuntime

CALLED = b'{"xid":"x"}'


def call(
    number: int = 1,
    epoch: int = 1,
    session: int = 5,
    connection: int = 9,
    kind: object = "branch-commit",
    wait_ms: int = 1_000,
    called: object = CALLED,
) -> Frame:
    return (int(Kind.CHANNEL_CALL), number, epoch, session, connection, kind, wait_ms, called)


def result(
    number: int = 1,
    outcome: object = "",
    status: object = "COMMITTED",
    detail: object = "",
    not_found: object = False,
) -> Frame:
    return (int(Kind.CHANNEL_RESULT), number, outcome, status, detail, not_found)


# --- their shape


@pytest.mark.parametrize("frame", [call(), result(), call(called=b"x" * GREATEST_CALL_BYTES)])
def test_a_frame_survives_the_wire(frame: Frame) -> None:
    assert decode(encode(frame)) == frame


@pytest.mark.parametrize(
    "frame",
    [
        call()[:-1],
        (*call(), 1),
        call(called="text"),
        call(called=b"x" * (GREATEST_CALL_BYTES + 1)),
        call(kind=b"branch-commit"),
        call(kind="k" * (GREATEST_WORD + 1)),
        call(number=-1),
        call(number=2**63),
        call(epoch=-1),
        call(session=-1),
        call(connection=2**63),
        call(wait_ms=-1),
        call(number=True),
        result()[:-1],
        (*result(), ""),
        result(number=-1),
        result(outcome="o" * (GREATEST_WORD + 1)),
        result(outcome=1),
        result(status="s" * (GREATEST_WORD + 1)),
        result(detail="d" * (GREATEST_DETAIL + 1)),
        result(detail=b""),
        result(not_found=0),
    ],
)
def test_what_is_malformed_or_too_large_ends_the_connection(frame: Frame) -> None:
    with pytest.raises(ProtocolError):
        decode(bytes(msgpack.packb(frame)))


# --- a relay between scripted peers


class ScriptedHolder:
    """Channels of this node: the test answers by hand."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, CallKind, bytes, float]] = []
        self.replies: list[OnReply] = []
        self.cancelled: list[int] = []

    def call(
        self,
        session_id: int,
        connection: int,
        kind: CallKind,
        called: bytes,
        timeout_s: float,
        on_reply: OnReply,
    ) -> Cancel:
        number = len(self.calls)
        self.calls.append((session_id, connection, kind, called, timeout_s))
        self.replies.append(on_reply)
        return lambda: self.cancelled.append(number)


class Station:
    """An engine whose peers are b and c, with a relay."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.holder = ScriptedHolder()
        self.replies: list[ManagerReply] = []
        engine = self.bench.engine
        runtime = SimulatedRuntime(self.bench.world, self.bench.process)
        self.relay = Relay(engine, runtime, self.holder)

    def ask(self, node_id: str = "b", called: bytes = CALLED, timeout_s: float = 5.0) -> Cancel:
        session = ChannelSession(
            session_id=5,
            application_id="a",
            host="h",
            instance="",
            resources=("db",),
            modes=("AT",),
            clean_batch=1,
            grace_ms=1_000,
            node_id=node_id,
            connection=9,
            since_ms=0,
        )
        cancels: list[Cancel] = []

        def ask() -> None:
            cancels.append(
                self.relay.ask(session, CallKind.COMMIT, called, 1, timeout_s, self.replies.append)
            )

        self.bench.act(ask)
        return cancels[0]

    def asked(self, peer: str = "b") -> list[Frame]:
        return self.bench.sent(Kind.CHANNEL_CALL, peer)

    def told(self, peer: str = "b") -> list[Frame]:
        return self.bench.sent(Kind.CHANNEL_RESULT, peer)

    def do(self, callback: Callable[[], object]) -> None:
        self.bench.act(callback)


def test_a_call_goes_to_the_node_that_has_the_channel_and_its_answer_comes_back() -> None:
    station = Station()
    station.ask()
    (frame,) = station.asked()
    assert frame[2:] == (1, 5, 9, "branch-commit", 5_000, CALLED)
    station.bench.receive("b", result(frame[1], detail="done"))
    assert station.replies == [ManagerReply(Outcome.ANSWERED, "COMMITTED", "done")]
    assert station.relay.under_way == 0


def test_a_call_to_a_channel_of_this_node_leaves_it_not() -> None:
    station = Station()
    station.ask("a")
    assert station.asked() == []
    assert station.holder.calls == [(5, 9, CallKind.COMMIT, CALLED, 5.0)]


def test_a_call_is_sent_again_until_it_is_answered() -> None:
    station = Station()
    station.ask()
    station.bench.run(2.5 * relay_module.RESEND_S)
    frames = station.asked()
    assert len(frames) == 3
    assert len(set(frames)) == 1
    station.bench.receive("b", result(frames[0][1]), result(frames[0][1], status="ROLLED_BACK"))
    assert [reply.status for reply in station.replies] == ["COMMITTED"]
    station.bench.run(5 * relay_module.RESEND_S)
    assert len(station.asked()) == 3


def test_a_call_that_is_never_answered_ends_in_time() -> None:
    station = Station()
    station.ask(timeout_s=2.5)
    station.bench.run(2.4)
    assert station.replies == []
    station.bench.run(0.2)
    assert station.replies == [ManagerReply(Outcome.TIMEOUT)]
    assert station.relay.under_way == 0


def test_a_node_that_cannot_be_reached_is_known_at_once_or_soon() -> None:
    station = Station()
    station.ask("c")
    station.bench.disconnect("c")
    station.ask("c")
    station.bench.run(0.01)
    assert station.replies == [ManagerReply(Outcome.UNREACHABLE)]
    station.bench.run(1.1 * relay_module.RESEND_S)
    assert station.replies == [ManagerReply(Outcome.UNREACHABLE)] * 2


def test_a_node_that_takes_nothing_is_not_sent_more() -> None:
    station = Station()
    station.bench.links.buffered = 9 << 20
    station.ask()
    station.bench.run(0.01)
    assert station.replies == [ManagerReply(Outcome.UNREACHABLE)]
    assert station.asked() == []


def test_a_call_that_is_too_large_is_not_sent() -> None:
    station = Station()
    station.ask(called=b"x" * (GREATEST_CALL_BYTES + 1))
    station.bench.run(0.01)
    assert station.replies == [ManagerReply(Outcome.TOO_LARGE)]


def test_answers_that_nobody_waits_for_change_nothing() -> None:
    station = Station()
    cancel = station.ask()
    number = station.asked()[0][1]
    station.bench.receive("c", result(number))
    station.bench.receive("b", result(number + 1))
    assert station.replies == []
    station.do(cancel)
    station.bench.receive("b", result(number))
    station.bench.run(10.0)
    assert station.replies == []
    assert len(station.asked()) == 1


def test_a_word_that_is_not_known_says_nothing() -> None:
    station = Station()
    station.ask()
    station.bench.receive("b", result(station.asked()[0][1], outcome="EXPLODED"))
    assert [reply.outcome for reply in station.replies] == [Outcome.TIMEOUT]


# --- serving another node


def test_a_call_of_another_node_is_made_once_while_it_is_under_way() -> None:
    station = Station()
    epoch = station.bench.engine.raft.term
    station.bench.receive("b", call(epoch=epoch), call(epoch=epoch))
    assert len(station.holder.calls) == 1
    assert station.holder.calls[0] == (5, 9, CallKind.COMMIT, CALLED, 1.0)
    reply = ManagerReply(Outcome.ANSWERED, "COMMITTED", "fine", True)
    station.do(lambda: station.holder.replies[0](reply))
    assert station.told() == [result(detail="fine", not_found=True)]
    # The answer was lost: the manager is asked again, and answers the same.
    station.bench.receive("b", call(epoch=epoch))
    assert len(station.holder.calls) == 2


def test_the_same_number_of_two_nodes_is_two_calls() -> None:
    station = Station()
    epoch = station.bench.engine.raft.term
    station.bench.receive("b", call(epoch=epoch))
    station.bench.receive("c", call(epoch=epoch))
    assert len(station.holder.calls) == 2


def test_a_leader_of_an_older_term_is_not_served() -> None:
    station = Station()
    station.bench.receive("c", (int(Kind.TERM_HINT), 7))
    station.bench.receive("b", call(epoch=6))
    assert station.holder.calls == []
    assert [frame[2] for frame in station.told()] == ["STALE"]


@pytest.mark.parametrize(
    ("odd", "outcome"), [({"kind": "branch-dance"}, "GONE"), ({"called": b"[]"}, "BUSY")]
)
def test_what_is_no_call_is_refused(odd: dict[str, object], outcome: str) -> None:
    station = Station()
    epoch = station.bench.engine.raft.term
    station.bench.receive("b", call(epoch=epoch, **odd))  # type: ignore[arg-type]
    assert station.holder.calls == []
    assert [frame[2] for frame in station.told()] == [outcome]


def test_there_is_a_greatest_number_of_calls_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "GREATEST_SERVED", 2)
    station = Station()
    epoch = station.bench.engine.raft.term
    station.bench.receive("b", *[call(number, epoch=epoch) for number in range(3)])
    assert len(station.holder.calls) == 2
    assert [frame[1:3] for frame in station.told()] == [(2, "BUSY")]


def test_a_stranger_is_not_served() -> None:
    station = Station()
    bench = station.bench
    assert bench.hello("b", b"another disk".ljust(16), new=False) is None
    before = bench.engine.counters["strangers_frames"]
    bench.receive("b", call(epoch=bench.engine.raft.term), result())
    assert bench.engine.counters["strangers_frames"] == before + 2
    assert station.holder.calls == []


def test_a_node_that_stops_waits_for_nothing() -> None:
    station = Station()
    station.ask()
    station.bench.receive("b", call(epoch=station.bench.engine.raft.term))
    station.do(station.relay.close)
    assert station.holder.cancelled == [0]
    station.bench.run(10.0)
    assert station.replies == []
