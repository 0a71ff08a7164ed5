"""Transactions for WSGI applications: Flask, Django under WSGI, and all others.

::

    app = Flask(__name__)
    app.wsgi_app = TransactionMiddleware(app.wsgi_app)

Each request runs in a context of its own, and so does what is still being made of its answer while
the server sends it. So nothing of a transaction is left in the server's thread, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import Any

from tidelock.application import Application
from tidelock.participant_clocks import ParticipantClocks
from tidelock.propagation.carrier import Arrival, Carrier
from tidelock.propagation.headers import Find, RefusedRequestError
from tidelock.transaction.context import bound

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class TransactionMiddleware:
    """Binds the transaction of each request while it is served.

    A request that brings no usable xid where it brings one is answered 400.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        application: Application | None = None,
        clocks: ParticipantClocks | None = None,
    ) -> None:
        """Serve `app`. The clocks are the application's unless given."""
        self.app = app
        self._carrier = Carrier(application, clocks=clocks)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            arrival = self._carrier.arrive(_finder(environ))
        except RefusedRequestError as refused:
            start_response("400 Bad Request", refused.headers)
            return [refused.body]
        with bound(arrival.xid):
            context = copy_context()
        answer = context.run(self.app, environ, _answering(start_response, arrival))
        # What is all there, or a file that the server may send by itself, runs no code.
        if isinstance(answer, list | tuple) or _is_file(environ, answer):
            return answer
        return _InContext(context, answer)


class _InContext:
    """An answer of which each part is made in the request's context."""

    def __init__(self, context: Context, answer: Iterable[bytes]) -> None:
        self._context = context
        self._answer = answer
        self._parts: Iterator[bytes] = context.run(iter, answer)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(next, self._parts)

    def close(self) -> None:
        """End the answer, sent or not: servers call it (PEP 3333)."""
        close = getattr(self._answer, "close", None)
        if close is not None:
            self._context.run(close)


def _is_file(environ: Environ, answer: Iterable[bytes]) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(answer, wrapper)


def _finder(environ: Environ) -> Find:
    def find(name: str) -> list[str]:
        value = environ.get("HTTP_" + name.upper().replace("-", "_"))
        return [] if value is None else [str(value)]

    return find


def _answering(start_response: StartResponse, arrival: Arrival) -> StartResponse:
    if not arrival.answers_clocks:
        return start_response

    def answer(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        return start_response(status, [*headers, *arrival.answer()], *error)

    return answer
