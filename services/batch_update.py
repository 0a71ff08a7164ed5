"""BATCH_UPDATE: many rows of both sources. All of them are changed, or every failure is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from services.allowed import is_allowed
from services.sources import Source
from tidelock.services import BatchFailedError, BatchUpdate, BusinessError
from tidelock.services.data_changes import RowUpdate

GREATEST_FAILURES: Final = 100
"""Failures that are told one by one; the message counts all."""

_GREATEST_WORDS: Final = 300


def update_rows(
    sources: dict[str, Source], batch: BatchUpdate, allowed: Sequence[str]
) -> dict[str, object]:
    """Change all rows, each behind a savepoint, and return how many of which source.

    Raises:
        BatchFailedError: with what is wrong with each that could not be changed.
    """
    failures: list[dict[str, Any]] = []
    counts = dict.fromkeys(sources, 0)
    failed = 0
    for at, update in enumerate(batch.updates):
        source = sources[update.data_source]
        source.execute("SAVEPOINT item")
        try:
            _update(source, update, allowed)
        except Exception as error:
            source.execute("ROLLBACK TO SAVEPOINT item")
            failed += 1
            if len(failures) < GREATEST_FAILURES:
                why = str(error) if isinstance(error, BusinessError) else f"SQL failed: {error}"
                failures.append({"path": f"updates[{at}]", "message": why[:_GREATEST_WORDS]})
        else:
            counts[update.data_source] += 1
        source.execute("RELEASE SAVEPOINT item")
    if failed:
        raise BatchFailedError(
            f"{failed} of {len(batch.updates)} updates failed, so none was done.", failures
        )
    return {"updated": len(batch.updates), **counts}


def _update(source: Source, update: RowUpdate, allowed: Sequence[str]) -> None:
    for column in update.set:
        if not is_allowed(allowed, source.name, update.table, column):
            raise BusinessError(
                f"{source.name}.{update.table}.{column} may not be changed: it is not in "
                "services.business.batch_update_allowed of the configuration."
            )
    table = source.quote(update.table)
    where = " AND ".join(f"{source.quote(column)} = %s" for column in update.key)
    # MariaDB counts rows that it changed, not those that it found.
    found = source.query(
        f"SELECT 1 FROM {table} WHERE {where} LIMIT 2 FOR UPDATE", list(update.key.values())
    )
    if len(found) != 1:
        raise BusinessError(
            "No row has this key." if not found else "More than one row has this key."
        )
    setting = ", ".join(f"{source.quote(column)} = %s" for column in update.set)
    source.execute(
        f"UPDATE {table} SET {setting} WHERE {where}",
        [*update.set.values(), *update.key.values()],
    )
