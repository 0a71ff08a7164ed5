"""The order service: what is bought becomes an order. The same work in each mode."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import tidelock
from examples.purchase.database import Database
from examples.purchase.service import Actions, Body, configure, in_mode, serve, setting

configure("order")
db = Database(setting("DATABASE", "sqlite:///db_order.db"))


def place(connection: Any, order: Body, status: str = "PLACED") -> None:
    """What there is to do, as SQL."""
    db.execute(
        connection,
        "INSERT INTO order_tbl (id, user_id, commodity_code, count, money, status)"
        " VALUES (:order_id, :user_id, :commodity_code, :count, :money, :status)",
        status=status,
        **order,
    )


def delete(connection: Any, order_id: str) -> None:
    """The opposite."""
    db.execute(connection, "DELETE FROM order_tbl WHERE id = :order_id", order_id=order_id)


# AT: the SQL as it is, undone from images of its rows


@tidelock.local_transaction
def place_at(order: Body) -> None:
    with closing(db.at.connect()) as connection:
        place(connection, order)
        connection.commit()


# XA: the SQL as it is, prepared by the database


def place_xa(order: Body) -> None:
    with db.xa.connection() as connection:
        place(connection, order)


# TCC: Try writes the order down, Confirm places it, Cancel strikes it out.


def confirm(context: tidelock.ActionContext) -> None:
    db.execute(
        context.connection,
        "UPDATE order_tbl SET status = 'PLACED' WHERE id = :order_id",
        order_id=context.data["order"]["order_id"],
    )


def cancel(context: tidelock.ActionContext) -> None:
    delete(context.connection, context.data["order"]["order_id"])


@tidelock.tcc_transaction(
    confirm=confirm, cancel=cancel, source=db.tcc, carry=("order",), name="order"
)
def write_down(context: tidelock.ActionContext, order: Body) -> None:
    place(context.connection, order, "PENDING")


# SAGA: the order is there at once, for everybody to see, and goes when nothing is bought.


def withdraw(context: tidelock.ActionContext, order: Body) -> None:
    delete(context.connection, order["order_id"])


@tidelock.saga_step(compensate=withdraw, source=db.saga, name="order-step")
def place_as_step(context: tidelock.ActionContext, order: Body) -> None:
    place(context.connection, order)


if __name__ == "__main__":
    actions: Actions = {"AT": place_at, "XA": place_xa, "TCC": write_down, "SAGA": place_as_step}
    serve("/create", in_mode(actions), port=8002, on_start=db.attach)
