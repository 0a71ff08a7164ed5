"""What docs/CLOCKS.md shows is what the clocks do."""

from __future__ import annotations

import doctest

from scripts.tidelock_scripts.space_time_diagram import DIAGRAM, EVENTS, diagram, stamps
from tests.meta.documents import ROOT
from tests.unit.clock_laws import assert_tells_the_truth
from tests.unit.histories import Happening
from tests.unit.test_clocks_wire import EXAMPLES
from tidelock.clocks import wire

DOCUMENT = ROOT / "docs" / "CLOCKS.md"


def test_the_examples_show_what_really_comes_out() -> None:
    failures, tried = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert tried > 0
    assert failures == 0


def test_the_diagram_is_the_one_that_the_clocks_draw() -> None:
    assert DIAGRAM.read_text(encoding="utf-8") == diagram(), (
        "draw it anew: python -m scripts.tidelock_scripts.space_time_diagram"
    )


def test_the_clocks_in_the_diagram_are_right() -> None:
    places = {event.name: place for place, event in enumerate(EVENTS)}
    history = [
        Happening(
            "abc".index(event.participant),
            None if event.received is None else places[event.received],
            physical_ms=0,
        )
        for event in EVENTS
    ]
    vectors = [vector for _, vector in stamps().values()]
    assert_tells_the_truth(history, lambda first, second: vectors[first].compare(vectors[second]))


def test_the_table_of_the_wire_format_has_every_kind_with_its_tag() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    documented = [tuple(cell.strip(" `") for cell in row.split("|")[1:3]) for row in rows]
    encoded = [
        (str(wire.encode(clock)[1]), wire.to_json(clock)["type"]) for clock, _, _ in EXAMPLES
    ]
    assert documented == encoded
