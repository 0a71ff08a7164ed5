"""Django's ORM takes part, in a process of its own: its settings are a process's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.databases.connections import Database
from tests.meta.documents import ROOT
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

PROGRAM = """
import contextlib
import sys

import django
from django.conf import settings

url, engine, name, host, port, user = sys.argv[1:]
database = {"ENGINE": f"django.db.backends.{engine}", "NAME": name}
if host:
    database |= {"HOST": host, "PORT": port, "USER": user, "CONN_HEALTH_CHECKS": True}
else:
    database["OPTIONS"] = {"transaction_mode": "IMMEDIATE"}
if engine == "mysql":
    import pymysql

    pymysql.install_as_MySQLdb()
    database["OPTIONS"] = {"isolation_level": "repeatable read"}
settings.configure(DATABASES={"default": database}, INSTALLED_APPS=[], USE_TZ=True)
django.setup()

from django.db import connection, models, transaction

import tidelock


class Thing(models.Model):
    name = models.CharField(max_length=40, unique=True)
    v = models.IntegerField()
    raw = models.BinaryField(default=b"")

    class Meta:
        app_label = "shop"
        db_table = "t"


with connection.schema_editor() as editor:
    editor.create_model(Thing)
with connection.cursor() as cursor:
    cursor.execute(tidelock.undo_log_ddl(connection.vendor))
Thing.objects.create(name="one", v=10)
Thing.objects.create(name="two", v=20)

application = tidelock.Application([url], application_id="shop")
tidelock.configure(application)
tidelock.AtDataSource.of_django()


@transaction.atomic
def work():
    Thing.objects.filter(name="one").update(v=models.F("v") + 1)
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        Thing.objects.all().delete()
        raise ZeroDivisionError
    Thing.objects.get(name="two").delete()
    Thing.objects.create(name="three", v=30)
    Thing.objects.bulk_create([Thing(name="four", v=40), Thing(name="five", v=50)])
    # On PostgreSQL, Django would unfold arrays for these; on MySQL it writes `_binary %s`.
    one_and_six = [Thing(name="one", v=0), Thing(name="six", v=0)]
    Thing.objects.bulk_create(one_and_six, ignore_conflicts=True)
    by = {} if connection.vendor == "mysql" else {"unique_fields": ["name"]}
    Thing.objects.bulk_create(
        [Thing(name="six", v=60), Thing(name="seven", v=70)],
        update_conflicts=True, update_fields=["v"], **by,
    )
    seven = Thing.objects.select_for_update().get(name="seven")
    seven.raw = b"\\xff%s"
    seven.save()


def show(when):
    print(when, sorted(Thing.objects.values_list("name", "v")))


with contextlib.suppress(RuntimeError), tidelock.transaction():
    work()
    show("undecided")
    raise RuntimeError
show("rolled back")
with tidelock.transaction():
    work()
show("committed")
try:
    with tidelock.transaction():
        Thing.objects.update(v=0)
except tidelock.TidelockError as error:
    print(type(error).__name__)
connection.close()
application.close()
"""

AFTER = "[('five', 50), ('four', 40), ('one', 11), ('seven', 70), ('six', 60), ('three', 30)]"
PRINTED = f"""\
undecided {AFTER}
rolled back [('one', 10), ('two', 20)]
committed {AFTER}
AutocommitError
"""


@pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)
def test_the_orm_of_django_takes_part(
    database: Database, tidelock_coordinator: Coordinator
) -> None:
    server = database.server
    where = [server.host, str(server.port), server.user] if server else ["", "", ""]
    engine = {"mysql": "mysql", "postgresql": "postgresql", "sqlite": "sqlite3"}[database.dialect]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tidelock_coordinator.url, engine, database.name, *where],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == PRINTED
    # The process has ended, so what it was still to be told waits for the next one.
    tidelock_coordinator.assert_clean(guards=False)
