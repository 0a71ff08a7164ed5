"""The coordinator: every command of global transactions, and the timers and waits that they arm.

A transaction is decided once. Whatever else may be asked of it, how often and in which order, is
answered from where it stands and changes nothing that was decided.
"""

from __future__ import annotations

from typing import assert_never

from statemachine import audit, commands
from statemachine.audit import AuditLog
from statemachine.change_log import ChangeLog
from statemachine.commands import (
    ChannelCommand,
    DtmCommand,
    MessageCommand,
    SagaCommand,
    TransactionCommand,
)
from statemachine.outcomes import Outcome, Rejected
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.tickets import Tickets
from statemachine.transactions import (
    channel_sessions,
    cleaning,
    decisions,
    driving,
    dtm,
    fence,
    locking,
    messages,
    participation,
    recovery,
    topics,
)
from statemachine.transactions.desk import Desk
from statemachine.transactions.due import DueNotes
from statemachine.transactions.state_language import definitions, starting
from statemachine.transactions.transaction import Transaction
from statemachine.write_buffer import WriteBuffer


class Coordinator:
    """The global transactions of the state."""

    __slots__ = ("_audit", "_desk")

    def __init__(
        self,
        state: MachineState,
        writes: WriteBuffer,
        log: ChangeLog,
        tickets: Tickets,
        audit_log: AuditLog,
    ) -> None:
        self._desk = Desk(state, writes, log, tickets)
        self._audit = audit_log

    def execute(self, command: TransactionCommand, place: int) -> Outcome:
        match command:
            case commands.BeginGlobal():
                return participation.begin(self._desk, command, place)
            case commands.RegisterBranch():
                return participation.register(self._desk, command, place)
            case commands.ReportBranch():
                return participation.report(self._desk, command, place)
            case commands.DecideGlobal():
                return decisions.decide(self._desk, command, place)
            case commands.RunGlobal():
                return driving.run(self._desk, command, place)
            case commands.ReportCalls():
                return driving.take_results(self._desk, command, place)
            case commands.OperateGlobal():
                return self._operate(command, place)
            case commands.LockRows() | commands.UnlockRows():
                return self._change_rows(command, place)
            case commands.PassFence():
                return fence.pass_fence(self._desk, command)
            case commands.AbandonBranch():
                return participation.abandon(self._desk, command, place)
            case commands.RecordRecoveries():
                return recovery.record(self._desk, command, place)
            case _:
                assert_never(command)

    @property
    def due(self) -> DueNotes:
        """What the driver of this node should look at."""
        return self._desk.due

    def look_at(self, xid: str) -> Transaction | None:
        """Return a transaction to whoever only looks, between two entries."""
        return self._desk.look_at(xid)

    def _change_rows(self, command: commands.LockRows | commands.UnlockRows, place: int) -> Outcome:
        desk = self._desk
        transaction = desk.find(command.xid)
        if transaction is None:
            return participation.not_found(desk, command.xid)
        if isinstance(command, commands.LockRows):
            return locking.lock_rows(desk, transaction, command, place)
        return locking.unlock_rows(desk, transaction, command, place)

    def _operate(self, command: commands.OperateGlobal, place: int) -> Outcome:
        """Do what an operator wants, and record that it was wanted."""
        outcome = decisions.operate(self._desk, command, place)
        became = outcome.code.value if isinstance(outcome, Rejected) else audit.DONE
        self._audit.record(
            command.principal, command.action, command.xid, command.reason, became, place
        )
        return outcome

    def set_retention(self, command: commands.SetTransactionRetention) -> Outcome:
        return decisions.set_retention(self._desk, command)

    def execute_message(self, command: MessageCommand, place: int) -> Outcome:
        match command:
            case commands.PrepareMessage():
                return messages.prepare(self._desk, command, place)
            case commands.PutSubscriber():
                return topics.put_subscriber(self._desk, command)
            case commands.DeleteSubscriber():
                return topics.delete_subscriber(self._desk, command)
            case commands.DeleteTopic():
                return topics.delete_topic(self._desk, command)
            case _:
                assert_never(command)

    def execute_dtm(self, command: DtmCommand, place: int) -> Outcome:
        return dtm.execute(self._desk, command, place)

    def execute_channel(self, command: ChannelCommand, place: int) -> Outcome:
        desk = self._desk
        match command:
            case commands.RegisterChannel():
                return channel_sessions.register(desk, command, place)
            case commands.AttachChannel():
                return channel_sessions.attach(desk, command, place)
            case commands.DetachChannels():
                return channel_sessions.detach(desk, command, place)
            case commands.EndChannel():
                return channel_sessions.end(desk, command, place)
            case commands.RecordCleaned():
                return cleaning.record(desk.state, desk.writes, command)
            case commands.RecordSwept():
                return cleaning.record_swept(desk.state, desk.writes, command)
            case commands.RecordBranchAnswer():
                return driving.take_answer(desk, command, place)
            case _:
                assert_never(command)

    def execute_saga(self, command: SagaCommand, place: int) -> Outcome:
        desk = self._desk
        match command:
            case commands.PutSagaDefinition():
                return definitions.put(desk.state, desk.writes, command)
            case commands.DeleteSagaDefinition():
                return definitions.delete(desk.state, desk.writes, command)
            case commands.StartSaga():
                return starting.start(desk, command, place)
            case _:
                assert_never(command)

    @property
    def channel_revision(self) -> int:
        """It differs from before when a resource manager has registered."""
        return self._desk.channel_revision

    def save(self) -> None:
        """Write what the entry changed."""
        self._desk.save()

    def time_out(self, due_ms: int, xid: str, place: int) -> None:
        decisions.time_out(self._desk, due_ms, xid, place)

    def forget(self, due_ms: int, xid: str) -> None:
        decisions.forget(self._desk, due_ms, xid)

    def forget_summary(self, due_ms: int, xid: str) -> None:
        decisions.forget_summary(self._desk, due_ms, xid)

    def end_wait_for_rows(self, ticket: Position, place: int) -> None:
        locking.end_wait(self._desk, ticket, place)

    def end_wait_for_end(self, ticket: Position, xid: str, place: int) -> None:
        decisions.end_wait(self._desk, ticket, xid, place)

    def lose_node(self, node_id: str) -> None:
        channel_sessions.lose_node(self._desk, node_id)

    def detach_node(self, due_ms: int, timer_id: bytes, place: int) -> None:
        channel_sessions.detach_node(self._desk, due_ms, timer_id, place)

    def pass_grace(self, due_ms: int, timer_id: bytes, place: int) -> None:
        channel_sessions.pass_grace(self._desk, due_ms, timer_id, place)
