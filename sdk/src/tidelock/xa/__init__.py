"""XA: the database itself prepares a branch, and holds it until the outcome is known.

::

    stock = XaSource(connect=lambda: pymysql.connect(host="db", database="stock", ...))
    stock.attach()                                   # once a process

    with tidelock.transaction("purchase"):
        with stock.connection() as connection:       # async with, for asyncmy and asyncpg
            connection.cursor().execute("UPDATE stock SET n = n - 1 WHERE sku = %s", ["a-1"])

MariaDB 10.5 and later, MySQL 8, PostgreSQL with `max_prepared_transactions` above 0.
"""

from tidelock.xa.errors import XaBranchError, XaMisuseError
from tidelock.xa.reconciler import Unsettled
from tidelock.xa.source import XaSource

__all__ = ["Unsettled", "XaBranchError", "XaMisuseError", "XaSource"]
