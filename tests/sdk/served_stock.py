"""Steps of sagas that are served to the cluster, on any database.

`python -m tests.sdk.served_stock DRIVER DATABASE-AS-JSON PORT` serves them until it is killed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.databases.connections import AWAITING, DIALECT_OF, Database
from tests.sdk.shops import Reached
from tidelock.barrier.tables import barrier_ddl
from tidelock.driving import drive
from tidelock.saga.context import StepContext
from tidelock.saga.results import saga_result_ddl
from tidelock.saga.service import SagaService
from tidelock.saga.source import SagaDataSource
from tidelock.sql.drivers import session_of
from tidelock.sql.session import MARK

TABLE = "CREATE TABLE stock (sku VARCHAR(20) PRIMARY KEY, free INT)"
ROW = "INSERT INTO stock VALUES ('tea', 10)"
CHANGE = f"UPDATE stock SET free = free + {MARK} WHERE sku = {MARK}"


class OutOfStockError(Exception):
    code = "OUT_OF_STOCK"


def tables(driver: str) -> tuple[str, ...]:
    dialect = DIALECT_OF[driver]
    return barrier_ddl(dialect), saga_result_ddl(dialect), TABLE, ROW


class ServedStock:
    """`take` and its compensation, and `pay`, which always refuses; what ran is noted."""

    def __init__(self, database: Database, driver: str, *, key: bytes | None = None) -> None:
        self.database = database
        self.ran: list[str] = []
        self.before: Callable[[str], object] = lambda _: None
        awaits = driver in AWAITING
        connect: Any = database.connect if not awaits else lambda: database.open(driver)
        self.source = SagaDataSource(connect)
        self.service = SagaService(self.source, key=key)
        take: Callable[..., Any] = self._async_take if awaits else self._take
        give_back: Callable[..., Any] = self._async_give_back if awaits else self._give_back
        self.service.step(compensate=give_back, refused_by=OutOfStockError, name="take")(take)

        def pay(context: StepContext, for_what: dict[str, int]) -> None:
            self.ran.append(f"pay for {for_what['taken']}")
            raise OutOfStockError("no money")

        if not awaits:
            self.service.step(refused_by=OutOfStockError)(pay)

    def free(self) -> int:
        ((free,),) = self.database.sql("SELECT free FROM stock")
        return int(free)

    async def _change(self, what: str, context: StepContext, sku: str, by: int) -> None:
        self.ran.append(what)
        await session_of(context.connection).execute(CHANGE, (by, sku))
        self.before(what)

    async def _async_take(self, context: StepContext, sku: str, count: int) -> dict[str, int]:
        await self._change("take", context, sku, -count)
        return {"taken": count}

    async def _async_give_back(self, context: StepContext, sku: str) -> None:
        await self._change("give back", context, sku, context.result["taken"])

    def _take(self, context: StepContext, sku: str, count: int) -> dict[str, int]:
        return drive(self._async_take(context, sku, count))

    def _give_back(self, context: StepContext, sku: str) -> None:
        drive(self._async_give_back(context, sku))


def application(stock: ServedStock) -> web.Application:
    app = web.Application()
    app.router.add_post("/saga/{path:.+}", stock.service.aiohttp_handler)
    return app


def main(driver: str, database: str, port: str) -> None:
    app = application(ServedStock(Reached(database), driver))
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
