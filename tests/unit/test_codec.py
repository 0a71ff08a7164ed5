"""The bytes of the log. A released byte never changes: a failure here is a new format or tag."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine import commands, outcomes
from statemachine.codec import (
    MalformedEntryError,
    decode_entry,
    decode_outcomes,
    decode_unit,
    encode_entry,
    encode_outcomes,
    encode_request,
    encode_unit,
)
from statemachine.commands import AnyCommand, Entry, IdempotencyKey, Request, Unit
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
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import Calls, Failure, RetryRule

GOLDEN_COMMANDS: list[tuple[AnyCommand, str]] = [
    (
        commands.RecordEvent(node_id="n", event_type="t", event_data=b"{}"),
        "9401a16ea174c4027b7d",
    ),
    (
        commands.SyncClock(
            node_id="n",
            source_node_id="m",
            source_event_id="e",
            timestamp=300,
            event_type="t",
            event_data=b"",
        ),
        "9702a16ea16da165cd012ca174c400",
    ),
    (commands.JoinParticipant(node_id="n"), "9203a16e"),
    (commands.LeaveParticipant(node_id="n"), "9204a16e"),
    (
        commands.ChangeRouting(node_id="n", state="FAILED", reason="r"),
        "9405a16ea64641494c4544a172",
    ),
    (commands.FireTimers(timers=((5, 1, b"i"),)), "920691930501c40169"),
    (commands.ActivateVersion(version=2), "920702"),
    (commands.TrimEvents(before_wall_ms=300, limit=7), "9308cd012c07"),
    (commands.CancelWait(ticket=Position(300, 4)), "920992cd012c04"),
    (commands.TrimChanges(before_wall_ms=300, keep=5, limit=7), "940acd012c0507"),
    (commands.ReserveTimestamps(term=3, upto=300), "931e03cd012c"),
    (commands.TickHybridClock(), "911f"),
    (commands.ObserveHybridTime(timestamp=300, max_skew_ms=5), "9320cd012c05"),
    (commands.AdvanceSequence(name="n", count=5), "9321a16e05"),
    (
        commands.AcquireLock(name="l", owner="o", mode="SHARED", ttl_ms=300, wait_ms=5),
        "9632a16ca16fa6534841524544cd012c05",
    ),
    (commands.RenewLock(name="l", owner="o", fencing_token=7), "9433a16ca16f07"),
    (commands.ReleaseLock(name="l", owner="o", fencing_token=7), "9434a16ca16f07"),
    (
        commands.AbandonLock(name="l", owner="o", acquire=Position(300, 4)),
        "9435a16ca16f92cd012c04",
    ),
    (
        commands.AbandonAcquire(name="l", owner="o", principal="p", key="k", ttl_ms=300),
        "9636a16ca16fa170a16bcd012c",
    ),
    (commands.IncrementVersion(key="k", node_id="n"), "9314a16ba16e"),
    (
        commands.MergeVersion(key="k", node_id="n", vector={"b": 300, "a": 1}),
        "9415a16ba16e82a162cd012ca16101",
    ),
    (
        commands.WriteObject(key="k", node_id="n", context={"a": 1}, value=b"{}"),
        "9516a16ba16e81a16101c4027b7d",
    ),
    (commands.TickVector(node_id="n"), "9217a16e"),
    (commands.SendMessage(node_id="n", message=b"{}"), "9318a16ec4027b7d"),
    (
        commands.ReceiveMessage(
            node_id="n", vector={"b": 300, "a": 1}, message_id="m", message=b""
        ),
        "9519a16e82a162cd012ca16101a16dc400",
    ),
    (
        commands.ReportClock(node_id="n", lamport=300, vector={"b": 300, "a": 1}, own=True),
        "9528a16ecd012c82a162cd012ca16101c3",
    ),
    (commands.CloseSyncRound(only_if_behind=True), "9229c3"),
    (commands.AcknowledgeSync(round=300, node_id="n"), "932acd012ca16e"),
    (commands.SetSyncInterval(interval_ms=300), "922ecd012c"),
    (
        commands.ProposeData(
            proposal_id="p",
            integer_id=True,
            key="k",
            data=b"1",
            timestamp=300,
            proposer="n",
            voters=("n", "m"),
            window_ms=9,
        ),
        "992ba170c3a16bc40131cd012ca16e92a16ea16d09",
    ),
    (
        commands.VoteProposals(node_id="n", ballots=(commands.Ballot("p", True, "r", False),)),
        "932ca16e9194a170c3a172c2",
    ),
    (commands.DecideProposal(proposal_id="p"), "922da170"),
    (
        commands.BeginGlobal(xid="x", prefix="p", name="n", timeout_ms=300, mode="AT"),
        "963ca178a170a16ecd012ca24154",
    ),
    (
        commands.RegisterBranch(
            xid="x",
            mode="AT",
            resource_id="r",
            locks=(RowLock("r", "t", (1, "k", None), True),),
            wait_ms=5,
            application_id="a",
            unit_id="u",
            session_id=6,
            application_data=b"d",
            calls=Calls("f", None, ""),
        ),
        "9b3da178a24154a1729194a172a1749301a16bc0c305a161a17506c4016493a166c0a0",
    ),
    (
        commands.ReportBranch(
            xid="x",
            branch_id=1,
            status="PHASE_ONE_FAILED",
            application_data=None,
            failure=Failure("t", "m", 300),
        ),
        "963ea17801b050484153455f4f4e455f4641494c4544c093a174a16dcd012c",
    ),
    (
        commands.DecideGlobal(
            xid="x", commit=True, reason="r", wait_ms=5, reports_expected=True, branches_done=(1, 2)
        ),
        "983fa178c3a17205c3a0920102",
    ),
    (
        commands.RunGlobal(
            xid="x",
            prefix="p",
            name="n",
            program="SAGA",
            steps=(
                commands.Step(
                    name="s",
                    calls=Calls("f", "", "b"),
                    payload=b"p",
                    depends_on=(),
                    timeout_ms=300,
                    retry=RetryRule(),
                ),
            ),
            timeout_ms=300,
            wait_ms=5,
            in_order=False,
            compensate_failed=True,
            forward_recovery=False,
        ),
        "9b40a178a170a16ea4534147419196a17393a166a0a162c4017090cd012c93ffcd01f4cd4e20cd01"
        "2c05c2c3c2",
    ),
    (
        commands.ReportCalls(
            epoch=2,
            calls=(commands.ReportedCall("x", 1, "COMMIT", "DONE", b"r", "t", "m", 500, 3),),
        ),
        "9341029199a17801a6434f4d4d4954a4444f4e45c40172a174a16dcd01f403",
    ),
    (
        commands.OperateGlobal(xid="x", action="FORGET", reason="r", principal="p"),
        "9542a178a6464f52474554a172a170",
    ),
    (
        commands.RecordRecoveries(epoch=300, xids=("x",)),
        "9343cd012c91a178",
    ),
    (
        commands.LockRows(
            xid="x", branch_id=300, locks=(RowLock("", "t", (1,), False),), wait_ms=5
        ),
        "9546a178cd012c9194a0a1749101c205",
    ),
    (
        commands.UnlockRows(xid="x", branch_id=300, locks=(RowLock("", "t", (1,), True),)),
        "9447a178cd012c9194a0a1749101c3",
    ),
    (
        commands.PassFence(xid="x", branch_id=300, step="TRY", phase="ENTER"),
        "9548a178cd012ca3545259a5454e544552",
    ),
    (
        commands.AbandonBranch(xid="x", registration=Position(300, 1)),
        "9349a17892cd012c01",
    ),
    (
        commands.SetTransactionRetention(retention_ms=5, summary_retention_ms=300),
        "934a05cd012c",
    ),
    (
        commands.RecordAction(principal="p", action="a", target="t", reason="r"),
        "954ba170a161a174a172",
    ),
    (
        commands.RegisterChannel(
            session_id=1,
            application_id="a",
            host="h",
            instance="i",
            resources=("r",),
            modes=("AT",),
            clean_batch=2,
            grace_ms=300,
            node_id="n",
            connection=5,
            modes_of=(("AT",),),
        ),
        "9c4c01a161a168a16991a17291a2415402cd012ca16e059191a24154",
    ),
    (commands.AttachChannel(session_id=1, node_id="n", connection=5), "944d01a16e05"),
    (commands.DetachChannels(node_id="n", connections=((1, 5),)), "934ea16e91920105"),
    (commands.EndChannel(session_id=1, connection=5), "934f0105"),
    (
        commands.RecordCleaned(branches=(commands.CleanedBranch("r", 300, "x", 1),)),
        "92509194a172cd012ca17801",
    ),
    (
        commands.RecordSwept(resource_id="r", host="h", mode="AT", upto_ms=300),
        "9565a172a168a24154cd012c",
    ),
    (
        commands.RecordBranchAnswer(epoch=2, xid="x", branch_id=1, answer="PREPARED"),
        "955102a17801a85052455041524544",
    ),
    (
        commands.PrepareMessage(
            xid="x", prefix="p", name="n", query="q", steps=(), delay_ms=5, query_after_ms=300
        ),
        "9a52a178a170a16ea1719005cd012ca0c400",
    ),
    (commands.PutSubscriber(topic="t", name="s", url="u", remark="r"), "9553a174a173a175a172"),
    (commands.DeleteSubscriber(topic="t", name="s"), "9354a174a173"),
    (commands.DeleteTopic(topic="t"), "9255a174"),
    (
        commands.PrepareDtm(
            transaction=commands.DtmTransaction(
                xid="x",
                trans_type="saga",
                name="n",
                steps=(),
                timeout_ms=300,
                delay_ms=5,
                options=b"o",
            ),
            in_any_status=True,
        ),
        "935a97a178a473616761a16e90cd012c05c4016fc3",
    ),
    (
        commands.SubmitDtm(
            transaction=commands.DtmTransaction(
                xid="x",
                trans_type="saga",
                name="n",
                steps=(),
                timeout_ms=300,
                delay_ms=5,
                options=b"o",
            ),
            wait_ms=300,
            ended_as="failed",
            reason="r",
        ),
        "955b97a178a473616761a16e90cd012c05c4016fcd012ca66661696c6564a172",
    ),
    (
        commands.AbortDtm(xid="x", reason="r"),
        "935ca178a172",
    ),
    (
        commands.StopDtm(xid="x"),
        "925da178",
    ),
    (
        commands.HastenDtm(xid="x"),
        "925ea178",
    ),
    (
        commands.RegisterDtmBranch(
            xid="x", branch_id="01", commit="c", rollback="u", payload=b"{}"
        ),
        "965fa178a23031a163a175c4027b7d",
    ),
    (
        commands.RecordDtmProgress(
            xid="x", branch_id="01", op="action", status="succeed", data=b"d"
        ),
        "9660a178a23031a6616374696f6ea773756363656564c40164",
    ),
    (
        commands.HastenAllDtm(later_than_ms=300, limit=5),
        "9361cd012c05",
    ),
    (commands.PutSagaDefinition(name="d", document=b"{}"), "9362a164c4027b7d"),
    (commands.DeleteSagaDefinition(name="d"), "9263a164"),
    (
        commands.StartSaga(
            xid="x",
            prefix="p",
            name="n",
            definition="d",
            input=b"{}",
            timeout_ms=300,
            wait_ms=5,
            forward_recovery=True,
        ),
        "9964a178a170a16ea164c4027b7dcd012c05c3",
    ),
    (
        commands.AcceptExecution(
            service="XA",
            business_type="B",
            business_data=b"{}",
            asynchronous=True,
            owner="n1",
            follows=False,
            room=2,
            lease_ms=300,
        ),
        "996ea25841a142c4027b7dc3a26e31c202cd012c",
    ),
    (
        commands.AdvanceExecution(
            execution=Position(5, 1),
            epoch=2,
            jta_status="ACTIVE",
            xid="x",
            progress=commands.Progress(1, 2, 3, 4),
            result=b"{}",
            lease_ms=300,
        ),
        "987092050102a6414354495645a1789401020304c4027b7dcd012c",
    ),
    (
        commands.ClaimExecution(execution=Position(5, 1), epoch=2, owner="n1", lease_ms=300),
        "956f92050102a26e31cd012c",
    ),
    (
        commands.FinishExecution(
            execution=Position(5, 1),
            epoch=2,
            status="SUCCESS",
            jta_status="COMMITTED",
            error="",
            failures=b"",
            keep_ms=300,
        ),
        "987292050102a753554343455353a9434f4d4d4954544544a0c400cd012c",
    ),
    (
        commands.RenewExecutions(owner="n1", executions=((Position(5, 1), 2),), lease_ms=300),
        "9471a26e31919292050102cd012c",
    ),
]

GOLDEN_RESULTS: list[tuple[AnyResult, str]] = [
    (
        outcomes.EventRecorded(node_id="n", lamport_timestamp=1, hlc=300, created_at_ms=2),
        "9501a16e01cd012c02",
    ),
    (outcomes.ParticipantChanged(node_id="n", active=True, changed=False), "9402a16ec3c2"),
    (
        outcomes.RoutingChanged(node_id="n", state="FAILED", changed=True),
        "9403a16ea64641494c4544c3",
    ),
    (outcomes.TimersFired(fired=3), "920403"),
    (outcomes.VersionActivated(version=2), "920502"),
    (outcomes.EventsTrimmed(removed=3, more=True), "930603c3"),
    (outcomes.WaitCancelled(cancelled=True), "9207c3"),
    (outcomes.ChangesTrimmed(removed=3, more=True), "930803c3"),
    (outcomes.TimestampsReserved(after=5, upto=300), "931e05cd012c"),
    (outcomes.HybridClockTicked(hlc=300), "921fcd012c"),
    (outcomes.SequenceAdvanced(name="n", first=5, last=7), "9421a16e0507"),
    (
        outcomes.LockGranted(
            name="l", owner="o", mode="SHARED", fencing_token=7, expires_at_ms=300
        ),
        "9632a16ca16fa653484152454407cd012c",
    ),
    (
        outcomes.LockReleased(name="l", owner="o", fencing_token=7, released=True),
        "9533a16ca16f07c3",
    ),
    (outcomes.LockAbandoned(cancelled=True, released=False), "9334c3c2"),
    (outcomes.VersionAdvanced(key="k", event=Position(300, 4)), "9314a16b92cd012c04"),
    (outcomes.VectorAdvanced(node_id="n", event=Position(300, 4)), "9315a16e92cd012c04"),
    (
        outcomes.ObjectWritten(
            key="k", context={"a": 1, "b": 300}, siblings=(outcomes.Sibling("b", 300, b"{}"),)
        ),
        "9416a16b82a16101a162cd012c9193a162cd012cc4027b7d",
    ),
    (
        outcomes.ClockReported(round=5, target_lamport=300, target_vector={"a": 1}),
        "942805cd012c81a16101",
    ),
    (outcomes.SyncRoundClosed(round=300, closed=True), "9329cd012cc3"),
    (outcomes.SyncAcknowledged(round=300, node_id="n", synchronised=False), "942acd012ca16ec2"),
    (outcomes.SyncIntervalSet(interval_ms=300), "922dcd012c"),
    (
        outcomes.ProposalDecided(
            proposal_id="p",
            integer_id=True,
            key="k",
            timestamp=300,
            status="COMMITTED",
            reason="",
            decided_at=Position(300, 4),
            term=2,
            votes=(outcomes.VoteCast("n", "ACCEPT", ""),),
        ),
        "9a2ba170c3a16bcd012ca9434f4d4d4954544544a092cd012c04029193a16ea6414343455054a0",
    ),
    (outcomes.VotesCounted(counted=3), "922c03"),
    (outcomes.GlobalAnswered(xid="x", status="BEGIN", reason="r"), "943ca178a5424547494ea172"),
    (outcomes.BranchRegistered(xid="x", branch_id=300), "933da178cd012c"),
    (
        outcomes.BranchReported(xid="x", branch_id=300, status="WITHDRAWN"),
        "943ea178cd012ca957495448445241574e",
    ),
    (outcomes.CallsReported(taken=3), "923f03"),
    (outcomes.RecoveriesRecorded(recorded=3), "924003"),
    (
        outcomes.RowsLocked(xid="x", branch_id=300),
        "9342a178cd012c",
    ),
    (
        outcomes.RowsUnlocked(xid="x", branch_id=300, unlocked=2),
        "9443a178cd012c02",
    ),
    (
        outcomes.FencePassed(verdict="REFUSE"),
        "9244a6524546555345",
    ),
    (
        outcomes.BranchAbandoned(abandoned=True),
        "9245c3",
    ),
    (
        outcomes.TransactionRetentionSet(retention_ms=5, summary_retention_ms=300),
        "934605cd012c",
    ),
    (
        outcomes.ActionRecorded(number=300),
        "9247cd012c",
    ),
    (outcomes.ChannelRegistered(session_id=1, resumed=True), "934801c3"),
    (outcomes.ChannelsChanged(count=3), "924903"),
    (outcomes.CleaningsRecorded(count=3), "924a03"),
    (outcomes.BranchAnswerRecorded(recorded=True), "924bc3"),
    (outcomes.SubscribersChanged(topic="t", changed=True, subscribers=2), "944ca174c302"),
    (outcomes.DtmHastened(count=3, more=True), "935103c3"),
    (outcomes.SagaDefinitionPut(name="d", version=300, changed=True), "9457a164cd012cc3"),
    (outcomes.SagaDefinitionDeleted(name="d", deleted=True), "9358a164c3"),
    (outcomes.ExecutionAccepted(lamport_timestamp=1, hlc=300, created_at_ms=2), "946e01cd012c02"),
    (outcomes.ExecutionMoved(epoch=2), "926f02"),
    (outcomes.ExecutionsRenewed(lost=(0, 3)), "9270920003"),
]

JOIN = commands.JoinParticipant(node_id="n")
SESSION = bytes(range(16))


def encode_one(command: AnyCommand) -> bytes:
    return encode_entry(1, 2, [encode_unit(SESSION, 3, 4, [encode_request(request_of(command))])])


def request_of(*wanted: AnyCommand) -> Request:
    return Request(9, None, wanted)


def settled(outcome: Outcome) -> tuple[RequestOutcome, ...]:
    return (RequestOutcome(Position(1, 0), False, (outcome,)),)


@pytest.mark.parametrize(
    ("command", "golden"), GOLDEN_COMMANDS, ids=lambda value: type(value).__name__
)
def test_the_bytes_of_a_command_never_change(command: AnyCommand, golden: str) -> None:
    assert encode_request(request_of(command)).hex() == "9309c091" + golden


def test_every_command_has_golden_bytes() -> None:
    assert [type(command) for command, _ in GOLDEN_COMMANDS] == list(get_args(AnyCommand))


@pytest.mark.parametrize(
    ("found", "golden"), GOLDEN_RESULTS, ids=lambda value: type(value).__name__
)
def test_the_bytes_of_a_result_never_change(found: AnyResult, golden: str) -> None:
    assert encode_outcomes(settled(Applied(found))).hex() == "9193920100c2919201" + golden


def test_every_result_has_golden_bytes() -> None:
    assert [type(found) for found, _ in GOLDEN_RESULTS] == list(get_args(AnyResult))


@pytest.mark.parametrize("code", RejectionCode)
def test_the_bytes_of_a_rejection_are_its_code_its_detail_and_nobody_in_the_way(
    code: RejectionCode,
) -> None:
    encoded = encode_outcomes(settled(Rejected(code, "d")))
    text = code.encode()
    length = bytes([0xA0 + len(text)]) if len(text) < 32 else b"\xd9" + bytes([len(text)])
    assert encoded == bytes.fromhex("9193920100c2919602") + length + text + b"\xa1d\xc0\xc0\xc0"


def test_the_bytes_of_a_holder_and_of_a_wait_never_change() -> None:
    holder = outcomes.LockHolder(owner="o", mode="SHARED", fencing_token=7, expires_at_ms=300)
    held = Rejected(RejectionCode.CLOCK_OVERFLOW, "d", holder, True)
    assert encode_outcomes(settled(held)).endswith(
        b"\xa1d" + bytes.fromhex("9501a16fa653484152454407cd012cc3c0")
    )
    assert encode_outcomes(settled(Pending(Position(300, 4)))).hex() == (
        "9193920100c291920392cd012c04"
    )


def test_the_bytes_of_a_standing_never_change() -> None:
    standing = outcomes.TransactionStanding(
        xid="x", status="COMMITTED", reason="r", ended_ms=300, branch_id=7
    )
    refused = Rejected(RejectionCode.TRANSACTION_DECIDED, "d", transaction=standing)
    assert encode_outcomes(settled(refused)).endswith(
        b"\xa1d\xc0\xc0" + bytes.fromhex("95a178a9434f4d4d4954544544a172cd012c07")
    )


def test_the_bytes_of_an_entry_never_change() -> None:
    key = IdempotencyKey("p", "k", b"d" * 16, 60)
    unit = encode_unit(SESSION, 3, 4, [encode_request(Request(9, key, (JOIN,)))])
    assert encode_entry(1_700_000_000_000, 500, [unit]).hex() == (
        "9401cf0000018bcfe56800cd01f491"  # format, wall, elapsed, one unit
        "94c410000102030405060708090a0b0c0d0e0f0304"  # session, sequence, watermark
        "91930994a170a16bc41064646464646464646464646464646464"  # expiry, principal, key, digest
        "3c919203a16e"  # time to live, commands
    )


def test_spliced_bytes_decode_to_what_was_spliced() -> None:
    requests = [request_of(JOIN), request_of(JOIN, JOIN), request_of()]
    unit = encode_unit(SESSION, 3, 2, [encode_request(request) for request in requests])
    assert decode_unit(unit) == Unit(SESSION, 3, 2, tuple(requests))
    entry = decode_entry(encode_entry(7, 8, [unit, unit]))
    assert entry == Entry(1, 7, 8, (Unit(SESSION, 3, 2, tuple(requests)),) * 2)


def test_splicing_gives_the_bytes_of_encoding_the_whole() -> None:
    unit = Unit(SESSION, 3, 2, (request_of(JOIN), request_of()))
    requests = [encode_request(request) for request in unit.requests]
    assert encode_unit(SESSION, 3, 2, requests) == msgspec.msgpack.encode(unit)


@pytest.mark.parametrize("found", [found for found, _ in GOLDEN_RESULTS])
def test_outcomes_survive_being_stored(found: AnyResult) -> None:
    kept = settled(Applied(found)) + settled(Rejected(RejectionCode.CLOCK_OVERFLOW, "d"))
    assert decode_outcomes(encode_outcomes(kept)) == kept


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "not an entry"),
        (b"\xc1", "not an entry"),
        (b"\x90", "not an entry"),
        (b"\x94\x01\x00", "not an entry"),
        (b"\x93\x01\x00\x00", "not an entry"),
        (b"\x95\x01\x00\x00\x90\x00", "not an entry"),
        (b"\x94\x01\x00\x00\x91\x90", "not an entry"),
        (b"\x94\x01\x00\xa1x\x90", "not an entry"),
        (b"\x94\x02\x00\x00\x90", "format 2 is unknown; this version reads format 1"),
        (b"\x92\x02\xa3new", "format 2 is unknown; this version reads format 1"),
        (b"\x94\x01\x00\x00\xdd\xff\xff\xff\xff", "not an entry"),
        (b"\x94\x01\x00\x00\x90\x00", "not an entry"),
        (b"\x91" * 100_000, "not an entry"),
        (b"\x92\x01" + b"\x91" * 100_000, "not an entry"),
    ],
    ids=range(14),
)
def test_what_is_not_an_entry_is_refused_and_says_why(payload: bytes, why: str) -> None:
    with pytest.raises(MalformedEntryError, match=why):
        decode_entry(payload)


def test_a_unit_with_a_command_of_an_unknown_tag_is_refused() -> None:
    unit = encode_unit(SESSION, 1, 1, [bytes.fromhex("9309c091") + b"\x92\x78\xa1n"])
    with pytest.raises(MalformedEntryError, match="not a unit"):
        decode_unit(unit)


def test_a_name_that_is_not_utf_8_is_refused() -> None:
    unit = encode_unit(SESSION, 1, 1, [bytes.fromhex("9309c091") + b"\x92\x03\xa1\xff"])
    with pytest.raises(MalformedEntryError, match="utf-8"):
        decode_unit(unit)


def test_a_command_with_a_field_too_many_is_refused() -> None:
    unit = encode_unit(SESSION, 1, 1, [bytes.fromhex("9309c091") + b"\x93\x03\xa1n\xa1x"])
    with pytest.raises(MalformedEntryError, match="not a unit"):
        decode_unit(unit)


@pytest.mark.parametrize("command", [command for command, _ in GOLDEN_COMMANDS])
def test_an_entry_cut_at_any_byte_is_refused(command: AnyCommand) -> None:
    payload = encode_one(command)
    assert decode_entry(payload).units[0].requests[0].commands == (command,)
    for end in range(len(payload)):
        with pytest.raises(MalformedEntryError):
            decode_entry(payload[:end])


@given(st.binary(max_size=200))
def test_any_bytes_are_an_entry_or_malformed_and_never_anything_else(payload: bytes) -> None:
    for decode in (decode_entry, decode_unit):
        try:
            decode(payload)
        except MalformedEntryError:
            continue


@given(st.sampled_from(GOLDEN_COMMANDS), st.data())
def test_a_unit_that_decodes_alone_decodes_within_an_entry(
    golden: tuple[AnyCommand, str], data: st.DataObject
) -> None:
    """What the leader lets through can be read by every node, whatever a peer made of it."""
    unit = bytearray(encode_unit(SESSION, 1, 1, [encode_request(request_of(golden[0]))]))
    position = data.draw(st.integers(0, len(unit) - 1))
    unit[position] = data.draw(st.integers(0, 255))
    try:
        expected = decode_unit(bytes(unit))
    except MalformedEntryError:
        return
    assert decode_entry(encode_entry(1, 2, [bytes(unit)])).units == (expected,)
