"""The barrier where the business is in Redis: both are one script, which Redis runs alone.

The rows are fields of one hash for each transaction. Redis undoes nothing of a script that fails
halfway, so a business checks first and writes afterwards. How much of it survives a crash of the
server is a matter of its configuration (`appendfsync always`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import msgspec

from tidelock.barrier.branch import MESSAGE, MESSAGE_BRANCH, Branch, message_branch
from tidelock.barrier.outcomes import BarrierError, Fate, Outcome

try:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis
    from redis.exceptions import ResponseError
except ImportError as missing:  # pragma: no cover
    raise ImportError(f'{missing}; it comes with: pip install "tidelock[redis]"') from missing

PREFIX: Final = "tidelock:barrier:"
"""Before the transaction, the key of its hash."""

_ROLLED_BACK: Final = "rollback"
_FIRST_BARRIER: Final = "01"
_TOO_LITTLE: Final = "TOO_LITTLE"

_BARRIER: Final = """
local function business(KEYS, ARGV)
%s
end
local guard, op, own, origin, keep = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local function remember(...)
  redis.call('HSET', guard, ...)
  if keep > 0 then redis.call('EXPIRE', guard, keep) end
end
local before = redis.call('HGET', guard, own)
if before then return {before == op and 'REPEATED' or 'LATE'} end
if origin ~= '' and redis.call('HEXISTS', guard, origin) == 0 then
  remember(origin, op, own, op)
  return {'EMPTY'}
end
local keys, args = {}, {}
for i = 2, #KEYS do keys[i - 1] = KEYS[i] end
for i = 5, #ARGV do args[i - 4] = ARGV[i] end
local result = business(keys, args)
if type(result) == 'table' and result.err then return result end
remember(own, op)
return {'FIRST', result}
"""

_QUERY: Final = """
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
if tonumber(ARGV[3]) > 0 then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return redis.call('HGET', KEYS[1], ARGV[1])
"""

_ADJUST: Final = f"""
local after = tonumber(redis.call('GET', KEYS[1]) or '0') + tonumber(ARGV[1])
if ARGV[2] ~= '' and after < tonumber(ARGV[2]) then
  return redis.error_reply('{_TOO_LITTLE} ' .. KEYS[1] .. ' would be ' .. after)
end
return redis.call('INCRBY', KEYS[1], ARGV[1])
"""


class AmountTooLittleError(BarrierError):
    """A number would go below its bound: answer the call 409."""


class Ran(msgspec.Struct, frozen=True):
    """What passing the barrier came to."""

    outcome: Outcome
    result: Any = None
    """What the business returned, when it ran."""


class RedisBarrier:
    """The barrier of one call of a branch whose business is in Redis. Make one for each request."""

    def __init__(self, branch: Branch, *, prefix: str = PREFIX, keep_s: int | None = None) -> None:
        """In a Redis cluster, `prefix` and the keys of the business need one hash tag: `{shop}:`.

        Hashes stay until they are forgotten (`forget`), unless `keep_s` says for how long. A call
        that comes after that is done again, however long ago its transaction ended.
        """
        if keep_s is not None and keep_s <= 0:
            raise ValueError(f"hashes are kept for at least a second, got {keep_s}")
        self.branch: Final = branch
        self._guard = prefix + branch.gid
        self._keep_s = keep_s or 0
        self._passed = 0

    @classmethod
    def of_request(
        cls,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        *,
        prefix: str = PREFIX,
        keep_s: int | None = None,
    ) -> Self:
        """Return the barrier of a request by this cluster, or by DTM.

        Raises:
            BranchRequestError: the request names no branch.
        """
        return cls(Branch.of_request(query, headers), prefix=prefix, keep_s=keep_s)

    @classmethod
    def of_message(cls, xid: str, *, prefix: str = PREFIX, keep_s: int | None = None) -> Self:
        """Return the barrier of the work that a message tells of, between prepare and submit."""
        return cls(message_branch(xid), prefix=prefix, keep_s=keep_s)

    def run(
        self, client: Redis, business: str, keys: Sequence[str] = (), args: Sequence[Any] = ()
    ) -> Ran:
        """Run a script of Lua if it is to be run, with `KEYS` and `ARGV` as it is used to.

        It refuses by `return redis.error_reply(...)`, which is raised, and remembered by nobody.

        Raises:
            BarrierError: a message's work was given up, or done before.
            redis.exceptions.RedisError: as it comes; nothing is known when the connection broke.
        """
        return self._ran(client.eval(*self._script(business, keys, args)))

    async def run_async(
        self, client: AsyncRedis, business: str, keys: Sequence[str] = (), args: Sequence[Any] = ()
    ) -> Ran:
        """The same for `redis.asyncio`. Raises: as `run`."""
        answered: Any = client.eval(*self._script(business, keys, args))
        return self._ran(await answered)

    def adjust(self, client: Redis, key: str, by: int, *, at_least: int | None = None) -> Ran:
        """Add to a number, unless it would go below a bound. The result is the number.

        Numbers are exact up to 2^53.

        Raises:
            AmountTooLittleError: it would; nothing was done.
            As `run`.
        """
        try:
            return self.run(client, _ADJUST, [key], _adjustment(by, at_least))
        except ResponseError as error:
            raise _refused(error) from None

    async def adjust_async(
        self, client: AsyncRedis, key: str, by: int, *, at_least: int | None = None
    ) -> Ran:
        """The same for `redis.asyncio`. Raises: as `adjust`."""
        try:
            return await self.run_async(client, _ADJUST, [key], _adjustment(by, at_least))
        except ResponseError as error:
            raise _refused(error) from None

    def query_prepared(self, client: Redis) -> Fate:
        """Say what became of the work of a message. If it was not done, it never will be."""
        return _fate(client.eval(*self._query()))

    async def query_prepared_async(self, client: AsyncRedis) -> Fate:
        """The same for `redis.asyncio`."""
        answered: Any = client.eval(*self._query())
        return _fate(await answered)

    def _script(self, business: str, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, ...]:
        self._passed += 1
        branch, number = self.branch, f"{self._passed:02}"
        own = _field(branch.branch_id, branch.op, number)
        origin = _field(branch.branch_id, branch.origin, number) if branch.origin else ""
        ours = (branch.op, own, origin, self._keep_s)
        return (_BARRIER % business, 1 + len(keys), self._guard, *keys, *ours, *args)

    def _query(self) -> tuple[Any, ...]:
        field = _field(MESSAGE_BRANCH, MESSAGE, _FIRST_BARRIER)
        return (_QUERY, 1, self._guard, field, _ROLLED_BACK, self._keep_s)

    def _ran(self, answered: Any) -> Ran:
        outcome = Outcome(_text(answered[0]))
        if self.branch.op == MESSAGE and outcome is not Outcome.FIRST:
            what = "done already" if outcome is Outcome.REPEATED else "given up"
            raise BarrierError(f"the work of message {self.branch.gid} was {what}")
        return Ran(outcome, answered[1] if len(answered) > 1 else None)


def forget(client: Redis, gids: Sequence[str], *, prefix: str = PREFIX) -> int:
    """Delete the hashes of transactions. Returns how many.

    Only of those that have ended, and whose last call cannot be under way any more.
    """
    deleted: Any = client.delete(*[prefix + gid for gid in gids]) if gids else 0
    return int(deleted)


def _field(branch_id: str, op: str, number: str) -> str:
    return f"{branch_id} {op} {number}"


def _adjustment(by: int, at_least: int | None) -> list[Any]:
    return [by, "" if at_least is None else at_least]


def _refused(error: ResponseError) -> Exception:
    text = str(error)
    return AmountTooLittleError(text) if text.startswith(_TOO_LITTLE) else error


def _fate(answered: Any) -> Fate:
    return Fate.GIVEN_UP if _text(answered) == _ROLLED_BACK else Fate.DONE


def _text(answered: Any) -> str:
    return answered.decode() if isinstance(answered, bytes) else str(answered)
