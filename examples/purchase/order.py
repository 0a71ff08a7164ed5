"""The order service: what is bought becomes an order. The same work in each mode."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import tidelock
from examples.purchase.database import Database
from examples.purchase.service import Actions, configure, in_mode, serve, setting

configure("order")
db = Database(setting("DATABASE", "sqlite:///db_order.db"))


def place(connection: Any, status: str, order: dict[str, Any]) -> None:
    """What there is to do, as SQL."""
    db.execute(
        connection,
        "INSERT INTO order_tbl (id, user_id, commodity_code, count, money, status)"
        " VALUES (:order_id, :user_id, :commodity_code, :count, :money, :status)",
        status=status,
        **order,
    )


# AT: the SQL as it is, undone from images of its rows


@tidelock.local_transaction
def place_at(**order: Any) -> None:
    with closing(db.at.connect()) as connection:
        place(connection, "PLACED", order)
        connection.commit()


# XA: the SQL as it is, prepared by the database


def place_xa(**order: Any) -> None:
    with db.xa.connection() as connection:
        place(connection, "PLACED", order)


# TCC: Try writes the order down, Confirm places it, Cancel strikes it out.


def confirm(context: tidelock.ActionContext) -> None:
    db.execute(
        context.connection,
        "UPDATE order_tbl SET status = 'PLACED' WHERE id = :order_id",
        **context.data,
    )


def cancel(context: tidelock.ActionContext) -> None:
    db.execute(context.connection, "DELETE FROM order_tbl WHERE id = :order_id", **context.data)


@tidelock.tcc_transaction(
    confirm=confirm, cancel=cancel, source=db.tcc, carry=("order_id",), name="order"
)
def write_down(context: tidelock.ActionContext, /, order_id: str, **order: Any) -> None:
    place(context.connection, "PENDING", {"order_id": order_id, **order})


if __name__ == "__main__":
    actions: Actions = {"AT": place_at, "XA": place_xa, "TCC": write_down}
    serve("/create", in_mode(actions), port=8002, on_start=db.attach)
