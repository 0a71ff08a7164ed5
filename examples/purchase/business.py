"""The business service: a purchase is three calls to others, of which all count or none."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout

import tidelock
from examples.purchase.service import (
    Body,
    BodyError,
    RefusedError,
    configure,
    serve,
    setting,
)
from tidelock.propagation.aiohttp_client import carrying

STORAGE = setting("STORAGE", "http://127.0.0.1:8001")
ORDER = setting("ORDER", "http://127.0.0.1:8002")
ACCOUNT = setting("ACCOUNT", "http://127.0.0.1:8003")
TIMEOUT_MS = int(setting("TIMEOUT_MS", "30000"))
PRICES = {"chair": 100}

MODES = {
    "AT": ("AT", "AT", "AT"),
    "XA": ("XA", "XA", "XA"),
    "TCC": ("TCC", "TCC", "TCC"),
    "SAGA": ("SAGA", "SAGA", "SAGA"),
    "MIXED": ("AT", "TCC", "SAGA"),
}
"""In which mode storage, order and account take part. One transaction may have several."""

# Only these are told of the transaction: by name and port, so that no xid goes astray.
configure("business", calls=tuple(urlsplit(url).netloc for url in (STORAGE, ORDER, ACCOUNT)))


@tidelock.global_transaction(name="purchase", timeout_ms=TIMEOUT_MS)
async def purchase(user_id: str, commodity_code: str, count: int, mode: str) -> Body:
    """Buy something. Whatever is raised in here, nothing was bought."""
    storage, order, account = MODES[mode]
    order_id, money = uuid.uuid4().hex[:12], PRICES[commodity_code] * count
    goods = {"commodity_code": commodity_code, "count": count}
    payment = {"user_id": user_id, "money": money}
    ordered = {"order_id": order_id, **goods, **payment}
    await call(f"{STORAGE}/deduct", {"mode": storage, **goods})
    await call(f"{ORDER}/create", {"mode": order, "order": ordered})
    await call(f"{ACCOUNT}/debit", {"mode": account, **payment})
    return {"order_id": order_id, "money": money}


async def call(url: str, body: Body) -> None:
    """Ask another service; `carrying` takes the transaction along."""
    patience = ClientTimeout(total=10)
    async with (
        ClientSession(middlewares=[carrying()], timeout=patience) as session,
        session.post(url, json=body) as response,
    ):
        if response.status == 409:
            raise RefusedError((await response.json())["error"])
        response.raise_for_status()


def check(body: Body) -> None:
    """Raise unless it is a purchase."""
    known = {"user_id", "commodity_code", "mode", "count"}
    if body.keys() != known:
        raise BodyError(f"it needs exactly {', '.join(sorted(known))}")
    if not isinstance(body["user_id"], str):
        raise BodyError("user_id is no text")
    for name, among in (("commodity_code", [*PRICES]), ("mode", [*MODES])):
        if body[name] not in among:
            raise BodyError(f"{name} is none of {', '.join(among)}")
    if type(body["count"]) is not int or body["count"] < 1:
        raise BodyError("count is no whole number from 1")


async def answer(body: Body) -> Any:
    check(body)
    try:
        return await purchase(**body)
    except (ClientError, TimeoutError, tidelock.TidelockError) as error:
        raise RefusedError(f"not bought: {type(error).__name__}: {error}") from error


if __name__ == "__main__":
    serve("/purchase", answer, port=8000)
