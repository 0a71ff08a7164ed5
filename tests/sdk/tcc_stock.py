"""A stock of tea that is sold by TCC, in any database through any driver."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from tests.databases.connections import AWAITING, DIALECT_OF, Database
from tidelock.application import Application
from tidelock.fence.context import ActionContext
from tidelock.fence.fence_table import fence_ddl
from tidelock.sql.drivers import session_of
from tidelock.sql.session import MARK
from tidelock.tcc.actions import tcc_transaction
from tidelock.tcc.source import TccDataSource

TABLE = "CREATE TABLE stock (sku VARCHAR(20) PRIMARY KEY, free INT, reserved INT, sold INT)"
ROW = "INSERT INTO stock VALUES ('tea', 10, 0, 0)"

RESERVE = f"UPDATE stock SET free = free - {MARK}, reserved = reserved + {MARK} WHERE sku = {MARK}"
SELL = f"UPDATE stock SET reserved = reserved - {MARK}, sold = sold + {MARK} WHERE sku = {MARK}"
GIVE_BACK = (
    f"UPDATE stock SET free = free + {MARK}, reserved = reserved - {MARK} WHERE sku = {MARK}"
)


class Stock:
    """A database with a stock of 10, of which `take` reserves; each thing that was run is noted."""

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
        self.source = TccDataSource(connect)
        decorate = tcc_transaction(
            confirm=self._async_confirm if self.awaits else self._confirm,
            cancel=self._async_cancel if self.awaits else self._cancel,
            source=self.source,
            carry=("sku",),
            name="take",
            application=application,
        )
        self._take: Callable[..., Any] = decorate(self._async_try if self.awaits else self._try)

    async def take(self, count: int, *, sku: str = "tea") -> Any:
        """Call the action as its kind wants."""
        found = self._take(sku, count)
        return await found if inspect.isawaitable(found) else found

    def take_now(self, count: int, *, sku: str = "tea") -> Any:
        return self._take(sku, count)

    def numbers(self) -> tuple[int, int, int]:
        """Return what is free, reserved and sold."""
        ((free, reserved, sold),) = self.database.sql("SELECT free, reserved, sold FROM stock")
        return int(free), int(reserved), int(sold)

    def fence_rows(self) -> list[int]:
        return [int(row[0]) for row in self.database.sql("SELECT status FROM tidelock_fence")]

    # --- the three

    async def _run(self, what: str, context: ActionContext, text: str, count: int) -> None:
        self.ran.append(what)
        self.before(what)
        session = session_of(context.connection)
        await session.execute(text, (count, count, context.data["sku"]))

    def _try(self, context: ActionContext, sku: str, count: int) -> str:
        context.data["count"] = count
        _driven(self._run("try", context, RESERVE, count))
        return f"{count} of {sku}"

    def _confirm(self, context: ActionContext) -> None:
        _driven(self._run("confirm", context, SELL, context.data["count"]))

    def _cancel(self, context: ActionContext) -> None:
        _driven(self._run("cancel", context, GIVE_BACK, context.data["count"]))

    async def _async_try(self, context: ActionContext, sku: str, count: int) -> str:
        context.data["count"] = count
        await self._run("try", context, RESERVE, count)
        return f"{count} of {sku}"

    async def _async_confirm(self, context: ActionContext) -> None:
        await self._run("confirm", context, SELL, context.data["count"])

    async def _async_cancel(self, context: ActionContext) -> None:
        await self._run("cancel", context, GIVE_BACK, context.data["count"])


def _driven(work: Awaitable[None]) -> None:
    from tidelock.driving import drive  # noqa: PLC0415

    drive(work)  # type: ignore[arg-type]  # a coroutine
