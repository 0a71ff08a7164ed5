"""How a saga that follows a definition begins."""

from __future__ import annotations

from typing import Final

from statemachine.commands.saga_definitions import StartSaga
from statemachine.outcomes import Outcome, Rejected, RejectionCode
from statemachine.transactions.decisions import await_end
from statemachine.transactions.desk import Desk
from statemachine.transactions.planning import Program
from statemachine.transactions.state_language import values
from statemachine.transactions.state_language.definitions import definition_of, followed, pin
from statemachine.transactions.state_language.interpreter import GREATEST_PAYLOAD_BYTES
from statemachine.transactions.state_language.runs import Frame, Run, put_run
from statemachine.transactions.state_language.values import UnusableValueError

_INPUT_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"input is no JSON object of at most {GREATEST_PAYLOAD_BYTES} bytes that sagas compute with.",
)


def start(desk: Desk, command: StartSaga, place: int) -> Outcome:
    """Begin a saga and go on to its first calls, all in one entry."""
    if len(command.input) > GREATEST_PAYLOAD_BYTES:
        return _INPUT_UNUSABLE
    try:
        variables = values.decode(command.input or b"{}")
        context = values.encode(variables, GREATEST_PAYLOAD_BYTES)
    except UnusableValueError:
        return _INPUT_UNUSABLE
    if not isinstance(variables, dict):
        return _INPUT_UNUSABLE
    found = followed(desk.writes, command.definition)
    if isinstance(found, Rejected):
        return found
    opened = desk.open(
        command.xid,
        command.prefix,
        command.name or command.definition,
        Program.STATE_MACHINE,
        place,
        submitted=True,
    )
    if isinstance(opened, Rejected):
        return opened
    machines = pin(desk.writes, found)
    definition = definition_of(desk.writes, machines[0])
    opened.change(
        in_order=True,
        recovers_forward=command.forward_recovery or definition.recovers_forward,
    )
    timeout_ms = command.timeout_ms or definition.timeout_ms
    if timeout_ms > 0:
        opened.arm_deadline(timeout_ms)
    frame = Frame(
        number=1, parent=0, index=0, machine=0, path="", state=definition.start, context=context
    )
    put_run(desk.writes, opened.row.xid, Run(machines=machines, frames=(frame,), last_frame=1))
    desk.advance(opened, place)
    return await_end(desk, opened, command.wait_ms, place)
