"""What AT adds to statements: each beside the bare one, on the same database in the same run."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import tidelock
from scripts.tidelock_scripts.bench.at_connections import DRIVERS, Driver, Line, Where, databases
from scripts.tidelock_scripts.bench.figures import Figure, at_most
from scripts.tidelock_scripts.bench.setting import Bench
from tidelock.at.undo_log import undo_log_ddl
from tidelock.sql.dialects import DIALECTS
from tidelock.sql.reading import understand

ROWS: Final = 1_000
MANY: Final = 100
"""Rows of an UPDATE of many."""
_TURN: Final = 10
"""Local transactions of one kind in a row, then of the other."""
_LEAST_TURNS: Final = 2
_COMMITS_AFTER: Final = "UPDATE by key"
"""The statement whose commits are told."""

_PARSED_US: Final = at_most(20)
_PARSINGS: Final = 20_000

_TABLE: Final = "CREATE TABLE item (id INT PRIMARY KEY, amount INT NOT NULL, name VARCHAR(40))"
_INSERT: Final = "INSERT INTO item (id, amount, name) VALUES ({0}, {1}, {2})"
_UPDATE: Final = "UPDATE item SET amount = amount + {0} WHERE id = {1}"
_STATEMENTS: Final = {
    "INSERT": _INSERT,
    _COMMITS_AFTER: _UPDATE,
    f"UPDATE of {MANY}": "UPDATE item SET amount = amount + {0} WHERE id >= {1} AND id < {2}",
    "DELETE": "DELETE FROM item WHERE id = {0}",
    "SELECT FOR UPDATE": "SELECT amount, name FROM item WHERE id = {0} FOR UPDATE",
}


async def at(bench: Bench) -> None:
    """Statements and commits through six drivers, with AT and without; and the cached parse."""
    _parse(bench)
    async with bench.cluster() as running:
        addresses = [f"http://{address}" for address in running.cluster.addresses.values()]
        with databases() as places:
            for number, driver in enumerate(DRIVERS):
                where = places[driver.dialect]
                known = {each.dialect for each in DRIVERS[:number]}
                await _fill(driver, where, is_there=driver.dialect in known)
                application = tidelock.Application(addresses, application_id="bench")
                async with application:
                    await _through(bench, application, driver, where)


def _parse(bench: Bench) -> None:
    """Measure what it costs to know a statement again."""
    dialect, text = DIALECTS["mysql"], _UPDATE.format("%s", "%s")
    understand(dialect, text)
    begun = time.perf_counter()
    for _ in range(_PARSINGS):
        understand(dialect, text)
    each_us = (time.perf_counter() - begun) / _PARSINGS * 1e6
    bench.add(Figure("a statement that was parsed before", each_us, "µs", _PARSED_US))


async def _through(
    bench: Bench, application: tidelock.Application, driver: Driver, where: Where
) -> None:
    source = tidelock.AtDataSource(lambda: driver.connect(where), application=application)
    bare = await driver.open(where, None)
    traced = await driver.open(where, source)
    keys = itertools.count(ROWS)
    seconds = bench.seconds / len(_STATEMENTS)
    for kind, text in _STATEMENTS.items():
        if kind == "SELECT FOR UPDATE" and driver.dialect == "sqlite":
            continue
        bench.say(f"{kind} through {driver.name}")
        measuring = _Measuring(application, text.format(*driver.marks), _values(kind, keys))
        await measuring.run(bare, traced, seconds)
        bench.add(measuring.figure(f"AT, {driver.name}: {kind}", 0))
        if kind == _COMMITS_AFTER:
            bench.add(measuring.figure(f"AT, {driver.name}: commit, register, report", 1))
    await bare.close()
    await traced.close()
    source.close()


async def _fill(driver: Driver, where: Where, *, is_there: bool) -> None:
    """Give a database the table with its rows; `is_there` when another driver has used it."""
    line = await driver.open(where, None)
    texts = ["DELETE FROM item"] if is_there else [_TABLE, undo_log_ddl(driver.dialect)]
    for text in texts:
        await line.begin()
        await line.run(text, ())
        await line.commit()
    await line.begin()
    for key in range(ROWS):
        await line.run(_INSERT.format(*driver.marks), (key, 0, "an item"))
    await line.commit()
    await line.close()


def _values(kind: str, keys: Iterator[int]) -> Callable[[], Sequence[Any]]:
    """Return what makes the values of the next statement: of a row that no other one meets."""
    places = itertools.cycle(range(0, ROWS, MANY))
    singles = itertools.cycle(range(ROWS))
    gone = itertools.count(ROWS)
    match kind:
        case "INSERT":
            return lambda: (next(keys), 1, "another item")
        case "DELETE":
            return lambda: (next(gone),)
        case "SELECT FOR UPDATE":
            return lambda: (next(singles),)
        case _ if kind == _COMMITS_AFTER:
            return lambda: (1, next(singles))
        case _:
            return lambda: (1, at := next(places), at + MANY)


class _Measuring:
    """One statement, in turns without and with AT: µs of the statement, and of its commit."""

    def __init__(
        self, application: tidelock.Application, text: str, values: Callable[[], Sequence[Any]]
    ) -> None:
        self._application = application
        self._text = text
        self._values = values
        self._bare: tuple[list[float], list[float]] = ([], [])
        self._traced: tuple[list[float], list[float]] = ([], [])

    async def run(self, bare: Line, traced: Line, seconds: float) -> None:
        ends_at = time.perf_counter() + seconds
        for turn in itertools.count():
            if turn >= _LEAST_TURNS and time.perf_counter() >= ends_at:
                return
            await self._turn(bare, self._bare)
            async with tidelock.transaction("bench", application=self._application):
                await self._turn(traced, self._traced)

    async def _turn(self, line: Line, found: tuple[list[float], list[float]]) -> None:
        for _ in range(_TURN):
            values = self._values()
            await line.begin()
            begun = time.perf_counter()
            await line.run(self._text, values)
            done = time.perf_counter()
            await line.commit()
            found[0].append((done - begun) * 1e6)
            found[1].append((time.perf_counter() - done) * 1e6)

    def figure(self, name: str, at: int) -> Figure:
        """Return how many times the bare one it takes, in the median: 0 statements, 1 commits."""
        bare, traced = statistics.median(self._bare[at]), statistics.median(self._traced[at])
        details = {
            "bareUs": round(bare, 1),
            "withAtUs": round(traced, 1),
            "times": len(self._traced[at]),
        }
        return Figure(name, traced / bare, "times the bare one", None, details)
