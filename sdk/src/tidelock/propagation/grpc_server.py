"""Transactions for servers of gRPC, with threads and with asyncio.

::

    server = grpc.server(threads, interceptors=[TransactionInterceptor()])
    server = grpc.aio.server(interceptors=[AsyncTransactionInterceptor()])

The xid comes in the metadata `x-tx-xid`. Streams are read and written within the transaction. A
call that brings no usable xid where it brings one is answered `INVALID_ARGUMENT`. Clocks are
answered behind the last message; not by plain functions on a server of `grpc.aio`, whose metadata
cannot be read.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import Context, copy_context
from typing import Any, TypeAlias

from tidelock.application import Application
from tidelock.participant_clocks import ParticipantClocks
from tidelock.propagation.carrier import Arrival, Carrier
from tidelock.propagation.grpc_metadata import finder
from tidelock.propagation.headers import RefusedRequestError
from tidelock.transaction.context import bound

try:
    import grpc
    from grpc import aio
except ImportError as missing:  # pragma: no cover
    raise ImportError(f'{missing}; it comes with: pip install "tidelock[grpc]"') from missing

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
"""Generic for type checkers only."""

Behaviour = Callable[[Any, Any], Any]
"""A method of a servicer. What it takes and returns is the service's own."""


class TransactionInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Binds the transaction of each call while it is served."""

    def __init__(
        self,
        *,
        application: Application | None = None,
        clocks: ParticipantClocks | None = None,
    ) -> None:
        """The clocks are the application's unless given."""
        self._carrier = Carrier(application, clocks=clocks)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        try:
            arrival = self._carrier.arrive(finder(handler_call_details.invocation_metadata))
        except RefusedRequestError as refused:
            return _with_behaviour(handler, _aborting(refused.detail))
        streams = handler.response_streaming
        return _with_behaviour(
            handler, (_streaming if streams else _answering)(_behaviour(handler), arrival)
        )


class AsyncTransactionInterceptor(aio.ServerInterceptor):  # type: ignore[type-arg]
    """The same for servers of `grpc.aio`, whose methods may be coroutines or functions."""

    def __init__(
        self,
        *,
        application: Application | None = None,
        clocks: ParticipantClocks | None = None,
    ) -> None:
        """The clocks are the application's unless given."""
        self._carrier = Carrier(application, clocks=clocks)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            # The stubs do not say that a method may be unknown.
            return handler  # type: ignore[unreachable]
        try:
            arrival = self._carrier.arrive(finder(handler_call_details.invocation_metadata))
        except RefusedRequestError as refused:
            return _with_behaviour(handler, _aborting_later(refused.detail))
        behaviour = _behaviour(handler)
        if inspect.isasyncgenfunction(behaviour):
            return _with_behaviour(handler, _streaming_later(behaviour, arrival))
        if inspect.iscoroutinefunction(behaviour):
            return _with_behaviour(handler, _answering_later(behaviour, arrival))
        streams = handler.response_streaming
        return _with_behaviour(handler, (_streaming if streams else _answering)(behaviour, arrival))


def _behaviour(handler: Handler) -> Behaviour:
    found = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    assert found is not None, "a handler has the one method of its kind"
    return found


def _with_behaviour(handler: Handler, behaviour: Behaviour) -> Handler:
    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    return makers[bool(handler.request_streaming), bool(handler.response_streaming)](
        behaviour, handler.request_deserializer, handler.response_serializer
    )


def _aborting(why: str) -> Behaviour:
    def refuse(request: Any, servicer: Any) -> Any:
        servicer.abort(grpc.StatusCode.INVALID_ARGUMENT, why)

    return refuse


def _aborting_later(why: str) -> Behaviour:
    async def refuse(request: Any, servicer: Any) -> Any:
        await servicer.abort(grpc.StatusCode.INVALID_ARGUMENT, why)

    return refuse


def _context(arrival: Arrival) -> Context:
    with bound(arrival.xid):
        return copy_context()


def _answering(behaviour: Behaviour, arrival: Arrival) -> Behaviour:
    def serve(request: Any, servicer: Any) -> Any:
        try:
            return _context(arrival).run(behaviour, request, servicer)
        finally:
            _send_clocks(servicer, arrival)

    return serve


def _streaming(behaviour: Behaviour, arrival: Arrival) -> Behaviour:
    def serve(request: Any, servicer: Any) -> Iterator[Any]:
        context = _context(arrival)
        try:
            messages = context.run(lambda: iter(behaviour(request, servicer)))
            while True:
                try:
                    message = context.run(next, messages)
                except StopIteration:
                    return
                yield message
        finally:
            _send_clocks(servicer, arrival)

    return serve


def _answering_later(behaviour: Behaviour, arrival: Arrival) -> Behaviour:
    async def serve(request: Any, servicer: Any) -> Any:
        try:
            with bound(arrival.xid):
                return await behaviour(request, servicer)
        finally:
            _send_clocks(servicer, arrival)

    return serve


def _streaming_later(behaviour: Behaviour, arrival: Arrival) -> Behaviour:
    async def serve(request: Any, servicer: Any) -> AsyncIterator[Any]:
        messages = behaviour(request, servicer)
        try:
            while True:
                with bound(arrival.xid):
                    try:
                        message = await anext(messages)
                    except StopAsyncIteration:
                        return
                yield message
        finally:
            with bound(arrival.xid):
                await messages.aclose()
            _send_clocks(servicer, arrival)

    return serve


def _send_clocks(servicer: Any, arrival: Arrival) -> None:
    """Put the clocks behind the answer. What the service itself put there stays."""
    theirs = getattr(servicer, "trailing_metadata", None)
    if arrival.answers_clocks and theirs is not None:
        ours = [(name.lower(), value) for name, value in arrival.answer()]
        servicer.set_trailing_metadata((*(theirs() or ()), *ours))
