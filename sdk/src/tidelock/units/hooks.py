"""What is called at the steps of a unit."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidelock.units.unit import Unit


class UnitHooks:
    """Derive from it and override what is wanted. A method may be `async def` for `async def`.

    =================== ======================================= ====================================
    method              when                                    when it raises
    =================== ======================================= ====================================
    pre_business        the group is there, nothing is done     the function is not called
    on_business_success the function went well, nothing joined  the unit is undone; it is raised
    on_business_error   it failed; the unit will be undone      it is logged
    post_business       the unit has joined or is undone, and   it is logged
                        the group has ended if it began here
    =================== ======================================= ====================================

    Of a unit that fails `on_business_success` is not called, or not called only: what it raises
    makes the unit fail.
    """

    def pre_business(self, unit: Unit) -> Awaitable[None] | None:
        """The unit begins."""

    def on_business_success(self, unit: Unit) -> Awaitable[None] | None:
        """What was done is about to join the group."""

    def on_business_error(self, unit: Unit, error: BaseException | None) -> Awaitable[None] | None:
        """What was done is about to be undone, and never joins. No error: it was asked for."""

    def post_business(self, unit: Unit) -> Awaitable[None] | None:
        """The unit has ended."""
