"""What a merge takes as *df*, as rows of cells; and what identifies a row."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any

from smtp_notebook.addresses import Address
from smtp_notebook.outcome import AddressError, MergeRefusedError, MessageError
from smtp_notebook.rows import Differing
from smtp_notebook.selects import salesforce_suffix
from smtp_notebook.template import is_missing

__all__ = [
    "ADDRESS_COLUMNS",
    "Frame",
    "canonical_key",
    "guess_address_column",
    "guess_key_column",
    "row_key",
]

ADDRESS_COLUMNS = frozenset({"email", "e-mail", "mail", "email address"})
#: What a column that tells rows apart is called, without blanks, hyphens and underscores; the likeliest first.
_KEY_COLUMNS = (
    *("id", "key", "uuid", "guid", "uid"),
    *("recordid", "leadid", "contactid", "customerid", "memberid", "userid"),
)
_EXACT_FLOAT = 2**53
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_BLOCK = 4096
_SALESFORCE_ID = 18
_BOOLEANS = frozenset({"bool", "bool_"})
_INEXACT = (float, Decimal)


class Frame:
    """What `mail_merge` takes as *df*, as rows of names and cells. Never changed.

    Args:
        data: A pandas DataFrame, anything that narwhals reads (polars, pyarrow, DuckDB, …), or a
            list of dicts.

    Raises:
        MergeRefusedError: Something else, or a frame with two columns of one name.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._dicts: Sequence[Mapping[Any, Any]] | None = None
        index = getattr(data, "index", None)
        # pandas' own never changes; the frame may get another one later.
        self._index = index if index is not None and not callable(index) else None
        if isinstance(data, list | tuple):
            self._dicts = _checked_dicts(data)
            self.columns = list(dict.fromkeys(str(k) for row in self._dicts for k in row))
        else:
            self._table = _narwhals(data)
            self.columns = [str(c) for c in self._table.columns]

    def __len__(self) -> int:
        return len(self._dicts) if self._dicts is not None else len(self._table)

    def rows(self, first: int = 0) -> Iterator[dict[str, Any]]:
        """Yield each row, from the one at *first* on; a name that a dict lacks is a missing cell."""
        if self._dicts is not None:
            yield from map(self._named, islice(self._dicts, first, None))
            return
        names = self.columns
        for start in range(first, len(self._table) if names else 0, _BLOCK):
            # A list of a column's cells takes a tenth of the time that its cells one by one take.
            block = self._table[start : start + _BLOCK]
            for values in zip(*[column.to_list() for column in block.iter_columns()], strict=True):
                yield dict(zip(names, values, strict=True))

    def numbered(self, first: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each row with its position, from the one at *first* on."""
        return enumerate(self.rows(first), first)

    def some(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield the cells of some columns, row by row."""
        if self._dicts is not None:
            for row in self.rows():
                yield tuple(row[c] for c in columns)
            return
        places = [self.columns.index(c) for c in columns]
        for start in range(0, len(self._table), _BLOCK):
            block = list(self._table[start : start + _BLOCK].iter_columns())
            yield from zip(*[block[place].to_list() for place in places], strict=True)

    def taken(self, positions: Any) -> list[list[Any]]:
        """Return the cells of some rows, column by column; *positions* is an array of whole numbers."""
        if self._dicts is not None:
            rows = [self._named(self._dicts[position]) for position in positions]
            return [[row[name] for row in rows] for name in self.columns]
        return [column.to_list() for column in self._table[positions].iter_columns()]

    def part(self, positions: Sequence[int], columns: Sequence[str]) -> Any:
        """Return some rows and columns as a frame of its own kind; of a list of dicts as a pandas DataFrame.

        An index of numbers without a name is made anew: it would be shown, and says nothing to a reader.
        """
        if self._dicts is not None:
            import pandas as pd

            rows = [self._named(self._dicts[position]) for position in positions]
            return pd.DataFrame([[row[c] for c in columns] for row in rows], columns=list(columns))
        places = [self.columns.index(c) for c in columns]
        made = self._table[list(positions), places].to_native()
        index: Any = self._index
        # A frame that was sorted or filtered still has the numbers of before.
        counts = index is not None and index.nlevels == 1 and index.name is None and index.dtype.kind in "iu"
        return made.reset_index(drop=True) if counts else made

    def slice(self, start: int, stop: int) -> Any:
        """Return some rows that stand together, as a `Frame` takes them, with all columns."""
        if self._dicts is not None:
            return [self._named(row) for row in self._dicts[start:stop]]
        return self._table[start:stop].to_native()

    def picked(self, positions: Any) -> Any:
        """Return some rows in this order, as `slice` does; *positions* is an array of whole numbers."""
        if self._dicts is not None:
            return [self._named(self._dicts[position]) for position in positions]
        return self._table[positions].to_native()

    def _named(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        cells = {str(k): v for k, v in row.items()}
        return {name: cells.get(name) for name in self.columns}

    def row(self, position: int) -> dict[str, Any]:
        """Return one row by its position, counted from 0; negative counts from the end."""
        count = len(self)
        if not -count <= position < count:
            cause = f"There is no row {position}: the frame has {count:,} rows."
            raise MergeRefusedError(cause, "Rows are counted from 0.")
        position %= count
        if self._dicts is not None:
            return self._named(self._dicts[position])
        return dict(
            zip(self.columns, next(iter(self._table[position : position + 1].iter_rows())), strict=True)
        )

    def cells(self, column: str) -> list[Any]:
        """Return all cells of one column, in the order of the rows."""
        if self._dicts is None:
            # By place: a name that is no text would be taken for a row's number.
            place = self.columns.index(column)
            return next(each.to_list() for at, each in enumerate(self._table.iter_columns()) if at == place)
        return [self._named(row)[column] for row in self._dicts]

    def labels(self) -> Sequence[Any]:
        """Return the frame's own index: one label per row."""
        return self._index if self._index is not None else range(len(self))


def _checked_dicts(data: Sequence[Any]) -> Sequence[Mapping[Any, Any]]:
    for position, row in enumerate(data):
        if not isinstance(row, Mapping):
            cause = f"Row {position} of the list is a {type(row).__name__}, not a dict."
            raise MergeRefusedError(cause, "Pass a DataFrame or a list of dicts.")
    return data


def _narwhals(data: Any) -> Any:
    import narwhals as nw

    names = getattr(data, "columns", None)
    if names is not None and not callable(names):
        seen: set[str] = set()
        twice = [str(n) for n in names if str(n) in seen or seen.add(str(n))]  # type: ignore[func-returns-value]  # add() is the point
        if twice:
            cause = f"The frame has more than one column called {twice[0]!r}."
            raise MergeRefusedError(cause, "Rename one: a template could not tell them apart.")
    try:
        table = nw.from_native(data)
    except TypeError:
        cause = f"A {type(data).__name__} is no frame."
        raise MergeRefusedError(cause, "Pass a DataFrame or a list of dicts.") from None
    return table.collect() if isinstance(table, nw.LazyFrame) else table


def guess_address_column(columns: Iterable[str]) -> str:
    """Return the one column that holds the addresses, by its name.

    Raises:
        MergeRefusedError: None or several are called email, e-mail, mail or email address.
    """
    names = list(columns)
    found = [c for c in names if c.strip().lstrip("\ufeff").casefold() in ADDRESS_COLUMNS]
    if len(found) == 1:
        return found[0]
    if found:
        cause = f"Several columns could hold the address: {', '.join(map(repr, found))}."
        raise MergeRefusedError(cause, f"Say which: to='{{{{ {found[0]} }}}}'.")
    cause = f"No column is called email; there are: {', '.join(map(repr, names[:20])) or 'none'}."
    raise MergeRefusedError(cause, "Say where to send: to='{{ ColumnName }}' here or in the template's head.")


def guess_key_column(frame: Frame) -> str:
    """Return a column that is called id, key or the like and tells the rows apart, or "" for none."""
    plain = {
        re.sub(r"[\s_-]", "", name.lstrip("\ufeff")).casefold(): name for name in reversed(frame.columns)
    }
    named = (plain[word] for word in _KEY_COLUMNS if word in plain)
    return next((name for name in named if _tells_apart(frame.cells(name))), "")


def _tells_apart(cells: Sequence[Any]) -> bool:
    try:
        return 0 < len(cells) == len({canonical_key(cell) for cell in cells})
    except MessageError:
        return False


# --------------------------------------------------------------------------------------------- keys


def _empty_key() -> MessageError:
    cause = "The key is empty."
    return MessageError(cause, "Fill the cell, or choose a key column that is never empty.")


def canonical_key(value: object) -> str:
    """Return the one form of a key: 1, 1.0 and "1" are the same row, as are Salesforce's two ids.

    Raises:
        MessageError: The cell is missing, empty or blank, a boolean, or a float that cannot be exact.
    """
    if type(value) is not str and is_missing(value):
        raise _empty_key()
    if type(value).__name__ in _BOOLEANS:
        cause = f"The key is {value}, which cannot tell rows apart."
        raise MessageError(cause, "Choose another key column.")
    if isinstance(value, _INEXACT):
        if abs(float(value)) > _EXACT_FLOAT:
            cause = f"The key {value} is a float beyond 2**53, which is not exact."
            raise MessageError(cause, "Read that column as text (dtype=str).")
        return str(int(value)) if value == int(value) else str(value)
    text = str(value).strip()
    if not text:
        raise _empty_key()
    if not text.isascii() and _LONE_SURROGATE.search(text):
        raise MessageError("The key has half of a character in it.", "Clean the cell.")
    if "@" in text:
        return _one_address(text)
    if text.endswith("0") and re.fullmatch(r"-?[0-9]+\.0+", text):
        return text.partition(".")[0]
    if (
        len(text) == _SALESFORCE_ID
        and text.isascii()
        and text.isalnum()
        and text[15:] == salesforce_suffix(text[:15])
    ):
        return text[:15]
    return text


def _one_address(text: str) -> str:
    """Return an address in the one form in which it is a key: as on the wire, case folded; other text as it is."""
    try:
        return Address.parse(text).wire.casefold()
    except AddressError:
        return text


def stand_in_key(cells: Mapping[str, Any]) -> str:
    """Return what a row is called that has no key of its own: the same for the same cells, in every process.

    Empty cells say nothing: another file may have other columns.
    """
    full = (
        (name, str(cell))
        for name, cell in sorted(cells.items())
        if type(cell) is not Differing and not is_missing(cell)
    )
    said = "\x1f".join(f"{name}\x1e{text}" for name, text in full if text)
    digest = hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"no key: {digest}"


def row_key(columns: Sequence[str], cells: Mapping[str, Any]) -> str:
    """Return the key of a row by its key columns; several are joined as JSON.

    Raises:
        MessageError: A cell cannot be a key; see `canonical_key`. Or the rows of a group have several.
    """
    if len(columns) == 1:
        return canonical_key(cells[columns[0]])
    return json.dumps([canonical_key(cells[c]) for c in columns], ensure_ascii=False)


def address_key(people: Iterable[str]) -> str:
    """Return the key of a row that is known by its addresses, which are in wire form."""
    return ", ".join(sorted([a.casefold() for a in people]))


def own_key(columns: Sequence[str], cells: Mapping[str, Any]) -> str:
    """Return the key of a row, or what it is called where it has none."""
    try:
        return row_key(columns, cells)
    except MessageError:
        return stand_in_key(cells)
