"""A coordinator inside your tests: the real state machine, without a cluster to start.

::

    # pytest finds these fixtures as soon as `tidelock[testing]` is installed
    def test_an_order_is_all_or_nothing(tidelock_coordinator, tidelock_application):
        with pytest.raises(OutOfStockError):
            place_order(sku="a-1", count=1_000_000)
        tidelock_coordinator.assert_clean()

Elsewhere: `with tidelock.testing.Coordinator() as coordinator: ...`. It comes with another
distribution, which holds the state machine: `pip install "tidelock[testing]"`.
"""

try:
    from tidelock_testing.coordinator import Coordinator
    from tidelock_testing.faults import Fault, Operation
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "tidelock_testing":
        raise
    raise ModuleNotFoundError(
        'the coordinator for tests is not installed: pip install "tidelock[testing]"',
        name=error.name,
    ) from None

__all__ = ["Coordinator", "Fault", "Operation"]
