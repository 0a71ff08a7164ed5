"""COMPLEX_ORDER: stock from the primary source, money from the secondary one, both or neither.

Rows are locked in the order of their names, so that two orders never wait for each other in a
circle within one database.
"""

from __future__ import annotations

from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from services.sources import Source
from tidelock.services import BusinessError, ComplexOrder
from tidelock.services.complex_order import Discount

_CENT: Final = Decimal("0.01")


def place_order(primary: Source, secondary: Source, order: ComplexOrder) -> dict[str, object]:
    """Do it, and return how the total comes about, amounts as texts.

    Raises:
        BusinessError: something is not enough or not there; it is named.
    """
    subtotal = rounded(sum((item.price * item.quantity for item in order.items), Decimal(0)))
    left, taken_off = subtotal, []
    for discount in order.discounts:
        amount = min(left, _worth(primary, discount, left))
        left -= amount
        taken_off.append({"type": discount.type, "amount": str(amount)})
    _take_stock(primary, order)
    shipping = _shipping(primary, order)
    total = left + shipping
    _take_money(secondary, order.payment.account_id, total)
    _write_down(secondary, order, subtotal, subtotal - left, shipping, total)
    return {
        "orderId": order.order_id,
        "subtotal": str(subtotal),
        "discounts": taken_off,
        "shipping": str(shipping),
        "total": str(total),
    }


def rounded(amount: Decimal) -> Decimal:
    """Return an amount in hundredths, halves away from zero."""
    return amount.quantize(_CENT, ROUND_HALF_UP)


def _worth(primary: Source, discount: Discount, left: Decimal) -> Decimal:
    if discount.type == "COUPON":
        return _use_up(primary, discount.code or "")
    assert discount.value is not None
    if discount.type == "PERCENT":
        return rounded(left * discount.value / 100)
    return rounded(discount.value)


def _use_up(primary: Source, code: str) -> Decimal:
    found = primary.query("SELECT amount, remaining FROM coupon WHERE code = %s FOR UPDATE", [code])
    if not found:
        raise BusinessError(f"There is no coupon {code!r}.")
    ((amount, remaining),) = found
    if remaining < 1:
        raise BusinessError(f"The coupon {code!r} is used up.")
    primary.execute("UPDATE coupon SET remaining = remaining - 1 WHERE code = %s", [code])
    return Decimal(amount)


def _take_stock(primary: Source, order: ComplexOrder) -> None:
    wanted: Counter[str] = Counter()
    for item in order.items:
        wanted[item.sku] += item.quantity
    for sku in sorted(wanted):
        quantity = wanted[sku]
        found = primary.query(
            "SELECT quantity, version FROM inventory WHERE sku = %s FOR UPDATE", [sku]
        )
        if not found:
            raise BusinessError(f"The inventory knows no sku {sku!r}.")
        ((there, version),) = found
        if there < quantity:
            raise BusinessError(
                f"Not enough stock of sku {sku!r}: {quantity} wanted, {there} there."
            )
        changed = primary.execute(
            "UPDATE inventory SET quantity = quantity - %s, version = version + 1"
            " WHERE sku = %s AND version = %s",
            [quantity, sku, version],
        )
        if changed != 1:
            raise BusinessError(f"The stock of sku {sku!r} changed meanwhile. Order again.")


def _shipping(primary: Source, order: ComplexOrder) -> Decimal:
    region = order.shipping.region
    found = primary.query("SELECT base, per_kg FROM shipping_rate WHERE region = %s", [region])
    if not found:
        raise BusinessError(f"There is no shipping rate for the region {region!r}.")
    ((base, per_kg),) = found
    return rounded(base + per_kg * order.shipping.weight)


def _take_money(secondary: Source, account_id: str, total: Decimal) -> None:
    found = secondary.query(
        "SELECT balance FROM account WHERE account_id = %s FOR UPDATE", [account_id]
    )
    if not found:
        raise BusinessError(f"There is no account {account_id!r}.")
    ((balance,),) = found
    if balance < total:
        raise BusinessError(
            f"Not enough money in account {account_id!r}: {total} wanted, {balance} there."
        )
    secondary.execute(
        "UPDATE account SET balance = balance - %s, version = version + 1 WHERE account_id = %s",
        [total, account_id],
    )


def _write_down(
    secondary: Source,
    order: ComplexOrder,
    subtotal: Decimal,
    discount: Decimal,
    shipping: Decimal,
    total: Decimal,
) -> None:
    secondary.execute(
        "INSERT INTO orders (order_id, customer_id, subtotal, discount, shipping, total)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        [order.order_id, order.customer_id, subtotal, discount, shipping, total],
    )
    secondary.execute_many(
        "INSERT INTO order_item (order_id, line, sku, price, quantity) VALUES (%s, %s, %s, %s, %s)",
        [
            (order.order_id, line, item.sku, item.price, item.quantity)
            for line, item in enumerate(order.items, 1)
        ],
    )
    secondary.execute(
        "INSERT INTO payment (order_id, account_id, method, amount) VALUES (%s, %s, %s, %s)",
        [order.order_id, order.payment.account_id, order.payment.method, total],
    )
