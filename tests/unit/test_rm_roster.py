"""What a process answers for, within the bounds of what a node takes."""

from __future__ import annotations

import pytest

from tests.integration.recording_resource import Recording
from tidelock import Application
from tidelock.rm.messages import GREATEST_RESOURCE_BYTES, GREATEST_RESOURCES
from tidelock.rm.roster import Roster


def test_the_newest_object_answers_and_only_news_are_told() -> None:
    roster = Roster()
    first, second = Recording("db"), Recording("db")
    roster.attach(first)
    told = roster.revision
    roster.attach(second)
    assert roster.find("AT", "db") is second
    assert roster.revision == told
    roster.attach(Recording("db", "XA"))
    assert roster.revision > told
    assert roster.snapshot() == (roster.revision, (second, roster.find("XA", "db")))
    told = roster.revision
    roster.detach("AT", "nothing")
    assert roster.revision == told
    roster.detach("AT", "db")
    assert roster.revision > told
    assert (roster.find("AT", "db"), len(roster)) == (None, 1)


@pytest.mark.parametrize("resource_id", ["", "é" * (GREATEST_RESOURCE_BYTES // 2 + 1)])
def test_an_id_that_no_node_takes_is_refused(resource_id: str) -> None:
    with pytest.raises(ValueError, match="no id of a resource"):
        Roster().attach(Recording(resource_id))


def test_more_ids_than_a_node_takes_are_refused() -> None:
    roster = Roster()
    for number in range(GREATEST_RESOURCES):
        roster.attach(Recording(f"db{number}"))
    roster.attach(Recording("db0", "XA"))
    with pytest.raises(ValueError, match="64 resources"):
        roster.attach(Recording("one more"))
    assert len(roster) == GREATEST_RESOURCES + 1


@pytest.mark.parametrize("grace_ms", [0, 999, 600_001])
def test_a_grace_that_no_node_takes_is_refused(grace_ms: int) -> None:
    with pytest.raises(ValueError, match="grace_ms is 1000 to 600000"):
        Application(["http://127.0.0.1:7101"], application_id="orders", grace_ms=grace_ms)
