"""What operators did cannot be changed afterwards without its being seen."""

from __future__ import annotations

import json
from hashlib import sha256

import msgspec
import pytest

from statemachine.audit import ActionRow, first_fault, list_actions, record_before
from statemachine.change_log import read_changes
from statemachine.changes import OperatorActed
from statemachine.commands import OperateGlobal, RecordAction
from statemachine.outcomes import ActionRecorded, Position, RejectionCode
from tests.statemachine.building import START_MS, Log, code, result


def act(log: Log, target: str = "n2", reason: str = "disk") -> int:
    recorded = result(
        log.do(RecordAction(principal="ann", action="REMOVE", target=target, reason=reason))
    )
    assert isinstance(recorded, ActionRecorded)
    return recorded.number


def rows(log: Log) -> list[ActionRow]:
    found, cursor = list_actions(log.store, cursor=None, limit=1_000)
    assert cursor is None
    return found


def test_an_act_is_recorded_with_who_when_and_why() -> None:
    log = Log()
    assert [act(log), act(log, reason='名\n\x1f"\\/é😀')] == [1, 2]
    first, second = rows(log)
    assert (first.number, first.at_ms, first.principal) == (1, START_MS, "ann")
    assert (first.action, first.target, first.reason) == ("REMOVE", "n2", "disk")
    assert first.outcome == "ASKED"
    assert second.previous == first.digest


def test_anybody_can_reckon_the_digests() -> None:
    log = Log()
    act(log)
    act(log, reason='名\n\x1f"\\/é😀\x7f')
    previous = ""
    for row in rows(log):
        fields = [
            row.number, row.at_ms, row.principal, row.action, row.target, row.reason, row.outcome,
        ]  # fmt: skip
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        digest = sha256(f"{previous}\n{text}".encode()).hexdigest()
        assert row.digest.hex() == digest
        previous = digest


def test_what_was_asked_of_a_transaction_is_recorded_done_or_not() -> None:
    log = Log()
    for action in ("FORGET", "EXPLODE"):
        log.do(OperateGlobal(xid="x", action=action, reason="r", principal="ann"))
    assert [(row.target, row.outcome) for row in rows(log)] == [
        ("x", "TRANSACTION_NOT_FOUND"),
        ("x", "TRANSACTION_NOT_FOUND"),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [("principal", "bob"), ("at_ms", 1), ("reason", ""), ("outcome", "DONE"), ("digest", b"")],
)
def test_a_changed_record_is_found(field: str, value: object) -> None:
    log = Log()
    for _ in range(3):
        act(log)
    kept = rows(log)
    assert first_fault(kept, None) is None
    changed = [kept[0], msgspec.structs.replace(kept[1], **{field: value}), kept[2]]
    assert first_fault(changed, None) == 2
    assert first_fault([kept[0], kept[2]], None) == 3
    assert first_fault(kept[1:], None) == 2
    assert first_fault(kept[1:], kept[0]) is None


def test_records_come_in_pages_each_bound_to_the_one_before() -> None:
    log = Log()
    for _ in range(5):
        act(log)
    seen: list[int] = []
    cursor = None
    while True:
        page, cursor = list_actions(log.store, cursor=cursor, limit=2)
        assert first_fault(page, record_before(log.store, page[0].number)) is None
        seen += [row.number for row in page]
        if cursor is None:
            break
    assert seen == [1, 2, 3, 4, 5]


def test_watchers_are_told() -> None:
    log = Log()
    act(log)
    (recorded,) = read_changes(log.store, Position(0, 0), limit=10)
    assert recorded.changes == (
        OperatorActed(
            number=1, principal="ann", action="REMOVE", target="n2", reason="disk", outcome="ASKED"
        ),
    )


def test_texts_are_bounded() -> None:
    assert (
        code(Log().do(RecordAction(principal="", action="", target="", reason="r" * 1_001)))
        is RejectionCode.INVALID_COMMAND
    )
