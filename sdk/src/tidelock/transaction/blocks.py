"""Blocks and functions that are global transactions, for code that blocks and code that awaits."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

from tidelock.application import Application, configured
from tidelock.client.answers import BranchMode
from tidelock.driving import drive
from tidelock.transaction.handle import Transaction
from tidelock.transaction.hooks import TransactionHooks
from tidelock.transaction.propagation import Propagation
from tidelock.transaction.rollback_rules import ExceptionType, RollbackRules
from tidelock.transaction.scope import Options, Scope
from tidelock.transaction.shielding import shielded, unprotected

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_TIMEOUT_MS: Final = 60_000
GREATEST_TIMEOUT_MS: Final = 7 * 24 * 3_600_000
GREATEST_NAME_BYTES: Final = 128
DEFAULT_END_WAIT_MS: Final = 5_000


class TransactionBlock:
    """A block of `with` or `async with`; see `transaction`. It is used once."""

    def __init__(self, options: Options, application: Application | None) -> None:
        self._options = options
        self._application = application
        self._scope: Scope | None = None

    def __enter__(self) -> Transaction:
        application = self._application or configured()
        scope = self._begin(Scope(self._options, application.blocking, unprotected))
        return drive(scope.enter())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        drive(self._end().leave(error))

    async def __aenter__(self) -> Transaction:
        application = self._application or configured()
        scope = self._begin(Scope(self._options, application.awaiting, shielded))
        return await scope.enter()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end().leave(error)

    def _begin(self, scope: Scope) -> Scope:
        if self._scope is not None:
            raise RuntimeError("a transaction's block is used once: call `transaction()` again")
        self._scope = scope
        return scope

    def _end(self) -> Scope:
        assert self._scope is not None
        return self._scope


def transaction(
    name: str = "",
    *,
    timeout_ms: int = DEFAULT_TIMEOUT_MS,
    propagation: Propagation | str = Propagation.REQUIRED,
    rollback_for: ExceptionType | Iterable[ExceptionType] = (),
    no_rollback_for: ExceptionType | Iterable[ExceptionType] = (),
    hooks: Sequence[TransactionHooks] = (),
    mode: BranchMode | None = None,
    end_wait_ms: int = DEFAULT_END_WAIT_MS,
    clock_participant: str | None = None,
    xid: str | None = None,
    application: Application | None = None,
) -> TransactionBlock:
    """Return a block that is a global transaction, or takes part in one.

    ::

        with tidelock.transaction("purchase") as transaction: ...
        async with tidelock.transaction("purchase") as transaction: ...

    Who begins the transaction is its *launcher*, and ends it at the end of the block: it commits,
    or rolls back when an exception leaves the block. A block within another one, and within what a
    middleware received, *participates*: it ends nothing, and its exceptions are for the launcher.

    Args:
        name: for people, lists and metrics; up to 128 bytes of printable characters.
        timeout_ms: undecided after so long, it is rolled back. It counts the time in which the
            cluster had a leader, and bounds what the end of the block waits for.
        propagation: what to do about a transaction that is there already; see `Propagation`.
        rollback_for, no_rollback_for: exceptions after which it is rolled back, or committed all
            the same. The most specific class wins; without a rule an exception rolls back.
        hooks: called at its steps when this block is the launcher; see `TransactionHooks`.
        mode: what its branches will mostly be, for lists.
        end_wait_ms: how long the end of the block waits until all branches have followed the
            decision. The decision stands before; `transaction.status` says how far it has got.
        clock_participant: a participant whose logical clock records the beginning and the end.
        xid: its name in the cluster, for who must know it before it begins: up to 64 of
            `A-Za-z0-9._:-`, which no transaction had before. It is made unless given.
        application: instead of the configured one.

    Raises, at its beginning:
        TransactionRequiredError, TransactionNotAllowedError: by its propagation.
        TransactionExistsError: a transaction was begun with this xid before.
        NotConfiguredError, and what a client raises when nobody can be asked.

    Raises, at its end:
        TransactionTimedOutError, TransactionRolledBackError: the block went well; all of it is
            rolled back.
        CommitFailedError, RollbackFailedError: decided, and a branch cannot follow.
        TransactionOutcomeUnknownError: nobody said what became of the commit.

    A cancelled task, `KeyboardInterrupt` and `SystemExit` roll back, which is waited for up to 5 s.
    In a child that is forked within the block its end does nothing.
    """
    for each in hooks:
        if not isinstance(each, TransactionHooks):
            raise TypeError(
                f"hooks must be objects of a subclass of TransactionHooks, not {each!r}"
            )
    return TransactionBlock(
        Options(
            name=_checked_name(name),
            timeout_ms=_checked("timeout_ms", timeout_ms, 1, GREATEST_TIMEOUT_MS),
            propagation=Propagation(propagation),
            rules=RollbackRules(rollback_for, no_rollback_for),
            hooks=tuple(hooks),
            mode=mode,
            end_wait_ms=_checked("end_wait_ms", end_wait_ms, 0, GREATEST_TIMEOUT_MS),
            clock_participant=clock_participant,
            xid=xid,
        ),
        application,
    )


class TransactionOptions(TypedDict, total=False):
    """What `transaction` takes, for functions that hand it on."""

    name: str
    timeout_ms: int
    propagation: Propagation | str
    rollback_for: ExceptionType | Iterable[ExceptionType]
    no_rollback_for: ExceptionType | Iterable[ExceptionType]
    hooks: Sequence[TransactionHooks]
    mode: BranchMode | None
    end_wait_ms: int
    clock_participant: str | None
    application: Application | None


@overload
def global_transaction(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def global_transaction(
    **options: Unpack[TransactionOptions],
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def global_transaction(
    function: Callable[P, R] | None = None, /, **options: Unpack[TransactionOptions]
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Make each call of a function a block of `transaction`, which takes the same options.

    ::

        @tidelock.global_transaction(timeout_ms=10_000)
        async def purchase(order: Order) -> None: ...

    The function may be `def` or `async def`. Its name stands for the transaction's unless that is
    given. `tidelock.current_transaction()` is the transaction within it.

    Raises, where it decorates:
        TypeError: it is a generator, whose body runs when its caller iterates.
        ValueError: an option is none.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        refuse_generators(function, "global_transaction")

        def block() -> TransactionBlock:
            named: TransactionOptions = {**options}
            named["name"] = options.get("name") or _name_of(function)
            return transaction(**named)

        block()  # refuses bad options where they are written
        return in_blocks(function, block)

    return decorate if function is None else decorate(function)


def in_blocks(function: Callable[P, R], block: Callable[[], Any]) -> Callable[P, R]:
    """Return the function, each call in a new block: `async with` when it is `async def`."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with block():
                return await function(*args, **kwargs)

        return cast("Callable[P, R]", awaited)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with block():
            result = function(*args, **kwargs)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError(
                    f"{_name_of(function)} returned a coroutine, which would run after the block: "
                    "make it `async def`"
                )
            return result

    return called


def refuse_generators(function: Callable[..., Any], decorator: str) -> None:
    """Raise TypeError unless a decorated function does its work while it is called."""
    if not inspect.isroutine(function) and not isinstance(function, functools.partial):
        raise TypeError(f"@{decorator} takes a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"@{decorator} cannot decorate the generator {_name_of(function)}: its body runs while "
            "its caller iterates, after the block has ended. Decorate what iterates over it, or "
            "write `with tidelock.transaction():` around the loop"
        )


def _name_of(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__qualname__", "") or type(function).__name__
    last = name.replace(".<locals>", "").encode()[-GREATEST_NAME_BYTES:]
    return last.decode(errors="ignore")


def _checked_name(name: str) -> str:
    if not name.isprintable() or len(name.encode()) > GREATEST_NAME_BYTES:
        raise ValueError(
            f"{name[:80]!r} is no name of a transaction: up to {GREATEST_NAME_BYTES} bytes of "
            "printable characters"
        )
    return name


def _checked(option: str, value: int, least: int, greatest: int) -> int:
    if not least <= value <= greatest:
        raise ValueError(f"{option} must be {least} to {greatest}, not {value}")
    return value
