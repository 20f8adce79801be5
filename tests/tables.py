"""Tables of the documentation that tests make: compared with what stands there, or written with ``make tables``.

A page holds a table between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re

from conftest import ROOT


class Table:
    """The rows that tests noted, each once.

    Args:
        page: The page, below docs/.
        name: The table's name there.
        head: Its columns.
    """

    def __init__(self, page, name, *head):
        self._page = ROOT / "docs" / page
        self._name = name
        self._head = head
        self.rows = []

    def note(self, *cells):
        """Note a row; rows of one first cell stand together, in the order of the notes."""
        assert len(cells) == len(self._head)
        if cells not in self.rows:
            self.rows.append(cells)

    def text(self):
        """Return the table in Markdown."""
        lines = [self._head, ["---"] * len(self._head), *sorted(self.rows, key=lambda row: row[0])]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def write(self):
        """Put it into the page."""
        self._page.write_text(self._around(f"\n{self.text()}\n"), encoding="utf-8")

    def check(self):
        """Fail when the page says something else, with the command that writes it anew."""
        if self._around(f"\n{self.text()}\n") != self._page.read_text(encoding="utf-8"):
            message = (
                f"{self._page.name} says something else than was found; `make tables` writes:\n{self.text()}"
            )
            raise AssertionError(message)

    def _around(self, table):
        text = self._page.read_text(encoding="utf-8")
        place = rf"(<!-- table: {re.escape(self._name)} -->\n).*?(<!-- end -->)"
        found, count = re.subn(place, lambda m: f"{m[1]}{table}{m[2]}", text, flags=re.DOTALL)
        assert count == 1, f"{self._page} has no place for the table {self._name!r}"
        return found
