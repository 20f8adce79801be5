"""Rows that belong into one mail: which they are, and the one row that a mail is filled with.

Of a million rows nothing is held but where they stand: 16 octets for each. Their cells are read some thousands at a
time, in the order of the groups.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from smtp_notebook.frames import Frame, row_key
from smtp_notebook.outcome import MailError, MergeRefusedError, MessageError
from smtp_notebook.records import made_of
from smtp_notebook.roll import Roll
from smtp_notebook.rows import Differing, Rows
from smtp_notebook.standing import ALL, MARK
from smtp_notebook.template import is_missing, named_cells

__all__ = ["NAME", "Cells", "Grouped", "Groups", "firsts_of", "keys_of", "refuse_unfoldable"]

#: What a group's rows are called in a template.
NAME = "rows"
#: So many rows are read at a time, or one group where that has more.
_BLOCK = 4096
#: So many different cells of the group's columns are remembered with their key.
_REMEMBERED = 100_000
#: Of a larger group one mark is kept for all rows together.
_MARKED = 1_000


class Groups:
    """Where the rows of each group stand.

    Args:
        firsts: For each row of the frame the position of the first row of its group.

    Attributes:
        firsts: The position of the first row of each group, ascending.
    """

    def __init__(self, firsts: Any) -> None:
        import numpy as np

        # Rows of one group have one number, and a stable sort leaves them in their order.
        self.order = np.argsort(firsts, kind="stable")
        self.starts = np.flatnonzero(np.diff(firsts[self.order], prepend=-1))
        self.firsts = self.order[self.starts]

    def __len__(self) -> int:
        return len(self.firsts)

    def __repr__(self) -> str:
        return f"<Groups {len(self):,} of {len(self.order):,} rows>"

    def runs(self, rows: int, number: int = 0) -> Iterator[tuple[int, int]]:
        """Yield runs of groups that follow each other: as many as have at most so many rows, and at least one.

        Each is the number of its first group, and of the one behind its last; *number* is that of the very first.
        """
        import numpy as np

        ends = np.append(self.starts[1:], len(self.order))
        while number < len(self):
            start = int(self.starts[number])
            after = max(number + 1, int(np.searchsorted(ends, start + rows, side="right")))
            yield number, after
            number = after

    def folded(self, number: int, after: int) -> tuple[Any, Any]:
        """Return the rows of a run, group by group: their positions, and for each at which place its group's first one is."""
        import numpy as np

        start, end = int(self.starts[number]), self.bounds(after - 1)[1]
        starts = self.starts[number:after] - start
        return self.order[start:end], np.repeat(starts, np.diff(starts, append=end - start))

    def bounds(self, number: int) -> tuple[int, int]:
        """Return from where to where the rows of a group lie in *order*."""
        end = self.starts[number + 1] if number + 1 < len(self) else len(self.order)
        return int(self.starts[number]), int(end)

    def number(self, position: int) -> int:
        """Return which group a row of the frame is in."""
        import numpy as np

        number = int(np.searchsorted(self.firsts, position))
        if number < len(self) and self.firsts[number] == position:
            return number
        place = int(np.flatnonzero(self.order == position)[0])
        return int(np.searchsorted(self.starts, place, side="right")) - 1

    def positions(self, first: int) -> list[int]:
        """Return the positions of all rows in the group of a row, in their order."""
        start, end = self.bounds(self.number(first))
        found: list[int] = self.order[start:end].tolist()
        return found


class Cells(dict[str, Any]):
    """The one row that a group's mail is filled with.

    Attributes:
        fault: Why there can be no mail of it, or None.
        made_of: Of which rows, as `records.made_of` has that.
    """

    __slots__ = ("fault", "made_of")

    def __init__(self, cells: Mapping[str, Any], fault: MailError | None, made: str) -> None:
        super().__init__(cells)
        self.fault = fault
        self.made_of = made


class Grouped:
    """A frame whose rows are folded by some columns; what `Frame` is where each row has a mail of its own.

    A row whose cell in one of these columns is empty is a group by itself, with a fault.

    Args:
        frame: The rows.
        columns: Those that hold the same key in all rows of a group. They stand for what the first row has.
        marked: Whether the rows get marks, by which a later run tells which of them are new.
        groups: Where the rows of each group stand, where that was found out before.

    Raises:
        MergeRefusedError: As from `refuse_unfoldable`.
    """

    def __init__(
        self, frame: Frame, columns: Sequence[str], *, marked: bool = True, groups: Groups | None = None
    ) -> None:
        refuse_unfoldable(frame.columns, columns)
        self.by = tuple(columns)
        self.columns = frame.columns
        self._frame = frame
        self._marked = marked
        self.groups = groups if groups is not None else Groups(_firsts(frame, self.by))

    def __len__(self) -> int:
        """Return how many mails there are."""
        return len(self.groups)

    def __repr__(self) -> str:
        return f"<Grouped by {', '.join(self.by)}: {len(self):,} groups>"

    def labels(self) -> Any:
        """Return the frame's own index: one label per row."""
        return self._frame.labels()

    def numbered(self, first: int = 0) -> Iterator[tuple[int, Cells]]:
        """Yield each group, from the one on whose first row is at *first*: the position of that row, and its cells."""
        groups = self.groups
        for number, after in groups.runs(_BLOCK, groups.number(first) if first else 0):
            start, end = int(groups.starts[number]), groups.bounds(after - 1)[1]
            taken = groups.order[start:end]
            columns, places = self._frame.taken(taken), taken.tolist()
            starts = (groups.starts[number:after] - start).tolist()
            for a, b in zip(starts, [*starts[1:], len(places)], strict=True):
                yield places[a], self._cells(places[a:b], [column[a:b] for column in columns])

    def row(self, position: int) -> Cells:
        """Return the cells of the group that a row of the frame is in; negative counts from the end."""
        count = len(self.groups.order)
        if not -count <= position < count:
            self._frame.row(position)  # raises, and says so
        number = self.groups.number(position % count)
        start, end = self.groups.bounds(number)
        taken = self.groups.order[start:end]
        return self._cells(taken.tolist(), self._frame.taken(taken))

    def _cells(self, places: list[int], columns: Sequence[Sequence[Any]]) -> Cells:
        cells: dict[str, Any] = {
            name: column[0] if name in self.by or _same(column) else Differing(name)
            for name, column in zip(self.columns, columns, strict=True)
        }
        cells[NAME] = Rows(self.columns, columns, self._frame.part, named_cells, places)
        marks = self._marks(columns) if self._marked else ""
        return Cells(cells, self._fault(cells), made_of(len(places), marks))

    def _fault(self, cells: Mapping[str, Any]) -> MailError | None:
        for name in self.by:
            try:
                row_key((name,), cells)
            except MessageError as error:
                return _ungrouped(name, error)
        return None

    def _marks(self, columns: Sequence[Sequence[Any]]) -> str:
        """Return a mark for each row: the same for the same cells, in every process."""
        named = sorted(zip(self.columns, columns, strict=True))
        names = [name for name, _ in named]
        found = [_mark(names, values) for values in zip(*(column for _, column in named), strict=True)]
        if len(found) <= _MARKED:
            return "".join(found)
        return ALL + hashlib.blake2b("".join(sorted(found)).encode(), digest_size=8).hexdigest()


def refuse_unfoldable(columns: Sequence[str], by: Sequence[str]) -> None:
    """Refuse to fold the rows of a frame with these columns by some of them.

    Raises:
        MergeRefusedError: There is no such column, or one that is called as a group's rows are.
    """
    for name in by:
        if name not in columns:
            cause = f"There is no column {name!r} to group by; the columns are: {', '.join(map(repr, columns[:20]))}."
            raise MergeRefusedError(cause, "Name one or several of these: group_by=….")
    if NAME in columns:
        cause = f"The frame has a column {NAME!r}, and with group_by= that is the name of a group's rows."
        raise MergeRefusedError(cause, f"Rename it: df.rename(columns={{{NAME!r}: 'row_count'}}).")


def _ungrouped(name: str, error: MailError) -> MessageError:
    cause = f"Column {name!r}, by which rows are grouped: {error.cause[0].lower()}{error.cause[1:]}"
    return MessageError(cause, "Fill the cell, or leave the row out.")


def _firsts(frame: Frame, columns: Sequence[str]) -> Any:
    """Return for each row the position of the first row of its group."""
    return firsts_of(keys_of(frame, columns), len(frame))


def firsts_of(keys: Iterable[str | None], count: int = -1) -> Any:
    """Return for each row the position of the first one that has its key; its own for one that has none.

    *count* says how many there are, where that is known.
    """
    import numpy as np

    seen = Roll()  # which goes to disk where there are many
    firsts = (place if key is None else seen.first(key, place) for place, key in enumerate(keys))
    return np.fromiter(firsts, dtype=np.int64, count=count)


def keys_of(frame: Frame, columns: Sequence[str]) -> Iterator[str | None]:
    """Yield by what each row is grouped; None for one that is a group by itself, because a cell of it cannot be a key."""
    known: dict[Any, str | None] = {}
    for cells in frame.some(columns):
        # By the types too: 1 and True are equal.
        look = (cells, *map(type, cells))
        try:
            fresh = look not in known
        except TypeError:  # a cell that cannot be remembered, such as a list
            yield _key(columns, cells)
            continue
        if fresh:
            if len(known) >= _REMEMBERED:
                known.clear()
            known[look] = _key(columns, cells)
        yield known[look]


def _key(columns: Sequence[str], cells: tuple[Any, ...]) -> str | None:
    try:
        return row_key(columns, dict(zip(columns, cells, strict=True)))
    except MessageError:
        return None


def _same(cells: Sequence[Any]) -> bool:
    """Tell whether cells are one value: as good as the same where they are printed."""
    first = cells[0]
    try:
        if cells.count(first) == len(cells):
            return len(set(map(type, cells))) == 1
    except Exception:  # noqa: BLE001 - whatever a cell's own comparison raises: an array's, say
        return all(cell is first for cell in cells)
    return is_missing(first) and all(map(is_missing, cells))


def _mark(names: Sequence[str], values: Sequence[Any]) -> str:
    # An empty cell counts for nothing: a column that is new and empty makes no other row of one.
    said = "\x1f".join(
        f"{name}\x1e{_said(value)}"
        for name, value in zip(names, values, strict=True)
        if type(value) is str or not is_missing(value)
    )
    digest = hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=MARK * 3 // 4).digest()
    return base64.urlsafe_b64encode(digest).decode()


def _said(value: Any) -> str:
    if type(value) is str:
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers becomes one of floats where one of them is missing
    kind: Any = type(value)
    if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
        return str(kind.__qualname__)  # it would say where in the memory it lies
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an object's own
        return str(kind.__qualname__)
