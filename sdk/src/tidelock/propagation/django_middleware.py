"""Transactions for Django, under WSGI and ASGI.

::

    MIDDLEWARE = ["tidelock.propagation.django_middleware.TransactionMiddleware", ...]

Put it first. Views may be functions or coroutines. The answer that a view streams is made within
the transaction as well.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

from tidelock.propagation.carrier import Arrival, Carrier
from tidelock.propagation.headers import Find, RefusedRequestError
from tidelock.transaction.context import bound

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
    from django.http.response import HttpResponseBase
except ImportError as missing:  # pragma: no cover
    raise ImportError(f'{missing}; it comes with: pip install "tidelock[django]"') from missing

T = TypeVar("T")

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class TransactionMiddleware:
    """Binds the transaction of each request while it is served.

    A request that brings no usable xid where it brings one is answered 400. The clocks are those of
    the configured application.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response
        self._carrier = Carrier()
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        try:
            arrival = self._carrier.arrive(_finder(request))
        except RefusedRequestError as refused:
            return self._refusing(refused)
        if self._is_async:
            return self._serve(request, arrival)
        with bound(arrival.xid):
            response = self._get_response(request)
        assert isinstance(response, HttpResponseBase)
        return _finished(response, arrival)

    async def _serve(self, request: HttpRequest, arrival: Arrival) -> HttpResponseBase:
        with bound(arrival.xid):
            response = self._get_response(request)
            assert inspect.isawaitable(response)
            awaited = await response
        return _finished(awaited, arrival)

    def _refusing(
        self, refused: RefusedRequestError
    ) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        answer = HttpResponse(refused.body, status=400, headers=dict(refused.headers))
        if not self._is_async:
            return answer

        async def answered() -> HttpResponseBase:
            return answer

        return answered()


def _finder(request: HttpRequest) -> Find:
    def find(name: str) -> list[str]:
        value = request.META.get("HTTP_" + name.upper().replace("-", "_"))
        return [] if value is None else [str(value)]

    return find


def _finished(response: HttpResponseBase, arrival: Arrival) -> HttpResponseBase:
    for name, value in arrival.answer():
        response.headers[name] = value
    if arrival.xid is not None and isinstance(response, StreamingHttpResponse):
        content: Any = response.streaming_content
        if response.is_async:
            response.streaming_content = _bound_later(aiter(content), arrival.xid)
        else:
            response.streaming_content = _bound_parts(iter(content), arrival.xid)
    return response


# Bound for each part anew: what makes the parts shares its context with what sends them.


def _bound_parts(parts: Iterator[T], xid: str) -> Iterator[T]:
    try:
        while True:
            with bound(xid):
                try:
                    part = next(parts)
                except StopIteration:
                    return
            yield part
    finally:
        close = getattr(parts, "close", None)
        if close is not None:
            with bound(xid):
                close()


async def _bound_later(parts: AsyncIterator[T], xid: str) -> AsyncIterator[T]:
    try:
        while True:
            with bound(xid):
                try:
                    part = await anext(parts)
                except StopAsyncIteration:
                    return
            yield part
    finally:
        close = getattr(parts, "aclose", None)
        if close is not None:
            with bound(xid):
                await close()
