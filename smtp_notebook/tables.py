"""A frame as a table that mail shows: a few texts, aligned, with a twin in plain text.

pandas, polars and pyarrow are recognised when they are loaded, and never imported to ask. Only what is shown is
read, so that a frame of ten thousand columns or a cell of a megabyte costs no more than what a mail can hold.
"""

from __future__ import annotations

import datetime as dt
import enum
import html
import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

__all__ = ["MAX_COLUMNS", "MAX_ROWS", "Table", "is_frame", "table"]

#: A table in a mail shows at most so many rows and columns; the rest is counted below it.
MAX_ROWS = 200
MAX_COLUMNS = 50
#: A longer cell is cut.
_MAX_CELL = 1000
#: More figures than these say nothing to a reader.
_SIGNIFICANT = 6
#: An amount of money shows its cents, however large it is.
_CENTS = 2
_EXACT = 1e15
_TINY = 1e-4

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
#: What changes the direction of the text behind it; a cell has a direction of its own already.
_DIRECTION = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile(
    r"[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_FIRST_STRONG, _END = "\u2068", "\u2069"
_WIDE = frozenset({"W", "F"})

# Every second row is shaded by a grey that lets light and dark through; programs without rgba() keep the first.
_SHADED = '<tr valign="top" style="background:#f4f5f6;background:rgba(127,127,127,.1)">'
_ROW = '<tr valign="top">'
_TABLE = "border-collapse:collapse;font-size:14px;line-height:1.4"
_RULE = "border-bottom:2px solid #8c959f"


@dataclass(frozen=True, slots=True)
class Table:
    """What of a frame is shown, as texts.

    Attributes:
        head: One label for each column.
        rows: As many texts in each row.
        numeric: Which columns are aligned to the right.
        whole: Which columns have cells that must not be broken, such as dates.
        caption: What stands above it, or "".
        note: What is not shown, or "".
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    whole: tuple[bool, ...] = ()
    caption: str = ""
    note: str = ""

    def to_html(self) -> str:
        """Return it as HTML, every text escaped; a table wider than its place scrolls where programs can do that."""
        tops = "".join(
            f'<th align="{_side(n)}" style="{_RULE}"{_dir(h)}>{_text(h)}</th>'
            for h, n in zip(self.head, self.numeric, strict=True)
        )
        whole = self.whole or (False,) * len(self.head)
        opening = [
            "<td" + (' align="right"' if n else "") + (" nowrap" if w else "")
            for n, w in zip(self.numeric, whole, strict=True)
        ]
        lines = [
            (_SHADED if number % 2 else _ROW)
            + "".join([f"{o}{_dir(c)}>{_text(c)}</td>" for o, c in zip(opening, row, strict=True)])
            + "</tr>\n"
            for number, row in enumerate(self.rows)
        ]
        top = (
            f'<p style="margin:0 0 6px"{_dir(self.caption)}><strong>{_text(self.caption)}</strong></p>'
            if self.caption
            else ""
        )
        foot = f'<p style="margin:6px 0 0;font-size:13px">{_text(self.note)}</p>' if self.note else ""
        return (
            f'<div style="margin:0 0 16px;overflow-x:auto">{top}'
            f'<table cellpadding="6" cellspacing="0" border="0" style="{_TABLE}">\n'
            f"<thead><tr>{tops}</tr></thead>\n<tbody>\n{''.join(lines)}</tbody></table>{foot}</div>"
        )

    def to_text(self) -> str:
        """Return it as plain text, its columns aligned for a font of one width."""
        flat = [[_flat(c) for c in row] for row in (self.head, *self.rows)]
        widths = [max(map(_width, column)) for column in zip(*flat, strict=True)]
        lines = [
            "  ".join(
                [_padded(c, w, right=n) for c, w, n in zip(row, widths, self.numeric, strict=True)]
            ).rstrip()
            for row in flat
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join([*filter(None, [_flat(self.caption)]), *lines, *filter(None, [self.note])])


# ---------------------------------------------------------------------------------------- the texts


def _side(numeric: bool) -> str:  # noqa: FBT001 - a column is one or the other
    return "right" if numeric else "left"


def _text(text: str) -> str:
    return html.escape(text).replace("\n", "<br>") if text else ""


def _dir(text: str) -> str:
    """Return the attribute that keeps a cell's own direction from the cells beside it."""
    return "" if text.isascii() or not _RIGHT_TO_LEFT.search(text) else ' dir="auto"'


def _flat(text: str) -> str:
    """Return a cell on one line, its direction kept to itself."""
    line = " ".join(text.split())
    return line if line.isascii() or not _RIGHT_TO_LEFT.search(line) else f"{_FIRST_STRONG}{line}{_END}"


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in {"Mn", "Me", "Cf"} else 1 + (unicodedata.east_asian_width(c) in _WIDE)
        for c in text
    )


def _padded(text: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - _width(text))
    return blanks + text if right else text + blanks


# ------------------------------------------------------------------------------------------- frames


def is_frame(value: object) -> bool:
    """Tell whether *value* is a frame, a column or an Arrow table of a library that is loaded, or narwhals' around one."""
    pandas, polars, arrow = (sys.modules.get(n) for n in ("pandas", "polars", "pyarrow"))
    return bool(
        _is_narwhals(value)
        or (pandas and isinstance(value, pandas.DataFrame | pandas.Series | pandas.Index))
        or (polars and isinstance(value, polars.DataFrame | polars.Series))
        or (arrow and isinstance(value, arrow.Table | arrow.RecordBatch))
    )


def _is_narwhals(value: object) -> bool:
    narwhals: Any = sys.modules.get("narwhals")
    return narwhals is not None and isinstance(value, narwhals.DataFrame | narwhals.Series)


def table(
    value: Any, *, rows: int | None = None, columns: int | None = None, caption: str | None = None
) -> Table:
    """Return a frame as a Table.

    Args:
        value: What `is_frame` tells.
        rows: How many rows are shown at most; `MAX_ROWS` by default.
        columns: How many columns, an index aside; `MAX_COLUMNS` by default.
        caption: What stands above it; by default ``frame.attrs["caption"]``, where pandas has that.
    """
    rows = MAX_ROWS if rows is None else max(0, rows)
    columns = MAX_COLUMNS if columns is None else max(1, columns)
    if _is_narwhals(value):
        value = value.to_native()
    head, shown, height, width = _read(value, rows, columns)
    formatted = [_column(list(column)) for column in zip(*shown, strict=True)] or [
        ([], _Kind.WORDS) for _ in head
    ]
    own = getattr(value, "attrs", None)
    if caption is None:
        caption = str(own.get("caption", "")) if isinstance(own, dict) else ""
    hidden = [
        f"{count:,} more {what}{'s' if count > 1 else ''}"
        for count, what in ((height - len(shown), "row"), (width - columns, "column"))
        if count > 0
    ]
    return Table(
        head=tuple(_clean(h) for h in head),
        rows=tuple(zip(*(texts for texts, _ in formatted), strict=True)),
        numeric=tuple(kind is _Kind.NUMBERS for _, kind in formatted),
        whole=tuple(kind is not _Kind.WORDS and any("-" in t for t in texts) for texts, kind in formatted),
        caption=_clean(caption),
        note=f"… and {' and '.join(hidden)}" if hidden else "",
    )


def _read(value: Any, rows: int, columns: int) -> tuple[list[str], list[tuple[Any, ...]], int, int]:
    """Return the labels, the cells that are shown, and how many rows and columns there are."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series | pandas.Index):
        return _read_pandas(pandas, value, rows, columns)
    import narwhals as nw

    arrow = sys.modules.get("pyarrow")
    if arrow is not None and isinstance(value, arrow.RecordBatch):
        value = arrow.Table.from_batches([value])
    labels = None
    if arrow is not None and isinstance(value, arrow.Table):
        # Arrow alone allows two columns of one name.
        labels = value.column_names
        value = value.rename_columns([str(i) for i in range(len(labels))])
    native = nw.from_native(value, allow_series=True)
    frame = native.to_frame() if isinstance(native, nw.Series) else native
    names = list(frame.columns)
    shown = frame.select(names[:columns]).head(rows)
    texts = [name for name, kind in shown.schema.items() if kind == nw.String]
    if texts:
        shown = shown.with_columns(nw.col(texts).str.slice(0, _MAX_CELL + 1))
    return (labels or names)[:columns], list(shown.iter_rows()), len(frame), len(names)


def _read_pandas(
    pandas: Any, value: Any, rows: int, columns: int
) -> tuple[list[str], list[tuple[Any, ...]], int, int]:
    if isinstance(value, pandas.Index):
        frame = value.to_frame(index=False)
    else:
        frame = value.to_frame() if isinstance(value, pandas.Series) else value
    if isinstance(value, pandas.Series) and value.name is None:
        frame.columns = [""]
    shown = frame.iloc[:rows, :columns]
    labels = [_label(c) for c in shown.columns]
    cells = [_cells_of(pandas, shown.iloc[:, i]) for i in range(len(labels))]
    if not isinstance(frame.index, pandas.RangeIndex) or frame.index.name is not None:
        levels = range(shown.index.nlevels)
        labels = [*(_label(n) for n in shown.index.names), *labels]
        cells = [*(list(shown.index.get_level_values(i)) for i in levels), *cells]
    return labels, list(zip(*cells, strict=True)), len(frame), frame.shape[1]


def _cells_of(pandas: Any, column: Any) -> list[Any]:
    """Return a column's cells; of long texts that lie outside of Python only what is shown is brought in."""
    return list(
        column.str.slice(0, _MAX_CELL + 1) if isinstance(column.dtype, pandas.StringDtype) else column
    )


def _label(name: object) -> str:
    parts = name if isinstance(name, tuple) else (name,)
    # pd.NA is a label that cannot even be compared.
    return " ".join(_printed(p) for p in parts if p is not None and not (isinstance(p, str) and not p))


# -------------------------------------------------------------------------------------------- cells


class _Kind(enum.Enum):
    """What the cells of a column are."""

    WORDS = enum.auto()
    NUMBERS = enum.auto()
    MOMENTS = enum.auto()


def _column(cells: Sequence[Any]) -> tuple[list[str], _Kind]:
    """Return a column's cells as texts, and what they are."""
    known = [c for c in cells if not _missing(c)]
    if known and all(map(_is_number, known)):
        return _numbers(cells, known), _Kind.NUMBERS
    if known and all(isinstance(c, dt.datetime) for c in known):
        return _moments(cells, known), _Kind.MOMENTS
    return ["" if _missing(c) else _clean(_printed(c)) for c in cells], _Kind.WORDS


def _missing(cell: object) -> bool:
    if cell is None or type(cell).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(cell, float) and cell != cell  # noqa: PLR0124 - NaN is the one float that differs from itself


def _is_number(cell: object) -> bool:
    if isinstance(cell, bool | str) or type(cell).__name__ == "bool_":
        return False
    return isinstance(cell, int | float) or (hasattr(cell, "__float__") and not hasattr(cell, "__len__"))


def _is_float(cell: object) -> bool:
    return isinstance(cell, float) or (hasattr(cell, "is_integer") and not isinstance(cell, Integral))


def _numbers(cells: Sequence[Any], known: Iterable[Any]) -> list[str]:
    """Return numbers with the same count of decimals in all; whole ones without any."""
    floats = [float(c) for c in known if _is_float(c)]
    digits = max(map(_decimals, floats), default=0)
    return ["" if _missing(c) else _number(c, digits) for c in cells]


def _number(cell: Any, digits: int) -> str:
    if not _is_float(cell):
        whole = _clean(_printed(cell))
        return f"{whole}.{'0' * digits}" if digits and isinstance(cell, Integral) else whole
    number = float(cell)
    if not math.isfinite(number):
        return f"{number}"
    if number and not _TINY <= abs(number) < _EXACT:
        return f"{number:.{_SIGNIFICANT}g}"
    return f"{number:.{digits}f}"


def _decimals(number: float) -> int:
    """Return how many decimals show a number: all that it has, but beyond two no more than its first figures need."""
    if not math.isfinite(number) or (number and not _TINY <= abs(number) < _EXACT):
        return 0
    whole = len(str(int(abs(number)))) if abs(number) >= 1 else 0
    text = f"{number:.{max(_CENTS, _SIGNIFICANT - whole)}f}"
    return len(text.rstrip("0").partition(".")[2])


def _moments(cells: Sequence[Any], known: Iterable[dt.datetime]) -> list[str]:
    """Return moments; as days where every one of them is a midnight."""
    days = all((c.hour, c.minute, c.second, c.microsecond) == (0, 0, 0, 0) for c in known)
    return ["" if _missing(c) else str(c.date() if days else c) for c in cells]


def _printed(cell: object) -> str:
    try:
        return str(cell)
    except Exception:  # noqa: BLE001 - one cell that cannot print itself is no reason to lose the table
        return f"<{type(cell).__name__}>"


def _clean(text: object) -> str:
    """Return a text that is safe to stand beside others: cut, without controls, its direction its own."""
    found = text if isinstance(text, str) else str(text)
    if len(found) > _MAX_CELL:
        found = found[: _MAX_CELL - 1] + "…"
    if found.isascii() and found.isprintable():
        return found
    found = _DIRECTION.sub("", found.replace("\r\n", "\n").replace("\r", "\n"))
    return _CONTROLS.sub("\ufffd", found)
