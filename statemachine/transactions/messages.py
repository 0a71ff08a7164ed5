"""Two-phase messages: kept when they are prepared, delivered once they are submitted.

Between the two lies the work of whoever sends it. When neither its submission nor its abort comes,
its sender is asked what became of that work, for as long as it does not say. After the submission
nothing ends a message but the acceptance of everybody that it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from statemachine import keys
from statemachine.commands.messages import PrepareMessage
from statemachine.commands.transactions import Step
from statemachine.outcomes import Applied, Outcome, Rejected, RejectionCode
from statemachine.store import Reader
from statemachine.transactions.answers import answer_of
from statemachine.transactions.desk import Desk
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import Branch, Calls, RetryRule
from statemachine.transactions.statuses import BranchStatus, Mode
from statemachine.transactions.topics import GREATEST_SUBSCRIBERS, get_subscribers, topic_of
from statemachine.transactions.transaction import Transaction
from statemachine.transactions.transitions import BranchInput, GlobalInput
from statemachine.write_buffer import WriteBuffer

GREATEST_DELIVERIES: Final = 1_000
"""Of one message, a topic counted as if it were full."""

QUESTION: Final = "check-back"
"""The name of the branch that stands for its sender until it is submitted or aborted."""

STEPS_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"A message has 1 to {GREATEST_DELIVERIES} deliveries, each topic counted as "
    f"{GREATEST_SUBSCRIBERS}.",
)
_QUERY_MISSING: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    "query is missing: without it nobody could be asked what became of the message.",
)


class Undelivered(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The row of a message that is prepared: what is to be delivered once it is submitted."""

    steps: tuple[Step, ...]
    delay_ms: int
    in_turn: bool = False
    """Each is delivered only when the one before it is."""


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(Undelivered)


def get_undelivered(reader: Reader, xid: str) -> Undelivered | None:
    """Return what a prepared message will deliver; None when it is prepared no more."""
    row = reader.get(keys.UNDELIVERED + keys.terminated(xid))
    return None if row is None else _rows.decode(row)


def prepare(desk: Desk, command: PrepareMessage, place: int) -> Outcome:
    """Keep a message. Its sender is asked for the first time after `query_after_ms`."""
    steps = command.steps
    if not 0 < count_deliveries(steps) <= GREATEST_DELIVERIES:
        return STEPS_UNUSABLE
    if not command.query:
        return _QUERY_MISSING
    opened = desk.open(
        command.xid, command.prefix, command.name, Program.MESSAGE, place, submitted=False
    )
    if isinstance(opened, Rejected):
        return opened
    opened.change(protocol=command.protocol, options=command.options)
    undelivered = Undelivered(steps, max(command.delay_ms, 0))
    keep(
        desk, opened, undelivered, place, query=command.query, query_after_ms=command.query_after_ms
    )
    return Applied(answer_of(opened.row))


def keep(
    desk: Desk, transaction: Transaction, undelivered: Undelivered, place: int,
    *, query: str, query_after_ms: int, retry: RetryRule | None = None,
) -> None:  # fmt: skip
    """Keep what is to be delivered, and have its sender asked at `query` after a while."""
    writes = desk.writes
    writes.put(keys.UNDELIVERED + keys.terminated(transaction.row.xid), _encode(undelivered))
    asked_ms = desk.state.elapsed_ms + max(query_after_ms, 0)
    question = _branch_of(QUESTION, query, due_ms=asked_ms)
    if retry is not None:
        question = msgspec.structs.replace(question, retry=retry)
    desk.register(transaction, question, place)
    desk.advance(transaction, place)


def submit(desk: Desk, transaction: Transaction, place: int) -> None:
    """Deliver it from now on; a topic's subscribers are those of this moment."""
    waiting = _take(desk.writes, transaction.row.xid)
    _end_question(transaction, place)
    deliver(desk, transaction, waiting, place)


def deliver(desk: Desk, transaction: Transaction, waiting: Undelivered, place: int) -> None:
    """Begin to deliver."""
    transaction.change(submitted=True)
    transaction.happen(place, "SUBMITTED")
    due_ms = desk.state.elapsed_ms + waiting.delay_ms if waiting.delay_ms else 0
    before: tuple[int, ...] = ()
    for delivery in _deliveries(desk, transaction, waiting.steps, due_ms, place):
        behind = msgspec.structs.replace(delivery, depends_on=before)
        branch_id = desk.register(transaction, behind, place)
        before = (branch_id,) if waiting.in_turn else ()
    desk.advance(transaction, place)


def _deliveries(
    desk: Desk, transaction: Transaction, steps: tuple[Step, ...], due_ms: int, place: int
) -> list[Branch]:
    """Return one branch for each URL of now."""
    found: list[Branch] = []
    for step in steps:
        topic = topic_of(step.calls.forward or "")
        if topic is None:
            found.append(_delivery_of(step, step.calls.forward, due_ms))
            continue
        subscribers = get_subscribers(desk.writes, topic)
        if not subscribers:
            transaction.happen(place, "NO_SUBSCRIBERS", detail=topic)
        for number, subscriber in enumerate(subscribers, 1):
            one = len(subscribers) == 1
            named = step if one else msgspec.structs.replace(step, name=f"{step.name}-{number:02}")
            found.append(_delivery_of(named, subscriber.url, due_ms))
    return found


def abort(desk: Desk, transaction: Transaction, reason: str, place: int) -> None:
    """Give it up: nothing was delivered and nothing will be."""
    _take(desk.writes, transaction.row.xid)
    _end_question(transaction, place)
    desk.decide(transaction, GlobalInput.ROLL_BACK, reason, place)


def discard(writes: WriteBuffer, xid: str) -> None:
    """Forget what a message would have delivered that is stopped before its submission."""
    writes.delete(keys.UNDELIVERED + keys.terminated(xid))


def _take(writes: WriteBuffer, xid: str) -> Undelivered:
    key = keys.UNDELIVERED + keys.terminated(xid)
    row = writes.get(key)
    assert row is not None, "a message that is not submitted has something to deliver"
    writes.delete(key)
    return _rows.decode(row)


def _end_question(transaction: Transaction, place: int) -> None:
    for branch in transaction.branches:
        if branch.status is BranchStatus.REGISTERED:
            transaction.advance_branch(branch, BranchInput.WITHDRAW, place, due_ms=0)


def count_deliveries(steps: Sequence[Step]) -> int:
    """Return how many deliveries steps may become."""
    topics = sum(topic_of(step.calls.forward or "") is not None for step in steps)
    return len(steps) + topics * (GREATEST_SUBSCRIBERS - 1)


def _delivery_of(step: Step, url: str | None, due_ms: int) -> Branch:
    return msgspec.structs.replace(
        _branch_of(step.name, url or "", due_ms=due_ms),
        payload=step.payload,
        timeout_ms=step.timeout_ms,
        retry=step.retry,
    )


def _branch_of(name: str, url: str, *, due_ms: int) -> Branch:
    return Branch(
        branch_id=0,
        name=name,
        mode=Mode.MESSAGE,
        status=BranchStatus.REGISTERED,
        resource_id="",
        application_id="",
        unit_id="",
        session_id=0,
        application_data=b"",
        # Whoever accepted it has nothing more to be told.
        calls=Calls(forward=url, commit="", rollback=""),
        payload=b"",
        depends_on=(),
        timeout_ms=0,
        retry=RetryRule(),
        due_ms=due_ms,
    )
