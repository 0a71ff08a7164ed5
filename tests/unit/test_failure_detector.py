"""The failure detector: every state and observation, and the counts that lead there."""

from __future__ import annotations

import itertools

import pytest

from api.routing import NodeState
from node.failure_detector import (
    TRANSITIONS,
    Change,
    Comparison,
    FailureDetector,
    Observation,
    Verdict,
)

HEALTHY, SUSPECT, FAILED, RECOVERING = NodeState

SAME = Comparison(Verdict.SAME, "its digest equals n1's at index 9")
DIFFERENT = Comparison(Verdict.DIFFERENT, "its digest differs from n1's at index 9")
UNKNOWN = Comparison(Verdict.UNKNOWN, "it is 5 entries behind")


@pytest.fixture
def detector() -> FailureDetector:
    detector = FailureDetector("n1", failures_suspect=1, failures_failed=3)
    detector.set_members(["n3", "n1", "n2"], now_ms=0)
    return detector


def states(detector: FailureDetector) -> dict[str, NodeState]:
    return {entry.node_id: entry.state for entry in detector.table().nodes}


def fail(detector: FailureDetector, node_id: str = "n2") -> None:
    for now_ms in (1000, 2000, 3000):
        detector.missed(node_id, "refused", now_ms)


def test_all_members_begin_healthy_and_in_order(detector: FailureDetector) -> None:
    assert states(detector) == {"n1": HEALTHY, "n2": HEALTHY, "n3": HEALTHY}
    assert [entry.node_id for entry in detector.table().nodes] == ["n1", "n2", "n3"]
    assert {entry.reason for entry in detector.table().nodes} == {""}


def test_one_miss_makes_a_node_suspect_and_leaves_it_in_rotation(detector: FailureDetector) -> None:
    judgement = detector.missed("n2", "no answer within 500 ms", now_ms=1000)
    assert judgement.change == Change("n2", SUSPECT, "missed 1 check: no answer within 500 ms")
    entry = detector.table().nodes[1]
    assert (entry.state, entry.in_rotation, entry.since_ms) == (SUSPECT, True, 1000)


def test_the_third_miss_in_a_row_takes_a_node_out_of_rotation(detector: FailureDetector) -> None:
    detector.missed("n2", "refused", now_ms=1000)
    assert detector.missed("n2", "refused", now_ms=2000).change is None
    judgement = detector.missed("n2", "refused", now_ms=3000)
    assert judgement.change == Change("n2", FAILED, "missed 3 checks in a row: refused")
    assert not detector.table().nodes[1].in_rotation
    assert states(detector)["n3"] is HEALTHY


def test_an_answer_begins_the_count_anew(detector: FailureDetector) -> None:
    for now_ms in range(0, 10_000, 1000):
        detector.missed("n2", "refused", now_ms)
        detector.missed("n2", "refused", now_ms)
        judgement = detector.answered("n2", now_ms)
        assert judgement.change == Change("n2", HEALTHY, "it answers again")


def test_thresholds_are_those_configured() -> None:
    detector = FailureDetector("n1", failures_suspect=2, failures_failed=4)
    detector.set_members(["n1", "n2"], now_ms=0)
    seen = []
    for now_ms in range(5):
        detector.missed("n2", "refused", now_ms)
        seen.append(states(detector)["n2"])
    assert seen == [HEALTHY, SUSPECT, SUSPECT, FAILED, FAILED]


def test_a_failed_node_that_answers_recovers_by_comparison(detector: FailureDetector) -> None:
    fail(detector)
    judgement = detector.answered("n2", now_ms=4000)
    assert judgement.compare
    assert judgement.change is not None
    assert judgement.change.state is RECOVERING
    assert not detector.table().nodes[1].in_rotation
    episode = detector.episode_of("n2")
    judgement = detector.compared("n2", SAME, episode=episode, now_ms=4100)
    assert judgement.change == Change("n2", HEALTHY, SAME.detail)
    assert detector.table().nodes[1].in_rotation


@pytest.mark.parametrize("comparison", [DIFFERENT, UNKNOWN])
def test_a_node_that_is_not_the_same_stays_out_and_is_compared_again(
    detector: FailureDetector, comparison: Comparison
) -> None:
    fail(detector)
    detector.answered("n2", now_ms=4000)
    judgement = detector.compared("n2", comparison, episode=detector.episode_of("n2"), now_ms=4100)
    assert (judgement.change, judgement.compare) == (None, False)
    entry = detector.table().nodes[1]
    assert (entry.state, entry.reason, entry.since_ms) == (RECOVERING, comparison.detail, 4000)
    assert detector.answered("n2", now_ms=5000).compare
    assert detector.table().nodes[1].reason == comparison.detail


def test_a_recovering_node_that_falls_silent_has_failed_again(detector: FailureDetector) -> None:
    fail(detector)
    detector.answered("n2", now_ms=4000)
    detector.missed("n2", "refused", now_ms=5000)
    detector.missed("n2", "refused", now_ms=6000)
    assert states(detector)["n2"] is RECOVERING
    detector.missed("n2", "refused", now_ms=7000)
    assert states(detector)["n2"] is FAILED


def test_a_comparison_of_an_earlier_recovery_is_not_believed(detector: FailureDetector) -> None:
    fail(detector)
    detector.answered("n2", now_ms=4000)
    earlier = detector.episode_of("n2")
    fail(detector)
    detector.answered("n2", now_ms=8000)
    assert detector.compared("n2", SAME, episode=earlier, now_ms=8100).change is None
    assert states(detector)["n2"] is RECOVERING


def test_a_suspect_node_that_asks_to_come_back_is_compared(detector: FailureDetector) -> None:
    detector.missed("n2", "refused", now_ms=1000)
    judgement = detector.asked_to_rejoin("n2", now_ms=1500)
    assert judgement.compare
    assert states(detector)["n2"] is RECOVERING


def test_a_healthy_node_has_nothing_to_rejoin(detector: FailureDetector) -> None:
    judgement = detector.asked_to_rejoin("n2", now_ms=1000)
    assert (judgement.change, judgement.compare) == (None, False)


def test_members_that_stay_keep_their_state(detector: FailureDetector) -> None:
    fail(detector, "n2")
    detector.set_members(["n1", "n2", "n4"], now_ms=5000)
    assert states(detector) == {"n1": HEALTHY, "n2": FAILED, "n4": HEALTHY}
    assert detector.table().nodes[2].since_ms == 5000


def test_what_is_said_of_a_node_that_left_changes_nothing(detector: FailureDetector) -> None:
    detector.set_members(["n1"], now_ms=1000)
    for judgement in (
        detector.answered("n2", 1),
        detector.missed("n2", "refused", 1),
        detector.asked_to_rejoin("n2", 1),
        detector.compared("n2", SAME, episode=0, now_ms=1),
    ):
        assert (judgement.change, judgement.compare) == (None, False)
    assert states(detector) == {"n1": HEALTHY}
    with pytest.raises(LookupError):
        detector.state_of("n2")


@pytest.mark.parametrize(("state", "observation"), list(itertools.product(NodeState, Observation)))
def test_every_state_knows_every_observation_that_can_reach_it(
    state: NodeState, observation: Observation
) -> None:
    comparing = observation in {verdict.value for verdict in Verdict}
    assert ((state, observation) in TRANSITIONS) == (state is RECOVERING or not comparing)


def test_no_way_leads_from_failed_to_healthy_without_a_comparison() -> None:
    reached = {FAILED}
    for _ in NodeState:
        reached |= {
            step.state
            for (state, observation), step in TRANSITIONS.items()
            if state in reached and observation is not Observation.DIGEST_SAME
        }
    assert reached == {FAILED, RECOVERING}


def test_recovery_always_begins_with_a_comparison() -> None:
    for (state, _), step in TRANSITIONS.items():
        if step.state is RECOVERING and state is not RECOVERING:
            assert step.compare
        if step.compare:
            assert step.state is RECOVERING
