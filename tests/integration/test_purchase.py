"""The purchase example, with processes that run, fail and die: all of it, or nothing."""

from __future__ import annotations

import asyncio
import io
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from scripts.tidelock_scripts.local_cluster import ROOT
from scripts.tidelock_scripts.purchase.books import files
from scripts.tidelock_scripts.purchase.command import fresh_shop
from scripts.tidelock_scripts.purchase.purchases import MODES, VICTIMS, Plan, Purchase
from scripts.tidelock_scripts.purchase.report import show
from scripts.tidelock_scripts.terminal import Terminal

pytestmark = pytest.mark.timeout(180)

Buy = Callable[[Plan], Purchase]

ON_SQLITE = [mode for mode in MODES if mode != "XA"]
DEATHS = [("AT", "leader"), ("TCC", "order"), ("SAGA", "account"), ("MIXED", "business")]
MOMENTS = ["at.after-register", "at.after-undo-row", "at.after-report", "rm.after-call"]
"""Of a service: while it works, when it has worked, and in the second phase, which is decided."""
OTHER_DEATHS = [
    (mode, victim, fails)
    for mode in ON_SQLITE
    for victim in VICTIMS
    for fails in (False, True)
    if fails or (mode, victim) not in DEATHS
]


@pytest.fixture(scope="module")
def buy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buy]:
    """Make a purchase in a shop that is restocked before it."""
    with files(tmp_path_factory.mktemp("books")) as books, asyncio.Runner() as runner:
        books.make()
        stack = AsyncExitStack()
        shop = runner.run(stack.enter_async_context(fresh_shop(books, Terminal(io.StringIO()))))

        def buy(plan: Plan) -> Purchase:
            books.restock()
            return runner.run(shop.purchase(plan))

        nodes = [shop.cluster.process(node_id) for node_id in shop.cluster.places]
        try:
            yield buy
        finally:
            runner.run(stack.aclose())
        assert not [node for node in nodes if node is not None and node.state()]


@pytest.mark.parametrize("mode", ON_SQLITE)
def test_what_is_paid_is_bought_and_ordered(buy: Buy, mode: str) -> None:
    purchase = buy(Plan(mode))
    assert purchase.is_bought
    assert purchase.after.moved_since(purchase.before) == (2, 1, 200)
    assert not purchase.faults()


@pytest.mark.parametrize("mode", ON_SQLITE)
def test_what_cannot_be_paid_is_not_even_ordered(buy: Buy, mode: str) -> None:
    purchase = buy(Plan(mode, fails=True))
    assert [call.status for call in purchase.calls] == [200, 200, 409]
    assert purchase.transaction["status"] == "ROLLED_BACK"
    assert purchase.after == purchase.before
    assert not purchase.faults()


@pytest.mark.parametrize(("mode", "victim"), DEATHS)
def test_whoever_dies_in_the_middle_it_is_all_or_nothing(buy: Buy, mode: str, victim: str) -> None:
    purchase = buy(Plan(mode, victim=victim))
    assert not purchase.faults()
    if victim != "leader":
        assert purchase.after == purchase.before


@pytest.mark.long
@pytest.mark.parametrize(("mode", "victim", "fails"), OTHER_DEATHS)
def test_whoever_dies_in_whichever_mode_it_is_all_or_nothing(
    buy: Buy, mode: str, victim: str, fails: bool
) -> None:
    assert not buy(Plan(mode, fails=fails, victim=victim)).faults()


def test_a_service_that_dies_after_the_decision_has_it_done_by_the_next(buy: Buy) -> None:
    purchase = buy(Plan("AT", victim="storage", crash_at="rm.before-call"))
    assert any("died at rm.before-call" in event.what for event in purchase.events)
    assert purchase.is_bought
    assert not purchase.faults()


@pytest.mark.long
@pytest.mark.parametrize("point", MOMENTS)
def test_a_service_may_die_whenever_it_wants(buy: Buy, point: str) -> None:
    purchase = buy(Plan("AT", victim="storage", crash_at=point))
    assert any(f"died at {point}" in event.what for event in purchase.events)
    assert not purchase.faults()


def test_what_is_shown_tells_of_both_books_and_of_what_happened(buy: Buy) -> None:
    shown = io.StringIO()
    assert show(buy(Plan("MIXED", fails=True)), Terminal(shown))
    lines = [line.split() for line in shown.getvalue().splitlines()]
    assert ["before", "50", "0", "1000"] in lines
    assert ["after", "50", "0", "1000"] in lines
    assert "account   answers 409: u-1 has less than 2000" in shown.getvalue()
    assert "TCC branch" in shown.getvalue()
    assert "left behind: 0 undo rows" in shown.getvalue()


def test_the_script_makes_a_purchase_with_all_that_it_needs() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "purchase", "--mode", "TCC", "--fail", "account"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ROLLED_BACK: nothing was bought" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mode", "XA"], "add --databases mariadb,postgres"),
        (["--databases", "oracle"], "neither mariadb nor postgres"),
        (["--kill", "leader", "--at", "at.after-report"], "--at goes with --kill storage"),
        (["--kill", "order", "--at", "at.noon"], "at.after-local-commit"),
    ],
)
def test_the_script_says_what_it_cannot_do(arguments: list[str], words: str) -> None:
    refused = subprocess.run(
        [ROOT / "scripts" / "purchase", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode != 0
    assert words in refused.stderr


def test_books_are_not_made_where_there_are_some(tmp_path: Path) -> None:
    with files(tmp_path) as books:
        books.make()
        with pytest.raises(Exception, match="exists"):
            books.make()
