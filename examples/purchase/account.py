"""The account service: what is bought is paid. The same work in each mode."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import tidelock
from examples.purchase.database import Database
from examples.purchase.service import Actions, RefusedError, configure, in_mode, serve, setting

configure("account")
db = Database(setting("DATABASE", "sqlite:///db_account.db"))


def pay(connection: Any, user_id: str, money: int) -> None:
    """What there is to do, as SQL."""
    db.execute(
        connection,
        "UPDATE account_tbl SET money = money - :money WHERE user_id = :user_id",
        user_id=user_id,
        money=money,
    )
    found = db.execute(
        connection, "SELECT money FROM account_tbl WHERE user_id = :user_id", user_id=user_id
    ).fetchone()
    if found is None or found[0] < 0:
        raise RefusedError(f"{user_id} has less than {money}")


# AT: the SQL as it is, undone from images of its rows


@tidelock.local_transaction
def pay_at(user_id: str, money: int) -> None:
    with closing(db.at.connect()) as connection:
        pay(connection, user_id, money)
        connection.commit()


# XA: the SQL as it is, prepared by the database


def pay_xa(user_id: str, money: int) -> None:
    with db.xa.connection() as connection:
        pay(connection, user_id, money)


# TCC: Try holds the money, Confirm takes it, Cancel gives it back.


def take(context: tidelock.ActionContext) -> None:
    db.execute(
        context.connection,
        "UPDATE account_tbl SET frozen = frozen - :money WHERE user_id = :user_id",
        **context.data,
    )


def give_back(context: tidelock.ActionContext) -> None:
    db.execute(
        context.connection,
        "UPDATE account_tbl SET frozen = frozen - :money, money = money + :money"
        " WHERE user_id = :user_id",
        **context.data,
    )


@tidelock.tcc_transaction(
    confirm=take, cancel=give_back, source=db.tcc, carry=("user_id", "money"), name="account"
)
def hold(context: tidelock.ActionContext, user_id: str, money: int) -> None:
    pay(context.connection, user_id, money)
    db.execute(
        context.connection,
        "UPDATE account_tbl SET frozen = frozen + :money WHERE user_id = :user_id",
        user_id=user_id,
        money=money,
    )


# SAGA: the money is gone at once, for everybody to see, and refunded when nothing is bought.


def refund(context: tidelock.ActionContext, user_id: str, money: int) -> None:
    db.execute(
        context.connection,
        "UPDATE account_tbl SET money = money + :money WHERE user_id = :user_id",
        user_id=user_id,
        money=money,
    )


@tidelock.saga_step(compensate=refund, source=db.saga, refused_by=RefusedError, name="account-step")
def pay_as_step(context: tidelock.ActionContext, user_id: str, money: int) -> None:
    pay(context.connection, user_id, money)


if __name__ == "__main__":
    actions: Actions = {"AT": pay_at, "XA": pay_xa, "TCC": hold, "SAGA": pay_as_step}
    serve("/debit", in_mode(actions), port=8003, on_start=db.attach)
