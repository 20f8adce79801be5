"""Files of rows: CSV, Excel, Parquet and JSON, read so that no row is lost and no cell changes on the way.

What pandas' own readers would mend in silence (a short line, a column that exists twice, a postal code that loses its
zero) is refused or kept here. Nothing is fetched: a file is on this machine.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from smtp_notebook.addresses import shortened
from smtp_notebook.outcome import MailError, MergeRefusedError, OptionError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SUFFIXES", "read_table"]

#: The largest file that is read, in octets, and the largest that a packed one may become.
MOST_BYTES = 1 << 30
_EXACT = 2**53
_WHOLE = re.compile(r"(?:0|-?[1-9][0-9]{0,15})")
_BROKEN = re.compile(r"-?(?:0|[1-9][0-9]{0,15})\.[0-9]{1,17}")
_DELIMITERS = (",", ";", "\t", "|")
_SEP = re.compile(r'"?sep=(.)"?\r?\n?')
#: How many rows decide what separates the cells.
_LOOKED_AT = 50
_SHOWN = 60
_HEAD = 1 << 18
_BLOCK = 4096
_EMPTY = (None, "")
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ZIP = b"PK\x03\x04"
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_PACKED = frozenset({".gz", ".bz2", ".xz", ".zip", ".zst", ".7z"})
#: Names that pyarrow gives to an index without one.
_INDEX = re.compile(r"__index_level_[0-9]+__")
_PYARROW = 15

Note = Callable[[str], object]


class _Given(NamedTuple):
    """A file as it was read, and how to read it."""

    name: str
    suffix: str
    data: bytes
    delimiter: str | None
    encoding: str | None
    sheet: str | int
    note: Note

    def refused(self, cause: str, fix: str) -> MergeRefusedError:
        """Return the error that says so of this file."""
        return MergeRefusedError(f"{self.name}: {cause}", fix)


def read_table(
    source: str | Path | IO[Any],
    *,
    name: str = "",
    delimiter: str | None = None,
    encoding: str | None = None,
    sheet: str | int = 0,
    note: Callable[[str], object] | None = None,
) -> pd.DataFrame:
    """Read a file of rows, and lose none of them.

    The suffix says what it is: ``.csv``, ``.tsv``, ``.tab`` and ``.txt`` are text; ``.xlsx`` and ``.xlsm`` need
    openpyxl, ``.parquet`` needs pyarrow; ``.json`` is a list of records, ``.jsonl`` and ``.ndjson`` have one on each
    line. The first row names the columns. A row whose cells are all empty is no row; an empty cell is missing.

    A column of a text file becomes numbers only where each of its cells reads back exactly as it was written:
    ``01234``, ``+1 555`` and ``1.50`` stay text, and so do dates.

    Args:
        source: A path on this machine, or an open file, of octets or of text.
        name: What to call it in errors, and where an open file has no name, what its suffix is read from.
        delimiter: What separates the cells of a text file; else it is found among comma, semicolon, tab and bar.
        encoding: That of a text file; else UTF-8, UTF-16 where a byte order mark says so, or Windows-1252 with a note.
        sheet: Which sheet of a spreadsheet: its name, or its place counted from 0.
        note: Called with each sentence that a person should hear, such as one about a guessed encoding.

    Raises:
        MergeRefusedError: It cannot be read, is empty, or has a line that does not fit its columns; the cause names
            the file and the line.
        OptionError: A URL, or an unknown kind of file.
    """
    name, suffix = _named(source, name)
    data = _octets(source, name)
    given = _Given(_shown(name), suffix, data, delimiter, encoding, sheet, note or _unheard)
    if suffix in _PACKED:
        raise OptionError(f"{given.name} is packed.", "Unpack it first.")
    reader = _READERS.get(suffix)
    if reader is None:
        known = ", ".join(sorted(SUFFIXES))
        raise OptionError(f"{given.name} has no suffix of a file of rows.", f"There are {known}.")
    if len(given.data) > MOST_BYTES:
        raise given.refused("it is larger than 1 GiB.", "Split it.")
    if not given.data:
        raise given.refused("the file is empty.", "Write at least the names of its columns, in one line.")
    return reader(given)


def _shown(name: str) -> str:
    """Return a path for an error message: of a long one, its end."""
    return repr(name if len(name) <= _SHOWN else f"…{name[1 - _SHOWN :]}")


def _unheard(_: str) -> None:
    """Say nothing."""


def _named(source: Any, name: str) -> tuple[str, str]:
    if not name:
        given = source if isinstance(source, str | os.PathLike) else getattr(source, "name", "")
        name = os.fspath(given) if isinstance(given, str | os.PathLike) else ""
        if not isinstance(name, str):
            name = os.fsdecode(name)
    if "://" in name:
        # What stands in front of a host may be a password: it is not repeated.
        raise OptionError("A URL is no file on this machine, and nothing is fetched.", "Give a path.")
    return name or "the file", Path(name).suffix.lower()


def _octets(source: Any, name: str) -> bytes:
    try:
        if isinstance(source, str | os.PathLike):
            with Path(source).open("rb") as file:
                return file.read(MOST_BYTES + 1)
        if not hasattr(source, "read"):
            cause = f"A {type(source).__name__} is no file."
            raise OptionError(cause, "Give a path, or an open file.")
        data = source.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        cause = f"{_shown(name)} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}."
        raise MergeRefusedError(cause, "Check the path, and who may read it.") from None
    if not isinstance(data, str):
        return bytes(data)
    try:
        # With a mark, so that nobody guesses.
        return codecs.BOM_UTF8 + data.encode() if data else b""
    except UnicodeEncodeError:
        raise MergeRefusedError(f"{_shown(name)} has half of a character in it.", "Save it again.") from None


# ------------------------------------------------------------------------------------------------ text


def _text(given: _Given) -> pd.DataFrame:
    lines, delimiter, above = _lines(given, _decoded(given))
    try:
        rows = _Rows(given, lines, delimiter, above)
    except TypeError:
        cause = f"delimiter={delimiter!r} is not one character."
        raise OptionError(cause, "Give a comma, a semicolon or a tab.") from None
    return _frame(given, rows.header, iter(rows), _typed_text)


def _decoded(given: _Given) -> bytes:
    """Return the text as UTF-8 without a byte order mark, of which every octet was understood."""
    data = given.data
    if data.startswith((_ZIP, _OLD_EXCEL)):
        raise given.refused("this is a spreadsheet or an archive, not text.", "Save it as CSV, or as .xlsx.")
    if given.encoding is not None:
        return _recoded(given, given.encoding)
    if data.startswith(codecs.BOM_UTF8):
        data = data[len(codecs.BOM_UTF8) :]
    elif data.startswith(_UTF32):
        return _recoded(given, "utf-32")
    elif data.startswith(_UTF16):
        return _recoded(given, "utf-16")
    if b"\0" in data:
        raise _nul(given, data.count(b"\n", 0, data.index(b"\0")))
    if _is_utf8(data):
        return data
    if _is_mixed(data):
        # As Windows-1252 all its other names would be wrong: MÃ¼ller.
        return _recoded(given, "utf-8")
    given.note(f"{given.name} is not UTF-8; it was read as Windows-1252.")
    return _recoded(given, "cp1252")


def _is_utf8(data: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(data)
    try:
        for start in range(0, len(data), 1 << 20):
            decoder.decode(view[start : start + (1 << 20)])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _is_mixed(data: bytes) -> bool:
    """Tell whether text that is not UTF-8 as a whole has more characters of it than octets that are none."""
    known = data.decode("utf-8", "ignore")
    beyond_ascii = len(known) - len(known.encode("ascii", "ignore"))
    return beyond_ascii >= len(data) - len(known.encode())


def _recoded(given: _Given, encoding: str) -> bytes:
    try:
        text = given.data.decode(encoding)
    except LookupError:
        raise OptionError(f"There is no encoding {encoding!r}.", "Give utf-8, utf-16 or cp1252.") from None
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = given.data.count(b"\n", 0, at) + 1
        shown = {"cp1252": "Windows-1252"}.get(encoding, encoding.upper())
        cause = f"line {line:,} is not {shown}, nor is the file anything else that is known."
        raise given.refused(cause, "Save it again, as UTF-8, or give encoding=.") from None
    if "\0" in text:
        raise _nul(given, text.count("\n", 0, text.index("\0")))
    return text.encode().removeprefix(codecs.BOM_UTF8)


def _nul(given: _Given, above: int) -> MergeRefusedError:
    return given.refused(
        f"line {above + 1:,} has a NUL in it, which no text has.", "Save it again, as UTF-8."
    )


def _lines(given: _Given, data: bytes) -> tuple[Iterator[str], str, int]:
    """Return the lines of the table, what separates their cells, and how many lines stand above.

    A spreadsheet's ``sep=;`` line says what does.
    """
    end = data.find(b"\n", 0, 16) + 1
    said = _SEP.fullmatch(data[:end].decode("utf-8", "replace")) if end else None
    above = int(said is not None)
    text = io.TextIOWrapper(io.BytesIO(data[end:] if above else data), encoding="utf-8", newline="")
    if given.delimiter is not None:
        return text, given.delimiter, above
    if said is not None:
        return text, said[1], above
    head = data[:_HEAD]
    if len(data) > len(head):
        head = head[: head.rfind(b"\n") + 1]
    likely = "\t" if given.suffix in {".tsv", ".tab"} else ","
    return text, _delimiter(head.decode("utf-8", "ignore"), likely), above


def _delimiter(head: str, likely: str) -> str:
    """Return what gives the first rows as many cells as their header; of several, what gives the most.

    A name with a blank at its edge speaks against what separates it from the next: ``Name, first;Email``.
    """
    best, score = likely, (False, False, False, 1)
    for candidate in _DELIMITERS:
        rows = _first_rows(head, candidate)
        if not rows or len(rows[0]) == 1:
            continue
        even = all(len(row) == len(rows[0]) for row in rows)
        clean = all(name == name.strip() for name in rows[0])
        found = (even, candidate == likely == "\t", clean, len(rows[0]))
        if found > score:
            best, score = candidate, found
    return best


def _first_rows(head: str, delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        for row in csv.reader(io.StringIO(head, newline=""), delimiter=delimiter):
            if row:
                rows.append(row)
            if len(rows) > _LOOKED_AT:
                break
    return rows


class _Rows:
    """The rows of a text file, each as long as its header."""

    def __init__(self, given: _Given, lines: Iterable[str], delimiter: str, above: int) -> None:
        self._given = given
        self._above = above
        self._reader = csv.reader(lines, delimiter=delimiter, strict=True)
        self._records = self._read()
        _, self.header = next(self._records, (0, [""]))
        # A line that ends with its delimiter: a column without a name, which has to stay empty.
        while len(self.header) > 1 and not self.header[-1].strip():
            self.header.pop()

    def _read(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each record with the line that it begins on; blank lines are none."""
        reader = self._reader
        start = self._above + 1
        try:
            for row in reader:
                if row:
                    yield start, row
                start = self._above + reader.line_num + 1
        except csv.Error as error:
            raise self._broken(start, str(error)) from None

    def _broken(self, line: int, error: str) -> MergeRefusedError:
        if "end of data" in error:
            cause, fix = f"the quote that begins on line {line:,} never ends.", "Is the file complete?"
        elif "field limit" in error:
            cause = (
                f"a cell that begins on line {line:,} has more than {csv.field_size_limit():,} characters."
            )
            fix = "A quote may be missing; mend that line."
        else:
            cause, fix = (
                f"line {line:,} has a quote that does not end its cell.",
                'Write "" for a quote inside.',
            )
        return self._given.refused(cause, fix)

    def __iter__(self) -> Iterator[list[str]]:
        width = len(self.header)
        for line, row in self._records:
            if len(row) == width:
                if any(row):
                    yield row
            elif len(row) > width and not any(row[width:]):
                yield row[:width]
            elif len(row) == 1 and self._is_footer([row, *(more for _, more in self._records)]):
                return
            else:
                raise self._ragged(line, row)

    def _is_footer(self, below: Sequence[list[str]]) -> bool:
        """Tell whether only single cells follow, such as those below a report of Salesforce, and say so."""
        texts = [row[0] for row in below]
        if any(len(row) > 1 for row in below) or not any(map(_FOOTER.match, texts)):
            return False
        said = shortened(" / ".join(texts))
        self._given.note(f"{self._given.name}: what stands below the table is no row: {said}.")
        return True

    def _ragged(self, line: int, row: Sequence[str]) -> MergeRefusedError:
        width = len(self.header)
        cells = f"{len(row):,} cell{'s' if len(row) != 1 else ''}"
        cause = f"line {line:,} has {cells}, and the header has {width:,}."
        if len(row) < width:
            return self._given.refused(cause, "Is the file complete? An empty cell has its delimiter too.")
        return self._given.refused(cause, "Put quotes around a cell that has the delimiter in it.")


#: What Salesforce writes below the rows of a report.
_FOOTER = re.compile(
    r"\s*(?:Copyright (?:\(c\)|©)|Confidential Information|Generated By:|Grand Totals)", re.IGNORECASE
)


# ------------------------------------------------------------------------------------------- sheets


def _excel(given: _Given) -> pd.DataFrame:
    try:
        import openpyxl
    except ImportError:
        raise given.refused("a spreadsheet needs openpyxl.", "pip install openpyxl") from None
    if given.data.startswith(_OLD_EXCEL):
        raise given.refused(
            "it is protected by a password, or of an old kind.", "Save it as .xlsx, without one."
        )
    with _refusing(given, "no spreadsheet"):
        with zipfile.ZipFile(io.BytesIO(given.data)) as archive:
            _bounded(given, sum(entry.file_size for entry in archive.infolist()))
        book = openpyxl.load_workbook(io.BytesIO(given.data), read_only=True, data_only=True)
    try:
        return _of_sheet(given, book)
    finally:
        book.close()


@contextlib.contextmanager
def _refusing(given: _Given, what: str) -> Iterator[None]:
    """Refuse a file for whatever a library raises that reads it: a broken one brings out anything."""
    try:
        yield
    except MailError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        raise given.refused(f"it is {what} ({type(error).__name__}).", "Save it again.") from None


def _bounded(given: _Given, octets: int) -> None:
    if octets > MOST_BYTES:
        raise given.refused("unpacked it is larger than 1 GiB.", "Split it.")


def _of_sheet(given: _Given, book: Any) -> pd.DataFrame:
    sheet = _sheet(given, book)
    # What the file says of its own size is wrong in many of them.
    sheet.reset_dimensions()
    with _refusing(given, "a broken spreadsheet"):
        rows = _sheet_rows(sheet)
        _, names = next(rows, (0, []))
        header = ["" if name is None else str(name) for name in names]
        return _frame(given, header, _fitted(given, rows, len(header)), _typed)


def _sheet_rows(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    """Yield each row with its number, without the empty cells at its end; an empty row is none."""
    for number, row in enumerate(sheet.iter_rows(), 1):
        cells = list(map(_cell, row))
        while cells and cells[-1] is None:
            cells.pop()
        if cells:
            yield number, cells


def _fitted(given: _Given, rows: Iterable[tuple[int, list[Any]]], width: int) -> Iterator[list[Any]]:
    for number, cells in rows:
        if len(cells) > width:
            cause = f"row {number:,} has a cell in column {len(cells):,}, and the first row names {width:,} columns."
            raise given.refused(cause, "Let the sheet begin with the names of its columns.")
        yield cells + [None] * (width - len(cells))


def _sheet(given: _Given, book: Any) -> Any:
    sheets = book.worksheets
    if isinstance(given.sheet, str):
        found = [s for s in sheets if s.title == given.sheet]
    else:
        found = sheets[given.sheet :][:1] if given.sheet >= 0 else []
    if not found:
        known = ", ".join(repr(s.title) for s in sheets[:20])
        raise OptionError(f"{given.name} has no sheet {given.sheet!r}.", f"There are {known}.")
    return found[0]


def _cell(cell: Any) -> Any:
    """Return a cell's value; an error such as #N/A is a missing one, and a whole number is an int."""
    value = cell.value
    if value is None or value == "" or cell.data_type == "e":
        return None
    if type(value) is float and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value


def _parquet(given: _Given) -> pd.DataFrame:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise given.refused("Parquet needs pyarrow.", "pip install pyarrow") from None
    if int(pa.__version__.partition(".")[0]) < _PYARROW:
        # Older ones run code that stands in a file (CVE-2023-47248).
        raise given.refused(
            f"pyarrow {pa.__version__} is too old to be safe.", "pip install --upgrade pyarrow"
        )
    with _refusing(given, "no Parquet file"):
        file = parquet.ParquetFile(io.BytesIO(given.data))
        facts = file.metadata
        _bounded(given, sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups)))
        table = file.read()
    table = table.drop_columns([n for n in table.column_names if _INDEX.fullmatch(n)])
    names = _checked_names(given, table.column_names)
    columns = [column.to_pylist() for column in table.columns]
    return _built(names, columns, _typed)


# ---------------------------------------------------------------------------------------------- JSON


def _json(given: _Given) -> pd.DataFrame:
    found = _parsed(given, _decoded(given).decode(), 1)
    if not isinstance(found, list):
        raise given.refused("it is no list of records.", 'Write [{"Email": "ann@example.com"}, …].')
    return _records(given, enumerate(found, 1), "record")


def _json_lines(given: _Given) -> pd.DataFrame:
    text = _decoded(given).decode()
    # Not splitlines(): JSON text may hold U+2028 as it is.
    lines = ((at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip())
    return _records(given, ((at, _parsed(given, line, at)) for at, line in lines), "line")


def _parsed(given: _Given, text: str, line: int) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise given.refused(f"a record from line {line:,} on has one name twice.", "Rename one.")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        cause = f"line {line + error.lineno - 1:,} is no JSON: {error.msg[0].lower()}{error.msg[1:]}."
        raise given.refused(cause, "Is the file complete?") from None
    except (RecursionError, ValueError):
        raise given.refused(f"line {line:,} is no JSON that can be read.", "Write flat records.") from None


def _records(given: _Given, records: Iterable[tuple[int, Any]], word: str) -> pd.DataFrame:
    rows = []
    for at, record in records:
        if not isinstance(record, dict):
            raise given.refused(f"{word} {at:,} is no record.", 'Write {"Email": "ann@example.com"}.')
        rows.append(record)
    names = _checked_names(given, list(dict.fromkeys(name for row in rows for name in row)))
    kept = [row for row in rows if any(value not in _EMPTY for value in row.values())]
    columns = [[None if row.get(name) in _EMPTY else row[name] for row in kept] for name in names]
    return _built(names, columns, _typed)


# ------------------------------------------------------------------------------------------- columns


def _frame(
    given: _Given,
    header: Sequence[str],
    rows: Iterator[Sequence[Any]],
    typed: Callable[[list[Any]], pd.Series[Any]],
) -> pd.DataFrame:
    """Return a frame of rows that are as long as their header."""
    columns: list[list[Any]] = [[] for _ in header]
    # Turned over by blocks, which is several times as quick as cell by cell.
    while block := list(itertools.islice(rows, _BLOCK)):
        for column, cells in zip(columns, zip(*block, strict=True), strict=True):
            column.extend(cells)
    kept = [i for i, name in enumerate(header) if name.strip() or any(c not in _EMPTY for c in columns[i])]
    names = _checked_names(given, [header[i].strip() or f"Column {i + 1}" for i in kept])
    columns = [columns[i] for i in kept]
    return _built(names, columns, typed)


def _checked_names(given: _Given, names: list[str]) -> list[str]:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        cause = f"there is more than one column called {shortened(twice)}."
        raise given.refused(cause, "Rename one: a template could not tell them apart.")
    if not names:
        raise given.refused("no column has a name.", "Write the names of its columns in the first row.")
    return names


def _built(
    names: Sequence[str], columns: list[list[Any]], typed: Callable[[list[Any]], pd.Series[Any]]
) -> pd.DataFrame:
    import pandas as pd

    made = {}
    for name in reversed(names):
        # Each list goes as soon as it is a column: two pictures of a large file would be too much.
        made[name] = typed(columns.pop())
    return pd.DataFrame(made, columns=pd.Index(list(names), dtype=object))


def _typed_text(cells: list[str]) -> pd.Series[Any]:
    """Return a column of a text file: numbers where each cell reads back exactly as it was written."""
    import pandas as pd

    filled = [cell for cell in cells if cell]
    if filled and all(map(_WHOLE.fullmatch, filled)) and all(abs(int(cell)) <= _EXACT for cell in filled):
        return _whole([int(cell) if cell else None for cell in cells])
    if filled and all(_BROKEN.fullmatch(cell) and repr(float(cell)) == cell for cell in filled):
        return pd.Series([float(cell) if cell else None for cell in cells], dtype="float64")
    return pd.Series([cell or None for cell in cells], dtype=None if filled else object)


def _typed(cells: list[Any]) -> pd.Series[Any]:
    """Return a column whose cells have their types already; pandas shall turn no 1 into 1.0."""
    import pandas as pd

    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {int} and all(cell is None or -(2**63) <= cell < 2**63 for cell in cells):
        return _whole(cells)
    if kinds == {float}:
        return pd.Series(cells, dtype="float64")
    return pd.Series(cells, dtype=object)


def _whole(cells: list[int | None]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(cells, dtype="Int64" if None in cells else "int64")


_READERS: dict[str, Callable[[_Given], pd.DataFrame]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), _text),
    **dict.fromkeys((".xlsx", ".xlsm"), _excel),
    **dict.fromkeys((".parquet", ".pq"), _parquet),
    **dict.fromkeys((".jsonl", ".ndjson"), _json_lines),
    ".json": _json,
}
#: The suffixes of the files that `read_table` reads.
SUFFIXES = frozenset(_READERS)
