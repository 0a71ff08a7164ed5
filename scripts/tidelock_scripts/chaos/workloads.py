"""What clients can do in a chaos run, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scripts.tidelock_scripts.chaos.bank_clients import BankClients
from scripts.tidelock_scripts.chaos.dtm_clients import DtmClients
from scripts.tidelock_scripts.chaos.event_clients import EventClients
from scripts.tidelock_scripts.chaos.lock_clients import LockClients
from scripts.tidelock_scripts.chaos.object_clients import ObjectClients
from scripts.tidelock_scripts.chaos.oracle_clients import OracleClients
from scripts.tidelock_scripts.chaos.proposal_clients import ProposalClients
from scripts.tidelock_scripts.chaos.round_clients import Round, RoundClients
from scripts.tidelock_scripts.chaos.sequence_clients import SequenceClients
from scripts.tidelock_scripts.chaos.transaction_clients import TransactionClients
from scripts.tidelock_scripts.chaos.vector_clients import VectorClients
from scripts.tidelock_scripts.chaos.watch_clients import WatchClients

MIX = "mix"
WORKLOADS = (
    "events",
    "oracle",
    "locks",
    "sequences",
    "vectors",
    "objects",
    "proposals",
    "watch",
    "transactions",
    "bank",
    "dtm",
)

_CLIENTS_ALONE = 3
_CLIENTS_IN_MIX = 1
"""At each node."""


def chosen_workloads(name: str) -> tuple[str, ...]:
    """Return the workloads that a name means.

    Raises:
        ValueError: there is none of this name.
    """
    if name == MIX:
        return WORKLOADS
    if name not in WORKLOADS:
        known = ", ".join((*WORKLOADS, MIX))
        raise ValueError(f"there is no workload {name!r}; choose one of {known}")
    return (name,)


def make_clients(
    names: Sequence[str], of_round: Round, addresses: Sequence[str], begin: str
) -> list[RoundClients]:
    """Make the clients of a round. `begin` is a position before everything that they will do."""
    count = _CLIENTS_ALONE if len(names) == 1 else _CLIENTS_IN_MIX
    makers: dict[str, Callable[[], RoundClients]] = {
        "events": lambda: EventClients(of_round, count),
        "oracle": lambda: OracleClients(of_round, count),
        "locks": lambda: LockClients(of_round, 2 * count),
        "sequences": lambda: SequenceClients(of_round, count),
        "vectors": lambda: VectorClients(of_round, count),
        "objects": lambda: ObjectClients(of_round, count),
        "proposals": lambda: ProposalClients(of_round, count),
        "watch": lambda: WatchClients(of_round, count, addresses, begin),
        "transactions": lambda: TransactionClients(of_round, count),
        "bank": lambda: BankClients(of_round, 2 * count),
        "dtm": lambda: DtmClients(of_round, 2 * count),
    }
    return [makers[name]() for name in names]
