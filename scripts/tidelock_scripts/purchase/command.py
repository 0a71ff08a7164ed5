"""`scripts/purchase`: a purchase over four services and three databases, all of it or nothing."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from scripts.tidelock_scripts.client import NotDoneError, OutcomeUnknownError
from scripts.tidelock_scripts.cluster_command import bring_up
from scripts.tidelock_scripts.local_cluster import ClusterError, LocalCluster, free_base_port
from scripts.tidelock_scripts.purchase.books import SERVICES, Books, BooksError, files, servers
from scripts.tidelock_scripts.purchase.purchases import MODES, VICTIMS, Plan
from scripts.tidelock_scripts.purchase.report import heading, show
from scripts.tidelock_scripts.purchase.services import ServiceError
from scripts.tidelock_scripts.purchase.shop import NotSettledError, Shop, open_shop
from scripts.tidelock_scripts.terminal import Terminal
from tidelock.crash_points import POINTS

EXPLAINED = (
    BooksError,
    ClusterError,
    NotDoneError,
    NotSettledError,
    OutcomeUnknownError,
    ServiceError,
)

_NODES = ("n1", "n2", "n3")
_DESCRIPTION = """\
Start three nodes and four services as processes, make a purchase, and show what came of it.

business takes chairs from storage, has order write an order, and account pay it: three databases,
db_storage, db_order and db_account, that change together or not at all. The services are those of
examples/purchase. Exit status: 0 when it was all or nothing and nothing is left behind.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.mode == "XA" and not options.databases:
        parser.error(
            "XA needs databases that can prepare a transaction, and SQLite cannot; "
            "add --databases mariadb,postgres (or one of them), or choose another mode"
        )
    if options.at and (options.at not in POINTS or options.kill not in SERVICES):
        parser.error(f"--at goes with --kill {'|'.join(SERVICES)}, and is one of\n  " + _points())
    plan = Plan(options.mode, options.fail == "account", options.kill or "", options.at or "")
    terminal = Terminal()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _books(options.databases) as (books, where):
            return asyncio.run(_run(plan, books, where, terminal))
    except KeyboardInterrupt:
        print("scripts/purchase: interrupted; all is stopped", file=sys.stderr)
        return 130
    except EXPLAINED as error:
        print(f"scripts/purchase: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/purchase",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mode", choices=MODES, default="AT", help="default AT")
    parser.add_argument(
        "--fail",
        choices=["account"],
        help="the account has too little money",
    )
    parser.add_argument("--kill", choices=VICTIMS, help="SIGKILL it in the middle of the purchase")
    parser.add_argument(
        "--at",
        metavar="POINT",
        help="where --kill SERVICE strikes: one of tidelock.crash_points",
    )
    parser.add_argument(
        "--databases",
        metavar="LIST",
        type=lambda text: text.split(","),
        default=[],
        help="mariadb, postgres (Debian's, started in a folder of their own) or URLs of servers, "
        "with commas; default: files of SQLite",
    )
    return parser


def _points() -> str:
    return "\n  ".join(POINTS)


@contextmanager
def _books(databases: Sequence[str]) -> Iterator[tuple[Books, str]]:
    """Yield the books, and where they are, in words."""
    with ExitStack() as stack:
        if databases:
            urls = [_url(stack, name) for name in databases]
            books = stack.enter_context(servers(urls))
            kinds = {name: database.kind for name, database in books.databases.items()}
            where = ", ".join(f"db_{name} in {kind}" for name, kind in kinds.items())
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tidelock-purchase-"))
            books = stack.enter_context(files(Path(folder)))
            where = ", ".join(f"db_{name}" for name in SERVICES) + " in files of SQLite"
        books.make()
        yield books, where


def _url(stack: ExitStack, name: str) -> str:
    """Return where a server is; start it when it is named by its kind."""
    if name.startswith(("mysql://", "postgresql://")):
        return name
    # Their drivers are loaded by who wants them.
    from scripts.tidelock_scripts import database_servers  # noqa: PLC0415

    known = {
        "mariadb": (database_servers.mariadb_server, "mysql"),
        "postgres": (database_servers.postgresql_server, "postgresql"),
    }
    if name not in known:
        raise BooksError(
            f"--databases: {name!r} is neither mariadb nor postgres, nor a URL such as "
            "mysql://root@127.0.0.1:3306 or postgresql://postgres@127.0.0.1:5432"
        )
    make, scheme = known[name]
    try:
        server = stack.enter_context(make())
    except database_servers.ServerError as error:
        raise BooksError(str(error)) from error
    return f"{scheme}://{server.user}@{server.host}:{server.port}"


@asynccontextmanager
async def fresh_shop(books: Books, terminal: Terminal) -> AsyncIterator[Shop]:
    """Start a cluster and the services, and end them."""
    with _folder() as folder:
        cluster = LocalCluster(
            folder / "cluster",
            base_port=free_base_port(len(_NODES)),
            # What the SDK keeps against latecomers goes at once, so that one can see that it goes.
            environment={node: {"TIDELOCK_CHANNELS_CLEAN_AFTER_MS": "0"} for node in _NODES},
        )
        try:
            await bring_up(cluster, terminal)
            async with open_shop(cluster, books, folder) as shop:
                yield shop
        finally:
            cluster.stop()


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a new folder; it is kept, with the logs in it, when something does not work."""
    folder = Path(tempfile.mkdtemp(prefix="tidelock-purchase-"))
    try:
        yield folder
    except EXPLAINED:
        print(f"scripts/purchase: the logs are in {folder}", file=sys.stderr)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


async def _run(plan: Plan, books: Books, where: str, terminal: Terminal) -> int:
    terminal.line(terminal.strong(heading(plan)))
    begun_at = time.monotonic()
    terminal.progress("starting three nodes and four services")
    async with fresh_shop(books, terminal) as shop:
        took_s = time.monotonic() - begun_at
        terminal.line(f"{where}; three nodes and four services ready after {took_s:.1f} s")
        terminal.line()
        terminal.progress("buying")
        is_right = show(await shop.purchase(plan), terminal)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
