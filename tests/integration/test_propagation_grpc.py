"""Transactions through real servers and clients of gRPC, of all kinds of calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import pytest
from grpc import aio

from tidelock.clocks import LamportClock
from tidelock.participant_clocks import ParticipantClocks
from tidelock.propagation.grpc_client import carry, carrying
from tidelock.propagation.grpc_server import AsyncTransactionInterceptor, TransactionInterceptor
from tidelock.transaction.context import bound, current, current_xid

HOSTS = ["127.0.0.1"]
Service: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"


def seen() -> bytes:
    return str(current_xid()).encode()


# A service by hand: bytes in, bytes out. Each method answers the xid that it works for.


def unary(request: bytes, servicer: grpc.ServicerContext) -> bytes:
    if request == b"fail":
        raise LookupError("broken on purpose")
    return seen()


def streaming(request: bytes, servicer: grpc.ServicerContext) -> Iterator[bytes]:
    for _ in range(3):
        yield seen()


def gathering(requests: Iterator[bytes], servicer: grpc.ServicerContext) -> bytes:
    return b",".join(seen() for _ in requests)


def both(requests: Iterator[bytes], servicer: grpc.ServicerContext) -> Iterator[bytes]:
    for _ in requests:
        yield seen()


async def unary_later(request: bytes, servicer: Any) -> bytes:
    if request == b"fail":
        raise LookupError("broken on purpose")
    return seen()


async def streaming_later(request: bytes, servicer: Any) -> AsyncIterator[bytes]:
    for _ in range(3):
        yield seen()


async def gathering_later(requests: AsyncIterator[bytes], servicer: Any) -> bytes:
    return b",".join([seen() async for _ in requests])


async def writing_later(requests: AsyncIterator[bytes], servicer: Any) -> None:
    async for _ in requests:
        await servicer.write(seen())


def methods(one: Any, stream: Any, gather: Any, two: Any) -> Service:
    return grpc.method_handlers_generic_handler(
        "test.Service",
        {
            "One": grpc.unary_unary_rpc_method_handler(one),
            "Stream": grpc.unary_stream_rpc_method_handler(stream),
            "Gather": grpc.stream_unary_rpc_method_handler(gather),
            "Both": grpc.stream_stream_rpc_method_handler(two),
        },
    )


BLOCKING = methods(unary, streaming, gathering, both)
LATER = methods(unary_later, streaming_later, gathering_later, writing_later)


def call_all(channel: Any) -> list[Any]:
    """One call of each kind; the answers as they come."""
    one, stream = (
        channel.unary_unary("/test.Service/One", None, None),
        channel.unary_stream("/test.Service/Stream", None, None),
    )
    gather = channel.stream_unary("/test.Service/Gather")
    two = channel.stream_stream("/test.Service/Both")
    return [
        one(b"", timeout=20),
        list(stream(b"", timeout=20)),
        gather(iter([b"", b""]), timeout=20),
        list(two(iter([b"", b""]), timeout=20)),
    ]


def expected(xid: bytes) -> list[Any]:
    return [xid, [xid] * 3, xid + b"," + xid, [xid] * 2]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:  # one: what stays bound in it is seen by the next call
        yield pool


@pytest.fixture
def served(threads: ThreadPoolExecutor) -> Iterator[str]:
    server = grpc.server(threads, handlers=[BLOCKING], interceptors=[TransactionInterceptor()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait(20)


def test_calls_of_all_kinds_are_served_within_their_transaction(served: str) -> None:
    with grpc.insecure_channel(served) as bare:
        channel = carry(bare, served, hosts=HOSTS)
        with bound("h:1:1"):
            assert call_all(channel) == expected(b"h:1:1")
        assert call_all(channel) == expected(b"None")
        assert current() is None


def test_a_target_that_is_not_listed_is_not_told(served: str) -> None:
    with grpc.insecure_channel(served) as bare, bound("h:1:1"):
        assert call_all(carry(bare, served, hosts=["127.0.0.1:1"])) == expected(b"None")
        one = carry(bare, served, hosts=[]).unary_unary("/test.Service/One", None, None)
        assert one(b"", metadata=(("x-tx-xid", "h:1:1"),), timeout=20) == b"None"


def test_nothing_stays_bound_after_a_failure(served: str) -> None:
    with grpc.insecure_channel(served) as bare:
        one = carry(bare, served, hosts=HOSTS).unary_unary("/test.Service/One", None, None)
        with bound("h:1:1"), pytest.raises(grpc.RpcError, match="broken"):
            one(b"fail", timeout=20)
        assert one(b"", timeout=20) == b"None"


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_a_malformed_xid_is_an_invalid_argument(served: str, kind: str) -> None:
    path = "/test.Service/One" if kind == "unary_unary" else "/test.Service/Stream"
    with grpc.insecure_channel(served) as channel:
        call = getattr(channel, kind)(path)
        with pytest.raises(grpc.RpcError, match="is no xid") as refused:
            list(call(b"", metadata=[("tx_xid", "no xid")], timeout=20))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_method_stays_unknown(served: str) -> None:
    with grpc.insecure_channel(served) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/test.Service/Nothing", None, None)(b"", timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_clocks_go_both_ways(threads: ThreadPoolExecutor) -> None:
    theirs, ours = ParticipantClocks("theirs"), ParticipantClocks("ours")
    interceptors: list[Any] = [TransactionInterceptor(clocks=theirs)]
    server = grpc.server(threads, handlers=[BLOCKING], interceptors=interceptors)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with grpc.insecure_channel(target) as bare:
        channel = carry(bare, target, hosts=HOSTS, clocks=ours)
        channel.unary_unary("/test.Service/One", None, None)(b"", timeout=20)
        assert theirs.read().lamport == LamportClock(3)
        assert ours.read().lamport == LamportClock(4)
        list(channel.unary_stream("/test.Service/Stream", None, None)(b"", timeout=20))
        assert theirs.read().lamport == LamportClock(7)
    server.stop(None).wait(20)


@asynccontextmanager
async def serving_later(
    threads: ThreadPoolExecutor, service: Service, clocks: ParticipantClocks
) -> AsyncIterator[str]:
    server = aio.server(
        threads, handlers=[service], interceptors=[AsyncTransactionInterceptor(clocks=clocks)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize("service", [LATER, BLOCKING], ids=["coroutines", "functions"])
async def test_asynchronous_calls_of_all_kinds_are_served_within_their_transaction(
    service: Service, threads: ThreadPoolExecutor
) -> None:
    async with serving_later(threads, service, ParticipantClocks("theirs")) as target:
        interceptors = carrying(target, hosts=HOSTS)
        async with aio.insecure_channel(target, interceptors=interceptors) as channel:
            with bound("h:1:1"):
                assert await call_all_later(channel) == expected(b"h:1:1")
            assert await call_all_later(channel) == expected(b"None")
        assert current() is None
        async with aio.insecure_channel(target) as channel:
            stream = channel.unary_stream("/test.Service/Stream", None, None)
            with pytest.raises(aio.AioRpcError, match="is no xid"):
                _ = [_ async for _ in stream(b"", metadata=[("x-tx-xid", "no xid")], timeout=20)]


async def test_clocks_go_both_ways_with_all_kinds_of_asynchronous_calls(
    threads: ThreadPoolExecutor,
) -> None:
    theirs, ours = ParticipantClocks("theirs"), ParticipantClocks("ours")
    async with serving_later(threads, LATER, theirs) as target:
        interceptors = carrying(target, hosts=HOSTS, clocks=ours)
        async with aio.insecure_channel(target, interceptors=interceptors) as channel:
            await call_all_later(channel)
            # Each call is a sending and a receipt on either side.
            assert counted(theirs, "theirs") == 8
            assert counted(theirs, "ours") > 0
            async with asyncio.timeout(20):
                while counted(ours, "ours") < 8:
                    await asyncio.sleep(0.01)
            assert counted(ours, "theirs") == 8


def counted(clocks: ParticipantClocks, participant: str) -> int:
    vector = clocks.read().vector
    assert vector is not None
    return vector.of(participant)


async def call_all_later(channel: aio.Channel) -> list[Any]:
    one = channel.unary_unary("/test.Service/One", None, None)
    stream = channel.unary_stream("/test.Service/Stream", None, None)
    gather = channel.stream_unary("/test.Service/Gather", None, None)
    two = channel.stream_stream("/test.Service/Both", None, None)
    return [
        await one(b"", timeout=20),
        [part async for part in stream(b"", timeout=20)],
        await gather(iter([b"", b""]), timeout=20),
        [part async for part in two(iter([b"", b""]), timeout=20)],
    ]
