"""Which frame of the notebook: its variables looked through, and one of them chosen."""

from __future__ import annotations

import keyword
import sys
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as w

from smtp_notebook.charts import loaded
from smtp_notebook.widgets import indented

__all__ = ["FrameChoice", "frames_of", "pasted", "size_of"]

#: What a frame is called that no variable holds; no variable has this name.
_GIVEN = "(given)"


def frames_of(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the frames among a notebook's variables by their names, sorted: data frames, tables and lists of dicts."""
    kinds = (*loaded("pandas", "DataFrame"), *loaded("polars", "DataFrame"), *loaded("pyarrow", "Table"))

    def is_frame(value: Any) -> bool:
        rows = (
            isinstance(value, list) and value and isinstance(value[0], dict) and isinstance(value[-1], dict)
        )
        return bool(rows) or isinstance(value, kinds)

    found = {name: value for name, value in namespace.items() if not name.startswith("_") and is_frame(value)}
    return dict(sorted(found.items(), key=lambda one: one[0].casefold()))


def size_of(data: Any) -> str:
    """Return how large a frame is, in words."""
    shape = getattr(data, "shape", None)
    count = shape[0] if shape else len(data)
    wide = f" of {shape[1]:,} columns" if shape else ""
    return f"{count:,} row{'' if count == 1 else 's'}{wide}"


def pasted(column: str) -> str:
    """Return what prints a column in a template."""
    if column.isidentifier() and not keyword.iskeyword(column) and column != "row":
        return f"{{{{ {column} }}}}"
    name = repr(column) if any(c in column for c in '"\\{}') or not column.isprintable() else f'"{column}"'
    return f"{{{{ row[{name}] }}}}"


def _notebook() -> Mapping[str, Any]:
    """Return the notebook's variables."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    found: Mapping[str, Any] = shell.user_ns if shell is not None else vars(sys.modules["__main__"])
    return dict(found)


class FrameChoice(w.VBox):  # type: ignore[misc]  # ipywidgets ships no types
    """Which frame of the notebook.

    Args:
        given: The one that is chosen at first, or None.

    Attributes:
        data: The frame that is chosen, or None.
        name: The name of its variable; ``df`` for one that has none.
        changed: Called when another is chosen, or the same name stands for another.
        button: Looks at the notebook's variables again.
    """

    def __init__(self, given: Any = None) -> None:
        self.changed: Callable[[], None] | None = None
        self._given = given
        self._found: dict[str, Any] = {}
        self._shown: Any = None
        self._looking = False
        self._dropdown = w.Dropdown(description="Frame")
        self.button = w.Button(description="Look again", tooltip="Look for frames in the notebook again")
        super().__init__([self._dropdown, indented(self.button)])
        self.look()
        self._dropdown.observe(lambda _: self._tell(), names="value")

    @property
    def data(self) -> Any:
        """The frame that is chosen, or None."""
        return self._found.get(self._dropdown.value)

    @property
    def name(self) -> str:
        """The name of its variable."""
        return self._dropdown.value if self._dropdown.value not in {"", _GIVEN} else "df"

    def look(self, *, anew: bool = False) -> None:
        """Look for frames among the notebook's variables; what is chosen stays chosen, as it is now.

        Args:
            anew: Whether a frame that is the same object may have changed inside.
        """
        if anew:
            self._shown = None
        found = frames_of(_notebook())
        given = next((name for name, value in found.items() if value is self._given), "")
        if self._given is not None and not given:
            found, given = {_GIVEN: self._given} | found, _GIVEN
        before = self._dropdown.value
        self._looking = True
        try:
            self._found = found
            none = "choose a frame" if found else "no frame is in this notebook yet"
            options = [(f"{'given' if n == _GIVEN else n}: {size_of(v)}", n) for n, v in found.items()]
            only = next(iter(found)) if len(found) == 1 else ""
            chosen = before if before in found else given or only
            self._dropdown.options = [*([] if chosen else [(none, "")]), *options]
            self._dropdown.value = chosen
        finally:
            self._looking = False
        self._tell()

    def _tell(self) -> None:
        if self._looking or self.data is self._shown:
            return
        self._shown = self.data
        if self.changed is not None:
            self.changed()
