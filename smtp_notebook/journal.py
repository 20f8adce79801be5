"""What remembers a merge.

This journal forgets when the process ends. That is enough for a server on this machine, which nobody
else reads; a merge therefore refuses any other server (see `api`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smtp_notebook.outcome import Outcome

__all__ = ["PassingJournal"]


class PassingJournal:
    """A journal in memory: which rows have an intent and no outcome yet."""

    durable = False

    def __init__(self) -> None:
        self.open: set[int | None] = set()

    def __repr__(self) -> str:
        return f"<PassingJournal {len(self.open)} open>"

    async def claim(self, row: Any) -> Outcome | None:  # noqa: ARG002 - nothing is known of earlier runs, so every row is due
        """Take a row."""
        return None

    async def intend(self, row: Any) -> None:
        """Record that the final dot is about to leave."""
        self.open.add(row.position)

    async def record(self, row: Any, outcome: Outcome) -> None:  # noqa: ARG002 - the port's signature
        """Record what happened."""
        self.open.discard(row.position)
