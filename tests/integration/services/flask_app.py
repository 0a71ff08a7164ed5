"""A service of Flask that calls others by requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import requests
from flask import Flask, Response, request

from tests.integration.services.told import HOSTS, told
from tidelock.propagation.requests_client import carry
from tidelock.propagation.wsgi import TransactionMiddleware
from tidelock.transaction.context import current_xid

app = Flask(__name__)
app.wsgi_app = TransactionMiddleware(app.wsgi_app)  # type: ignore[method-assign]


@app.get("/xid")
def xid() -> Any:
    return told()


@app.get("/stream")
def stream() -> Response:
    def made(parts: int) -> Iterator[str]:
        for _ in range(parts):
            yield f"{current_xid()}\n"

    return Response(made(int(request.args.get("parts", "3"))), mimetype="text/plain")


@app.get("/fail")
def fail() -> Any:
    raise LookupError("broken on purpose")


@app.get("/next")
def following() -> Any:
    with carry(requests.Session(), hosts=HOSTS) as session:
        return {**told(), "next": session.get(request.args["url"], timeout=20).json()}
