"""A service of FastAPI that calls others by httpx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from tests.integration.services.told import HOSTS, told
from tidelock.propagation.asgi import TransactionMiddleware
from tidelock.propagation.httpx_client import carry
from tidelock.transaction.context import current_xid

app = FastAPI()
app.add_middleware(TransactionMiddleware)


@app.get("/xid")
async def xid() -> Any:
    return told()


@app.get("/thread")
def thread() -> Any:
    return told()


@app.get("/stream")
async def stream(parts: int = 3) -> StreamingResponse:
    async def made() -> AsyncIterator[str]:
        for _ in range(parts):
            await asyncio.sleep(0)
            yield f"{current_xid()}\n"

    return StreamingResponse(made(), media_type="text/plain")


@app.get("/fail")
async def fail() -> Any:
    raise LookupError("broken on purpose")


@app.get("/next")
async def following(url: str) -> Any:
    async with carry(httpx.AsyncClient(), hosts=HOSTS) as client:
        return {**told(), "next": (await client.get(url)).json()}
