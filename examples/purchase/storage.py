"""The storage service: what is bought leaves the stock.

The same work in each mode, so that they can be compared; a service of yours has one of them.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import tidelock
from examples.purchase.database import Database
from examples.purchase.service import Actions, RefusedError, configure, in_mode, serve, setting

configure("storage")
db = Database(setting("DATABASE", "sqlite:///db_storage.db"))


def take(connection: Any, commodity_code: str, count: int) -> None:
    """What there is to do, as SQL."""
    taken = db.execute(
        connection,
        "UPDATE storage_tbl SET count = count - :count"
        " WHERE commodity_code = :code AND count >= :count",
        code=commodity_code,
        count=count,
    )
    if taken.rowcount != 1:
        raise RefusedError(f"fewer than {count} of {commodity_code} are in stock")


# AT: the SQL as it is. It is undone from images of its rows when the purchase is not to be.


@tidelock.local_transaction
def take_at(commodity_code: str, count: int) -> None:
    with closing(db.at.connect()) as connection:
        take(connection, commodity_code, count)
        connection.commit()


# XA: the SQL as it is. The database prepares it, and nobody sees it before the purchase is decided.


def take_xa(commodity_code: str, count: int) -> None:
    with db.xa.connection() as connection:
        take(connection, commodity_code, count)


# TCC: Try sets the goods aside, Confirm hands them over, Cancel puts them back.


def hand_over(context: tidelock.ActionContext) -> None:
    db.execute(
        context.connection,
        "UPDATE storage_tbl SET frozen = frozen - :count WHERE commodity_code = :commodity_code",
        **context.data,
    )


def put_back(context: tidelock.ActionContext) -> None:
    db.execute(
        context.connection,
        "UPDATE storage_tbl SET frozen = frozen - :count, count = count + :count"
        " WHERE commodity_code = :commodity_code",
        **context.data,
    )


@tidelock.tcc_transaction(
    confirm=hand_over,
    cancel=put_back,
    source=db.tcc,
    carry=("commodity_code", "count"),
    name="storage",
)
def set_aside(context: tidelock.ActionContext, commodity_code: str, count: int) -> None:
    take(context.connection, commodity_code, count)
    db.execute(
        context.connection,
        "UPDATE storage_tbl SET frozen = frozen + :count WHERE commodity_code = :code",
        code=commodity_code,
        count=count,
    )


# SAGA: the goods leave at once, for everybody to see, and come back when the purchase is not to be.


def bring_back(context: tidelock.ActionContext, commodity_code: str, count: int) -> None:
    db.execute(
        context.connection,
        "UPDATE storage_tbl SET count = count + :count WHERE commodity_code = :code",
        code=commodity_code,
        count=count,
    )


@tidelock.saga_step(
    compensate=bring_back, source=db.saga, refused_by=RefusedError, name="storage-step"
)
def take_as_step(context: tidelock.ActionContext, commodity_code: str, count: int) -> None:
    take(context.connection, commodity_code, count)


if __name__ == "__main__":
    actions: Actions = {"AT": take_at, "XA": take_xa, "TCC": set_aside, "SAGA": take_as_step}
    serve("/deduct", in_mode(actions), port=8001, on_start=db.attach)
