"""What a merge over a cluster sends to its workers, and what they give back. Frozen values, and no secret in any.

A worker prints the rows of a part, and tells of each what `preflight` needs to decide about it: its key, whom it goes to,
the digest of its mail. The mail itself stays where it was printed, or is printed again.
"""

from __future__ import annotations

import functools
import pickle
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, NamedTuple

from smtp_notebook.connection import Connection
from smtp_notebook.frames import Frame
from smtp_notebook.groups import Grouped, Groups
from smtp_notebook.outcome import JournalError, MailError, MergeRefusedError, MessageError, Tuning
from smtp_notebook.places import DatabaseURL
from smtp_notebook.press import Begun, Printed
from smtp_notebook.roll import Due
from smtp_notebook.standing import Known
from smtp_notebook.template import Template

__all__ = [
    "Batch",
    "Came",
    "Judged",
    "Mailing",
    "Part",
    "Piece",
    "Placed",
    "RemotePress",
    "Sealed",
    "Told",
    "another_version",
    "rowed",
    "sealed",
    "version",
]

#: A row's position, and how it stands as `records.packed` has that.
Told = tuple[int, tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailing:
    """What the rows of one merge share.

    Attributes:
        id: Tells it from all other mailings of the cluster.
        template: Complete: it names recipient and sender.
        connection: The server. Its secret is where it lies, never what it is.
        values: More names for the template.
        key: The columns that identify a row; () for its address.
        shown: The columns whose cells are to come back; functions of a row by the name under which their values do.
        campaign: Its name, or "".
        divert: Where every mail goes instead of to its recipients, as on the wire, or "".
        journal: Where claims, intents and answers are written; None for a mailing that counts for nobody.
        earlier: Whether the campaign has rows of earlier runs.
        kept: How many octets of printed mails a worker keeps of each part.
        by: The columns by which rows are folded into mails; () for a mail per row.
        marked: Whether the rows of a mail get marks, as in `groups.Grouped`.
    """

    id: str
    template: Template
    connection: Connection
    values: Mapping[str, Any]
    key: tuple[str, ...]
    shown: Mapping[str, Any]
    campaign: str = ""
    divert: str = ""
    journal: DatabaseURL | None = None
    earlier: bool = False
    kept: int = 0
    by: tuple[str, ...] = ()
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value as octets. Only who uses it opens it: a scheduler, which has no secrets to look up, unpickles all else.

    Attributes:
        id: Of the mailing.
        octets: The value, pickled.
        version: Of the package that did it, or "".
    """

    id: str
    octets: bytes
    version: str = ""

    def opened(self) -> Any:
        """Return a copy of the value.

        Raises:
            MergeRefusedError: Another version of the package made it.
        """
        if self.version and (here := version()) and here != self.version:
            raise another_version(platform.node(), here, self.version)
        return pickle.loads(self.octets)  # noqa: S301 - from the merge's own client


@functools.cache
def version() -> str:
    """Return this package's version; "" where it is not installed, but found by its path."""
    try:
        return metadata.version("smtp_notebook")
    except metadata.PackageNotFoundError:
        return ""


def another_version(worker: str, there: str, here: str) -> MergeRefusedError:
    """Return what is raised where a worker has another version of the package than the notebook."""
    cause = f"The worker {worker} has smtp_notebook {there}, and this notebook has {here}."
    return MergeRefusedError(cause, "Install the same version on both, and start the workers anew.")


def sealed(value: Any, what: str, *, of: str = "", parts: Mapping[str, Any] | None = None) -> Sealed:
    """Return a value as octets.

    Args:
        value: What is to cross to workers.
        what: What it is, in words.
        of: The mailing's id.
        parts: What of it a person gave, by its name: it is said which of them cannot cross.

    Raises:
        MergeRefusedError: It cannot be pickled.
    """
    failed = _sealed(value, of)
    if isinstance(failed, Sealed):
        return failed
    for name, part in (parts or {}).items():
        found = _sealed(part, of)
        if not isinstance(found, Sealed):
            what, failed = name, found
            break
    said = " ".join(str(failed).split())[:200]
    cause = f"{what} cannot be sent to the workers: {type(failed).__name__}: {said}."
    fix = "A worker is a process of its own: give it plain values, and functions that open for themselves what they need."
    raise MergeRefusedError(cause, fix) from None


def _sealed(value: Any, of: str) -> Sealed | Exception:
    # Python's own, or cloudpickle's: a function of a notebook crosses by what it is.
    from distributed.protocol.pickle import dumps

    pickled: Any = dumps
    try:
        return Sealed(of, pickled(value), version())
    except Exception as error:  # noqa: BLE001 - a person's object raises what it likes
        return error


class Judged(NamedTuple):
    """What a worker found of one row.

    Attributes:
        cells: The cells that are to come back.
        people: Whom its To names.
        recipients: Whom it goes to; both as on the wire.
        printed: Its mail, without the text; None where the campaign had it already, or it has a problem.
        problem: Cause and fix, where it cannot be sent.
        findings: What is odd about it, where it is the first of its kind.
        made_of: Of which rows the mail of a group is made, as `groups.Cells` has that; None for a row of its own.
        fault: Cause and fix, where there can be no mail of the group.
    """

    cells: dict[str, Any]
    people: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    printed: Printed | None = None
    problem: tuple[str, str] | None = None
    findings: tuple[str, ...] = ()
    made_of: str | None = None
    fault: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of a part whose groups are whole, those of one group together.

    Attributes:
        rows: The rows, as a `frames.Frame` takes them.
        firsts: For each row the place of the first row of its group, an array.
    """

    rows: Any
    firsts: Any


def rowed(data: Any, by: Sequence[str], *, marked: bool) -> Frame | Grouped:
    """Return the rows of a part as a merge reads them; those of a `Piece` are folded as whoever made it found."""
    if not isinstance(data, Piece):
        return Frame(data)
    return Grouped(Frame(data.rows), by, marked=marked, groups=Groups(data.firsts))


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a frame that were printed; it stays on its worker.

    Attributes:
        frame: The rows.
        judged: What was found of each.
        mails: What was printed, by place in the part, as far as it was kept.
    """

    frame: Frame | Grouped
    judged: tuple[Judged, ...]
    mails: Mapping[int, Printed]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one part for one worker to send.

    Attributes:
        number: Within its run.
        run: The number of the run whose campaign it is; 0 for none.
        rows: Those that are due.
        places: Where each of them stands in the part, by its position: a group where its first row does.
        partly: What earlier tries made of rows that some recipients have.
        tried: How often a row was tried in this merge, where it was.
        connections: How many the worker may have open.
        keep: Whether it may keep them open for the next batch.
        ahead: How many seconds the journal's clock is ahead of that of whoever runs the merge.
    """

    number: int
    run: int
    rows: tuple[Due, ...]
    places: Mapping[int, int]
    partly: Mapping[int, Known] = field(default_factory=dict)
    tried: Mapping[int, int] = field(default_factory=dict)
    connections: int = 1
    keep: bool = True
    ahead: float = 0.0


@dataclass(frozen=True, slots=True)
class Came:
    """What came of a batch.

    Attributes:
        told: How rows stand now.
        again: Those that are due for another try: how they stand, and in how many seconds that may be.
        stopped: Why the worker stopped before the end, or "".
        unreachable: Whether that was because it could not reach the server.
        seconds: How long it took.
        worker: Which one it was: its address in the cluster.
        tuning: What its connections came to, as far as is known.
        failure: Why it could not go on, where that was the journal; the other rows were not tried.
    """

    told: tuple[Told, ...]
    again: tuple[tuple[Told, float], ...] = ()
    stopped: str = ""
    unreachable: bool = False
    seconds: float = 0.0
    worker: str = ""
    tuning: Tuning | None = None
    failure: JournalError | None = None


class _Cells(dict[str, Any]):
    """The cells of a row, with what a worker found of it; those of a group as `groups.Cells`."""

    judged: Judged
    made_of: str
    fault: MailError | None


def cells_of(judged: Judged) -> dict[str, Any]:
    """Return what a `preflight.Preflight` with a `RemotePress` is given for a row."""
    cells = _Cells(judged.cells)
    cells.judged = judged
    if judged.made_of is not None:
        cells.made_of = judged.made_of
        cells.fault = None if judged.fault is None else MessageError(*judged.fault)
    return cells


class RemotePress:
    """Tells of rows what workers printed; where `preflight` has a `press.Press` otherwise."""

    @property
    def ahead(self) -> int:
        """No row: nothing is printed here."""
        return 0

    def __init__(self) -> None:
        self.findings: list[str] = []

    def recipients(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        """Return whom the row's mail goes to.

        Raises:
            MessageError: That is not known: the row has a problem.
        """
        return _good(cells).recipients

    def addressees(self, cells: Mapping[str, Any]) -> tuple[str, ...]:
        """Return whom the row's To names.

        Raises:
            MessageError: As from `recipients`.
        """
        return _good(cells).people

    def begin(self, cells: Mapping[str, Any]) -> Begun:
        """Do nothing: it was printed."""
        return Begun(cells, None, ())

    def finish(self, begun: Begun) -> Printed:
        """Return the row's mail, without its text.

        Raises:
            MessageError: It cannot be sent, and why.
        """
        judged = _good(begun.cells)
        assert judged.printed is not None, "a row that the campaign had is not due"
        self.findings += judged.findings
        return judged.printed

    def print(self, cells: Mapping[str, Any]) -> Printed:
        """Print nothing: only who has the row can."""
        raise NotImplementedError


def _good(cells: Mapping[str, Any]) -> Judged:
    assert isinstance(cells, _Cells)
    judged = cells.judged
    # Whom a row goes to may be known although it cannot be printed; a problem is told of at the end.
    if judged.problem is not None:
        raise MessageError(*judged.problem)
    return judged


class Placed:
    """The rows of a part that are in a batch, at their positions in the whole; satisfies `preflight.Rowed`.

    Args:
        frame: The part.
        places: Where each of them stands in the part, by its position.
    """

    def __init__(self, frame: Frame | Grouped, places: Mapping[int, int]) -> None:
        self._frame = frame
        self._places = places
        self.columns = frame.columns

    def __len__(self) -> int:
        return len(self._places)

    def numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each row, with its position."""
        positions = {place: position for position, place in self._places.items()}
        last = max(positions, default=-1)
        for place, cells in self._frame.numbered(min(positions, default=0)):
            if place in positions:
                yield positions[place], cells
            if place >= last:
                return

    def row(self, position: int) -> dict[str, Any]:
        """Return one row by its position."""
        return self._frame.row(self._places[position])


def without_text(printed: Printed) -> Printed:
    """Return what is told of a mail: all but its octets."""
    return printed._replace(chunks=())
