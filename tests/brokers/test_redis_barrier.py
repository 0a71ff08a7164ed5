"""The barrier where the business is in a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import redis.asyncio

from tests.brokers.servers import Broker
from tidelock.barrier import BarrierError, Branch, Outcome
from tidelock.barrier.outcomes import Fate
from tidelock.barrier.redis_barrier import (
    AmountTooLittleError,
    Ran,
    RedisBarrier,
    forget,
)

pytestmark = pytest.mark.brokers


@pytest.fixture
def client(redis_broker: Broker) -> Iterator[redis.Redis]:
    with redis.Redis(host=redis_broker.host, port=redis_broker.port) as made:
        made.flushall()
        made.set("stock", 100)
        yield made


@pytest.fixture
async def later(redis_broker: Broker, client: redis.Redis) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis(
        host=redis_broker.host, port=redis_broker.port, decode_responses=True
    ) as made:
        yield made


def barrier(op: str, gid: str = "g") -> RedisBarrier:
    return RedisBarrier(Branch(trans_type="tcc", gid=gid, branch_id="01", op=op))


def stock(client: redis.Redis) -> int:
    return int(str(client.get("stock"), "ascii"))  # type: ignore[arg-type]  # bytes


def test_a_branch_is_done_once_undone_once_and_never_late(client: redis.Redis) -> None:
    def call(op: str, by: int, gid: str) -> Ran:
        return barrier(op, gid).adjust(client, "stock", by)

    assert call("try", -30, "g") == Ran(Outcome.FIRST, 70)
    assert call("try", -30, "g") == Ran(Outcome.REPEATED)
    assert call("cancel", 30, "g") == Ran(Outcome.FIRST, 100)
    assert call("cancel", 30, "g") == Ran(Outcome.REPEATED)
    assert call("cancel", 30, "h") == Ran(Outcome.EMPTY)
    assert call("try", -30, "h") == Ran(Outcome.LATE)
    assert call("cancel", 30, "h") == Ran(Outcome.REPEATED)
    assert stock(client) == 100


def test_a_number_does_not_go_below_its_bound_and_the_refusal_is_not_remembered(
    client: redis.Redis,
) -> None:
    with pytest.raises(AmountTooLittleError, match="stock would be -1"):
        barrier("try").adjust(client, "stock", -101, at_least=0)
    assert barrier("try").adjust(client, "stock", -100, at_least=0) == Ran(Outcome.FIRST, 0)
    # A number that is not there is 0.
    with pytest.raises(AmountTooLittleError):
        barrier("try", "h").adjust(client, "nothing", -1, at_least=0)


def test_a_script_of_ones_own_has_its_keys_and_arguments(client: redis.Redis) -> None:
    script = "redis.call('SET', KEYS[2], ARGV[1]); return {#KEYS, #ARGV, KEYS[1]}"
    ran = barrier("action").run(client, script, ["a", "b"], ["x", "y", "z"])
    assert ran == Ran(Outcome.FIRST, [2, 3, b"a"])
    assert client.get("b") == b"x"
    with pytest.raises(redis.ResponseError, match="SOLD out"):
        barrier("action", "h").run(client, "return redis.error_reply('SOLD out')")
    assert barrier("action", "h").run(client, "return nil") == Ran(Outcome.FIRST)


def test_several_pieces_of_one_branch_pass_the_barrier_each(client: redis.Redis) -> None:
    for expected in (Outcome.FIRST, Outcome.REPEATED):
        one = barrier("try")
        assert one.adjust(client, "stock", -10).outcome is expected
        assert one.adjust(client, "stock", -10).outcome is expected
    assert stock(client) == 80


def test_of_calls_that_come_at_once_one_is_done(client: redis.Redis) -> None:
    def call(_: int) -> Outcome:
        return barrier("try").adjust(client, "stock", -30).outcome

    with ThreadPoolExecutor(8) as threads:
        found = [outcome.value for outcome in threads.map(call, range(32))]
    assert sorted(found) == ["FIRST", *["REPEATED"] * 31]
    assert stock(client) == 70


def test_who_asks_about_a_message_hears_what_became_of_its_work(client: redis.Redis) -> None:
    done, given_up = RedisBarrier.of_message("h:1:1"), RedisBarrier.of_message("h:1:2")
    done.adjust(client, "stock", -30)
    for _ in range(2):
        assert RedisBarrier.of_message("h:1:1").query_prepared(client) is Fate.DONE
        assert given_up.query_prepared(client) is Fate.GIVEN_UP
    with pytest.raises(BarrierError, match="given up"):
        given_up.adjust(client, "stock", -30)
    with pytest.raises(BarrierError, match="done already"):
        RedisBarrier.of_message("h:1:1").adjust(client, "stock", -30)
    assert stock(client) == 70


def test_what_is_remembered_stays_until_it_is_forgotten_or_as_long_as_it_is_told(
    client: redis.Redis,
) -> None:
    barrier("try").adjust(client, "stock", -30)
    assert client.ttl("tidelock:barrier:g") == -1
    assert forget(client, ["g", "h"]) == 1
    assert forget(client, []) == 0
    assert barrier("try").adjust(client, "stock", -30).outcome is Outcome.FIRST
    short = RedisBarrier.of_message("h:1:1", prefix="{s}:", keep_s=600)
    short.query_prepared(client)
    assert 0 < int(str(client.ttl("{s}:h:1:1"))) <= 600
    with pytest.raises(ValueError, match="at least a second"):
        RedisBarrier.of_message("h:1:1", keep_s=0)


async def test_the_asynchronous_client_passes_the_same_barrier(
    later: redis.asyncio.Redis,
) -> None:
    headers = {"X-Tx-Xid": "h:1:1", "Tidelock-Branch-Id": "7", "Tidelock-Operation": "FORWARD"}
    for expected in (Ran(Outcome.FIRST, 70), Ran(Outcome.REPEATED)):
        one = RedisBarrier.of_request({}, headers)
        assert await one.adjust_async(later, "stock", -30) == expected
    with pytest.raises(AmountTooLittleError):
        await barrier("try").adjust_async(later, "stock", -101, at_least=0)
    assert await RedisBarrier.of_message("h:1:2").query_prepared_async(later) is Fate.GIVEN_UP
