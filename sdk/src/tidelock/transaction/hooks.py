"""What is called at the steps of a transaction, in the launcher's process."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidelock.transaction.handle import Transaction


class TransactionHooks:
    """Derive from it and override what is wanted. A method may be `async def` for `async with`.

    They are called in the order in which they were added, by the launcher only:

    ================= ==================== =================================================
    method            the code is bound    when it raises
    ================= ==================== =================================================
    before_begin      to what was before   nothing is begun; it is raised
    after_begin       to the transaction   rolled back, the block is not entered; it is raised
    before_commit     to the transaction   rolled back; it is raised
    before_rollback   to the transaction   it is logged; rolled back all the same
    after_commit      to what was before   it is logged: the decision stands
    after_rollback    to what was before   it is logged: the decision stands
    after_completion  to what was before   it is logged; called last, whatever happened before
    ================= ==================== =================================================

    `after_commit` and `after_rollback` are called once it is known that it was decided so, neither
    when nobody knows. `after_completion` is called for each transaction that was begun, and
    `transaction.status` says how it ended, as far as is known.
    """

    def before_begin(self, transaction: Transaction) -> Awaitable[None] | None:
        """Nothing has begun: the transaction has a name and no xid yet."""

    def after_begin(self, transaction: Transaction) -> Awaitable[None] | None:
        """It has its xid."""

    def before_commit(self, transaction: Transaction) -> Awaitable[None] | None:
        """The block has ended well. `set_rollback_only` still makes it a rollback."""

    def after_commit(self, transaction: Transaction) -> Awaitable[None] | None:
        """It is decided to commit, for ever."""

    def before_rollback(self, transaction: Transaction) -> Awaitable[None] | None:
        """The block has failed, or somebody has asked for it."""

    def after_rollback(self, transaction: Transaction) -> Awaitable[None] | None:
        """It is decided to roll back, for ever."""

    def after_completion(self, transaction: Transaction) -> Awaitable[None] | None:
        """Nothing more is called for this transaction."""
