"""Random logs: everything a log may hold, drawn from one seed."""

from __future__ import annotations

import random

from statemachine.codec import encode_entry, encode_request, encode_unit
from statemachine.commands import (
    AbandonAcquire,
    AbandonLock,
    AcknowledgeSync,
    AcquireLock,
    ActivateVersion,
    AdvanceSequence,
    AnyCommand,
    Ballot,
    CancelWait,
    ChangeRouting,
    CloseSyncRound,
    DecideProposal,
    FireTimers,
    IdempotencyKey,
    IncrementVersion,
    JoinParticipant,
    LeaveParticipant,
    MergeVersion,
    ObserveHybridTime,
    ProposeData,
    ReceiveMessage,
    RecordEvent,
    ReleaseLock,
    RenewLock,
    ReportClock,
    Request,
    ReserveTimestamps,
    SendMessage,
    SetSyncInterval,
    SyncClock,
    TickHybridClock,
    TickVector,
    TrimEvents,
    VoteProposals,
    WriteObject,
)
from statemachine.outcomes import Position
from statemachine.timers import TimerKind

NAMES = ["a", "b", "c", "a\0", "名"]
SESSIONS = [bytes([number]) * 16 for number in range(3)]


def random_log(seed: int, length: int) -> list[bytes]:
    """Return encoded entries; equal arguments give equal entries."""
    drawn = random.Random(seed)
    wall_ms, elapsed_ms = 1_700_000_000_000, 0
    sequences = dict.fromkeys(SESSIONS, 0)
    sent: list[bytes] = []
    entries: list[bytes] = []
    for _ in range(length):
        wall_ms += drawn.choice([-20, 0, 1, 50, 4_000])
        elapsed_ms += drawn.choice([0, 1, 50, 4_000, 4_000, 700_000])
        units: list[bytes] = []
        for _ in range(drawn.randrange(4)):
            if sent and drawn.random() < 0.2:
                units.append(drawn.choice(sent[-20:]))
                continue
            session = drawn.choice(SESSIONS)
            sequences[session] += drawn.choice([1, 1, 1, 2])
            sequence = sequences[session]
            watermark = max(1, sequence - drawn.randrange(6))
            requests = [
                encode_request(_request(drawn, wall_ms, elapsed_ms))
                for _ in range(drawn.randrange(5))
            ]
            units.append(encode_unit(session, sequence, watermark, requests))
            sent.append(units[-1])
        entries.append(encode_entry(wall_ms, elapsed_ms, units))
    return entries


def _request(drawn: random.Random, wall_ms: int, elapsed_ms: int) -> Request:
    key = None
    if drawn.random() < 0.4:
        digest = drawn.choice([b"d", b"d", b"e"]) * 16
        text = str(drawn.randrange(30))
        key = IdempotencyKey(drawn.choice("pq"), text, digest, drawn.choice([0, 9_000, 900_000]))
    wanted = [_command(drawn, wall_ms, elapsed_ms) for _ in range(drawn.randrange(4))]
    if drawn.random() < 0.3:
        wanted.append(_sync_command(drawn))
    if drawn.random() < 0.1:
        wanted += _about_proposals(drawn, f"p{drawn.randrange(50)}")
    return Request(elapsed_ms + drawn.choice([-1, 0, 5_000, 900_000]), key, tuple(wanted))


def _command(drawn: random.Random, wall_ms: int, elapsed_ms: int) -> AnyCommand:
    name = drawn.choice(NAMES)
    match drawn.randrange(28):
        case 0 | 1 | 2 | 3:
            return RecordEvent(node_id=name, event_type="t", event_data=b"1" * drawn.randrange(9))
        case 4 | 5:
            return SyncClock(
                node_id=name,
                source_node_id="m",
                source_event_id=drawn.choice(["", "e"]),
                timestamp=drawn.choice([0, 3, drawn.randrange(10**6), 2**63 - 1]),
                event_type="s",
                event_data=b"",
            )
        case 6:
            return JoinParticipant(node_id=name)
        case 7:
            return LeaveParticipant(node_id=name)
        case 8:
            return ChangeRouting(
                node_id=name, state=drawn.choice(["HEALTHY", "FAILED", "?"]), reason="r"
            )
        case 9:
            return ActivateVersion(version=drawn.randrange(3))
        case 10:
            return TrimEvents(
                before_wall_ms=wall_ms - drawn.randrange(5_000), limit=drawn.randrange(20)
            )
        case 11:
            return TickHybridClock()
        case 12:
            ahead_ms = drawn.choice([-1, 0, 500, 501])
            return ObserveHybridTime(timestamp=wall_ms + ahead_ms << 18, max_skew_ms=500)
        case 13:
            return AdvanceSequence(name=name, count=drawn.choice([0, 1, 1_000_000]))
        case 14:
            upto = wall_ms + drawn.randrange(3_000) << 18
            return ReserveTimestamps(term=drawn.choice([1, 1, 2]), upto=upto)
        case 15:
            return FireTimers(timers=_timers(drawn, elapsed_ms))
        case 16 | 17:
            return _version_command(drawn, name)
        case 18 | 19:
            return _vector_command(drawn, name)
        case _:
            return _lock_command(drawn, name)


def _lock_command(drawn: random.Random, name: str) -> AnyCommand:
    owner, token = drawn.choice("xyz"), drawn.randrange(20)
    position = Position(drawn.randrange(100), drawn.randrange(3))
    match drawn.randrange(9):
        case 8:
            return AbandonAcquire(
                name=name,
                owner=owner,
                principal=drawn.choice("pq"),
                key=str(drawn.randrange(40)),
                ttl_ms=drawn.choice([0, 5_000]),
            )
        case 0:
            return RenewLock(name=name, owner=owner, fencing_token=token)
        case 1:
            return ReleaseLock(name=name, owner=owner, fencing_token=token)
        case 2:
            return AbandonLock(name=name, owner=owner, acquire=position)
        case 3:
            return CancelWait(ticket=position)
        case _:
            return AcquireLock(
                name=name,
                owner=owner,
                mode=drawn.choice(["EXCLUSIVE", "SHARED", "SHARED", "?"]),
                ttl_ms=drawn.choice([50, 4_000, 900_000]),
                wait_ms=drawn.choice([0, 50, 4_000, 900_000]),
            )


def _version_command(drawn: random.Random, name: str) -> AnyCommand:
    key, vector = drawn.choice("xy"), _vector(drawn)
    match drawn.randrange(3):
        case 0:
            return IncrementVersion(key=key, node_id=name)
        case 1:
            return MergeVersion(key=key, node_id=name, vector=vector)
        case _:
            return WriteObject(key=key, node_id=name, context=vector, value=b"1")


def _vector_command(drawn: random.Random, name: str) -> AnyCommand:
    match drawn.randrange(3):
        case 0:
            return TickVector(node_id=name)
        case 1:
            return SendMessage(node_id=name, message=b"1" * drawn.randrange(9))
        case _:
            message_id = drawn.choice(["", *"uvwxyz"])
            return ReceiveMessage(
                node_id=name, vector=_vector(drawn), message_id=message_id, message=b""
            )


def _vector(drawn: random.Random) -> dict[str, int]:
    """Draw a vector in no particular order, seldom one that is refused."""
    names = drawn.sample([*NAMES, "other"], drawn.randrange(5))
    return {name: drawn.choice([0, 1, 5, drawn.randrange(99)]) for name in names} | (
        {"": 1} if drawn.random() < 0.05 else {}
    )


def _sync_command(drawn: random.Random) -> AnyCommand:
    name = drawn.choice(NAMES)
    match drawn.randrange(8):
        case 0:
            return CloseSyncRound(only_if_behind=drawn.random() < 0.7)
        case 1 | 2:
            return AcknowledgeSync(round=drawn.randrange(9), node_id=name)
        case 3:
            return SetSyncInterval(interval_ms=drawn.choice([1, 900_000]))
        case _:
            lamport = drawn.choice([drawn.randrange(99), drawn.randrange(10**6)])
            own = drawn.random() < 0.3
            return ReportClock(node_id=name, lamport=lamport, vector=_vector(drawn), own=own)


def _about_proposals(drawn: random.Random, proposal_id: str) -> list[AnyCommand]:
    """A proposal from its beginning to its end, with what may be missing left out."""
    voters = ("a", "a\0", "b")
    commands: list[AnyCommand] = [
        ProposeData(
            proposal_id=proposal_id,
            integer_id=False,
            key=drawn.choice(["", "k"]),
            data=b"1",
            timestamp=drawn.randrange(100),
            proposer="a",
            voters=voters,
            window_ms=600_000,
        )
    ]
    commands += [
        VoteProposals(
            node_id=drawn.choice([*voters, "c"]),
            ballots=(Ballot(proposal_id, drawn.random() < 0.8, "r", drawn.random() < 0.5),),
        )
        for _ in range(6)
    ]
    commands.append(DecideProposal(proposal_id=proposal_id))
    return [command for command in commands if drawn.random() < 0.9]


def _timers(drawn: random.Random, elapsed_ms: int) -> tuple[tuple[int, int, bytes], ...]:
    """Guess timers: most do not stand, which must do no harm."""
    guesses = [
        (max(0, elapsed_ms - drawn.randrange(5)), int(TimerKind.SESSION_EXPIRY), session)
        for session in SESSIONS
    ]
    return tuple(drawn.sample(guesses, drawn.randrange(len(guesses) + 1)))
