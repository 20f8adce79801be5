"""What a group of rows is in a template: its rows, and a column in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, overload

from smtp_notebook.outcome import MessageError

__all__ = ["Differing", "DiffersError", "Rows", "as_given"]

#: Makes the frame of some of the rows and columns, by their places; None for all columns.
Native = Callable[[Sequence[int], Sequence[str]], Any]


class DiffersError(MessageError):
    """A column was used for its one value, and its cells differ within the group.

    Attributes:
        column: Which.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        name = f"row[{column!r}]" if not column.isidentifier() else f"row.{column}"
        fix = f"rows has them: {{% for row in rows %}}{{{{ {name} }}}}{{% endfor %}}."
        super().__init__(f"column {column!r} is not the same in all rows of the group.", fix)

    def __reduce__(self) -> tuple[Any, ...]:
        return DiffersError, (self.column,)


class Differing:
    """Stands for the cells of a column that differ: whatever is done with it is an error that names the column.

    It is no Undefined of Jinja2, so that ``default()`` does not print something else in its place.
    """

    __slots__ = ("column",)

    def __init__(self, column: str) -> None:
        self.column = column

    def __repr__(self) -> str:
        return f"<Differing {self.column!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Differing, (self.column,)

    def refuse(self, *_: object) -> NoReturn:
        """Say that the cells differ.

        Raises:
            DiffersError: Always.
        """
        raise DiffersError(self.column)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self.refuse()

    __str__ = __html__ = __format__ = __bool__ = __iter__ = __len__ = __getitem__ = __contains__ = (
        __call__
    ) = refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = (
        refuse
    )
    __hash__ = object.__hash__


class Rows(Sequence[Any]):
    """The rows of a group, in their order: a frame where it is shown, mappings where it is walked through.

    In a template ``{{ rows }}`` is a table, ``{% for row in rows %}`` gives each row, ``rows[["Item", "Price"]]`` some
    columns, ``rows["Price"]`` the cells of one, ``rows[0]`` and ``rows[:3]`` rows by their place.

    Args:
        columns: Their names.
        cells: One list for each column, of equal lengths.
        native: Makes the frame itself of places and columns.
        named: Makes a row of names and cells as a template takes it.
        places: Where these rows stand among those that *native* knows.
    """

    __slots__ = ("_cells", "_named", "_native", "_places", "columns")

    def __init__(
        self,
        columns: Sequence[str],
        cells: Sequence[Sequence[Any]],
        native: Native,
        named: Callable[[Mapping[str, Any]], dict[str, Any]],
        places: Sequence[int],
    ) -> None:
        self.columns = tuple(columns)
        self._cells = cells
        self._native = native
        self._named = named
        self._places = places

    def __repr__(self) -> str:
        return f"<Rows {len(self)} x {len(self.columns)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (self.columns, [list(c) for c in self._cells], self._frame(), self._named)

    def _frame(self) -> Any:
        """Return them as a frame of the kind that was merged; of a list of dicts a pandas DataFrame.

        No template can ask for it: a frame's own methods write files.
        """
        return self._native(self._places, self.columns)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for values in zip(*self._cells, strict=True):
            yield self._named(dict(zip(self.columns, values, strict=True)))

    @overload
    def __getitem__(self, wanted: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, wanted: str) -> list[Any]: ...
    @overload
    def __getitem__(self, wanted: slice | list[str]) -> Rows: ...
    def __getitem__(self, wanted: Any) -> Any:
        if isinstance(wanted, str):
            cells = self._cells[self._place(wanted)]
            return [self._named({wanted: cell})[wanted] for cell in cells]
        if isinstance(wanted, list | tuple):
            chosen = [self._place(name) for name in wanted]
            return self._of(list(wanted), [self._cells[i] for i in chosen], self._places)
        if isinstance(wanted, slice):
            return self._of(self.columns, [c[wanted] for c in self._cells], self._places[wanted])
        values = [c[wanted] for c in self._cells]
        return self._named(dict(zip(self.columns, values, strict=True)))

    def _of(self, columns: Sequence[str], cells: Sequence[Sequence[Any]], places: Sequence[int]) -> Rows:
        return Rows(columns, cells, self._native, self._named, places)

    def _place(self, name: Any) -> int:
        try:
            return self.columns.index(name)
        except ValueError:
            raise KeyError(name) from None


def _copied(
    columns: Sequence[str],
    cells: Sequence[Sequence[Any]],
    frame: Any,
    named: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> Rows:
    """Return a copy that came from another process, whose frame is all that there is of it."""

    def native(places: Sequence[int], wanted: Sequence[str]) -> Any:
        import narwhals as nw

        table = nw.from_native(frame)
        return table[list(places), [columns.index(c) for c in wanted]].to_native()

    return Rows(columns, cells, native, named, range(len(cells[0]) if cells else 0))


def as_given(value: Any) -> Any:
    """Return what a person's own function is given: of `Rows` the frame, of anything else itself."""
    return value._frame() if type(value) is Rows else value  # noqa: SLF001 - the one way to it
