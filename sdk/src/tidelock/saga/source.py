"""The database in which steps and their compensations do their work."""

from __future__ import annotations

from tidelock.fence.source import FencedDataSource


class SagaDataSource(FencedDataSource):
    """Gives steps of sagas their connections, with the table `tidelock_fence` beside::

    stock = SagaDataSource(lambda: pymysql.connect(host="db", database="stock"))
    """
