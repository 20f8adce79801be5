"""The filters that templates have beside Jinja2's own: addresses, date, number, money, table."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any

from jinja2 import Undefined

from smtp_notebook import tables
from smtp_notebook.addresses import split_addresses
from smtp_notebook.rows import as_given

__all__ = ["AddressList", "addresses", "date", "money", "number", "table"]

_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "CNY": "¥", "INR": "₹", "KRW": "₩", "BRL": "R$"}
_MOST_DIGITS = 400
_NO_CENTS = frozenset({"JPY", "KRW", "VND", "CLP", "ISK"})


@dataclass(frozen=True, slots=True)
class AddressList:
    """Several addresses from one value, said so by the template's author."""

    items: tuple[Any, ...]


def addresses(value: Any) -> Any:
    """Let one value fill several addresses: a list, or text separated by semicolons or commas."""
    if isinstance(value, Undefined):
        return value
    if isinstance(value, str):
        return AddressList(tuple(split_addresses(value)))
    return AddressList(tuple(value) if isinstance(value, Iterable) else (value,))


def date(value: Any, form: str = "%d %B %Y") -> Any:
    """Format a date, a datetime, or ISO 8601 text such as Salesforce's ``2026-11-02T14:03:21.000+0000``.

    Args:
        value: The date.
        form: A ``strftime`` format; ``23 November 2026`` by default. The time zone is kept as it is.
    """
    if isinstance(value, Undefined):
        return value
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value.strip())
    return value.strftime(form)


def number(value: Any, decimals: int | None = None) -> Any:
    """Format a number with thousands separators: ``94107.0`` as ``94,107``.

    Args:
        value: A number, or text that is one.
        decimals: Digits after the point; None keeps what is there, without trailing zeros.
    """
    if isinstance(value, Undefined):
        return value
    amount = _decimal(value)
    if decimals is not None:
        return f"{_rounded(amount, decimals):,f}"
    text = f"{amount:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def money(value: Any, currency: str = "USD") -> Any:
    """Format an amount: ``$1,234.50``; a currency without a known sign stands in front as its code."""
    if isinstance(value, Undefined):
        return value
    code = currency.upper()
    amount = _rounded(_decimal(value), 0 if code in _NO_CENTS else 2)
    sign = "-" if amount < 0 else ""
    return f"{sign}{_SYMBOLS.get(code, code + ' ')}{abs(amount):,f}"


def table(value: Any, rows: int | None = None, columns: int | None = None, caption: str | None = None) -> Any:
    """Choose how much of a frame is shown, and what stands above it.

    In a template: ``{{ frame | table(rows=10, caption="Top") }}``.

    Args:
        value: A frame, or a group's ``rows``; a list of dicts becomes one.
        rows: How many rows at most; 200 by default.
        columns: How many columns at most; 50 by default.
        caption: A line above the table.
    """
    value = as_given(value)
    if isinstance(value, Undefined):
        return value
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        import pandas as pd

        value = pd.DataFrame(value)
    if not tables.is_frame(value):
        msg = f"a {type(value).__name__} is no frame"
        raise ValueError(msg)
    return tables.table(value, rows=rows, columns=columns, caption=caption)


def _decimal(value: Any) -> Decimal:
    try:
        amount = Decimal(str(value).replace(",", ""))
    except InvalidOperation:
        msg = f"{str(value)[:40]!r} is not a number"
        raise ValueError(msg) from None
    # "1e999999999" in a cell would be written out with all its zeros.
    if amount.is_finite() and abs(amount.adjusted()) > _MOST_DIGITS:
        msg = f"{str(value)[:40]!r} has more than {_MOST_DIGITS} digits"
        raise ValueError(msg)
    return amount


def _rounded(amount: Decimal, decimals: int) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN)
