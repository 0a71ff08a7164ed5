"""The chaos run's judges are judged here: good histories pass, each kind of bad one is named."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from scripts.tidelock_scripts.chaos.checkers import (
    Violation,
    check_agreement,
    check_by_search,
    check_clock_rule,
    check_draws,
    check_everything,
    check_presence,
    check_real_time,
)
from scripts.tidelock_scripts.chaos.history import (
    ClockRead,
    Draw,
    Ending,
    History,
    StoredEvent,
    Write,
)
from scripts.tidelock_scripts.chaos.linearizability import (
    Operation,
    Verdict,
    check_history,
)


@dataclass(frozen=True)
class Access:
    """An operation on a register: `write` sets, otherwise `value` was read."""

    value: int
    write: bool = False


class Register:
    initial = 0

    def step(self, state: int, action: Access) -> int | None:
        if action.write:
            return action.value
        return state if action.value == state else None


def register(begun: int, ended: int | None, action: Access, key: str = "x") -> Operation[Access]:
    return Operation(key, begun, ended, action)


def verdict_of(*operations: Operation[Access]) -> Verdict:
    (found,) = check_history(operations, Register())
    return found.verdict


def test_a_read_after_a_write_sees_it() -> None:
    assert verdict_of(register(0, 1, Access(5, write=True)), register(2, 3, Access(5))) is (
        Verdict.LINEARIZABLE
    )


def test_a_stale_read_is_a_violation() -> None:
    assert verdict_of(register(0, 1, Access(5, write=True)), register(2, 3, Access(0))) is (
        Verdict.VIOLATED
    )


def test_a_read_beside_a_write_may_see_either_value() -> None:
    write = register(0, 10, Access(5, write=True))
    assert verdict_of(write, register(2, 3, Access(0))) is Verdict.LINEARIZABLE
    assert verdict_of(write, register(2, 3, Access(5))) is Verdict.LINEARIZABLE


def test_values_seen_beside_a_write_do_not_run_backwards() -> None:
    write = register(0, 10, Access(5, write=True))
    reads = register(1, 2, Access(5)), register(3, 4, Access(0))
    assert verdict_of(write, *reads) is Verdict.VIOLATED


def test_a_write_without_an_answer_may_take_effect_late_or_never() -> None:
    lost = register(0, None, Access(5, write=True))
    assert verdict_of(lost, register(1, 2, Access(0)), register(3, 4, Access(5))) is (
        Verdict.LINEARIZABLE
    )
    assert verdict_of(lost, register(1, 2, Access(0))) is Verdict.LINEARIZABLE


def test_keys_are_judged_apart() -> None:
    good = register(0, 1, Access(0), key="good")
    bad = register(0, 1, Access(7), key="bad")
    verdicts = {found.key: found.verdict for found in check_history([good, bad], Register())}
    assert verdicts == {"good": Verdict.LINEARIZABLE, "bad": Verdict.VIOLATED}


def test_too_long_a_history_is_undecided() -> None:
    history = [register(t, t + 1, Access(0)) for t in range(0, 20, 2)]
    (found,) = check_history(history, Register(), max_operations=9)
    assert found.verdict is Verdict.UNDECIDED


def test_too_long_a_search_is_undecided() -> None:
    # Twenty writes side by side, and a read that none of their orders explains.
    writes = [register(0, 100, Access(value, write=True)) for value in range(1, 21)]
    (found,) = check_history([*writes, register(101, 102, Access(99))], Register(), max_steps=5_000)
    assert found.verdict is Verdict.UNDECIDED


def test_what_was_visited_is_not_searched_again() -> None:
    # 12 equal writes have 479,001,600 orders, but only 4,096 sets that may have happened.
    writes = [register(0, 100, Access(1, write=True)) for _ in range(12)]
    (found,) = check_history([*writes, register(101, 102, Access(9))], Register())
    assert found.verdict is Verdict.VIOLATED


@pytest.mark.parametrize("seed", range(40))
def test_the_search_agrees_with_trying_every_order(seed: int) -> None:
    chance = random.Random(seed)
    history = []
    for _ in range(6):
        begun = chance.randrange(12)
        ended = None if chance.random() < 0.2 else begun + chance.randrange(1, 8)
        write = chance.random() < 0.5
        if ended is None and not write:
            ended = begun + 1
        history.append(register(begun, ended, Access(chance.randrange(3), write=write)))
    expected = Verdict.LINEARIZABLE if explained(history) else Verdict.VIOLATED
    assert verdict_of(*history) is expected


def explained(history: Sequence[Operation[Access]]) -> bool:
    answered = [operation for operation in history if operation.ended_ns is not None]
    lost = [operation for operation in history if operation.ended_ns is None]
    for count in range(len(lost) + 1):
        for happened in itertools.combinations(lost, count):
            if any(fits(order) for order in itertools.permutations([*answered, *happened])):
                return True
    return False


def fits(order: Sequence[Operation[Access]]) -> bool:
    state = Register.initial
    for place, operation in enumerate(order):
        for later in order[place + 1 :]:
            if later.ended_ns is not None and later.ended_ns < operation.begun_ns:
                return False
        after = Register().step(state, operation.action)
        if after is None:
            return False
        state = after
    return True


def a_write(number: int, *, begun: int, ended: int, participant: str = "p") -> Write:
    """The write that takes the participant's clock to `number`."""
    return Write(
        unique_id=f"u{number}",
        participant=participant,
        via="n1",
        begun_ns=begun,
        ended_ns=ended,
        ending=Ending.ACKNOWLEDGED,
        event_id=f"e{number:04}",
        lamport=number,
    )


def as_stored(write: Write) -> StoredEvent:
    assert write.event_id is not None
    assert write.lamport is not None
    return StoredEvent(write.event_id, write.participant, write.lamport, write.unique_id)


def unknown(write: Write) -> Write:
    return replace(write, ending=Ending.UNKNOWN, event_id=None, lamport=None)


def rules(violations: Sequence[Violation]) -> set[str]:
    return {violation.rule for violation in violations}


FIRST = a_write(1, begun=0, ended=10)
SECOND = a_write(2, begun=20, ended=30)
THIRD = a_write(3, begun=40, ended=50)
STORED = [as_stored(FIRST), as_stored(SECOND), as_stored(THIRD)]


def test_a_clean_history_has_no_violation() -> None:
    read = ClockRead("p", "n2", begun_ns=31, ended_ns=39, lamport=2)
    history = History([FIRST, SECOND, THIRD], [read])
    assert check_everything(history, {"n1": STORED, "n2": STORED, "n3": STORED}) == []


def test_a_lost_acknowledged_event_is_found() -> None:
    assert rules(check_presence([FIRST, SECOND], [as_stored(FIRST)])) == {
        "no acknowledged event lost"
    }


def test_a_doubled_event_is_found() -> None:
    again = replace(as_stored(FIRST), event_id="e0002", lamport=2)
    assert rules(check_presence([FIRST], [as_stored(FIRST), again])) == {"no event twice"}


def test_an_unknown_event_may_be_stored_once_or_not_at_all_but_not_twice() -> None:
    lost = unknown(FIRST)
    again = replace(as_stored(FIRST), event_id="e0002", lamport=2)
    assert check_presence([lost], []) == []
    assert check_presence([lost], [as_stored(FIRST)]) == []
    assert rules(check_presence([lost], [as_stored(FIRST), again])) == {"no event twice"}


def test_a_refused_event_must_not_be_stored() -> None:
    refused = replace(unknown(FIRST), ending=Ending.REFUSED)
    assert check_presence([refused], []) == []
    assert rules(check_presence([refused], [as_stored(FIRST)])) == {"refused is not done"}


def test_an_event_stored_otherwise_than_answered_is_found() -> None:
    assert rules(check_presence([FIRST], [replace(as_stored(FIRST), lamport=9)])) == {
        "stored as answered"
    }


@pytest.mark.parametrize("unique_id", ["never-written", None])
def test_an_event_that_nobody_wrote_is_found(unique_id: str | None) -> None:
    stranger = replace(as_stored(FIRST), unique_id=unique_id)
    assert rules(check_presence([], [stranger])) == {"only what was asked for"}


def test_a_gap_or_a_repeat_in_the_timestamps_is_found() -> None:
    assert rules(check_clock_rule([], [STORED[0], STORED[2]])) == {"Lamport clock"}
    repeated = replace(STORED[1], lamport=1)
    assert rules(check_clock_rule([], [STORED[0], repeated])) == {"Lamport clock"}


def test_a_sync_raises_the_clock_above_what_it_received_and_no_further() -> None:
    sync = replace(SECOND, received_timestamp=40, lamport=41)
    assert check_clock_rule([FIRST, sync], [STORED[0], as_stored(sync)]) == []
    too_far = replace(as_stored(sync), lamport=42)
    assert rules(check_clock_rule([FIRST, sync], [STORED[0], too_far])) == {"Lamport clock"}


def test_an_event_id_used_twice_is_found() -> None:
    other = replace(as_stored(FIRST), participant="q", unique_id="u7")
    assert rules(check_clock_rule([], [STORED[0], other])) == {"event ids are unique"}


def test_a_timestamp_below_that_of_an_earlier_event_is_found() -> None:
    # The one that took the clock to 1 began only after the other one had been answered.
    late = a_write(1, begun=100, ended=110)
    history = History([late, SECOND], [])
    assert rules(check_real_time(history, STORED[:2])) == {"timestamps follow real time"}


def test_a_stale_read_is_found() -> None:
    stale = ClockRead("p", "n2", begun_ns=31, ended_ns=39, lamport=1)
    assert rules(check_real_time(History([FIRST, SECOND], [stale]), STORED[:2])) == {
        "reads are linearizable"
    }


def test_reads_that_run_backwards_beside_one_write_are_found() -> None:
    reads = [ClockRead("p", "n1", 21, 22, 2), ClockRead("p", "n2", 23, 24, 1)]
    assert rules(check_real_time(History([FIRST, SECOND], reads), STORED[:2])) == {
        "reads are linearizable"
    }


def test_a_read_from_the_future_is_found() -> None:
    early = ClockRead("p", "n1", begun_ns=11, ended_ns=15, lamport=2)
    assert rules(check_real_time(History([FIRST, SECOND], [early]), STORED[:2])) == {
        "timestamps follow real time"
    }


def test_a_read_of_a_value_that_never_was_is_found() -> None:
    odd = ClockRead("p", "n1", begun_ns=31, ended_ns=39, lamport=7)
    assert rules(check_real_time(History([FIRST, SECOND], [odd]), STORED[:2])) == {
        "reads are linearizable"
    }


def test_an_unknown_event_may_have_happened_long_after_its_client_gave_up() -> None:
    lost = unknown(a_write(3, begun=0, ended=5))
    history = History([FIRST, SECOND, lost], [ClockRead("p", "n1", 31, 32, 2)])
    assert check_real_time(history, STORED) == []
    assert check_by_search(history, STORED) == []


def test_the_search_finds_a_stale_read_by_itself() -> None:
    stale = ClockRead("p", "n2", begun_ns=31, ended_ns=39, lamport=1)
    assert rules(check_by_search(History([FIRST, SECOND], [stale]), STORED[:2])) == {
        "linearizable by search"
    }


def test_a_node_that_lists_other_events_is_found() -> None:
    assert rules(check_agreement({"n1": STORED, "n2": STORED[:2]})) == {"nodes agree"}
    assert rules(check_agreement({"n1": STORED, "n2": STORED[::-1]})) == {"nodes agree"}


def drawn(begun: int, ended: int, first: int, last: int | None = None) -> Draw:
    return Draw("n1", begun, ended, first, first if last is None else last)


def test_timestamps_that_rise_in_real_time_are_as_promised() -> None:
    beside = drawn(5, 25, 60, 69)
    assert check_draws([drawn(0, 10, 50), drawn(11, 20, 51, 59), beside, drawn(26, 30, 70)]) == []
    assert check_draws([]) == []


@pytest.mark.parametrize("second", [drawn(11, 20, 59), drawn(11, 20, 50), drawn(2, 3, 40, 50)])
def test_a_timestamp_that_comes_twice_is_found(second: Draw) -> None:
    found = rules(check_draws([drawn(0, 10, 50, 59), second]))
    assert "no timestamp twice" in found


def test_a_timestamp_below_one_that_was_given_before_it_was_asked_for_is_found() -> None:
    early, late = drawn(0, 10, 50), drawn(11, 20, 49)
    assert rules(check_draws([early, late])) == {"the oracle follows real time"}
    # Also when another one lies between the two, and the first ended long ago.
    between = drawn(12, 15, 51)
    assert rules(check_draws([early, between, drawn(30, 40, 48)])) == {
        "the oracle follows real time"
    }


def test_draws_beside_each_other_may_come_in_any_order() -> None:
    assert check_draws([drawn(0, 10, 50), drawn(10, 20, 49)]) == []
