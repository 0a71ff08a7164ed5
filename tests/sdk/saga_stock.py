"""A stock of tea of which steps of sagas take, in any database through any driver."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.databases.connections import AWAITING, DIALECT_OF, Database
from tidelock.application import Application
from tidelock.driving import drive
from tidelock.fence.context import ActionContext
from tidelock.fence.fence_table import fence_ddl
from tidelock.saga.source import SagaDataSource
from tidelock.saga.steps import saga_step
from tidelock.sql.drivers import session_of
from tidelock.sql.session import MARK

TABLE = "CREATE TABLE stock (sku VARCHAR(20) PRIMARY KEY, free INT)"
ROW = "INSERT INTO stock VALUES ('tea', 10)"

TAKE = f"UPDATE stock SET free = free - {MARK} WHERE sku = {MARK}"
GIVE_BACK = f"UPDATE stock SET free = free + {MARK} WHERE sku = {MARK}"


class OutOfStockError(Exception):
    """Nothing was taken, and nothing will be."""


class Stock:
    """A database with a stock of 10; each thing that was run is noted."""

    def __init__(
        self, database: Database, driver: str, application: Application, *, makes: bool = True
    ) -> None:
        self.database = database
        self.driver = driver
        self.application = application
        self.ran: list[str] = []
        self.before: Callable[[str], object] = lambda _: None
        """Called with the name of what is about to run."""
        if makes:
            database.sql(fence_ddl(DIALECT_OF[driver]), TABLE, ROW)  # type: ignore[arg-type]  # names of dialects
        self.awaits = driver in AWAITING
        connect: Any = database.connect if not self.awaits else lambda: database.open(driver)
        self.source = SagaDataSource(connect)
        decorate = saga_step(
            compensate=self._async_compensate if self.awaits else self._compensate,
            source=self.source,
            refused_by=OutOfStockError,
            name="take",
            application=application,
        )
        self._take: Callable[..., Any] = decorate(self._async_step if self.awaits else self._step)

    async def take(self, count: int, *, sku: str = "tea") -> Any:
        """Call the step as its kind wants."""
        found = self._take(sku, count)
        return await found if inspect.isawaitable(found) else found

    def take_now(self, count: int, *, sku: str = "tea") -> Any:
        return self._take(sku, count)

    def free(self) -> int:
        ((free,),) = self.database.sql("SELECT free FROM stock")
        return int(free)

    def fence_rows(self) -> list[int]:
        return [int(row[0]) for row in self.database.sql("SELECT status FROM tidelock_fence")]

    # --- the two

    async def _run(
        self, what: str, context: ActionContext, text: str, count: int, sku: str
    ) -> None:
        self.ran.append(what)
        self.before(what)
        await session_of(context.connection).execute(text, (count, sku))

    def _step(
        self, context: ActionContext, sku: str, count: int, price: Decimal = Decimal("0.10")
    ) -> str:
        return drive(self._async_step(context, sku, count, price))

    def _compensate(self, context: ActionContext, sku: str, count: int, price: Decimal) -> None:
        drive(self._async_compensate(context, sku, count, price))

    async def _async_step(
        self, context: ActionContext, sku: str, count: int, price: Decimal = Decimal("0.10")
    ) -> str:
        await self._run("step", context, TAKE, count, sku)
        context.data["total"] = str(count * price)
        return f"{count} of {sku}"

    async def _async_compensate(
        self, context: ActionContext, sku: str, count: int, price: Decimal
    ) -> None:
        assert context.data["total"] == str(count * price)
        await self._run("compensate", context, GIVE_BACK, count, sku)
