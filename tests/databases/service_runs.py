"""The services' runner over real databases, without a node: what it would have recorded is kept."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from services.messages import Configure, Run, SourceSettings, Steps
from services.running import Databases, Runner
from services.work import TakenOverError
from tests.databases.connections import Database
from tidelock.application import Application
from tidelock.services import JtaStatus
from tidelock.xa import XaSource
from tidelock.xa.naming import BranchName


def settings_of(database: Database, statement_ms: int) -> SourceSettings:
    assert database.server is not None
    return SourceSettings(
        kind="mariadb" if database.dialect == "mysql" else "postgresql",
        host=database.server.host,
        port=database.server.port,
        user=database.server.user,
        database=database.name,
        timeout_ms=statement_ms,
    )


class Recorded:
    """`services.work.Recorder`: keeps what is said, and refuses from `refuses_at` on."""

    def __init__(self) -> None:
        self.statuses: list[str] = []
        self.xids: list[str] = []
        self.progress: list[Steps] = []
        self.result: Any = None
        self.status = ""
        self.jta_status = ""
        self.error = ""
        self.failures: list[Any] | None = None
        self.refuses_at = ""

    def advance(
        self,
        run: Run,
        *,
        jta_status: str = "",
        xid: str = "",
        progress: Steps | None = None,
        result: Any = None,
    ) -> None:
        if self.refuses_at and jta_status == self.refuses_at:
            raise TakenOverError("it is another's")
        if jta_status:
            self.statuses.append(jta_status)
        if xid:
            self.xids.append(xid)
        if progress is not None:
            self.progress.append(progress)
        if result is not None:
            self.result = json.loads(bytes(result))

    def finish(
        self,
        run: Run,
        status: str,
        jta_status: JtaStatus,
        *,
        error: str = "",
        failures: list[Any] | None = None,
    ) -> None:
        self.status, self.jta_status = status, jta_status
        self.error, self.failures = error, failures


class Services:
    """The runner of one test."""

    def __init__(
        self,
        application: Application,
        primary: Database,
        secondary: Database,
        *,
        statement_ms: int = 60_000,
        **options: Any,
    ) -> None:
        self.primary = primary
        self.secondary = secondary
        self.application = application
        wanted: dict[str, Any] = {
            "node_id": "n1",
            "addresses": (),
            "primary": settings_of(primary, statement_ms),
            "secondary": settings_of(secondary, statement_ms),
            "concurrency": 1,
            "transaction_timeout_ms": 30_000,
            "rollback_wait_ms": 5_000,
            "batch_update_allowed": ("primary.inventory.*", "secondary.account.balance"),
            "migration_allowed": ("*.*",),
            "create_tables": True,
            "log_level": "info",
        }
        self.databases = Databases(Configure(**{**wanted, **options}), application)
        self.databases.attach()
        self.databases.define(of_orders=True)
        self._number = 0

    def __call__(
        self,
        business_type: str,
        data: object,
        *,
        service: str = "JTA",
        refuses_at: str = "",
        **run: Any,
    ) -> Recorded:
        """Run business, and return what was recorded."""
        recorded = Recorded()
        recorded.refuses_at = refuses_at
        self._number += 1
        wanted: dict[str, Any] = {
            "execution": f"{service.lower()}-{self._number:024x}",
            "epoch": 1,
            "attempt": 1,
            "may_run_again": False,
        }
        Runner(self.databases, recorded).run(
            Run(
                service=service,
                business_type=business_type,
                business_data=msgspec.Raw(msgspec.json.encode(data)),
                **{**wanted, **run},
            )
        )
        return recorded

    def prepared(self) -> list[Any]:
        """What either server holds prepared."""
        return [each for source in self.databases.xa.values() for each in self._prepared(source)]

    def _prepared(self, source: XaSource) -> list[BranchName]:
        return self.application.client.run(lambda _: source.prepared())
