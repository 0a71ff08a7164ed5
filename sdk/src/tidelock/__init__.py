"""Tidelock for applications: what a service needs every day, by one name each.

Names are loaded when they are first used, so that `tidelock.clocks`, which depends on nothing, can
be imported alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidelock.application import Application, NotConfiguredError, configure, configured
    from tidelock.at.errors import LockWaitTimeoutError, RowsLockedError
    from tidelock.at.phase_two import DirtyPolicy
    from tidelock.at.resource import AtDataSource
    from tidelock.at.undo_log import undo_log_ddl
    from tidelock.at.units import local_transaction
    from tidelock.errors import (
        BranchFailedError,
        LockConflictError,
        OutcomeUnknownError,
        TidelockError,
    )
    from tidelock.fence.context import ActionContext
    from tidelock.fence.errors import FenceError, StepRefusedError
    from tidelock.fence.fence_table import fence_ddl
    from tidelock.lcn.errors import ConnectionsHeldError, GroupOverError, LcnError, LcnMisuseError
    from tidelock.lcn.source import LcnDataSource
    from tidelock.saga.errors import SagaError, StepReportLostError
    from tidelock.saga.source import SagaDataSource
    from tidelock.saga.steps import saga_step
    from tidelock.sql.errors import StatementRefusedError, TableMissingError
    from tidelock.tcc.actions import tcc_transaction
    from tidelock.tcc.errors import TccError, TryRefusedError
    from tidelock.tcc.source import TccDataSource
    from tidelock.transaction.blocks import global_transaction, transaction
    from tidelock.transaction.context import bound, current_transaction, current_xid
    from tidelock.transaction.errors import (
        CommitFailedError,
        RollbackFailedError,
        RollbackOnlyError,
        TransactionError,
        TransactionNotAllowedError,
        TransactionOutcomeUnknownError,
        TransactionRequiredError,
        TransactionRolledBackError,
        TransactionTimedOutError,
    )
    from tidelock.transaction.global_lock import global_lock
    from tidelock.transaction.handle import Role, Transaction
    from tidelock.transaction.hooks import TransactionHooks
    from tidelock.transaction.propagation import Propagation
    from tidelock.transaction.suspending import Suspended, resume, suspend, suspended
    from tidelock.txc.source import TxcDataSource
    from tidelock.units.decorators import lcn_transaction, tx_transaction, txc_transaction
    from tidelock.units.hooks import UnitHooks
    from tidelock.units.source import TxDataSource
    from tidelock.units.unit import Unit, UnitType, current_unit

_MODULES: Final = {
    "tidelock.application": ("Application", "NotConfiguredError", "configure", "configured"),
    "tidelock.at.phase_two": ("DirtyPolicy",),
    "tidelock.at.errors": ("LockWaitTimeoutError", "RowsLockedError"),
    "tidelock.at.resource": ("AtDataSource",),
    "tidelock.at.undo_log": ("undo_log_ddl",),
    "tidelock.at.units": ("local_transaction",),
    "tidelock.sql.errors": ("StatementRefusedError", "TableMissingError"),
    "tidelock.lcn.errors": ("ConnectionsHeldError", "GroupOverError", "LcnError", "LcnMisuseError"),
    "tidelock.lcn.source": ("LcnDataSource",),
    "tidelock.errors": (
        "BranchFailedError",
        "LockConflictError",
        "OutcomeUnknownError",
        "TidelockError",
    ),
    "tidelock.fence.context": ("ActionContext",),
    "tidelock.fence.errors": ("FenceError", "StepRefusedError"),
    "tidelock.fence.fence_table": ("fence_ddl",),
    "tidelock.saga.errors": ("SagaError", "StepReportLostError"),
    "tidelock.saga.source": ("SagaDataSource",),
    "tidelock.saga.steps": ("saga_step",),
    "tidelock.tcc.actions": ("tcc_transaction",),
    "tidelock.tcc.errors": ("TccError", "TryRefusedError"),
    "tidelock.tcc.source": ("TccDataSource",),
    "tidelock.transaction.blocks": ("global_transaction",),
    "tidelock.transaction.context": ("bound", "current_transaction", "current_xid"),
    "tidelock.transaction.errors": (
        "CommitFailedError",
        "RollbackFailedError",
        "RollbackOnlyError",
        "TransactionError",
        "TransactionNotAllowedError",
        "TransactionOutcomeUnknownError",
        "TransactionRequiredError",
        "TransactionRolledBackError",
        "TransactionTimedOutError",
    ),
    "tidelock.transaction.global_lock": ("global_lock",),
    "tidelock.transaction.handle": ("Role", "Transaction"),
    "tidelock.transaction.hooks": ("TransactionHooks",),
    "tidelock.transaction.propagation": ("Propagation",),
    "tidelock.transaction.suspending": ("Suspended", "resume", "suspend", "suspended"),
    "tidelock.units.decorators": ("lcn_transaction", "tx_transaction", "txc_transaction"),
    "tidelock.txc.source": ("TxcDataSource",),
    "tidelock.units.hooks": ("UnitHooks",),
    "tidelock.units.source": ("TxDataSource",),
    "tidelock.units.unit": ("Unit", "UnitType", "current_unit"),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ActionContext",
    "Application",
    "AtDataSource",
    "BranchFailedError",
    "CommitFailedError",
    "ConnectionsHeldError",
    "DirtyPolicy",
    "FenceError",
    "GroupOverError",
    "LcnDataSource",
    "LcnError",
    "LcnMisuseError",
    "LockConflictError",
    "LockWaitTimeoutError",
    "NotConfiguredError",
    "OutcomeUnknownError",
    "Propagation",
    "Role",
    "RollbackFailedError",
    "RollbackOnlyError",
    "RowsLockedError",
    "SagaDataSource",
    "SagaError",
    "StatementRefusedError",
    "StepRefusedError",
    "StepReportLostError",
    "Suspended",
    "TableMissingError",
    "TccDataSource",
    "TccError",
    "TidelockError",
    "Transaction",
    "TransactionError",
    "TransactionHooks",
    "TransactionNotAllowedError",
    "TransactionOutcomeUnknownError",
    "TransactionRequiredError",
    "TransactionRolledBackError",
    "TransactionTimedOutError",
    "TryRefusedError",
    "TxDataSource",
    "TxcDataSource",
    "Unit",
    "UnitHooks",
    "UnitType",
    "bound",
    "configure",
    "configured",
    "current_transaction",
    "current_unit",
    "current_xid",
    "fence_ddl",
    "global_lock",
    "global_transaction",
    "lcn_transaction",
    "local_transaction",
    "resume",
    "saga_step",
    "suspend",
    "suspended",
    "tcc_transaction",
    "transaction",
    "tx_transaction",
    "txc_transaction",
    "undo_log_ddl",
]


# A type checker that saw it would take every misspelt name for one of these.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "transaction":
            # The package of this name can be called, and stays where an import has put it.
            return importlib.import_module("tidelock.transaction")
        module = _MODULE_OF.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
