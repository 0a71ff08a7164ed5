"""The purchase example over MariaDB and PostgreSQL."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from scripts.tidelock_scripts.purchase.books import BooksError, servers
from scripts.tidelock_scripts.purchase.command import fresh_shop
from scripts.tidelock_scripts.purchase.purchases import MODES, VICTIMS, Plan, Purchase
from scripts.tidelock_scripts.terminal import Terminal
from tests.databases.servers import Server

pytestmark = [pytest.mark.databases, pytest.mark.timeout(180)]

Buy = Callable[[Plan], Purchase]


@pytest.fixture(scope="module")
def urls(mariadb: Server, postgresql: Server) -> list[str]:
    return [
        f"mysql://{mariadb.user}@{mariadb.host}:{mariadb.port}",
        f"postgresql://{postgresql.user}@{postgresql.host}:{postgresql.port}",
    ]


@pytest.fixture(scope="module")
def buy(urls: list[str]) -> Iterator[Buy]:
    """Make a purchase in a shop that is restocked before it."""
    with servers(urls) as books, asyncio.Runner() as runner:
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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails", [False, True], ids=["paid", "not-paid"])
def test_a_purchase_is_made_in_both_databases_or_in_neither(
    buy: Buy, mode: str, fails: bool
) -> None:
    purchase = buy(Plan(mode, fails=fails))
    assert purchase.is_bought is not fails
    assert not purchase.faults()


@pytest.mark.parametrize(("mode", "victim"), [("XA", "storage"), ("XA", "order")])
def test_a_service_that_dies_with_its_work_done_leaves_nothing(
    buy: Buy, mode: str, victim: str
) -> None:
    purchase = buy(Plan(mode, victim=victim))
    assert purchase.after == purchase.before
    assert not purchase.faults()


@pytest.mark.long
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails", [False, True], ids=["paid", "not-paid"])
def test_whoever_dies_it_is_all_or_nothing(buy: Buy, mode: str, victim: str, fails: bool) -> None:
    assert not buy(Plan(mode, fails=fails, victim=victim)).faults()


def test_databases_of_somebody_else_are_left_alone(buy: Buy, urls: list[str]) -> None:
    with pytest.raises(BooksError, match="must not be there before"), servers(urls):
        pass
    assert not buy(Plan("AT")).faults()
