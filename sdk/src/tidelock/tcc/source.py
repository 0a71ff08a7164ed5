"""The database in which Try, Confirm and Cancel do their work."""

from __future__ import annotations

from tidelock.fence.source import FencedDataSource


class TccDataSource(FencedDataSource):
    """Gives the functions of TCC their connections, with the table `tidelock_fence` beside::

    stock = TccDataSource(lambda: pymysql.connect(host="db", database="stock"))
    """
