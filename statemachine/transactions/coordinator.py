"""The coordinator: every command of global transactions, and the timers and waits that they arm.

A transaction is decided once. Whatever else may be asked of it, how often and in which order, is
answered from where it stands and changes nothing that was decided.
"""

from __future__ import annotations

from typing import assert_never

from statemachine import commands
from statemachine.change_log import ChangeLog
from statemachine.commands import TransactionCommand
from statemachine.outcomes import Outcome
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.tickets import Tickets
from statemachine.transactions import decisions, driving, participation
from statemachine.transactions.desk import Desk
from statemachine.transactions.due import DueNotes
from statemachine.write_buffer import WriteBuffer


class Coordinator:
    """The global transactions of the state."""

    __slots__ = ("_desk",)

    def __init__(
        self, state: MachineState, writes: WriteBuffer, log: ChangeLog, tickets: Tickets
    ) -> None:
        self._desk = Desk(state, writes, log, tickets)

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
                return decisions.operate(self._desk, command, place)
            case _:
                assert_never(command)

    @property
    def due(self) -> DueNotes:
        """What the driver of this node should look at."""
        return self._desk.due

    def save(self) -> None:
        """Write what the entry changed."""
        self._desk.save()

    def time_out(self, due_ms: int, xid: str, place: int) -> None:
        decisions.time_out(self._desk, due_ms, xid, place)

    def forget(self, due_ms: int, xid: str) -> None:
        decisions.forget(self._desk, due_ms, xid)

    def end_wait_for_rows(self, ticket: Position, place: int) -> None:
        participation.end_wait(self._desk, ticket, place)

    def end_wait_for_end(self, ticket: Position, xid: str, place: int) -> None:
        decisions.end_wait(self._desk, ticket, xid, place)
