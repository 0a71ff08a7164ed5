"""Tables of the services: the logs of both, and those that COMPLEX_ORDER keeps its books in.

They are made on connections of their own before a branch is started: MariaDB takes no data
definition within one (error 1399).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_LOG: Final = """CREATE TABLE IF NOT EXISTS {name} (
    transaction_id VARCHAR(64) NOT NULL,
    attempt INT NOT NULL,
    xid VARCHAR(64) NOT NULL,
    business_type VARCHAR(128) NOT NULL,
    data_source VARCHAR(16) NOT NULL,

    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (transaction_id, attempt)
)"""

LOGS: Final = ("xa_transaction_log", "jta_transaction_log")

_OF_ORDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "primary": (
        """CREATE TABLE IF NOT EXISTS inventory (
            sku VARCHAR(64) NOT NULL PRIMARY KEY,
            quantity INT NOT NULL CHECK (quantity >= 0),
            version INT NOT NULL DEFAULT 0
        )""",
        """CREATE TABLE IF NOT EXISTS shipping_rate (
            region VARCHAR(64) NOT NULL PRIMARY KEY,
            base DECIMAL(20, 2) NOT NULL,
            per_kg DECIMAL(20, 2) NOT NULL
        )""",
        """CREATE TABLE IF NOT EXISTS coupon (
            code VARCHAR(64) NOT NULL PRIMARY KEY,
            amount DECIMAL(20, 2) NOT NULL,
            remaining INT NOT NULL CHECK (remaining >= 0)
        )""",
    ),
    "secondary": (
        """CREATE TABLE IF NOT EXISTS account (
            account_id VARCHAR(64) NOT NULL PRIMARY KEY,
            balance DECIMAL(20, 2) NOT NULL CHECK (balance >= 0),
            version INT NOT NULL DEFAULT 0
        )""",
        """CREATE TABLE IF NOT EXISTS orders (
            order_id VARCHAR(64) NOT NULL PRIMARY KEY,
            customer_id VARCHAR(64) NOT NULL,
            subtotal DECIMAL(20, 2) NOT NULL,
            discount DECIMAL(20, 2) NOT NULL,
            shipping DECIMAL(20, 2) NOT NULL,
            total DECIMAL(20, 2) NOT NULL
        )""",
        """CREATE TABLE IF NOT EXISTS order_item (
            order_id VARCHAR(64) NOT NULL,
            line INT NOT NULL,
            sku VARCHAR(64) NOT NULL,
            price DECIMAL(20, 6) NOT NULL,
            quantity INT NOT NULL,
            PRIMARY KEY (order_id, line)
        )""",
        """CREATE TABLE IF NOT EXISTS payment (
            order_id VARCHAR(64) NOT NULL PRIMARY KEY,
            account_id VARCHAR(64) NOT NULL,
            method VARCHAR(64) NOT NULL,
            amount DECIMAL(20, 2) NOT NULL
        )""",
    ),
}

_THERE_ALREADY: Final = frozenset({1050, "42P07", "23505"})
"""Two nodes made it at once: MariaDB's table exists, PostgreSQL's duplicate table and key."""


def definitions(source: str, *, of_orders: bool) -> list[str]:
    """Return what makes the tables of a source."""
    logs = [_LOG.format(name=name) for name in LOGS]
    return [*logs, *(_OF_ORDERS[source] if of_orders else ())]


def create_missing(connection: Any, statements: list[str]) -> None:
    """Make tables on a connection that commits each statement. Raises: what the driver raises."""
    for statement in statements:
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        except Exception as error:
            if not _THERE_ALREADY.intersection((*error.args[:1], getattr(error, "sqlstate", None))):
                raise
