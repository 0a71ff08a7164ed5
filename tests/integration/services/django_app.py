"""A service of Django, for WSGI (`wsgi`) and ASGI (`asgi`); it needs a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path

from tests.integration.services.told import told
from tidelock.transaction.context import current_xid

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    MIDDLEWARE=["tidelock.propagation.django_middleware.TransactionMiddleware"],
)
django.setup()


def xid(request: HttpRequest) -> HttpResponseBase:
    return JsonResponse(told())


async def later(request: HttpRequest) -> HttpResponseBase:
    await asyncio.sleep(0)
    return JsonResponse(told())


def stream(request: HttpRequest) -> HttpResponseBase:
    def made(parts: int) -> Iterator[str]:
        for _ in range(parts):
            yield f"{current_xid()}\n"

    return StreamingHttpResponse(made(int(request.GET.get("parts", "3"))))


async def stream_later(request: HttpRequest) -> HttpResponseBase:
    async def made(parts: int) -> AsyncIterator[str]:
        for _ in range(parts):
            await asyncio.sleep(0)
            yield f"{current_xid()}\n"

    return StreamingHttpResponse(made(int(request.GET.get("parts", "3"))))


def fail(request: HttpRequest) -> HttpResponseBase:
    raise LookupError("broken on purpose")


urlpatterns = [
    path("xid", xid),
    path("later", later),
    path("stream", stream),
    path("stream-later", stream_later),
    path("fail", fail),
]
wsgi = get_wsgi_application()
asgi = get_asgi_application()
