"""The commands of `tidelock`."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Final

import click

DIALECTS: Final = ("mysql", "postgresql", "sqlite")

TABLES: Final = {
    "undo-log": ("tidelock.at.undo_log", "undo_log_ddl", "AT keeps the old values of rows"),
    "fence": (
        "tidelock.fence.fence_table",
        "fence_ddl",
        "TCC and SAGA keep what became of each branch",
    ),
    "barrier": ("tidelock.barrier.tables", "barrier_ddl", "barriers keep which calls were done"),
    "saga-result": (
        "tidelock.saga.results",
        "saga_result_ddl",
        "services keep what steps of sagas have answered",
    ),
    "outbox": ("tidelock.messages.outbox", "outbox_ddl", "messages wait until they are sent"),
    "inbox": ("tidelock.messages.inbox", "inbox_ddl", "receivers keep which messages they had"),
}
"""Where the statements of a table come from, and what for."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(metadata.version("tidelock"), prog_name="tidelock")
def tidelock() -> None:
    """Global transactions, locks and logical clocks by a Tidelock cluster."""


def _group(name: str, module: str, function: str, purpose: str) -> click.Group:
    """Return `tidelock NAME`, with its command `ddl`."""

    @click.command(help=f"Print what makes the table in which {purpose}, unless it is there.")
    @click.option("--dialect", type=click.Choice(DIALECTS), required=True)
    @click.option("--table", help="Its name, with its schema if it has one, unless the usual one.")
    def ddl(dialect: str, table: str | None) -> None:
        # Each comes with what its mode needs, which the others' users need not have.
        statements_of = getattr(importlib.import_module(module), function)
        try:
            made = statements_of(dialect) if table is None else statements_of(dialect, table)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--table") from None
        for statement in [made] if isinstance(made, str) else made:
            click.echo(f"{statement.rstrip()};")

    return click.Group(name, {"ddl": ddl}, help=f"The table in which {purpose}.")


for _name, _source in TABLES.items():
    tidelock.add_command(_group(_name, *_source))
