"""Transactions for clients of gRPC, with threads and with asyncio.

::

    target = "orders.internal:50051"
    channel = carry(grpc.insecure_channel(target), target)
    channel = grpc.aio.insecure_channel(target, interceptors=carrying(target))

An interceptor does not see where its channel leads, so it is told. The target is judged by the list
of hosts like the URLs of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from tidelock.application import Application
from tidelock.participant_clocks import ParticipantClocks
from tidelock.propagation.carrier import Carrier
from tidelock.propagation.grpc_metadata import finder, place_of, with_headers

try:
    import grpc
    from grpc import aio
except ImportError as missing:  # pragma: no cover
    raise ImportError(f'{missing}; it comes with: pip install "tidelock[grpc]"') from missing


def carry(
    channel: grpc.Channel,
    target: str,
    *,
    application: Application | None = None,
    hosts: Iterable[str] | None = None,
    clocks: ParticipantClocks | None = None,
) -> grpc.Channel:
    """Return a channel that attaches the bound transaction to its calls.

    `hosts` are those that are told, as in `AllowedHosts`. They are the application's unless given,
    and so are the clocks.

    Raises:
        ValueError: a host is none, or the target names not one.
    """
    carrier = Carrier(application, hosts=hosts, clocks=clocks)
    return grpc.intercept_channel(channel, _Interceptor(carrier, place_of(target)))


def carrying(
    target: str,
    *,
    application: Application | None = None,
    hosts: Iterable[str] | None = None,
    clocks: ParticipantClocks | None = None,
) -> list[Any]:
    """Return the interceptors for a channel of `grpc.aio` that leads to `target`.

    Arguments and errors are those of `carry`.
    """
    carrier = Carrier(application, hosts=hosts, clocks=clocks)
    place = place_of(target)
    # One object of all four kinds would be taken for the first only.
    kinds = (_AsyncUnaryUnary, _AsyncUnaryStream, _AsyncStreamUnary, _AsyncStreamStream)
    return [kind(carrier, place) for kind in kinds]


class _Details(NamedTuple):
    """What a call is; the library's own class is not public."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Interceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]
):
    def __init__(self, carrier: Carrier, place: tuple[str, int]) -> None:
        self._carrier = carrier
        self._place = place

    def _intercept(self, continuation: Callable[[Any, Any], Any], details: Any, said: Any) -> Any:
        left = _Details(
            details.method,
            details.timeout,
            with_headers(details.metadata, self._carrier.leave(*self._place)),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        call = continuation(left, said)

        def ended(*_: Any) -> None:
            self._carrier.hear(finder(call.trailing_metadata()))

        # Not every call is a future, and those that have failed already are nothing else.
        if isinstance(call, grpc.Future):
            call.add_done_callback(ended)
        elif not call.add_callback(ended):
            ended()
        return call

    # One for all kinds: what differs are names of arguments, which the library does not use.
    intercept_unary_unary = _intercept  # type: ignore[assignment]
    intercept_unary_stream = _intercept  # type: ignore[assignment]
    intercept_stream_unary = _intercept  # type: ignore[assignment]
    intercept_stream_stream = _intercept  # type: ignore[assignment]


class _AsyncInterceptor:
    def __init__(self, carrier: Carrier, place: tuple[str, int]) -> None:
        self._carrier: Final = carrier
        self._place = place
        self._hearing: set[asyncio.Task[None]] = set()

    async def _intercept(
        self, continuation: Callable[[Any, Any], Any], details: Any, said: Any
    ) -> Any:
        headers = self._carrier.leave(*self._place)
        metadata = aio.Metadata(*with_headers(details.metadata, headers))
        call = await continuation(details._replace(metadata=metadata), said)
        if self._carrier.hears:
            call.add_done_callback(self._ended)
        return call

    def _ended(self, call: Any) -> None:
        task = asyncio.ensure_future(self._hear(call))
        self._hearing.add(task)
        task.add_done_callback(self._hearing.discard)

    async def _hear(self, call: Any) -> None:
        self._carrier.hear(finder(await call.trailing_metadata()))


class _AsyncUnaryUnary(_AsyncInterceptor, aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    intercept_unary_unary = _AsyncInterceptor._intercept  # type: ignore[assignment]


class _AsyncUnaryStream(_AsyncInterceptor, aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    intercept_unary_stream = _AsyncInterceptor._intercept  # type: ignore[assignment]


class _AsyncStreamUnary(_AsyncInterceptor, aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg]
    intercept_stream_unary = _AsyncInterceptor._intercept  # type: ignore[assignment]


class _AsyncStreamStream(_AsyncInterceptor, aio.StreamStreamClientInterceptor):  # type: ignore[type-arg]
    intercept_stream_stream = _AsyncInterceptor._intercept  # type: ignore[assignment]
