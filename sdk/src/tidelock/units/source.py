"""A database whose mode the unit says, as TX-LCN's proxied data source."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tidelock.application import Application
from tidelock.lcn.source import LcnBlock, LcnDataSource
from tidelock.txc.source import TxcBlock, TxcDataSource
from tidelock.units.unit import UnitType, current_unit


class TxDataSource:
    """Connections for units of any type::

    stock = TxDataSource(lambda: pymysql.connect(host="db", database="stock"))

    @tidelock.tx_transaction(type="LCN")   # or TXC: the same function, another mode
    def take(sku: str) -> None:
        with stock.connection() as connection: ...
    """

    def __init__(
        self,
        connect: Callable[[], Any] | Callable[[], Awaitable[Any]],
        *,
        default: UnitType | str = UnitType.LCN,
        application: Application | None = None,
        lcn: dict[str, Any] | None = None,
        txc: dict[str, Any] | None = None,
    ) -> None:
        """Connect as `LcnDataSource` and `TxcDataSource` do; `lcn` and `txc` are their options.

        `default` is for blocks outside of decorated units.

        Raises:
            ValueError: `default` is neither LCN nor TXC.
        """
        self._default = UnitType(default)
        if self._default is UnitType.TCC:
            raise ValueError("default is LCN or TXC: a Try has a TccDataSource")
        self.lcn = LcnDataSource(connect, application=application, **(lcn or {}))
        """The same database in the LCN mode."""
        self.txc = TxcDataSource(connect, application=application, **(txc or {}))
        """The same database in the TXC mode."""

    def connection(self) -> LcnBlock | TxcBlock:
        """Return a block as the current unit's type wants it.

        Raises: what `LcnDataSource.connection` and `TxcDataSource.connection` raise.
        """
        unit = current_unit()
        kind = self._default if unit is None or unit.type is None else unit.type
        return self.txc.connection() if kind is UnitType.TXC else self.lcn.connection()

    def close(self) -> None:
        """Close the connections that are kept for phase two. They are opened again when needed."""
        self.txc.close()
