"""What COMPLEX_ORDER takes. Money and weight are numbers or texts, and are kept exactly."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Identifier = Annotated[str, Meta(min_length=1, max_length=64)]
GREATEST_AMOUNT: Final = 1_000_000_000
GREATEST_WEIGHT_KG: Final = 1_000_000
GREATEST_SCALE: Final = 6
"""Digits behind the point that a client may write."""
Quantity = Annotated[int, Meta(ge=1, le=1_000_000)]


class _Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A JSON object in which nothing is misspelt."""


class OrderedItem(_Shape, frozen=True, kw_only=True):
    """A line of the order."""

    sku: Identifier
    price: Decimal
    """Of one."""
    quantity: Quantity


class Discount(_Shape, frozen=True, kw_only=True):
    """Taken off what is left by those before it, down to nothing."""

    type: Literal["PERCENT", "AMOUNT", "COUPON"]
    value: Decimal | None = None
    """Percent, or an amount."""
    code: Identifier | None = None
    """Of a coupon, whose amount is in the table `coupon` and which is used up by one."""


class Payment(_Shape, frozen=True, kw_only=True):
    """Who pays, and how."""

    method: Identifier
    account_id: Identifier


class Shipping(_Shape, frozen=True, kw_only=True):
    """Where it goes: what that costs is in the table `shipping_rate`."""

    region: Identifier
    weight: Decimal
    """In kilograms."""


class ComplexOrder(_Shape, frozen=True, kw_only=True):
    """An order of several items."""

    order_id: Identifier
    customer_id: Identifier
    items: Annotated[tuple[OrderedItem, ...], Meta(min_length=1, max_length=1_000)]
    discounts: Annotated[tuple[Discount, ...], Meta(max_length=100)] = ()
    payment: Payment
    shipping: Shipping

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield where it makes no sense, beyond its types: a path and what is wrong there."""
        for at, item in enumerate(self.items):
            yield from _fault(f"items[{at}].price", item.price, GREATEST_AMOUNT)
        for at, discount in enumerate(self.discounts):
            path = f"discounts[{at}]"
            if discount.type == "COUPON":
                if discount.code is None:
                    yield f"{path}.code", "is missing: a coupon has a code"
                if discount.value is not None:
                    yield f"{path}.value", "is not the client's to say: it is in the table coupon"
                continue
            if discount.code is not None:
                yield f"{path}.code", "is for discounts of type COUPON only"
            if discount.value is None:
                yield f"{path}.value", "is missing: percent, or an amount"
            else:
                greatest = 100 if discount.type == "PERCENT" else GREATEST_AMOUNT
                yield from _fault(f"{path}.value", discount.value, greatest)
        yield from _fault("shipping.weight", self.shipping.weight, GREATEST_WEIGHT_KG)


def _fault(path: str, number: Decimal, greatest: int) -> Iterator[tuple[str, str]]:
    if not number.is_finite() or not 0 <= number <= greatest:
        yield path, f"must be 0 to {greatest}"
    elif number != round(number, GREATEST_SCALE):
        yield path, f"has more than {GREATEST_SCALE} digits behind the point"
