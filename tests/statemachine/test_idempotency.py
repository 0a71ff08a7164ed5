"""A client's key makes all its requests one request, until the key expires."""

from __future__ import annotations

import pytest

from statemachine import idempotency
from statemachine.commands import IdempotencyKey, LeaveParticipant
from statemachine.outcomes import Position, RejectionCode, TimersFired
from statemachine.timestamps import clock
from tests.statemachine.building import Log, code, key, record, recorded, result, sync

HOUR_MS = 3_600_000


def test_the_same_request_is_answered_as_the_first_time_with_its_position() -> None:
    log = Log()
    first = log.send(record("a"), record("b"), idempotency=key())
    log.do(record("a"))
    again = log.send(record("a"), record("b"), idempotency=key())
    assert not first.replayed
    assert again.replayed
    assert again.position == first.position == Position(1, 0)
    assert again.outcomes == first.outcomes
    assert clock(log.store, "a") == 2


def test_the_same_key_within_one_unit_is_one_request() -> None:
    log = Log()
    requests = [log.request(record("a"), idempotency=key()) for _ in range(3)]
    outcomes = log.unit(1, requests)
    assert [outcome.replayed for outcome in outcomes] == [False, True, True]
    assert clock(log.store, "a") == 1


def test_a_key_with_another_content_is_refused_and_keeps_its_first_outcome() -> None:
    log = Log()
    log.send(record("a"), idempotency=key())
    other = log.send(record("a"), record("a"), idempotency=key(digest=b"e" * 16))
    assert [code(each) for each in other.outcomes] == [RejectionCode.IDEMPOTENCY_KEY_REUSED] * 2
    assert not other.replayed
    assert log.send(record("a"), idempotency=key()).replayed
    assert clock(log.store, "a") == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (key("k", principal="p"), key("k", principal="q")),
        (key("k1"), key("k2")),
        (key("b", principal="a\0"), key("\0b", principal="a")),
        (key("bc", principal="a"), key("c", principal="ab")),
        (key("", principal="a"), key("a", principal="")),
    ],
)
def test_keys_of_different_principals_or_texts_are_different(
    first: IdempotencyKey, second: IdempotencyKey
) -> None:
    log = Log()
    log.send(record("a"), idempotency=first)
    assert not log.send(record("a"), idempotency=second).replayed


def test_a_rejection_is_remembered_too() -> None:
    log = Log()
    first = log.send(LeaveParticipant(node_id="a"), idempotency=key())
    log.do(record("a"))
    again = log.send(LeaveParticipant(node_id="a"), idempotency=key())
    assert code(again.outcomes[0]) is RejectionCode.PARTICIPANT_NOT_FOUND
    assert again.outcomes == first.outcomes
    assert again.replayed


def test_an_expired_request_is_not_remembered_so_a_retry_is_done() -> None:
    log = Log()
    log.wait(10)
    expired = log.send(record("a"), idempotency=key(), expires_at_ms=9)
    assert code(expired.outcomes[0]) is RejectionCode.REQUEST_EXPIRED
    assert recorded(log.send(record("a"), idempotency=key()).outcomes[0]).lamport_timestamp == 1


def test_a_key_is_forgotten_when_its_time_is_over_and_not_before() -> None:
    log = Log()
    log.send(record("a"), idempotency=key(ttl_ms=HOUR_MS))
    log.wait(HOUR_MS - 1)
    log.fire_due()
    assert log.send(record("a"), idempotency=key()).replayed
    log.wait(1)
    log.fire_due()
    assert not log.rows(b"I")
    assert log.machine.idempotency_count == 0
    assert not log.send(record("a"), idempotency=key()).replayed


def test_a_replay_does_not_lengthen_the_life_of_a_key() -> None:
    log = Log()
    log.send(record("a"), idempotency=key(ttl_ms=HOUR_MS))
    log.wait(HOUR_MS - 1)
    log.send(record("a"), idempotency=key(ttl_ms=HOUR_MS))
    log.wait(1)
    log.fire_due()
    assert not log.rows(b"I")


@pytest.mark.parametrize("ttl_ms", [-(2**63), 0, 1])
def test_a_key_is_kept_while_a_copy_of_its_request_could_still_apply(ttl_ms: int) -> None:
    log = Log()
    log.send(record("a"), idempotency=key(ttl_ms=ttl_ms), expires_at_ms=5_000)
    log.wait(5_000)
    log.fire_due()
    copy = log.send(record("a"), idempotency=key(ttl_ms=ttl_ms), expires_at_ms=5_000)
    assert copy.replayed
    log.wait(1)
    log.fire_due()
    assert log.machine.idempotency_count == 0


def test_a_life_without_end_is_cut() -> None:
    log = Log()
    log.send(record("a"), idempotency=key(ttl_ms=2**64 - 1))
    log.wait(idempotency.GREATEST_TTL_MS)
    log.fire_due()
    assert log.machine.idempotency_count == 0


def test_a_full_table_refuses_new_keys_and_forgets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "GREATEST_COUNT", 2)
    log = Log()
    log.send(record("a"), idempotency=key("1"))
    log.send(record("a"), idempotency=key("2", ttl_ms=2 * HOUR_MS))
    refused = log.send(record("a"), idempotency=key("3"))
    assert code(refused.outcomes[0]) is RejectionCode.IDEMPOTENCY_TABLE_FULL
    assert clock(log.store, "a") == 2
    assert log.send(record("a"), idempotency=key("1")).replayed
    log.do(record("a"))  # without a key there is nothing to remember
    log.wait(HOUR_MS)
    assert result(log.fire_due()) == TimersFired(fired=2)  # and the session's, which was in use
    assert not log.send(record("a"), idempotency=key("3")).replayed


def test_a_key_that_is_too_long_is_refused() -> None:
    log = Log()
    longest = key("k" * 200, principal="p" * 279)
    assert not log.send(record("a"), idempotency=longest).replayed
    assert log.send(record("a"), idempotency=longest).replayed
    refused = log.send(record("a"), idempotency=key("k" * 200, principal="p" * 280))
    assert code(refused.outcomes[0]) is RejectionCode.INVALID_COMMAND


def test_a_request_without_commands_is_remembered_as_any_other() -> None:
    log = Log()
    assert not log.send(idempotency=key()).replayed
    assert log.send(idempotency=key()).replayed


def test_keys_are_written_in_their_own_order() -> None:
    log = Log()
    texts = [f"0198c{number:03x}-7000" for number in (1, 5, 9, 0x10, 0xFFF)]
    for text in reversed(texts):
        log.send(sync("a", 1), idempotency=key(text))
    assert [row_key for row_key, _ in log.rows(b"I")] == [b"Ip\0" + t.encode() for t in texts]
