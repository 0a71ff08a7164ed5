"""Lists read a page, however much there is."""

from __future__ import annotations

import pytest

from statemachine.store import Reader
from statemachine.transactions import listing
from statemachine.transactions.listing import Wanted, list_globals, list_rows
from tests.statemachine.transacting import Transactions, row


class Counting:
    """A reader that counts the rows that it gave."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.rows = 0

    def get(self, key: bytes) -> bytes | None:
        self.rows += 1
        return self._reader.get(key)

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        found = self._reader.scan(start, stop, limit=limit, reverse=reverse)
        self.rows += len(found)
        return found


@pytest.fixture(scope="module")
def log() -> Transactions:
    log = Transactions()
    for number in range(60):
        log.begin(f"x{number}")
        log.branch(*(row(key) for key in range(number * 50, number * 50 + 50)), xid=f"x{number}")
    return log


@pytest.mark.parametrize("xid", [None, "x7"])
@pytest.mark.parametrize("resource_id", [None, "db"])
def test_a_page_of_rows_reads_little_more_than_it_shows(
    log: Transactions, xid: str | None, resource_id: str | None
) -> None:
    reader = Counting(log.store)
    page, cursor = list_rows(reader, resource_id=resource_id, xid=xid, cursor=None, limit=10)
    assert len(page) == 10
    assert cursor is not None
    assert reader.rows <= 25


def test_a_page_of_transactions_ends_when_it_has_looked_at_much(
    log: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "GREATEST_EXAMINED", 20)
    seen = []
    cursor: str | None = None
    for _ in range(3):
        reader = Counting(log.store)
        wanted = Wanted(name="buy", resource_id="none")
        page, cursor = list_globals(reader, wanted, cursor=cursor, limit=10)
        assert page == []
        assert reader.rows <= 100
        seen.append(cursor)
    assert seen[2] is None
    assert None not in seen[:2]
