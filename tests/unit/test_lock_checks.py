"""Each rule of locks is broken once in a history, and found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.history import Ending
from scripts.tidelock_scripts.chaos.lock_checks import (
    check_grants_in_log,
    check_leases,
    check_lock_log,
    check_locks,
    check_locks_by_search,
    check_tokens,
    check_turns,
)
from scripts.tidelock_scripts.chaos.lock_history import (
    LockAction,
    LockCall,
    LockChange,
    LockHistory,
    QueueSeen,
)

MS = 1_000_000


def call(
    action: LockAction,
    owner: str,
    begun_ms: int,
    ended_ms: int,
    *,
    token: int | None = None,
    ending: Ending = Ending.ACKNOWLEDGED,
    shared: bool = False,
    valid: bool | None = None,
    lock: str = "l",
    position: tuple[int, int] | None = None,
    again: bool = False,
) -> LockCall:
    return LockCall(
        action,
        lock,
        owner,
        begun_ms * MS,
        ended_ms * MS,
        ending,
        shared=shared,
        ttl_ms=1_000,
        token=token,
        valid=valid,
        position=position,
        again=again,
    )


def granted(owner: str, token: int, begun_ms: int, ended_ms: int, **more: object) -> LockCall:
    return call(LockAction.ACQUIRE, owner, begun_ms, ended_ms, token=token, **more)  # type: ignore[arg-type]


def released(owner: str, token: int, begun_ms: int, ended_ms: int) -> LockCall:
    return call(LockAction.RELEASE, owner, begun_ms, ended_ms, token=token)


def verified(owner: str, token: int, begun_ms: int, ended_ms: int, *, valid: bool) -> LockCall:
    return call(LockAction.VERIFY, owner, begun_ms, ended_ms, token=token, valid=valid)


def stale(action: LockAction, owner: str, token: int, begun_ms: int, ended_ms: int) -> LockCall:
    return call(action, owner, begun_ms, ended_ms, token=token, ending=Ending.REFUSED)


def rules(violations: Sequence[Violation]) -> set[str]:
    return {violation.rule for violation in violations}


def found(*calls: LockCall) -> set[str]:
    return rules(check_locks(LockHistory([*calls]), clock_error=0.0))


HELD_A = granted("a", 1, 0, 10)
GIVEN_BACK = released("a", 1, 100, 110)
HELD_B = granted("b", 2, 5, 105)


def test_a_lock_that_goes_from_owner_to_owner_is_as_promised() -> None:
    calls = [
        HELD_A,
        verified("a", 1, 20, 30, valid=True),
        GIVEN_BACK,
        HELD_B,
        verified("a", 1, 120, 130, valid=False),
        call(LockAction.RENEW, "b", 500, 510, token=2),
        # Its lease began anew at 500 or later, and ended at 1,500 or later.
        granted("c", 3, 1_000, 1_600),
        stale(LockAction.RENEW, "b", 2, 1_610, 1_620),
    ]
    assert found(*calls) == set()


def test_a_lock_may_be_granted_when_its_lease_has_ended() -> None:
    assert found(HELD_A, granted("b", 2, 900, 1_001)) == set()


def test_a_lock_that_is_granted_while_a_lease_stands_is_found() -> None:
    assert found(HELD_A, granted("b", 2, 20, 900)) == {"one holder at a time"}


def test_a_renewed_lease_stands_as_long_as_it_was_renewed_for() -> None:
    renewed = call(LockAction.RENEW, "a", 800, 810, token=1)
    assert found(HELD_A, renewed, granted("b", 2, 900, 1_700)) == {"one holder at a time"}


def test_a_release_that_nobody_answered_may_have_been_done() -> None:
    unknown = replace(GIVEN_BACK, ending=Ending.UNKNOWN)
    assert found(HELD_A, unknown, granted("b", 2, 20, 900)) == set()


def test_those_who_share_hold_together_and_keep_others_out() -> None:
    one, two = granted("a", 1, 0, 10, shared=True), granted("b", 2, 20, 30, shared=True)
    assert found(one, two) == set()
    assert found(one, two, granted("c", 3, 40, 50)) == {"one holder at a time"}


def test_grants_of_other_locks_date_a_grant_that_waited() -> None:
    # It asked at 0, but was granted after somebody who asked at 800.
    waited = granted("a", 2, 0, 900)
    elsewhere = granted("x", 1, 800, 810, lock="other")
    assert found(elsewhere, waited, granted("b", 3, 950, 1_500)) == {"one holder at a time"}
    assert found(waited, granted("b", 3, 950, 1_500)) == set()


def test_a_fast_clock_may_end_a_lease_a_little_earlier() -> None:
    calls = [HELD_A, granted("b", 2, 20, 975)]
    assert check_leases(calls, clock_error=0.03) == []
    assert rules(check_leases(calls, clock_error=0.0)) == {"one holder at a time"}


def test_a_token_that_comes_twice_is_found() -> None:
    assert "no token twice" in found(HELD_A, GIVEN_BACK, granted("b", 1, 200, 210))
    assert "no token twice" in found(HELD_A, granted("b", 1, 200, 210, lock="other"))


def test_an_owner_that_asks_again_may_get_the_same_token() -> None:
    assert found(
        HELD_A, granted("x", 2, 20, 25, lock="o"), granted("a", 1, 30, 40, again=True)
    ) == (set())


def test_a_token_below_one_that_was_known_before_is_found() -> None:
    later = granted("b", 1, 20, 30, lock="other")
    assert rules(check_tokens([granted("a", 2, 0, 10), later])) == {"tokens follow real time"}


def test_who_is_served_before_one_that_asked_earlier_is_found() -> None:
    first = granted("a", 2, 0, 100, position=(7, 0))
    second = granted("b", 1, 0, 50, position=(7, 1))
    assert rules(check_turns([first, second], [])) == {"turns in the order of asking"}
    elsewhere = replace(second, lock="other")
    assert check_turns([first, elsewhere], []) == []


def test_a_queue_that_is_not_served_in_its_order_is_found() -> None:
    calls = [granted("a", 2, 0, 100), granted("b", 1, 0, 50)]
    seen = QueueSeen("l", ("a", "gave-up", "b"))
    assert rules(check_turns(calls, [seen])) == {"turns in the order of asking"}
    assert check_turns(calls, [QueueSeen("l", ("b", "gave-up", "a"))]) == []


@pytest.mark.parametrize(
    "confirmed",
    [verified("a", 1, 200, 210, valid=True), call(LockAction.RENEW, "a", 200, 210, token=1)],
)
def test_a_token_that_was_overtaken_and_is_accepted_is_found(confirmed: LockCall) -> None:
    # The release is not known, but the next grant is.
    unknown = replace(GIVEN_BACK, ending=Ending.UNKNOWN)
    assert "no stale token is accepted" in found(HELD_A, unknown, HELD_B, confirmed)


def test_a_token_that_was_released_and_is_accepted_is_found() -> None:
    calls = HELD_A, GIVEN_BACK, verified("a", 1, 120, 130, valid=True)
    assert found(*calls) == {"no stale token is accepted", "linearizable by search"}


@pytest.mark.parametrize(
    "refused",
    [
        verified("a", 1, 500, 900, valid=False),
        stale(LockAction.RENEW, "a", 1, 500, 900),
    ],
)
def test_a_lease_that_is_over_before_its_time_is_found(refused: LockCall) -> None:
    assert found(HELD_A, refused) == {"a lease lasts"}


def test_a_token_that_is_stale_and_then_is_not_is_found_by_the_search() -> None:
    calls = [
        HELD_A,
        verified("a", 1, 2_000, 2_010, valid=False),
        verified("a", 1, 2_020, 2_030, valid=True),
    ]
    assert rules(check_locks_by_search(calls)) == {"linearizable by search"}
    together = replace(calls[2], begun_ns=2_005 * MS)
    assert check_locks_by_search([*calls[:2], together]) == []


def test_a_search_that_is_not_decided_is_a_finding() -> None:
    calls = [verified("a", 1, 2_000 + at, 2_000 + at, valid=False) for at in range(1_000)]
    (violation,) = check_locks_by_search([HELD_A, *calls])
    assert "undecided" in violation.detail


def change(what: str, token: int, owner: str = "", *, shared: bool = False) -> LockChange:
    return LockChange(what, "l", owner or f"o{token}", shared, token)


LOG = [
    change("granted", 1),
    change("released", 1),
    change("granted", 2, shared=True),
    change("granted", 3, shared=True),
    change("expired", 2),
    change("released", 3),
    change("granted", 4),
]


def test_a_log_of_one_holder_after_the_other_is_as_promised() -> None:
    assert check_lock_log(LOG, whole=True) == []
    assert check_lock_log(LOG[1:], whole=False) == []


@pytest.mark.parametrize("left_out", [0, 2, 3])
def test_a_grant_that_the_log_lacks_is_found(left_out: int) -> None:
    log = LOG[:left_out] + LOG[left_out + 1 :]
    assert "tokens rise by one from grant to grant" in rules(check_lock_log(log, whole=True))


@pytest.mark.parametrize("left_out", [1, 4, 5])
def test_two_holders_in_the_log_are_found(left_out: int) -> None:
    log = LOG[:left_out] + LOG[left_out + 1 :]
    assert rules(check_lock_log(log, whole=True)) == {"one holder at a time"}


def test_a_lease_that_ends_twice_or_for_another_is_found() -> None:
    assert rules(check_lock_log([*LOG[:2], LOG[1]], whole=True)) == {"a lease ends once"}
    other = change("released", 1, "somebody")
    assert rules(check_lock_log([LOG[0], other], whole=True)) == {"a lease ends once"}


def test_a_grant_that_the_log_says_went_elsewhere_is_found() -> None:
    grants = [granted("o1", 1, 0, 10), granted("o4", 4, 50, 60)]
    assert check_grants_in_log(grants, LOG) == []
    assert rules(check_grants_in_log([granted("me", 4, 50, 60)], LOG)) == {
        "granted as the log says"
    }
